"""Commands that judge networks; their starters lie one floor up.

May import everything but scripts.
"""
