"""Regression models of module predictors (arXiv 2312.06440): several per module kind, behind one interface.

`fit(x, y, rng)` on standardised features returns a `fitted.Fitted`. All but the ridge and the neighbours fit
the residual of a line. A model is one class here and one YAML in `configs/regressor`.

>>> model = Forest(trees=50).fit(x, np.log(ms), np.random.default_rng(0))
>>> np.exp(model(x))

Letters: n rows, q features.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from latency.modules import fitted
from latency.modules.fitted import (
    KernelMachine,
    LineAndNetwork,
    Neighbours,
    Polynomial,
    Trees,
    line,
    off_line,
)
from latency.perceptron import Mlp, Training
from latency.predictors.mlp import Rows, train
from supernet.arrays import Floats, Ints, Rng
from supernet.fits import folds, gaussian
from supernet.options import (
    AtLeastTwo,
    NonNegativeFloat,
    PositiveFloat,
    PositiveFraction,
    PositiveInt,
    options,
)


def unit_residual(x: Floats, y: Floats) -> tuple[Floats, Floats, float]:
    """A line (1 + q,), its residual (n,) divided by the standard deviation of it, and that deviation."""
    linear = line(x, y)
    residual = off_line(linear, x, y)
    unit = float(residual.std()) or 1.0
    return linear, residual / unit, unit


@options
class Ridge:
    """Least squares on the products of up to `degree` of the features; strength by leave-one-out."""

    degree: Annotated[PositiveInt, Field(le=2)] = 1
    strengths: tuple[PositiveFloat, ...] = (1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0)

    def fit(self, x: Floats, y: Floats, rng: Rng) -> Polynomial:
        from sklearn.linear_model import RidgeCV

        ridge = RidgeCV(alphas=self.strengths).fit(fitted.products(x, self.degree), y)
        return Polynomial(float(ridge.intercept_), np.asarray(ridge.coef_, np.float64), self.degree)


@options
class KNearest:
    """The mean of the `k` nearest rows."""

    k: PositiveInt = 5

    def fit(self, x: Floats, y: Floats, rng: Rng) -> Neighbours:
        return Neighbours(x, y, min(self.k, len(y)))


@options
class Forest:
    """Random forest (Breiman, 2001) of scikit-learn."""

    trees: PositiveInt = 100
    features: PositiveFraction = 0.5  # share of the features tried at a split
    min_leaf: PositiveInt = 1

    def fit(self, x: Floats, y: Floats, rng: Rng) -> Trees:
        from sklearn.ensemble import RandomForestRegressor

        sizes = dict(n_estimators=self.trees, max_features=self.features, min_samples_leaf=self.min_leaf)
        forest = RandomForestRegressor(**sizes, random_state=int(rng.integers(2**31)))
        return _fitted(forest, x, y, 1 / self.trees)


@options
class Boosting:
    """Gradient boosting (Friedman, 2001) of scikit-learn."""

    trees: PositiveInt = 400
    depth: PositiveInt = 4
    learning_rate: PositiveFloat = 0.05
    subsample: PositiveFraction = 0.7
    features: PositiveFraction = 0.5

    def fit(self, x: Floats, y: Floats, rng: Rng) -> Trees:
        from sklearn.ensemble import GradientBoostingRegressor

        boosted = GradientBoostingRegressor(
            n_estimators=self.trees,
            max_depth=self.depth,
            learning_rate=self.learning_rate,
            subsample=self.subsample,
            max_features=self.features,
            init="zero",
            random_state=int(rng.integers(2**31)),
        )
        return _fitted(boosted, x, y, self.learning_rate)


def _fitted(model: Any, x: Floats, y: Floats, factor: float) -> Trees:
    """The trees of a model of scikit-learn, each times a factor, on the residual of a line."""
    linear = line(x, y)
    trees = np.ravel(model.fit(x, off_line(linear, x, y)).estimators_)
    return _side_by_side([_nodes(each.tree_, factor) for each in trees], linear)


def _nodes(tree: Any, factor: float) -> tuple[Floats, int]:
    """(nodes, 5) feature, threshold, left, right and value of a tree of scikit-learn, and its depth."""
    leaf, own = tree.children_left < 0, np.arange(tree.node_count)
    left, right = np.where(leaf, own, tree.children_left), np.where(leaf, own, tree.children_right)
    columns = (np.where(leaf, 0, tree.feature), tree.threshold, left, right, factor * tree.value[:, 0, 0])
    return np.stack(columns, axis=1), tree.max_depth


def _side_by_side(trees: list[tuple[Floats, int]], linear: Floats) -> Trees:
    sizes = [len(nodes) for nodes, _ in trees]
    roots = np.cumsum([0, *sizes[:-1]]).astype(np.int32)
    feature, threshold, left, right, value = np.concatenate([nodes for nodes, _ in trees]).T
    first, depth = np.repeat(roots, sizes), max(depth for _, depth in trees)
    left, right = (left + first).astype(np.int32), (right + first).astype(np.int32)
    return Trees(feature.astype(np.int16), threshold, left, right, value, roots, linear, depth)


@options
class LightGbm:
    """LightGBM (Ke et al., 2017); an extra (`pip install -e '.[boost]'`)."""

    trees: PositiveInt = 400
    leaves: AtLeastTwo = 15
    learning_rate: PositiveFloat = 0.05
    min_leaf: PositiveInt = 5
    features: PositiveFraction = 0.6

    def fit(self, x: Floats, y: Floats, rng: Rng) -> Trees:
        import lightgbm

        options = {
            "objective": "l2",
            "num_leaves": self.leaves,
            "learning_rate": self.learning_rate,
            "min_data_in_leaf": self.min_leaf,
            "feature_fraction": self.features,
            "bagging_fraction": 0.8,
            "bagging_freq": 1,
            "num_threads": 1,
            "deterministic": True,
            "seed": int(rng.integers(2**31)),
            "verbosity": -1,
        }
        linear = line(x, y)
        model = lightgbm.train(options, lightgbm.Dataset(x, off_line(linear, x, y)), self.trees)
        trees = []
        for tree in model.dump_model()["tree_info"]:
            nodes: list[tuple[float, ...]] = []
            depth = _grow(tree["tree_structure"], nodes)
            trees.append((np.array(nodes), depth))
        return _side_by_side(trees, linear)


def _grow(node: Mapping[str, Any], nodes: list[tuple[float, ...]]) -> int:
    """Append a node of LightGBM's dump and all below it; returns the depth below."""
    place = len(nodes)
    nodes.append((0, 0.0, place, place, float(node.get("leaf_value", 0.0))))
    if "split_feature" not in node:
        return 0
    first = _grow(node["left_child"], nodes)
    right = len(nodes)
    second = _grow(node["right_child"], nodes)
    nodes[place] = (int(node["split_feature"]), float(node["threshold"]), place + 1, right, 0.0)
    return 1 + max(first, second)


