"""Statistics that predictors share: Gaussian processes, robust weights, folds.

May import only the top floor of supernet (arrays).
"""
