"""Robust regression by iterated re-weighting: rows with large residuals count less in the next round.

A fit that uses these functions looks like this, with 3 to 8 rounds:

    weights = np.ones(n)
    for _ in range(rounds):
        residuals = ...  # of a least squares fit with these weights
        weights = robust.cauchy_weights(residuals, robust.spread(residuals, floor=1e-6))
"""

import numpy as np

from supernet.arrays import Floats

MAD_TO_STD = 1.4826  # 1 / the 75% quantile of a standard normal distribution


def spread(residuals: Floats, floor: float = 0.0) -> float:
    """The standard deviation about zero as estimated from the median absolute residual, at least `floor`.

    For the spread about the middle subtract the median first. Half of the (n,) residuals may be arbitrarily
    large. The floor matters because a fit of few rows can be perfect by chance.
    """
    return max(MAD_TO_STD * float(np.median(np.abs(residuals))), floor)


def cauchy_weights(residuals: Floats, spread: float, cutoff: float = 2.0) -> Floats:
    """Weights in (0, 1] of Cauchy's robust loss: 1 / (1 + (r / (cutoff spread))^2), the shape of `residuals`.

    A residual of `cutoff` spreads counts half.
    """
    return np.asarray(1 / (1 + (residuals / (cutoff * spread)) ** 2))