@options
class SupportVectors:
    """Support vector regression with a squared exponential kernel; `costs` and `widths` by validation on a
    fifth."""

    costs: tuple[PositiveFloat, ...] = (3.0, 30.0)
    widths: tuple[PositiveFloat, ...] = (
        0.5,
        1.0,
        2.0,
    )  # kernel scale, times the root of the number of features
    tube: NonNegativeFloat = 0.02

    def fit(self, x: Floats, y: Floats, rng: Rng) -> KernelMachine:
        out = folds.random_folds(len(y), 5, rng=rng) == 0
        trials = [(cost, width) for cost in self.costs for width in self.widths]
        errors = [np.abs(self._fit(x[~out], y[~out], *t)(x[out]) - y[out]).mean() for t in trials]
        return self._fit(x, y, *trials[int(np.argmin(errors))])

    def _fit(self, x: Floats, y: Floats, cost: float, width: float) -> KernelMachine:
        from sklearn.svm import SVR

        linear, residual, unit = unit_residual(x, y)
        scale = width * np.sqrt(x.shape[1])
        machine = SVR(C=cost, gamma=0.5, epsilon=self.tube).fit(x / scale, residual)
        linear[0] += unit * float(machine.intercept_[0])
        weights = unit * machine.dual_coef_[0]
        return KernelMachine(machine.support_vectors_, weights, np.full(x.shape[1], scale), linear, True)


