"""A Gaussian process over genes, for few evaluations: fitted in a fraction of a second.

Letters: n architectures to predict, k known ones, f features, g feature groups, z sizes.

The kernel (ours)
    k(x, x') = 1 + sum_g a_g^2 x_g.x'_g + b^2 exp(-sum_g s_g |x_g - x'_g|^2)
is an additive model and a smooth rest, over the canonical one-hot with one group per letter of the genes
(kernels, expansions, depths, ...), and over log MACs and log parameters, a group each: what a network
costs on paper says most of what there is to learn from 50 of them. a, s, b and the noise maximise the
marginal likelihood times a prior that matters below some 100 rows.

On OFA's released accuracy predictor (w1.2, 224 px, networks of all sizes) the RMSE in points of top-1
after 50, 100, 200, 400 networks is .24, .21, .19, .16; without MACs and parameters .29, .24, .20, .17;
with a group per letter and stage .25, .22, .19, .17; the kernel of `surrogates.accuracy`, made for 1,000
rows, has .36, .24, .21, .19. Ordinal features beside the one-hot change nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from supernet import footprint
from supernet.arrays import Floats, Genomes, Ints
from supernet.prediction import Prediction
from supernet.space import SearchSpace

MOST_FITTED = 200  # rows that hyper-parameters are fitted on; all rows are known to the predictions
ITERATIONS = 30
SIZES = ("macs", "params")
JITTER = 1e-6  # of the variance of the values, on the diagonal
BOUND = 6.0  # hyper-parameters stay within these logarithms of the prior's middle


@dataclass(frozen=True, eq=False)
class GaussianProcess:
    """The posterior after k known values. Values are centred and scaled to unit variance inside."""

    space: SearchSpace
    columns: Ints  # of the one-hot, those that vary among the known
    size_centre: Floats  # (z,) of log MACs and log parameters
    size_width: Floats  # (z,)
    pull: Floats  # (f,) a_g of each feature's group
    reach: Floats  # (f,) sqrt(s_g)
    bend: float  # b^2
    noise: float  # variance of a value around its function
    known: Floats  # (k, f)
    factor: Floats  # (k, k) lower Cholesky factor of kernel and noise
    weight: Floats  # (k,)
    centre: float
    scale: float

    def mean(self, genomes: Genomes) -> Floats:
        """(n,) posterior mean."""
        x = self._features(genomes)
        return self.centre + self.scale * (self._kernel(x, self.known) @ self.weight)

    def predict(self, genomes: Genomes) -> Prediction:
        """Posterior mean and standard deviation of a new value, noise included."""
        x, _, solved = self._solved(genomes)
        own = 1 + ((x * self.pull) ** 2).sum(axis=1) + self.bend
        variance = np.maximum(own - (solved**2).sum(axis=0), 0) + self.noise
        return Prediction(self.mean(genomes), self.scale * np.sqrt(variance))

    def draws(self, genomes: Genomes, noise: Floats) -> Floats:
        """(s, n) functions drawn from the posterior, from standard normal `noise` (s, n)."""
        x, cross, solved = self._solved(genomes)
        covariance = self._kernel(x, x) - solved.T @ solved
        variances, vectors = np.linalg.eigh(covariance)  # rounding defeats Cholesky factors
        root = vectors * np.sqrt(np.maximum(variances, 0))
        drawn: Floats = self.centre + self.scale * (cross @ self.weight + noise @ root.T)
        return drawn

    def _solved(self, genomes: Genomes) -> tuple[Floats, Floats, Floats]:
        """Features (n, f), kernel with the known (n, k), and factor^-1 of its transpose (k, n)."""
        from scipy.linalg import solve_triangular

        x = self._features(genomes)
        cross = self._kernel(x, self.known)
        return x, cross, solve_triangular(self.factor, cross.T, lower=True, check_finite=False)

    def _features(self, genomes: Genomes) -> Floats:
        sizes = (_log_sizes(self.space, genomes) - self.size_centre) / self.size_width
        return np.concatenate([self.space.one_hot(genomes)[:, self.columns], sizes], axis=1)

    def _kernel(self, x: Floats, y: Floats) -> Floats:
        u, v = x * self.reach, y * self.reach
        apart = (u**2).sum(axis=1)[:, None] + (v**2).sum(axis=1) - 2 * u @ v.T
        return 1 + (x * self.pull) @ (y * self.pull).T + self.bend * np.exp(-np.maximum(apart, 0))


def fit(space: SearchSpace, genomes: Genomes, values: Floats) -> GaussianProcess:
    """The process of the module docstring, given `values` (k,) of the (k, d) genomes.

    .01, .02, .07, .08 s of CPU for 50, 100, 200, 500 rows of OFA-MobileNetV3: beyond 200, hyper-parameters
    are fitted on 200 of them, spread evenly over the order given.
    """
    from scipy.linalg import cho_factor, cho_solve

    if len(genomes) < 2:
        raise ValueError(f"{len(genomes)} known architectures are too few to predict others; give 2 or more")
    centre, scale = float(values.mean()), float(values.std()) or 1.0
    target = (values - centre) / scale
    hot, logs = space.one_hot(genomes), _log_sizes(space, genomes)
    columns = np.flatnonzero(np.ptp(hot, axis=0) > 0)
    middle, width = logs.mean(axis=0), logs.std(axis=0)
    width = np.where(width > 0, width, 1)
    known = np.concatenate([hot[:, columns], (logs - middle) / width], axis=1)
    group = _groups(space, columns, logs.shape[1])
    some = np.unique(np.linspace(0, len(known) - 1, min(len(known), MOST_FITTED)).round().astype(np.int64))
    pull, reach, bend, noise = _most_likely(known[some], target[some], group)
    process = GaussianProcess(
        space=space,
        columns=columns,
        size_centre=middle,
        size_width=width,
        pull=pull[group],
        reach=reach[group],
        bend=bend,
        noise=noise,
        known=known,
        factor=np.empty((0, 0)),
        weight=np.empty(0),
        centre=centre,
        scale=scale,
    )
    kernel = process._kernel(known, known) + (noise + JITTER) * np.eye(len(known))
    factor = cho_factor(kernel, lower=True, check_finite=False)
    weight = cho_solve(factor, target, check_finite=False)
    return replace(process, factor=factor[0], weight=weight)


def _log_sizes(space: SearchSpace, genomes: Genomes) -> Floats:
    """(n, z) logarithms of MACs and parameters; of neither where a slot table cannot tell them.

    Building layers takes as long as all the rest of a prediction.
    """
    sizes = [
        table.of(space, genomes) for name in SIZES if (table := footprint.table(space, name)) is not None
    ]
    return np.log(1 + np.array(sizes).reshape(-1, len(genomes)).T)


def _groups(space: SearchSpace, columns: Ints, sizes: int) -> Ints:
    """(f,) group of each feature: one per letter among the one-hot columns, then one per size."""
    letters = np.array([axis.letter for axis in space.axes for _ in axis.values])
    group = np.unique(letters[columns], return_inverse=True)[1].ravel()
    past = int(group.max()) + 1 if len(group) else 0
    return np.concatenate([group, past + np.arange(sizes)])


def _most_likely(x: Floats, target: Floats, group: Ints) -> tuple[Floats, Floats, float, float]:
    """(g,) a, (g,) sqrt(s), b^2 and the variance of the noise."""
    from scipy.optimize import minimize

    grams = np.stack([x[:, group == g] @ x[:, group == g].T for g in range(group.max() + 1)])
    squares = np.einsum("gii->gi", grams)
    apart = np.maximum(squares[:, :, None] + squares[:, None, :] - 2 * grams, 0)
    middle, spread = _prior(apart)
    found = minimize(
        _negative_log_posterior,
        middle,
        args=(grams, apart, target, middle, spread),
        jac=True,
        method="L-BFGS-B",
        bounds=[(value - BOUND, value + BOUND) for value in middle],
        options={"maxiter": ITERATIONS},
    )
    log_a, log_s, log_b, log_noise = _split(found.x, len(grams))
    return np.exp(log_a), np.exp(log_s / 2), float(np.exp(2 * log_b)), float(np.exp(2 * log_noise))


def _split(theta: Floats, groups: int) -> tuple[Floats, Floats, float, float]:
    return theta[:groups], theta[groups : 2 * groups], float(theta[-2]), float(theta[-1])


def _prior(apart: Floats) -> tuple[Floats, Floats]:
    """(2g + 2,), (2g + 2,) means and deviations of log a, log s, log b, log noise.

    Typical networks of the data are e^-.3 alike by the smooth rest, whatever the units of the features.
    """
    groups = len(apart)
    typical = np.array([np.median(one[one > 1e-9]) if (one > 1e-9).any() else 1.0 for one in apart])
    middle = np.concatenate(
        [np.full(groups, np.log(0.2)), np.log(0.3 / typical / groups), [np.log(0.7), np.log(0.1)]]
    )
    return middle, np.concatenate([np.full(groups, 1.0), np.full(groups, 1.5), [1.0, 1.0]])


def _negative_log_posterior(
    theta: Floats, grams: Floats, apart: Floats, target: Floats, middle: Floats, spread: Floats
) -> tuple[float, Floats]:
    """Negative log of marginal likelihood times prior (up to a constant), and its gradient (2g + 2,)."""
    from scipy.linalg import cho_factor, cho_solve

    log_a, log_s, log_b, log_noise = _split(theta, len(grams))
    a2, s, noise = np.exp(2 * log_a), np.exp(log_s), np.exp(2 * log_noise)
    n = len(target)
    rest = np.exp(2 * log_b - np.tensordot(s, apart, 1))
    kernel = 1 + np.tensordot(a2, grams, 1) + rest + (noise + JITTER) * np.eye(n)
    factor = cho_factor(kernel, lower=True, check_finite=False)
    alpha = cho_solve(factor, target, check_finite=False)
    slope = 0.5 * (cho_solve(factor, np.eye(n), check_finite=False) - np.outer(alpha, alpha))
    by_rest = slope * rest
    gradient = np.concatenate(
        [
            2 * a2 * np.tensordot(grams, slope, axes=([1, 2], [0, 1])),
            -s * np.tensordot(apart, by_rest, axes=([1, 2], [0, 1])),
            [2 * by_rest.sum(), 2 * noise * np.trace(slope)],
        ]
    )
    off = (theta - middle) / spread
    value = 0.5 * target @ alpha + np.log(np.diag(factor[0])).sum() + 0.5 * off @ off
    return float(value), gradient + off / spread
