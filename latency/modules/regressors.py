"""Regression models of module predictors (S2): several per module type, behind one interface.

`fit(x, y, rng)` on standardised inputs gives a Fitted, which is evaluated with numpy alone and is nothing but
arrays: a search needs no scikit-learn, and a file no pickle. One class here, one YAML in `configs/regressor`.

Letters: n rows, q features, k neighbours, t trees, s support rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass as plain_dataclass
from typing import Annotated, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from latency.predictors import mlp
from latency.predictors.mlp import Mlp, Training
from supernet.arrays import Floats, Rng
from supernet.registry import unknown_name

CHUNK = 2048  # rows at a time where memory is n times something
CONFIG = ConfigDict(extra="forbid")


class Fitted(Protocol):
    """A fitted regression: (n, q) standardised features in, (n,) out."""

    def __call__(self, x: Floats) -> Floats: ...
    def arrays(self) -> dict[str, NDArray[Any]]: ...


class Regressor(Protocol):
    """What `configs/regressor` builds."""

    def fit(self, x: Floats, y: Floats, rng: Rng) -> Fitted: ...


# ---------------------------------------------------------------------- fitted forms
@plain_dataclass(frozen=True, eq=False)
class Polynomial:
    """Weights of all products of up to `degree` of the features (1 or 2)."""

    intercept: float
    weights: Floats
    degree: int

    def __call__(self, x: Floats) -> Floats:
        return self.intercept + _products(x, self.degree) @ self.weights

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {"weights": self.weights, "intercept": np.array([self.intercept, self.degree])}

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]]) -> Polynomial:
        intercept, degree = arrays["intercept"]
        return cls(float(intercept), arrays["weights"], int(degree))


def _products(x: Floats, degree: int) -> Floats:
    if degree == 1:
        return x
    first, second = np.triu_indices(x.shape[1])
    return np.concatenate([x, x[:, first] * x[:, second]], axis=1)


@plain_dataclass(frozen=True, eq=False)
class Neighbours:
    """Mean of the k nearest rows, weighted by the inverse of their distance."""

    x: Floats  # (s, q)
    y: Floats  # (s,)
    k: int

    def __call__(self, x: Floats) -> Floats:
        found = np.empty(len(x))
        for first in range(0, len(x), CHUNK):
            distance = _squared_distance(x[first : first + CHUNK], self.x)
            near = np.argpartition(distance, self.k - 1, axis=1)[:, : self.k]
            weight = 1 / (np.sqrt(np.take_along_axis(distance, near, axis=1)) + 1e-6)
            found[first : first + CHUNK] = (weight * self.y[near]).sum(axis=1) / weight.sum(axis=1)
        return found

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {"x": self.x, "y": self.y, "k": np.array([self.k])}

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]]) -> Neighbours:
        return cls(arrays["x"], arrays["y"], int(arrays["k"][0]))


def _squared_distance(x: Floats, other: Floats) -> Floats:
    """(n, s); never negative."""
    cross = x @ other.T
    return np.maximum((x**2).sum(axis=1)[:, None] + (other**2).sum(axis=1) - 2 * cross, 0)


@plain_dataclass(frozen=True, eq=False)
class Trees:
    """linear.x + sum of the leaves of t binary trees, all nodes in one array; a leaf points to itself."""

    feature: NDArray[np.int16]  # (nodes,)
    threshold: Floats  # (nodes,) left where the feature is at most this
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    value: Floats
    roots: NDArray[np.int32]  # (t,)
    linear: Floats  # (1 + q,) intercept and slopes
    depth: int
    NAMES = ("feature", "threshold", "left", "right", "value", "roots", "linear")

    def __call__(self, x: Floats) -> Floats:
        found = self.linear[0] + x @ self.linear[1:]
        for first in range(0, len(x), CHUNK):
            part = np.asarray(x[first : first + CHUNK], np.float32)  # the precision thresholds were found in
            node = np.broadcast_to(self.roots, (len(part), len(self.roots))).astype(np.int32)
            rows = np.arange(len(part))[:, None]
            for _ in range(self.depth):
                goes_left = part[rows, self.feature[node]] <= self.threshold[node]
                node = np.where(goes_left, self.left[node], self.right[node])
            found[first : first + CHUNK] += self.value[node].sum(axis=1)
        return found

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {name: getattr(self, name) for name in self.NAMES} | {"depth": np.array([self.depth])}

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]]) -> Trees:
        named = {name: arrays[name] for name in cls.NAMES}
        if (named["feature"] < 0).any() or max(named["left"].max(), named["right"].max()) >= len(
            named["left"]
        ):
            raise ValueError("trees point to nodes that are not there")
        return cls(**named, depth=int(arrays["depth"][0]))


@plain_dataclass(frozen=True, eq=False)
class KernelMachine:
    """linear.x + sum of `weights` times a kernel between x and s rows, features divided by `scales`."""

    rows: Floats  # (s, q) divided by the scales
    weights: Floats  # (s,)
    scales: Floats  # (q,)
    linear: Floats  # (1 + q,) intercept and slopes
    smooth: bool  # squared exponential, else Matern 5/2

    def __call__(self, x: Floats) -> Floats:
        found = self.linear[0] + x @ self.linear[1:]
        for first in range(0, len(x), CHUNK):
            part = x[first : first + CHUNK] / self.scales
            found[first : first + CHUNK] += _kernel(part, self.rows, self.smooth) @ self.weights
        return found

    def arrays(self) -> dict[str, NDArray[Any]]:
        named = {n: getattr(self, n) for n in ("rows", "weights", "scales", "linear")}
        return named | {"smooth": np.array([self.smooth])}

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]]) -> KernelMachine:
        named = {n: arrays[n] for n in ("rows", "weights", "scales", "linear")}
        return cls(**named, smooth=bool(arrays["smooth"][0]))


def _kernel(x: Floats, other: Floats, smooth: bool) -> Floats:
    squared = _squared_distance(x, other)
    if smooth:
        return np.exp(-squared / 2)
    distance = np.sqrt(5 * squared)
    return (1 + distance + 5 * squared / 3) * np.exp(-distance)


@plain_dataclass(frozen=True, eq=False)
class LineAndNetwork:
    """A line plus an average of networks."""

    linear: Floats  # (1 + q,) intercept and slopes
    networks: tuple[Mlp, ...]

    def __call__(self, x: Floats) -> Floats:
        curved = np.mean([network(x) for network in self.networks], axis=0)
        return self.linear[0] + x @ self.linear[1:] + curved

    def arrays(self) -> dict[str, NDArray[Any]]:
        named: dict[str, NDArray[Any]] = {"linear": self.linear}
        for i, network in enumerate(self.networks):
            named |= {f"{i}.{name}": array for name, array in network.arrays().items()}
        return named

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]]) -> LineAndNetwork:
        count = 1 + max(int(name.split(".")[0]) for name in arrays if "." in name)
        parts = [
            {n.split(".")[1]: a for n, a in arrays.items() if n.startswith(f"{i}.")} for i in range(count)
        ]
        return cls(arrays["linear"], tuple(Mlp.of(part) for part in parts))


FORMS: Mapping[str, Any] = {
    "polynomial": Polynomial,
    "neighbours": Neighbours,
    "trees": Trees,
    "kernel": KernelMachine,
    "network": LineAndNetwork,
}


def form_of(fitted: Fitted) -> str:
    """The name under which `restored` knows a fitted regression."""
    return next(name for name, form in FORMS.items() if type(fitted) is form)


def restored(form: str, arrays: Mapping[str, NDArray[Any]]) -> Fitted:
    """The fitted regression of these arrays; ValueError for an unknown form or arrays that miss something."""
    if form not in FORMS:
        raise unknown_name("form of regression", form, FORMS)
    exact = {k: v.astype(np.float64) if v.dtype.kind == "f" else v for k, v in arrays.items()}
    found: Fitted = FORMS[form].of(exact)
    return found


def stored(fitted: Fitted) -> dict[str, NDArray[Any]]:
    """The arrays as they are saved: in single precision, but for the weights of kernels, which cancel."""
    exact = isinstance(fitted, KernelMachine)
    return {
        name: array
        if array.dtype != np.float64 or (exact and name == "weights")
        else array.astype(np.float32)
        for name, array in fitted.arrays().items()
    }


def stored_bytes(fitted: Fitted) -> int:
    """Bytes of the arrays as they are saved."""
    return sum(array.nbytes for array in stored(fitted).values())


# ---------------------------------------------------------------------- learners
@dataclass(frozen=True, config=CONFIG)
class Ridge:
    """Least squares on the products of up to `degree` of the features; strength by leave-one-out."""

    degree: Literal[1, 2] = 1
    strengths: tuple[float, ...] = (1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0)

    def fit(self, x: Floats, y: Floats, rng: Rng) -> Polynomial:
        from sklearn.linear_model import RidgeCV

        found = RidgeCV(alphas=self.strengths).fit(_products(x, self.degree), y)
        return Polynomial(float(found.intercept_), np.asarray(found.coef_, np.float64), self.degree)


@dataclass(frozen=True, config=CONFIG)
class KNearest:
    k: Annotated[int, Field(ge=1)] = 5

    def fit(self, x: Floats, y: Floats, rng: Rng) -> Neighbours:
        return Neighbours(x, y, min(self.k, len(y)))


@dataclass(frozen=True, config=CONFIG)
class Forest:
    """Random forest (Breiman, 2001) of scikit-learn, on the residual of a line."""

    trees: Annotated[int, Field(ge=1)] = 100
    features: float = 0.5  # share of the features tried at a split
    min_leaf: Annotated[int, Field(ge=1)] = 1

    def fit(self, x: Floats, y: Floats, rng: Rng) -> Trees:
        from sklearn.ensemble import RandomForestRegressor

        found = RandomForestRegressor(
            self.trees,
            max_features=self.features,
            min_samples_leaf=self.min_leaf,
            random_state=int(rng.integers(2**31)),
        )
        linear = line(x, y)
        found.fit(x, y - linear[0] - x @ linear[1:])
        return _trees([each.tree_ for each in found.estimators_], 1 / self.trees, linear)


@dataclass(frozen=True, config=CONFIG)
class Boosting:
    """Gradient boosting (Friedman, 2001) of scikit-learn, on the residual of a line."""

    trees: Annotated[int, Field(ge=1)] = 400
    depth: Annotated[int, Field(ge=1)] = 4
    learning_rate: Annotated[float, Field(gt=0)] = 0.05
    subsample: Annotated[float, Field(gt=0, le=1)] = 0.7
    features: float = 0.5

    def fit(self, x: Floats, y: Floats, rng: Rng) -> Trees:
        from sklearn.ensemble import GradientBoostingRegressor

        found = GradientBoostingRegressor(
            n_estimators=self.trees,
            max_depth=self.depth,
            learning_rate=self.learning_rate,
            subsample=self.subsample,
            max_features=self.features,
            init="zero",
            random_state=int(rng.integers(2**31)),
        )
        linear = line(x, y)
        found.fit(x, y - linear[0] - x @ linear[1:])
        return _trees([each.tree_ for each in found.estimators_[:, 0]], self.learning_rate, linear)


def _trees(trees: list[Any], factor: float, linear: Floats) -> Trees:
    """Trees of scikit-learn, side by side."""
    sizes = [tree.node_count for tree in trees]
    roots = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int32)
    left, right, feature = [], [], []
    for root, size, tree in zip(roots, sizes, trees, strict=True):
        leaf, own = tree.children_left < 0, np.arange(size)
        left.append(root + np.where(leaf, own, tree.children_left))
        right.append(root + np.where(leaf, own, tree.children_right))
        feature.append(np.where(leaf, 0, tree.feature))
    return Trees(
        feature=np.concatenate(feature).astype(np.int16),
        threshold=np.concatenate([tree.threshold for tree in trees]),
        left=np.concatenate(left).astype(np.int32),
        right=np.concatenate(right).astype(np.int32),
        value=factor * np.concatenate([tree.value[:, 0, 0] for tree in trees]),
        roots=roots,
        linear=linear,
        depth=max(tree.max_depth for tree in trees),
    )


@dataclass(frozen=True, config=CONFIG)
class LightGbm:
    """LightGBM (Ke et al., 2017), on the residual of a line; an extra (`pip install -e '.[boost]'`)."""

    trees: Annotated[int, Field(ge=1)] = 400
    leaves: Annotated[int, Field(ge=2)] = 15
    learning_rate: Annotated[float, Field(gt=0)] = 0.05
    min_leaf: Annotated[int, Field(ge=1)] = 5
    features: Annotated[float, Field(gt=0, le=1)] = 0.6

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
        residual = y - linear[0] - x @ linear[1:]
        found = lightgbm.train(options, lightgbm.Dataset(x, residual), self.trees)
        nodes: list[tuple[int, float, int, int, float]] = []
        roots, depths = [], []
        for tree in found.dump_model()["tree_info"]:
            roots.append(len(nodes))
            depths.append(_grow(tree["tree_structure"], nodes))
        feature, threshold, left, right, value = (np.array(column) for column in zip(*nodes, strict=True))
        return Trees(
            feature=feature.astype(np.int16),
            threshold=threshold.astype(np.float64),
            left=left.astype(np.int32),
            right=right.astype(np.int32),
            value=value.astype(np.float64),
            roots=np.array(roots, np.int32),
            linear=linear,
            depth=max(depths),
        )


def _grow(node: Mapping[str, Any], nodes: list[tuple[int, float, int, int, float]]) -> int:
    """Append a node of LightGBM's dump and all below it; returns the depth below."""
    place = len(nodes)
    nodes.append((0, 0.0, place, place, float(node.get("leaf_value", 0.0))))
    if "split_feature" not in node:
        return 0
    left = len(nodes)
    first = _grow(node["left_child"], nodes)
    right = len(nodes)
    second = _grow(node["right_child"], nodes)
    nodes[place] = (int(node["split_feature"]), float(node["threshold"]), left, right, 0.0)
    return 1 + max(first, second)


