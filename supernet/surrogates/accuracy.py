"""Accuracy surrogates: ImageNet top-1 of a subnet, with calibrated uncertainty, at more than 200,000
subnets/s.

Letters: n architectures, v one-hot columns of the space, g gene groups.

The form (ours): a Gaussian process with the kernel
    k(x, x') = sum_g a_g^2 x_g.x'_g + (c + sum_g w_g^2 x_g.x'_g)^2
over the canonical one-hot of the genes, grouped by kind and stage, all a, w, c and the noise by maximum
marginal likelihood. Its posterior mean is exactly one quadratic form in x, which is what we keep: no
distillation, nothing lost. The posterior standard deviation is kept as exp(linear form) fitted to the exact
one, and scaled by held-out residuals (five folds).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from supernet.arrays import Floats, Genomes
from supernet.files import artifact
from supernet.prediction import QUANTILE, Prediction
from supernet.space import SearchSpace, get_space

KIND = "accuracy surrogate"
CHUNK = 8192  # rows at a time: one-hot and product stay in the cache
ARRAYS = ("linear", "quadratic", "log_std", "extra_variance")
POINT = 0.01  # one point of top-1 as a fraction

# OFA's own fine-tuned subnet (230 M MACs): top-1 76.0 without, 76.4 after 25, 76.9 after 75 epochs (Cai et
# al., 2020). One network is all that is published, so the spread is our assumption: a third of the gain, at
# least .1 point.
FINETUNE_GAIN = {0: 0.0, 25: 0.004, 75: 0.009}
FINETUNE_GAIN_STD = {0: 0.0, 25: 0.0013, 75: 0.003}


@dataclass(frozen=True, eq=False)
class AccuracySurrogate:
    """Top-1 (fraction) as constant + linear.x + x'quadratic x over the one-hot x of a space."""

    space: str
    constant: float
    linear: Floats  # (v,)
    quadratic: Floats  # (v, v) symmetric
    log_std: Floats  # (1 + v,) intercept and slopes of the logarithm of the standard deviation
    extra_variance: Floats  # (v,) added to the variance where a column is on: resolution, fine-tuning
    resolutions: tuple[int, int]  # lowest and highest input side it is valid for
    facts: Mapping[str, Any] = field(default_factory=dict)  # source, licence, command, scores, scale

    def predict(self, genomes: Genomes, space: SearchSpace | None = None) -> Prediction:
        """Top-1 in [0, 1] of canonical genomes of `space` (default: the surrogate's own).

        ValueError for a space that is not part of the surrogate's, and for resolutions it was not fitted for.
        """
        own = get_space(self.space)
        if space is not None:
            genomes = space.embed(genomes, self.space)
        own.check_resolutions(genomes, self.resolutions, f"the accuracy of {self.space}")
        v = own.one_hot_width
        weights = np.concatenate(
            [self.quadratic, self.linear[:, None], self.log_std[1:, None], self.extra_variance[:, None]],
            axis=1,
        ).astype(np.float32)
        mean, std = np.empty(len(genomes)), np.empty(len(genomes))
        for start in range(0, len(genomes), CHUNK):
            part = slice(start, start + CHUNK)
            x = own.one_hot(genomes[part], np.float32)
            product = x @ weights
            mean[part] = self.constant + np.einsum("ij,ij->i", product[:, :v], x) + product[:, v]
            std[part] = np.sqrt(np.exp(2 * (self.log_std[0] + product[:, v + 1])) + product[:, v + 2])
        return Prediction(mean, std)

    @property
    def measured(self) -> None:
        """Nothing: these are predictions."""

    def save(self, path: str | Path) -> None:
        arrays = {name: getattr(self, name).astype(np.float32) for name in ARRAYS}
        facts = {"space": self.space, "constant": self.constant, "resolutions": list(self.resolutions)}
        facts["about"] = dict(self.facts)
        artifact.save(Path(path), KIND, arrays, facts)