@options
class GaussianProcess:
    """Gaussian process, Matern 5/2 with a scale per feature; marginal likelihood on at most `tuned` rows.

    With `share` its mean is a sum over that share of the rows only, those that the others leave least certain
    (Quinonero-Candela and Rasmussen, 2005: subset of regressors): less time and size.
    """

    tuned: Annotated[int, Field(ge=20)] = 250
    iterations: PositiveInt = 40
    share: PositiveFraction = 1.0

    def fit(self, x: Floats, y: Floats, rng: Rng) -> KernelMachine:
        linear, residual, unit = unit_residual(x, y)
        some = rng.permutation(len(y))[: self.tuned]
        start = np.concatenate([np.full(x.shape[1], 0.5 * np.log(4 * x.shape[1])), [0.0, np.log(0.2)]])
        theta = gaussian.most_likely(
            matern_kernel(x[some]),
            residual[some],
            start,
            bounds=[(-2.0, 5.0)] * x.shape[1] + [(-3.0, 4.0), (np.log(0.01), 1.0)],
            iterations=self.iterations,
        )
        scales, variance, noise = np.exp(theta[:-2]), np.exp(2 * theta[-2]), float(np.exp(2 * theta[-1]))
        if self.share < 1:
            few, factor = spread_out(x / scales, max(1, round(self.share * len(y))))
            ridge = factor @ factor.T + noise / variance * np.eye(len(few))
            beside = np.linalg.solve(ridge, factor @ residual)
            weights = np.asarray(unit * np.linalg.solve(factor[:, few], beside), np.float64)
            return KernelMachine(x[few] / scales, weights, scales, linear, False)
        covariance = gaussian.with_noise(matern_kernel(x)(theta[:-1])[0], noise)
        weights = unit * variance * gaussian.condition(covariance, residual).weights
        return KernelMachine(x / scales, weights, scales, linear, False)


def spread_out(x: Floats, count: int) -> tuple[Ints, Floats]:
    """`count` of the (n, q) rows, each the one that those before say least of under a Matern 5/2 covariance.

    With them the factor (count, n) of a pivoted Cholesky decomposition: its product with its own columns of
    these rows is their covariance with all.
    """
    few, factor, unsaid = np.empty(count, np.int64), np.zeros((count, len(x))), np.ones(len(x))
    for j in range(count):
        few[j] = at = int(np.argmax(unsaid))
        covariance = fitted.matern(fitted.squared_distance(x[at : at + 1], x)[0])
        factor[j] = (covariance - factor[:j, at] @ factor[:j]) / np.sqrt(unsaid[at])
        unsaid = np.maximum(unsaid - factor[j] ** 2, 1e-12)
    return few, factor


def matern_kernel(x: Floats) -> gaussian.Kernel:
    """The covariance of (k, q) rows by the logarithms of q scales and of the amplitude, with its gradient."""

    def kernel(theta: Floats) -> tuple[Floats, Callable[[Floats], Floats]]:
        rows, variance = x / np.exp(theta[:-1]), np.exp(2 * theta[-1])
        squared = fitted.squared_distance(rows, rows)
        covariance = variance * fitted.matern(squared)

        def gradient_of(slope: Floats) -> Floats:
            # d k / d log scale_j = variance 5/3 (1 + distance) exp(-distance) (difference_j / scale_j)^2
            distance = np.sqrt(5 * squared)
            common = slope * variance * 5 / 3 * (1 + distance) * np.exp(-distance)
            by_scale = (rows**2 * common.sum(axis=1)[:, None]).sum(axis=0)
            by_scale -= np.einsum("ij,ij->j", rows, common @ rows)
            return np.append(2 * by_scale, 2 * (slope * covariance).sum())

        return covariance, gradient_of

    return kernel


@options
class Network:
    """A multi-layer perceptron with ReLU."""

    hidden: tuple[PositiveInt, ...] = (96, 96)
    training: Training = Training(epochs=250, batch=64, learning_rate=5e-3, weight_decay=1e-2)

    def fit(self, x: Floats, y: Floats, rng: Rng) -> LineAndNetwork:
        linear, residual, unit = unit_residual(x, y)
        start = Mlp.random((x.shape[1], *self.hidden, 1), rng)
        network = train(start, Rows(x, residual), training=self.training, rng=rng)
        return LineAndNetwork(linear, (network.scaled(unit),))