@dataclass(frozen=True, config=CONFIG)
class SupportVectors:
    """Support vector regression with a squared exponential kernel on the residual of a line; `costs` and
    `widths` by validation on a fifth."""

    costs: tuple[float, ...] = (3.0, 30.0)
    widths: tuple[float, ...] = (0.5, 1.0, 2.0)  # kernel scale, times the root of the number of features
    tube: float = 0.02

    def fit(self, x: Floats, y: Floats, rng: Rng) -> KernelMachine:
        out = rng.permutation(len(y)) % 5 == 0
        trials = [(cost, width) for cost in self.costs for width in self.widths]
        errors = [np.abs(self._fit(x[~out], y[~out], *t)(x[out]) - y[out]).mean() for t in trials]
        return self._fit(x, y, *trials[int(np.argmin(errors))])

    def _fit(self, x: Floats, y: Floats, cost: float, width: float) -> KernelMachine:
        from sklearn.svm import SVR

        linear = line(x, y)
        scale = width * np.sqrt(x.shape[1])
        residual = y - linear[0] - x @ linear[1:]
        unit = float(residual.std()) or 1.0
        found = SVR(C=cost, gamma=0.5, epsilon=self.tube).fit(x / scale, residual / unit)
        linear[0] += unit * float(found.intercept_[0])
        weights = unit * found.dual_coef_[0]
        return KernelMachine(found.support_vectors_, weights, np.full(x.shape[1], scale), linear, True)


