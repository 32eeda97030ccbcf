"""Fits accuracy surrogates: to measured top-1, or to what OFA's released predictor says.

`fit` is for measured top-1 (ours): a Gaussian process with the kernel

    k(x, x') = sum_g a_g^2 x_g.x'_g + (c + sum_g w_g^2 x_g.x'_g)^2

over the canonical one-hot of the genes, grouped by kind and stage; all a, w, c and the noise are those of
largest marginal likelihood. Its posterior mean is exactly one quadratic form in x, which is what the
surrogate keeps. The posterior standard deviation is kept as the exponential of a linear form fitted to the
exact one, and scaled by residuals of folds left out.

Letters: n and k architectures, v one-hot columns of the space, f of these that vary, g gene groups.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from supernet.arrays import Floats, Genomes, Ints
from supernet.fits import folds, gaussian
from supernet.fits.gaussian import Kernel, Posterior
from supernet.prediction import QUANTILE, Prediction
from supernet.space import SearchSpace, get_space
from supernet.surrogates import ofa_predictor
from supernet.surrogates.accuracy import POINT, AccuracySurrogate
from supernet.surrogates.ofa_predictor import OfaAccuracy

FOLDS = 5
MIN_ROWS = 10
RELEASED_ROWS = 30_000  # random subnets that a released predictor is asked for
GRAM_ROWS = 2000  # rows of products of genes at a time: a few thousand numbers each


@dataclass(frozen=True, eq=False)
class Process:
    """The Gaussian process after k rows of features, whose values have mean 0 and variance 1."""

    rows: Floats  # (k, f)
    linear: Floats  # (f,) a^2 of each feature's group
    curved: Floats  # (f,) w^2 of each feature's group
    offset: float  # c
    noise: float  # variance of a value around its function
    posterior: Posterior

    def mean(self, x: Floats) -> Floats:
        """(n,) posterior mean at features (n, f)."""
        return self.posterior.mean(self._covariance(x))

    def variance(self, x: Floats) -> Floats:
        """(n,) posterior variance of new values at features (n, f), noise included."""
        own = x**2 @ self.linear + (self.offset + x**2 @ self.curved) ** 2
        return self.posterior.variance(own, self._covariance(x)) + self.noise

    def _covariance(self, x: Floats) -> Floats:
        return (x * self.linear) @ self.rows.T + (self.offset + (x * self.curved) @ self.rows.T) ** 2


def quadratic_kernel(grams: Floats) -> Kernel:
    """The kernel of the module docstring by log a (g,), log w (g,), log c; from (g, k, k) Gram matrices."""
    groups = len(grams)

    def kernel(theta: Floats) -> tuple[Floats, Callable[[Floats], Floats]]:
        a2, w2, c = np.exp(2 * theta[:groups]), np.exp(2 * theta[groups:-1]), np.exp(theta[-1])
        inner = c + np.tensordot(w2, grams, 1)

        def gradient(slope: Floats) -> Floats:
            curved = 2 * slope * inner
            by_a, by_w = 2 * a2 * np.tensordot(grams, slope), 2 * w2 * np.tensordot(grams, curved)
            return np.concatenate([by_a, by_w, [c * curved.sum()]])

        return np.tensordot(a2, grams, 1) + inner**2, gradient

    return kernel


def fit_process(rows: Floats, groups: Ints, values: Floats, max_iterations: int) -> Process:
    """The process of largest marginal likelihood, from features (k, f) in groups (f,) and values (k,)."""
    count = int(groups.max()) + 1
    kernel = quadratic_kernel(np.stack([rows[:, groups == g] @ rows[:, groups == g].T for g in range(count)]))
    theta = gaussian.most_likely(
        kernel,
        values,
        np.concatenate([np.full(2 * count, np.log(0.3)), [0.0, np.log(0.05)]]),
        bounds=[(-9.0, 3.0)] * (2 * count) + [(-9.0, 4.0), (-6.0, 0.0)],
        iterations=max_iterations,
    )
    a2, w2 = np.exp(2 * theta[:count])[groups], np.exp(2 * theta[count:-2])[groups]
    noise = float(np.exp(2 * theta[-1]))
    posterior = gaussian.condition(gaussian.with_noise(kernel(theta[:-1])[0], noise), values)
    return Process(rows, a2, w2, float(np.exp(theta[-2])), noise, posterior)


def gene_groups(space: SearchSpace, columns: Ints) -> Ints:
    """(f,) group of each of these one-hot columns: genes of one letter in one stage share their weights."""
    keys = [(axis.letter, axis.stage) for axis in space.axes for _ in axis.values]
    present = sorted({keys[column] for column in columns})
    return np.array([present.index(keys[column]) for column in columns])


def fit(
    space: SearchSpace, genomes: Genomes, top1: Floats, *, max_iterations: int = 150
) -> AccuracySurrogate:
    """The surrogate of measured top-1 (fractions) of (n, d) genomes.

    Axes that do not vary in the data (resolution, fine-tuning) get no effect; a `Calibration` adds them.
    O(n^3) per likelihood evaluation: about half a minute for 1,000 rows on two cores.
    """
    if len(genomes) < MIN_ROWS:
        raise ValueError(f"{len(genomes)} measured subnets are too few for a fit; give at least {MIN_ROWS}")
    x = space.one_hot(genomes)
    used = np.flatnonzero(x.std(axis=0) > 0)
    rows, groups = x[:, used], gene_groups(space, used)
    centre, scale = float(top1.mean()), float(top1.std())
    values = (top1 - centre) / scale
    process = fit_process(rows, groups, values, max_iterations)

    # The posterior mean as a quadratic form.
    alpha, weighted = process.posterior.weights, rows * process.curved
    linear, quadratic = np.zeros(len(x.T)), np.zeros((len(x.T),) * 2)
    linear[used] = scale * (process.linear + 2 * process.offset * process.curved) * (rows.T @ alpha)
    quadratic[np.ix_(used, used)] = scale * weighted.T @ (alpha[:, None] * weighted)

    # Residuals of folds with hyper-parameters of their own. Leave-one-out residuals in closed form are 5x
    # cheaper, but share the hyper-parameters with the rows they judge: intervals at 90% then cover 88%.
    def residuals(kept: Ints, out: Ints) -> Floats:
        part = fit_process(rows[kept], groups, values[kept], max_iterations // 2)
        return scale * (values[out] - part.mean(rows[out]))

    left_out = folds.left_out(folds.random_folds(len(rows), FOLDS), residuals)
    slopes = _deviation_slopes(space, genomes, used, process, scale)
    factor = np.quantile(np.abs(left_out) / np.exp(slopes[0] + rows @ slopes[1:]), 0.9) / QUANTILE(0.95)
    log_std = np.zeros(1 + len(linear))
    log_std[0] = slopes[0] + np.log(factor)
    log_std[1 + used] = slopes[1:]
    return AccuracySurrogate(
        space=space.name,
        constant=centre + scale * process.offset**2 * float(alpha.sum()),
        linear=linear,
        quadratic=quadratic,
        log_std=log_std,
        resolutions=space.resolution_range(genomes),
        facts={"rows": len(genomes), "noise_points": scale * process.noise**0.5 / POINT},
    )


def _deviation_slopes(
    space: SearchSpace, genomes: Genomes, used: Ints, process: Process, scale: float
) -> Floats:
    """(1 + f,) intercept and slopes of the log posterior deviation, on the data and around them."""
    rng = np.random.default_rng(0)
    parents = genomes[rng.integers(0, len(genomes), 4000)]
    fresh = np.concatenate([genomes, space.mutate(parents, rng, 0.1), space.mutate(parents, rng, 0.4)])
    rows = space.one_hot(fresh)[:, used]
    inputs = np.concatenate([np.ones((len(rows), 1)), rows], axis=1)
    ridge = 1e-3 * len(rows) * np.eye(inputs.shape[1])
    log_std = np.log(scale * np.sqrt(process.variance(rows)))
    return np.linalg.solve(inputs.T @ inputs + ridge, inputs.T @ log_std)


def sample_curve(
    space: SearchSpace, genomes: Genomes, top1: Floats, counts: Sequence[int], *, seeds: int = 3
) -> dict[int, tuple[Prediction, Floats]]:
    """By number of rows fitted: predictions for a fifth of the rows that is left out, and its top-1.

    Each of `seeds` splits leaves out another random fifth, the same for all counts; their test rows are
    joined.
    """
    held = len(top1) // 5
    for count in counts:
        if not MIN_ROWS <= count <= len(top1) - held:
            raise ValueError(
                f"curve={count} must lie between {MIN_ROWS} and {len(top1) - held}: a fifth is left out"
            )
    sides = space.resolution_range(genomes)
    curve = {}
    for count in counts:
        parts = []
        for seed in range(seeds):
            order = np.random.default_rng(seed).permutation(len(top1))
            test, train = order[:held], order[held : held + count]
            fitted = replace(fit(space, genomes[train], top1[train]), resolutions=sides)
            predicted = fitted.predict(genomes[test])
            parts.append((predicted.mean, predicted.std, top1[test]))
        mean, std, truth = np.concatenate(parts, axis=1)
        curve[count] = Prediction(mean, std), truth
    return curve


def fit_released(space: SearchSpace, released: OfaAccuracy, sides: Sequence[int]) -> AccuracySurrogate:
    """The surrogate that says what one of OFA's released predictors says at these input sides."""
    rng = np.random.default_rng(1)
    genomes = space.sample(RELEASED_ROWS, rng)
    levels = [space.axis("r").values.index(r) + 1 for r in sides]
    genomes[:, space.index["r"]] = rng.choice(levels, len(genomes))
    return fit_quadratic(space, genomes, released.predict(genomes, space).mean, std=ofa_predictor.STD)


