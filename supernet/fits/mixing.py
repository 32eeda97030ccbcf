"""A non-negative mix of known quantities that follows few samples of a new one.

Letters: n samples, d sources, t fits, f folds.

The mix (ours) is y = sum_d w_d x_d with w >= 0, minimising

    sum_i c_i (yhat_i / y_i - 1)^2 + (s / tau)^2 sum_d (m_d u_d (w_d - p_d))^2,

m_d = mean x_d / mean y. Every source has the spread s_d of its log ratio to the samples, and u_d = s_d /
min s_d: sources that follow the samples may leave their prior more freely. The prior p puts weights on the
`leaning` sources by 1 / s_d^4, times the mean ratio. Cauchy weights c_i and the robust spread s of the
residuals are estimated again in every round. How strong the prior is, tau, is not chosen but averaged: fits
with each of `STRENGTHS` count by their errors on samples left out (stacking, arXiv 1704.02030), so that a mix
is hardly worse than the best of them. The simplest fits count in the same way: the nearest source times a
factor, and a `line`, which is some of the sources by least squares without a prior.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from supernet.arrays import Floats, Ints
from supernet.fits import folds, robust

STRENGTHS = (0.03, 0.1, 0.3, 1.0, 3.0)  # tau
SPREAD_FLOOR = 0.004  # relative; fits of few samples can be perfect by chance
SOURCE_FLOOR = 0.01  # of the spread of a source's ratio, for the same reason
ROUNDS = 4  # of robust re-weighting
WILD = 5.0  # spreads; a sample further off, when left out, has no voice
ERROR_FLOOR = 1e-6  # of a mean squared relative error


@dataclass(frozen=True, eq=False)
class Mix:
    """Weights of the sources, and what was learned of the samples."""

    weights: Floats  # (d,)
    trust: Floats  # (n,) Cauchy weights of the samples
    spread: float  # robust relative spread of the residuals
    nearest: float  # spread of the log ratio of the samples to the source that follows them best
    left_out: list[tuple[Ints, Ints, Floats]]  # per fold the rows kept and left out, and the (d,) weights


def fit(
    seen: Floats, values: Floats, leaning: NDArray[np.bool_], fold: Ints, line: Sequence[int] = ()
) -> Mix:
    """The mix of (n, d) values of the sources for (n,) positive values of the samples.

    `leaning` (d,) says which sources the prior may use, `fold` (n,) which samples are left out together, and
    `line` which sources are fitted alone, too.
    """
    fits = partial(_fits, leaning=leaning, line=list(line))
    whole = fits(seen, values)
    parts = [(kept, out, fits(seen[kept], values[kept])) for kept, out in folds.splits(fold)]
    errors = np.empty((len(whole), len(values)))
    for _, out, each in parts:
        errors[:, out] = each @ seen[out].T / values[out] - 1
    off = np.median(np.abs(errors), axis=0)
    share = stacking_shares(errors, robust.cauchy_weights(off, robust.spread(off, SPREAD_FLOOR), WILD))
    weights = share @ whole
    residual = seen @ weights / values - 1
    spread = robust.spread(residual, SPREAD_FLOOR)
    nearest = float(np.log(values[:, None] / seen).std(axis=0, ddof=1).min())
    left_out = [(kept, out, share @ each) for kept, out, each in parts]
    return Mix(weights, robust.cauchy_weights(residual, spread), spread, nearest, left_out)


def stacking_shares(errors: Floats, trust: Floats) -> Floats:
    """(t,) how much each of some fits counts, by their (t, n) relative errors on samples left out."""
    log_share = -errors.shape[1] / 2 * np.log((errors**2) @ trust / trust.sum() + ERROR_FLOOR)
    share = np.exp(log_share - log_share.max())
    return np.asarray(share / share.sum())


def _fits(seen: Floats, values: Floats, leaning: NDArray[np.bool_], line: list[int]) -> Floats:
    """(t, d) weights of the sources: for each strength of the prior, and of the simplest fits."""
    log_ratio = np.log(values[:, None] / seen)
    spread = np.maximum(log_ratio.std(axis=0, ddof=min(1, len(values) - 1)), SOURCE_FLOOR)
    lean = np.where(leaning, spread**-4, 0)
    prior = lean / lean.sum() * np.exp(log_ratio.mean(axis=0))
    hold = seen.mean(axis=0) / values.mean() * spread / spread.min()
    relative = seen / values[:, None]
    simple = np.zeros((2 if line else 1, seen.shape[1]))
    nearest = int(np.argmin(log_ratio.std(axis=0)))
    simple[0, nearest] = np.exp(np.median(log_ratio[:, nearest]))
    if line:
        units = relative[:, line].mean(axis=0)
        simple[1, line] = nonnegative(relative[:, line] / units, np.ones(len(values))) / units
    return np.concatenate([[_fit(relative, prior, hold / tau) for tau in STRENGTHS], simple])


def _fit(relative: Floats, prior: Floats, hold: Floats) -> Floats:
    """(d,) weights, from (n, d) values in units of the samples."""
    weights = prior
    for _ in range(ROUNDS):
        residual = relative @ weights - 1
        spread = robust.spread(residual, SPREAD_FLOOR)
        root = np.sqrt(robust.cauchy_weights(residual, spread))
        design = np.concatenate([relative * root[:, None], np.diag(spread * hold)])
        weights = nonnegative(design, np.append(root, spread * hold * prior))
    return weights


def nonnegative(design: Floats, aims: Floats) -> Floats:
    """(d,) weights of least squares that are not negative.

    `scipy.optimize.nnls` is exact and fast but can run into its limit of iterations; then an interior-point
    method answers.
    """
    from scipy.optimize import lsq_linear, nnls

    try:
        return np.asarray(nnls(design, aims)[0])
    except RuntimeError:
        return np.asarray(np.maximum(lsq_linear(design, aims, bounds=(0, np.inf)).x, 0))