def load(file: str | Path) -> AccuracySurrogate:
    """A saved surrogate: a path, or the name of one that ships in `supernet/fitted`."""
    path = Path(file)
    if path.suffix != ".npz":
        path = Path(__file__).parent / "fitted" / f"accuracy_{file}.npz"
    arrays, facts = artifact.load(path, KIND)
    try:
        low, high = facts["resolutions"]
        loaded = AccuracySurrogate(
            space=facts["space"],
            constant=float(facts["constant"]),
            resolutions=(low, high),
            facts=facts["about"],
            **{name: arrays[name].astype(np.float64) for name in ARRAYS},
        )
        v = get_space(loaded.space).one_hot_width
        if loaded.linear.shape != (v,) or loaded.quadratic.shape != (v, v):
            raise ValueError(
                f"its coefficients are for {loaded.linear.shape} columns, {loaded.space} has {v}"
            )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no usable accuracy surrogate ({error}); left as it is") from error
    return loaded


def fit(
    space: SearchSpace, genomes: Genomes, top1: Floats, *, max_iterations: int = 150
) -> AccuracySurrogate:
    """The Gaussian process of the module docstring, fitted to measured top-1 (fractions) of (n, d) genomes.

    Axes that do not vary in the data (resolution, fine-tuning) get no effect; add them with
    `with_resolution_effect` and `with_finetuning`. O(n^3) per likelihood evaluation: about half a minute for
    1,000 rows on two cores.
    """
    if len(genomes) < 10:
        raise ValueError(
            f"{len(genomes)} measured subnets are too few to fit an accuracy surrogate; give at least 10"
        )
    x = space.one_hot(genomes)
    used = np.flatnonzero(x.std(axis=0) > 0)
    groups = _groups(space, used)
    centre, scale = float(top1.mean()), float(top1.std())
    target = (top1 - centre) / scale
    design = x[:, used]
    grams = np.stack([design[:, groups == g] @ design[:, groups == g].T for g in range(groups.max() + 1)])
    theta = _maximum_likelihood(grams, target, max_iterations)
    log_a, log_w, log_c, log_noise = _split(theta, len(grams))
    a2, w2, c = np.exp(2 * log_a), np.exp(2 * log_w), float(np.exp(log_c))
    kernel = np.tensordot(a2, grams, 1) + (c + np.tensordot(w2, grams, 1)) ** 2
    noise = float(np.exp(2 * log_noise))
    inverse = np.linalg.inv(kernel + noise * np.eye(len(target)))
    alpha = inverse @ target

    # Posterior mean as a quadratic form in the one-hot.
    pull, weight = a2[groups], w2[groups]
    linear, quadratic = np.zeros(space.one_hot_width), np.zeros((space.one_hot_width,) * 2)
    linear[used] = scale * (pull + 2 * c * weight) * (design.T @ alpha)
    curved = (design * weight).T @ (alpha[:, None] * (design * weight))
    quadratic[np.ix_(used, used)] = scale * (curved + curved.T) / 2
    constant = centre + scale * c**2 * float(alpha.sum())

    # Exact posterior deviation on fresh subnets around the data and on random ones; log-linear fit of it.
    rng = np.random.default_rng(0)
    parents = genomes[rng.integers(0, len(genomes), 4000)]
    fresh = np.concatenate([genomes, space.mutate(parents, rng, 0.1), space.mutate(parents, rng, 0.4)])
    here = space.one_hot(fresh)[:, used]
    cross = (here * pull) @ design.T + (c + (here * weight) @ design.T) ** 2
    own = (here**2 @ pull) + (c + here**2 @ weight) ** 2
    variance = np.maximum(own - np.einsum("ij,jk,ik->i", cross, inverse, cross, optimize=True), 0) + noise
    regressors = np.concatenate([np.ones((len(fresh), 1)), here], axis=1)
    ridge = 1e-3 * len(fresh) * np.eye(regressors.shape[1])
    slopes = np.linalg.solve(
        regressors.T @ regressors + ridge, regressors.T @ np.log(scale * np.sqrt(variance))
    )

    predicted = np.exp(regressors[: len(genomes)] @ slopes)
    residual = scale * _held_out_residuals(grams, target, max_iterations // 2)
    factor = float(np.quantile(np.abs(residual) / predicted, 0.9) / QUANTILE(0.95))
    log_std = np.zeros(1 + space.one_hot_width)
    log_std[0] = slopes[0] + np.log(factor)
    log_std[1 + used] = slopes[1:]
    resolution = space.column(genomes, "r") if "r" in space.index else np.zeros(1, np.int64)
    return AccuracySurrogate(
        space=space.name,
        constant=constant,
        linear=linear,
        quadratic=quadratic,
        log_std=log_std,
        extra_variance=np.zeros(space.one_hot_width),
        resolutions=(int(resolution.min()), int(resolution.max())),
        facts={"rows": len(genomes), "noise_points": scale * float(np.exp(log_noise)) / POINT},
    )


def sample_curve(
    space: SearchSpace, genomes: Genomes, top1: Floats, counts: Sequence[int], *, seeds: int = 3
) -> dict[int, tuple[Prediction, Floats]]:
    """Predictions of, and measured top-1 of, a fifth of the rows that was left out, by number of rows fitted.

    Each of `seeds` splits leaves out another random fifth, the same for all counts; their test rows are
    joined.
    """
    held = len(top1) // 5
    for count in counts:
        if not 10 <= count <= len(top1) - held:
            raise ValueError(
                f"curve={count} must lie between 10 and {len(top1) - held}: a fifth of the {len(top1)} rows "
                "is left out"
            )
    side = space.column(genomes, "r") if "r" in space.index else np.zeros(1, np.int64)
    sides = int(side.min()), int(side.max())
    found = {}
    for count in counts:
        means, stds, truth = [], [], []
        for seed in range(seeds):
            order = np.random.default_rng(seed).permutation(len(top1))
            test, train = order[:held], order[held : held + count]
            fitted = replace(fit(space, genomes[train], top1[train]), resolutions=sides)
            predicted = fitted.predict(genomes[test])
            means.append(predicted.mean)
            stds.append(predicted.std)
            truth.append(top1[test])
        found[count] = Prediction(np.concatenate(means), np.concatenate(stds)), np.concatenate(truth)
    return found


def _groups(space: SearchSpace, used: NDArray[np.int64]) -> NDArray[np.int64]:
    """(len(used),) group of each one-hot column: genes of one letter in one stage share their kernel
    weights."""
    keys = [(axis.letter, axis.stage) for axis in space.axes for _ in axis.values]
    present = sorted({keys[column] for column in used})
    return np.array([present.index(keys[column]) for column in used])


def _split(theta: Floats, groups: int) -> tuple[Floats, Floats, float, float]:
    return theta[:groups], theta[groups : 2 * groups], float(theta[-2]), float(theta[-1])


def _held_out_residuals(grams: Floats, target: Floats, max_iterations: int, folds: int = 5) -> Floats:
    """(n,) residuals of folds left out, hyper-parameters fitted anew without them.

    Leave-one-out residuals in closed form are 5x cheaper, but share the hyper-parameters with the rows they
    judge: intervals at 90% then cover 88%.
    """
    n = len(target)
    fold = np.random.default_rng(0).permutation(n) % folds
    residual = np.empty(n)
    for k in range(folds):
        inside, outside = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
        theta = _maximum_likelihood(grams[:, inside][:, :, inside], target[inside], max_iterations)
        log_a, log_w, log_c, log_noise = _split(theta, len(grams))
        rows = np.tensordot(np.exp(2 * log_a), grams[:, :, inside], 1)
        rows += (np.exp(log_c) + np.tensordot(np.exp(2 * log_w), grams[:, :, inside], 1)) ** 2
        alpha = np.linalg.solve(rows[inside] + np.exp(2 * log_noise) * np.eye(len(inside)), target[inside])
        residual[outside] = target[outside] - rows[outside] @ alpha
    return residual


def _maximum_likelihood(grams: Floats, target: Floats, max_iterations: int) -> Floats:
    """Logarithms of (a, w, c, noise) that maximise the marginal likelihood; (2g + 2,)."""
    from scipy.optimize import minimize

    groups = len(grams)
    found = minimize(
        _negative_log_likelihood,
        _start(groups),
        args=(grams, target),
        jac=True,
        method="L-BFGS-B",
        bounds=[(-9.0, 3.0)] * (2 * groups) + [(-9.0, 4.0), (-6.0, 0.0)],
        options={"maxiter": max_iterations},
    )
    return np.asarray(found.x, np.float64)


def _start(groups: int) -> Floats:
    return np.concatenate([np.full(2 * groups, np.log(0.3)), [0.0, np.log(0.05)]])


def _negative_log_likelihood(theta: Floats, grams: Floats, target: Floats) -> tuple[float, Floats]:
    """Negative log marginal likelihood (up to a constant) and its gradient (2g + 2,)."""
    from scipy.linalg import cho_factor, cho_solve

    log_a, log_w, log_c, log_noise = _split(theta, len(grams))
    a2, w2, c, noise = np.exp(2 * log_a), np.exp(2 * log_w), np.exp(log_c), np.exp(2 * log_noise)
    n = len(target)
    inner = c + np.tensordot(w2, grams, 1)
    kernel = np.tensordot(a2, grams, 1) + inner**2 + (noise + 1e-6) * np.eye(n)
    factor = cho_factor(kernel, lower=True)
    alpha = cho_solve(factor, target)
    value = 0.5 * target @ alpha + np.log(np.diag(factor[0])).sum()
    slope = 0.5 * (cho_solve(factor, np.eye(n)) - np.outer(alpha, alpha))  # d value / d kernel
    by_gram = np.tensordot(grams, slope, axes=([1, 2], [0, 1]))
    curved = 2 * slope * inner
    by_inner = np.tensordot(grams, curved, axes=([1, 2], [0, 1]))
    by_scalars = [c * curved.sum(), 2 * noise * np.trace(slope)]
    return float(value), np.concatenate([2 * a2 * by_gram, 2 * w2 * by_inner, np.array(by_scalars)])


def fit_quadratic(
    space: SearchSpace,
    genomes: Genomes,
    top1: Floats,
    *,
    std: float,
    resolutions: tuple[int, int],
    ridge: float = 10.0,
) -> AccuracySurrogate:
    """Least-squares quadratic form over the one-hot genes and rho = (r_max - r) / 64, rho^2, for plentiful
    data.

    For functions that can be asked at will (a released predictor). `std` is the deviation of the function
    itself from the truth (fraction); the misfit on a tenth of the rows is added to it.
    """
    genes = [j for j, axis in enumerate(space.axes) if axis.name != "r" and not axis.deploy]
    columns = np.concatenate([np.arange(*space.one_hot_offsets[j : j + 2]) for j in genes])
    x = space.one_hot(genomes, np.float32)[:, columns]
    rho = _rho(space.column(genomes, "r"), resolutions)
    z = np.concatenate([x, rho], axis=1).astype(np.float32)
    i, j = np.triu_indices(z.shape[1], 1)
    keep = ~(
        (i >= x.shape[1]) & (j >= x.shape[1])
    )  # rho * rho^2 would bend more than five resolutions can tell
    i, j = i[keep], j[keep]
    centre = float(top1.mean())
    train = len(z) * 9 // 10
    features = np.concatenate([z[:, i] * z[:, j], z, np.ones((len(z), 1), np.float32)], axis=1)
    gram = (features[:train].T @ features[:train]).astype(np.float64)
    gram[np.diag_indices_from(gram)] += ridge
    theta = np.linalg.solve(gram, features[:train].T.astype(np.float64) @ (top1[:train] - centre))
    misfit = float(np.sqrt(np.mean((features[train:] @ theta + centre - top1[train:]) ** 2)))

    pairs, singles = theta[: len(i)], theta[len(i) : -1]
    full = np.zeros((z.shape[1],) * 2)
    full[i, j] = full[j, i] = pairs / 2
    v = space.one_hot_width
    linear, quadratic = np.zeros(v), np.zeros((v, v))
    linear[columns] = singles[: x.shape[1]]
    quadratic[np.ix_(columns, columns)] = full[: x.shape[1], : x.shape[1]]
    r = space.index["r"]
    at = np.arange(*space.one_hot_offsets[r : r + 2])
    rho_of_level = _rho(np.array(space.axes[r].values), resolutions)
    linear[at] = rho_of_level @ singles[x.shape[1] :]
    cross = rho_of_level @ full[x.shape[1] :, : x.shape[1]]
    quadratic[np.ix_(at, columns)], quadratic[np.ix_(columns, at)] = cross, cross.T
    log_std = np.zeros(1 + v)
    log_std[0] = 0.5 * np.log(std**2 + misfit**2)
    return AccuracySurrogate(
        space=space.name,
        constant=centre + float(theta[-1]),
        linear=linear,
        quadratic=quadratic,
        log_std=log_std,
        extra_variance=np.zeros(v),
        resolutions=resolutions,
        facts={"rows": len(genomes), "misfit_points": misfit / POINT},
    )


def _rho(r: NDArray[np.int64], resolutions: tuple[int, int]) -> Floats:
    rho = (resolutions[1] - r) / 64
    return np.stack([rho, rho**2], axis=1)


def with_resolution_effect(
    surrogate: AccuracySurrogate, other: AccuracySurrogate, relative_std: float = 0.15
) -> AccuracySurrogate:
    """`surrogate`, fitted at one resolution, plus the accuracy that `other` (same genes) loses at lower
    resolutions.

    Whether the loss carries over from one width to the other is not known from public data: `relative_std` of
    the mean loss is added as a standard deviation (our assumption).
    """
    space = get_space(surrogate.space)
    if [axis.name for axis in space.axes] != [axis.name for axis in get_space(other.space).axes]:
        raise ValueError(
            f"{other.space} has other genes than {surrogate.space}: its resolution effect does not carry over"
        )
    r = space.index["r"]
    first = int(space.one_hot_offsets[r])
    at = np.arange(first, first + len(space.axes[r].values))
    reference = first + space.axes[r].values.index(surrogate.resolutions[1])
    linear, quadratic = surrogate.linear.copy(), surrogate.quadratic.copy()
    linear[at] += other.linear[at] - other.linear[reference]
    shift = other.quadratic[at] - other.quadratic[reference]
    quadratic[at] += shift
    quadratic[:, at] += shift.T
    variance = surrogate.extra_variance.copy()
    x = space.one_hot(space.sample(1000, np.random.default_rng(0)))
    x[:, at] = 0
    loss = linear[at] + 2 * (x @ shift.T).mean(axis=0)
    variance[at] += (relative_std * loss) ** 2
    return replace(
        surrogate, linear=linear, quadratic=quadratic, extra_variance=variance, resolutions=other.resolutions
    )


def with_finetuning(
    surrogate: AccuracySurrogate,
    gain: Mapping[int, float] = FINETUNE_GAIN,
    gain_std: Mapping[int, float] = FINETUNE_GAIN_STD,
) -> AccuracySurrogate:
    """`surrogate` plus the gain of fine-tuning by number of epochs (fractions of top-1), the same for all
    subnets."""
    space = get_space(surrogate.space)
    j = space.index["finetune_epochs"]
    linear, variance = surrogate.linear.copy(), surrogate.extra_variance.copy()
    for level, epochs in enumerate(space.axes[j].values):
        column = int(space.one_hot_offsets[j]) + level
        linear[column] += gain[epochs]
        variance[column] += gain_std[epochs] ** 2
    return replace(surrogate, linear=linear, extra_variance=variance)
