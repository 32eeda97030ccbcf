"""Fitted regressions: arrays that numpy evaluates, so a search needs no scikit-learn, and a file no pickle.

Letters: n rows, q features, k neighbours, t trees, s support rows.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from latency.perceptron import Mlp
from supernet.arrays import Floats
from supernet.registry import unknown_name

Arrays = dict[str, NDArray[Any]]


class Fitted(Protocol):
    """A fitted regression: (n, q) standardised features in, (n,) out."""

    def __call__(self, x: Floats, /) -> Floats: ...
    def arrays(self) -> Arrays: ...


def in_chunks(call: Callable[[Any, Floats], Floats]) -> Callable[[Any, Floats], Floats]:
    """The same values of (n, q) rows, some at a time, for a regression whose memory is n times something."""

    def values(regression: Any, x: Floats) -> Floats:
        return np.concatenate([call(regression, x[i : i + 2048]) for i in range(0, max(len(x), 1), 2048)])

    return values


def line(x: Floats, y: Floats) -> Floats:
    """(1 + q,) intercept and slopes of a ridge regression: what the others then add curvature to."""
    centred = x - x.mean(axis=0)
    slopes = np.linalg.solve(centred.T @ centred + np.eye(x.shape[1]), centred.T @ (y - y.mean()))
    return np.concatenate([[y.mean() - x.mean(axis=0) @ slopes], slopes])


def on_line(linear: Floats, x: Floats) -> Floats:
    """(n,) values of a `line`."""
    return linear[0] + x @ linear[1:]


def off_line(linear: Floats, x: Floats, y: Floats) -> Floats:
    """(n,) residuals of a `line`."""
    return y - linear[0] - x @ linear[1:]


def products(x: Floats, degree: int) -> Floats:
    """The features and, for degree 2, all products of two of them."""
    if degree == 1:
        return x
    first, second = np.triu_indices(x.shape[1])
    return np.concatenate([x, x[:, first] * x[:, second]], axis=1)


def squared_distance(x: Floats, other: Floats) -> Floats:
    """(n, s); never negative."""
    cross = x @ other.T
    return np.maximum((x**2).sum(axis=1)[:, None] + (other**2).sum(axis=1) - 2 * cross, 0)


def matern(squared: Floats) -> Floats:
    """Matern 5/2 covariance at squared distances."""
    distance = np.sqrt(5 * squared)
    return (1 + distance + 5 * squared / 3) * np.exp(-distance)


@dataclass(frozen=True, eq=False)
class Polynomial:
    """Weights of all products of up to `degree` of the features (1 or 2)."""

    intercept: float
    weights: Floats
    degree: int

    def __call__(self, x: Floats) -> Floats:
        return self.intercept + products(x, self.degree) @ self.weights

    def arrays(self) -> Arrays:
        return {"weights": self.weights, "intercept": np.array([self.intercept, self.degree])}

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> "Polynomial":
        intercept, degree = arrays["intercept"]
        return cls(float(intercept), arrays["weights"], int(degree))


class Stored:
    """A form whose fields are arrays, and one NUMBER that a file keeps as an array too."""

    NUMBER: ClassVar[str]

    def arrays(self: Any) -> Arrays:
        return {field.name: np.atleast_1d(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def from_arrays(cls: Any, arrays: Arrays) -> Any:
        named: dict[str, Any] = {field.name: arrays[field.name] for field in fields(cls)}
        return cls(**named | {cls.NUMBER: named[cls.NUMBER][0].item()})


@dataclass(frozen=True, eq=False)
class Neighbours(Stored):
    """Mean of the k nearest rows, weighted by the inverse of their distance."""

    x: Floats  # (s, q)
    y: Floats  # (s,)
    k: int
    NUMBER = "k"

    @in_chunks
    def __call__(self, x: Floats) -> Floats:
        distance = squared_distance(x, self.x)
        near = np.argpartition(distance, self.k - 1, axis=1)[:, : self.k]
        weight = 1 / (np.sqrt(np.take_along_axis(distance, near, axis=1)) + 1e-6)
        return (weight * self.y[near]).sum(axis=1) / weight.sum(axis=1)


@dataclass(frozen=True, eq=False)
class Trees(Stored):
    """A line + the sum of the leaves of t binary trees, all nodes in one array; a leaf points to itself."""

    feature: NDArray[np.int16]  # (nodes,)
    threshold: Floats  # (nodes,) left where the feature is at most this
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    value: Floats
    roots: NDArray[np.int32]  # (t,)
    linear: Floats  # (1 + q,) intercept and slopes
    depth: int
    NUMBER = "depth"

    def __post_init__(self) -> None:
        if (self.feature < 0).any() or max(self.left.max(), self.right.max()) >= len(self.left):
            raise ValueError("trees point to nodes that are not there")

    @in_chunks
    def __call__(self, x: Floats) -> Floats:
        single = np.asarray(x, np.float32)  # the precision of the thresholds
        node = np.broadcast_to(self.roots, (len(x), len(self.roots))).astype(np.int32)
        rows = np.arange(len(x))[:, None]
        for _ in range(self.depth):
            goes_left = single[rows, self.feature[node]] <= self.threshold[node]
            node = np.where(goes_left, self.left[node], self.right[node])
        return on_line(self.linear, x) + self.value[node].sum(axis=1)


@dataclass(frozen=True, eq=False)
class KernelMachine(Stored):
    """A line + the sum of `weights` times a kernel between x and s rows, features divided by `scales`."""

    rows: Floats  # (s, q) divided by the scales
    weights: Floats  # (s,)
    scales: Floats  # (q,)
    linear: Floats  # (1 + q,) intercept and slopes
    smooth: bool  # squared exponential, else Matern 5/2
    NUMBER = "smooth"

    @in_chunks
    def __call__(self, x: Floats) -> Floats:
        squared = squared_distance(x / self.scales, self.rows)
        kernel = np.exp(-squared / 2) if self.smooth else matern(squared)
        return on_line(self.linear, x) + kernel @ self.weights


@dataclass(frozen=True, eq=False)
class LineAndNetwork:
    """A line + an average of networks."""

    linear: Floats  # (1 + q,) intercept and slopes
    networks: tuple[Mlp, ...]

    def __call__(self, x: Floats) -> Floats:
        return on_line(self.linear, x) + np.mean([network(x) for network in self.networks], axis=0)

    def arrays(self) -> Arrays:
        named: Arrays = {"linear": self.linear}
        for i, network in enumerate(self.networks):
            named |= {f"{i}.{name}": array for name, array in network.stored()[0].items()}
        return named

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> "LineAndNetwork":
        count = 1 + max(int(name.split(".")[0]) for name in arrays if "." in name)
        parts = [
            {n.split(".")[1]: a for n, a in arrays.items() if n.startswith(f"{i}.")} for i in range(count)
        ]
        return cls(arrays["linear"], tuple(Mlp.restored(part) for part in parts))


FORMS: Mapping[str, Any] = {
    "polynomial": Polynomial,
    "neighbours": Neighbours,
    "trees": Trees,
    "kernel": KernelMachine,
    "network": LineAndNetwork,
}


def form_of(fitted: Fitted) -> str:
    """The name by which `restored` finds the class of a fitted regression."""
    return next(name for name, form in FORMS.items() if type(fitted) is form)


def restored(form: str, arrays: Arrays) -> Fitted:
    """The fitted regression of some arrays; ValueError for an unknown form or arrays that miss something."""
    if form not in FORMS:
        raise unknown_name("form of regression", form, FORMS)
    exact = {k: v.astype(np.float64) if v.dtype.kind == "f" else v for k, v in arrays.items()}
    return FORMS[form].from_arrays(exact)


def stored(fitted: Fitted) -> Arrays:
    """The arrays as they are saved: in single precision, but for the weights of kernels, which cancel."""
    double = {"weights"} if isinstance(fitted, KernelMachine) else set()
    return {
        name: array.astype(np.float32) if array.dtype == np.float64 and name not in double else array
        for name, array in fitted.arrays().items()
    }


def stored_bytes(fitted: Fitted) -> int:
    """Bytes of the arrays as they are saved."""
    return sum(array.nbytes for array in stored(fitted).values())