@dataclass(frozen=True, config=CONFIG)
class GaussianProcess:
    """Gaussian process on the residual of a line, Matern 5/2 with a scale per feature; marginal likelihood on
    at most `tuned` rows."""

    tuned: Annotated[int, Field(ge=20)] = 250
    iterations: Annotated[int, Field(ge=1)] = 40

    def fit(self, x: Floats, y: Floats, rng: Rng) -> KernelMachine:
        from scipy.linalg import cho_factor, cho_solve
        from scipy.optimize import minimize

        linear = line(x, y)
        residual = y - linear[0] - x @ linear[1:]
        unit = float(residual.std()) or 1.0
        target = residual / unit
        some = rng.permutation(len(y))[: self.tuned]
        begin = np.concatenate([np.full(x.shape[1], 0.5 * np.log(4 * x.shape[1])), [0.0, np.log(0.2)]])
        bounds = [(-2.0, 5.0)] * x.shape[1] + [(-3.0, 4.0), (np.log(0.01), 1.0)]
        best = minimize(
            _likelihood,
            begin,
            args=(x[some], target[some]),
            jac=True,
            method="L-BFGS-B",
            bounds=bounds,
            options={"maxiter": self.iterations},
        ).x
        scales, amplitude, noise = np.exp(best[:-2]), np.exp(best[-2]), np.exp(best[-1])
        rows = x / scales
        gram = amplitude**2 * _kernel(rows, rows, False)
        weights = cho_solve(cho_factor(gram + (noise**2 + 1e-6) * np.eye(len(y))), target)
        return KernelMachine(rows, unit * amplitude**2 * weights, scales, linear, False)


