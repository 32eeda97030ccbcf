"""Statistics that predictors share: robust weights, folds, Gaussian processes.

May import only the top floor of supernet (arrays).
"""
