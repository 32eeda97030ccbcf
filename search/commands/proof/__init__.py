"""Commands that prove something; their starters lie one floor up.

May import everything but scripts.
"""