def _likelihood(theta: Floats, x: Floats, y: Floats) -> tuple[float, Floats]:
    """Negative log marginal likelihood of the Matern 5/2 process and its gradient in the logarithms."""
    from scipy.linalg import cho_factor, cho_solve

    scales, amplitude, noise = np.exp(theta[:-2]), np.exp(theta[-2]), np.exp(theta[-1])
    rows = x / scales
    squared = _squared_distance(rows, rows)
    distance = np.sqrt(5 * squared)
    fall = np.exp(-distance)
    gram = amplitude**2 * (1 + distance + 5 * squared / 3) * fall
    factor = cho_factor(gram + (noise**2 + 1e-6) * np.eye(len(y)), lower=True)
    alpha = cho_solve(factor, y)
    value = 0.5 * y @ alpha + np.log(np.diag(factor[0])).sum()
    slope = np.outer(alpha, alpha) - cho_solve(factor, np.eye(len(y)))
    # d k / d log scale_j = amplitude^2 5/3 (1 + distance) exp(-distance) (difference_j / scale_j)^2
    common = slope * amplitude**2 * 5 / 3 * (1 + distance) * fall
    total = common.sum(axis=1)
    by_scale = 2 * (rows**2 * total[:, None]).sum(axis=0) - 2 * np.einsum("ij,ij->j", rows, common @ rows)
    gradient = np.concatenate([by_scale, [2 * (slope * gram).sum(), 2 * noise**2 * np.trace(slope)]])
    return float(value), -0.5 * gradient


@dataclass(frozen=True, config=CONFIG)
class Network:
    """A multi-layer perceptron with ReLU on the residual of a line."""

    hidden: tuple[Annotated[int, Field(ge=1)], ...] = (96, 96)
    training: Training = Training(epochs=250, batch=64, learning_rate=5e-3, weight_decay=1e-2)

    def fit(self, x: Floats, y: Floats, rng: Rng) -> LineAndNetwork:
        linear = line(x, y)
        residual = y - linear[0] - x @ linear[1:]
        unit = float(residual.std()) or 1.0
        start = mlp.start((x.shape[1], *self.hidden, 1), rng)
        network = mlp.train(start, x, residual / unit, training=self.training, rng=rng)
        return LineAndNetwork(linear, (network.scaled(unit),))


def line(x: Floats, y: Floats) -> Floats:
    """(1 + q,) intercept and slopes of a ridge regression: what kernels then add curvature to."""
    centre = x.mean(axis=0)
    slopes = np.linalg.solve(
        (x - centre).T @ (x - centre) + np.eye(x.shape[1]), (x - centre).T @ (y - y.mean())
    )
    return np.concatenate([[y.mean() - centre @ slopes], slopes])
