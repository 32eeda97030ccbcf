"""Commands that judge networks, predictors and fronts.

May import everything but scripts.
"""
