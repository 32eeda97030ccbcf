"""Intervals that are honest with few samples: from residuals of samples left out of the fit.

Letters: n samples, q the half width of an interval in units of the residuals.
"""

import math

import numpy as np

from supernet.arrays import Floats
from supernet.prediction import QUANTILE

PRIOR_SPREAD, PRIOR_WEIGHT = 0.05, 2


def half_width(residuals: Floats, confidence: float = 0.90) -> float:
    """The half width that holds a new residual with `confidence`, from (n,) residuals left out of their fits.

    With enough of them the conformal quantile: the ceil((n + 1) confidence)-th smallest |residual|
    (Barber et al., 2021, jackknife; at least as wide as its nominal level on exchangeable data up to the
    stability of the fit). Below n = confidence / (1 - confidence) (9 at 90%) that rank does not exist, and a
    Student-t prediction interval of the same residuals takes its place: wide, as so few samples demand, and
    with a spread of 5% counted like two more samples, since a handful can agree by chance.
    """
    n = len(residuals)
    if n < 2:
        raise ValueError(f"{n} residual(s) tell no spread: measure at least 2 subnets")
    size = np.sort(np.abs(residuals))
    rank = math.ceil((n + 1) * confidence)
    if rank <= n:
        return float(size[rank - 1])
    from scipy.special import stdtrit

    spread = math.sqrt((float((size**2).sum()) + PRIOR_WEIGHT * PRIOR_SPREAD**2) / (n + PRIOR_WEIGHT))
    return float(stdtrit(n - 1, 0.5 + confidence / 2) * spread)


def relative_std(residuals: Floats, confidence: float = 0.90) -> float:
    """The standard deviation whose normal interval at `confidence` has that half width."""
    return half_width(residuals, confidence) / QUANTILE(0.5 + confidence / 2)


def mape(residuals: Floats) -> float:
    """The mean size of relative residuals, in percent."""
    return float(100 * np.abs(residuals).mean())