def fit_quadratic(
    space: SearchSpace, genomes: Genomes, top1: Floats, *, std: float, ridge: float = 10.0
) -> AccuracySurrogate:
    """Least squares over the one-hot genes and all pairs of them; of the deployment genes none.

    For functions that can be asked at will (a released predictor). `std` is the deviation of the function
    itself from the truth (fraction); the misfit on a tenth of the rows is added to it.
    """
    x = space.one_hot(genomes, np.float32)
    deploy = np.array([axis.deploy for axis in space.axes for _ in axis.values])
    used = np.flatnonzero((x.std(axis=0) > 0) & ~deploy)
    i, j = np.triu_indices(len(used), 1)
    centre = float(top1.mean())

    def features(rows: slice) -> NDArray[np.float32]:
        z = x[rows, used]
        return np.concatenate([z[:, i] * z[:, j], z, np.ones((len(z), 1), np.float32)], axis=1)

    train = len(x) * 9 // 10
    gram, right = np.diag(np.full(len(i) + len(used) + 1, ridge)), np.zeros(len(i) + len(used) + 1)
    parts = [slice(start, min(start + GRAM_ROWS, train)) for start in range(0, train, GRAM_ROWS)]
    for part in parts:
        rows = features(part)
        gram += rows.T @ rows
        right += rows.T.astype(np.float64) @ (top1[part] - centre)
    theta = np.linalg.solve(gram, right)
    test = slice(train, None)
    misfit = float(np.sqrt(np.mean((features(test) @ theta + centre - top1[test]) ** 2)))

    width = x.shape[1]
    linear, quadratic, log_std = np.zeros(width), np.zeros((width, width)), np.zeros(1 + width)
    linear[used] = theta[len(i) : -1]
    quadratic[used[i], used[j]] = quadratic[used[j], used[i]] = theta[: len(i)] / 2
    log_std[0] = 0.5 * np.log(std**2 + misfit**2)
    return AccuracySurrogate(
        space=space.name,
        constant=centre + float(theta[-1]),
        linear=linear,
        quadratic=quadratic,
        log_std=log_std,
        resolutions=space.resolution_range(genomes),
        facts={"rows": len(genomes), "misfit_points": misfit / POINT},
    )


def interpolated(surrogate: AccuracySurrogate, side: int) -> AccuracySurrogate:
    """The surrogate with a side that its data lack, half-way between the sides around it."""
    space = get_space(surrogate.space)
    sides = space.axis("r").values
    column = int(space.one_hot_offsets[space.index["r"]]) + sides.index(side)
    linear, quadratic = surrogate.linear.copy(), surrogate.quadratic.copy()
    linear[column] = (linear[column - 1] + linear[column + 1]) / 2
    quadratic[column] = (quadratic[column - 1] + quadratic[column + 1]) / 2
    quadratic[:, column] = quadratic[column]
    return replace(surrogate, linear=linear, quadratic=quadratic)
