"""A Gaussian process over genes, for few evaluations: fitted in a fraction of a second.

Letters: n architectures to predict, k known ones, f features, g feature groups, z sizes.

The kernel (ours)
    k(x, x') = 1 + sum_g a_g^2 x_g.x'_g + b^2 exp(-sum_g s_g |x_g - x'_g|^2)
is an additive model and a smooth rest, over the canonical one-hot with one group per letter of the genes
(kernels, expansions, depths, ...), and over log MACs and log parameters, a group each: what a network
costs on paper says most of what there is to learn from 50 of them. a, s, b and the noise maximise the
marginal likelihood times a prior that matters below some 100 rows.

On OFA's released accuracy predictor (w1.2, 224 px, networks of all sizes) the RMSE in points of top-1
after 50, 100, 200, 400 networks is .24, .21, .19, .16; without MACs and parameters .29, .24, .20, .17.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from supernet import footprint
from supernet.arrays import Floats, Genomes, Ints
from supernet.fits import gaussian
from supernet.fits.gaussian import Kernel, Posterior
from supernet.prediction import Prediction
from supernet.space import SearchSpace

MOST_FITTED = 200  # rows that hyper-parameters are fitted on; all rows are known to the predictions
SIZES = ("macs", "params")
BOUND = 6.0  # hyper-parameters stay within these logarithms of the prior's middle


@dataclass(frozen=True, eq=False)
class Inputs:
    """From genomes to features: the one-hot columns that vary, and standardised logarithms of sizes."""

    space: SearchSpace
    columns: Ints  # of the one-hot
    centre: Floats  # (z,) of log MACs and log parameters
    width: Floats  # (z,)

    @classmethod
    def from_known(cls, space: SearchSpace, genomes: Genomes) -> "Inputs":
        """The columns and sizes that vary among these genomes."""
        sizes = _log_sizes(space, genomes)
        width = sizes.std(axis=0)
        columns = np.flatnonzero(np.ptp(space.one_hot(genomes), axis=0) > 0)
        return cls(space, columns, sizes.mean(axis=0), np.where(width > 0, width, 1))

    def __call__(self, genomes: Genomes) -> Floats:
        """(n, f) features."""
        sizes = (_log_sizes(self.space, genomes) - self.centre) / self.width
        return np.concatenate([self.space.one_hot(genomes)[:, self.columns], sizes], axis=1)

    def groups(self) -> Ints:
        """(f,) group of each feature: one per letter among the one-hot columns, then one per size."""
        letters = np.array([axis.letter for axis in self.space.axes for _ in axis.values])
        group = np.unique(letters[self.columns], return_inverse=True)[1].ravel()
        past = int(group.max()) + 1 if len(group) else 0
        return np.concatenate([group, past + np.arange(len(self.centre))])


@dataclass(frozen=True, eq=False)
class GaussianProcess:
    """The posterior after k known values. Values are centred and scaled to unit variance inside."""

    inputs: Inputs
    pull: Floats  # (f,) a_g of each feature's group
    reach: Floats  # (f,) sqrt(s_g)
    bend: float  # b^2
    noise: float  # variance of a value around its function
    rows: Floats  # (k, f) features of the known architectures
    posterior: Posterior
    centre: float
    scale: float

    def mean(self, genomes: Genomes) -> Floats:
        """(n,) posterior mean."""
        return self.centre + self.scale * self.posterior.mean(self._kernel(self.inputs(genomes), self.rows))

    def predict(self, genomes: Genomes) -> Prediction:
        """Posterior mean and standard deviation of a new value, noise included."""
        x = self.inputs(genomes)
        cross = self._kernel(x, self.rows)
        variance = self.posterior.variance(1 + ((x * self.pull) ** 2).sum(axis=1) + self.bend, cross)
        mean = self.centre + self.scale * self.posterior.mean(cross)
        return Prediction(mean, self.scale * np.sqrt(variance + self.noise))

    def draws(self, genomes: Genomes, noise: Floats) -> Floats:
        """(s, n) functions drawn from the posterior, from standard normal `noise` (s, n)."""
        x = self.inputs(genomes)
        cross = self._kernel(x, self.rows)
        whitened = self.posterior.whitened(cross)
        covariance = self._kernel(x, x) - whitened.T @ whitened
        variances, vectors = np.linalg.eigh(covariance)  # rounding defeats Cholesky factors
        root = vectors * np.sqrt(np.maximum(variances, 0))
        return self.centre + self.scale * (self.posterior.mean(cross) + noise @ root.T)

    def _kernel(self, x: Floats, y: Floats) -> Floats:
        return covariance(x, y, self.pull, self.reach, self.bend)


def covariance(x: Floats, y: Floats, pull: Floats, reach: Floats, bend: float) -> Floats:
    """(n, m) the kernel of the module docstring between rows of features."""
    u, v = x * reach, y * reach
    apart = (u**2).sum(axis=1)[:, None] + (v**2).sum(axis=1) - 2 * u @ v.T
    return 1 + (x * pull) @ (y * pull).T + bend * np.exp(-np.maximum(apart, 0))


def fit(space: SearchSpace, genomes: Genomes, values: Floats) -> GaussianProcess:
    """The process of the module docstring, given `values` (k,) of the (k, d) genomes.

    .01, .02, .07, .08 s of CPU for 50, 100, 200, 500 rows of OFA-MobileNetV3: beyond 200, hyper-parameters
    are fitted on 200 of them, spread evenly over the order given.
    """
    if len(genomes) < 2:
        raise ValueError(f"{len(genomes)} known architectures are too few to predict others; give 2 or more")
    centre, scale = float(values.mean()), float(values.std()) or 1.0
    target = (values - centre) / scale
    inputs = Inputs.from_known(space, genomes)
    rows, group = inputs(genomes), inputs.groups()
    some = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), MOST_FITTED)).round().astype(np.int64))
    kernel, prior = grouped_kernel(rows[some], group)
    bounds = [(value - BOUND, value + BOUND) for value in prior[0]]
    theta = gaussian.most_likely(kernel, target[some], prior[0], bounds=bounds, iterations=30, prior=prior)
    log_a, log_s = np.split(theta[:-2], 2)
    pull, reach = np.exp(log_a)[group], np.exp(log_s / 2)[group]
    bend, noise = (float(np.exp(2 * value)) for value in theta[-2:])
    noisy = gaussian.with_noise(covariance(rows, rows, pull, reach, bend), noise)
    posterior = gaussian.condition(noisy, target)
    return GaussianProcess(inputs, pull, reach, bend, noise, rows, posterior, centre, scale)


def _log_sizes(space: SearchSpace, genomes: Genomes) -> Floats:
    """(n, z) logarithms of MACs and parameters; of neither where a slot table cannot tell them.

    Building layers takes as long as all the rest of a prediction.
    """
    sizes = [
        table.evaluate(space, genomes)
        for name in SIZES
        if (table := footprint.table(space, name)) is not None
    ]
    return np.log(1 + np.array(sizes).reshape(-1, len(genomes)).T)


def grouped_kernel(x: Floats, group: Ints) -> tuple[Kernel, tuple[Floats, Floats]]:
    """The kernel of rows (k, f) by log a (g,), log s (g,) and log b, and the prior of these and log noise.

    The prior is a pair of means and deviations (2g + 2,): typical networks of the data are e^-.3 alike by the
    smooth rest, whatever the units of the features.
    """
    groups = group.max() + 1
    grams = np.stack([x[:, group == g] @ x[:, group == g].T for g in range(groups)])
    squares = np.einsum("gii->gi", grams)
    apart = np.maximum(squares[:, :, None] + squares[:, None, :] - 2 * grams, 0)
    typical = np.array([np.median(one[one > 1e-9]) if (one > 1e-9).any() else 1.0 for one in apart])
    middle = np.log(np.concatenate([np.full(groups, 0.2), 0.3 / typical / groups, [0.7, 0.1]]))
    spread = np.repeat([1.0, 1.5, 1.0], [groups, groups, 2])

    def kernel(theta: Floats) -> tuple[Floats, Callable[[Floats], Floats]]:
        a2, s = np.exp(2 * theta[:groups]), np.exp(theta[groups:-1])
        rest = np.exp(2 * theta[-1] - np.tensordot(s, apart, 1))

        def gradient(slope: Floats) -> Floats:
            by_rest = slope * rest
            by_a = 2 * a2 * np.tensordot(grams, slope, axes=([1, 2], [0, 1]))
            by_s = -s * np.tensordot(apart, by_rest, axes=([1, 2], [0, 1]))
            return np.concatenate([by_a, by_s, [2 * by_rest.sum()]])

        return 1 + np.tensordot(a2, grams, 1) + rest, gradient

    return kernel, (middle, spread)
