"""Intervals that are honest with few samples: from residuals of samples left out of the fit.

Letters: n samples, q the half width of an interval in units of the residuals.
"""

import math

import numpy as np

from supernet.arrays import Floats
from supernet.prediction import CONFIDENCES, QUANTILE, Tails

PRIOR_SPREAD, PRIOR_WEIGHT = 0.05, 2
LIKELY_SPREAD = 0.015  # of standardised residuals, counted like two more samples
OPTIMISM = 2.5  # by the coverage of intervals on frontiers of nine targets (docs/efficiency.md)
LEAST_WIDTH = 0.0009  # half, of an interval by conformal quantiles
CORE = 0.75  # by the Brier score of the probability to be efficient on those frontiers
FEW = 20  # samples, up to which intervals go by the spread of all residuals


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


def spread_and_tails(residuals: Floats, likely: float = LIKELY_SPREAD) -> tuple[float, Tails]:
    """The standard deviation of new residuals, and the half widths of their intervals in units of it.

    From (n,) standardised residuals left out of their fits, and a `likely` spread that counts like
    `PRIOR_WEIGHT` more of them, since a handful can agree by chance: up to `FEW` of them by Student's t of
    their root mean square, with more by conformal quantiles where their ranks exist; widened by
    1 + `OPTIMISM` / n, because the same samples chose how the fit is made. The deviation is `CORE` times that
    whose normal interval at 90% has the width before widening: what lies in the tails is no part of it.
    """
    from scipy.special import stdtrit

    n, size = len(residuals), np.sort(np.abs(residuals))
    spread = math.sqrt((float((size**2).sum()) + PRIOR_WEIGHT * likely**2) / (n + PRIOR_WEIGHT))
    widths = spread * stdtrit(n - 1, 0.5 + np.array(CONFIDENCES) / 2)
    if n > FEW:
        ranks = np.ceil((n + 1) * np.array(CONFIDENCES)).astype(int)
        widths = np.where(ranks <= n, size[np.minimum(ranks, n) - 1], widths)
        widths = np.maximum.accumulate(np.maximum(widths, LEAST_WIDTH))
    std = CORE * float(widths[CONFIDENCES.index(0.90)]) / QUANTILE(0.95)
    return std, Tails(tuple((widths / std * (1 + OPTIMISM / n)).tolist()))


def mape(residuals: Floats) -> float:
    """The mean size of relative residuals, in percent."""
    return float(100 * np.abs(residuals).mean())
