"""By how much modules are slower than a predictor says: elsewhere, and inside of networks.

A Gaussian process over the logarithm of that factor (ours). It has two parts. One is of modules timed by
themselves on another engine or machine: common to all kinds by how much work a module is, with what its kind
and its own inputs add. The other is of modules inside of networks, where engines fuse and keep layouts that a
module by itself pays for. It learns from modules timed by themselves, and from whole networks, whose latency
is the sum of their modules; that sum is made linear about the factors found so far, a few times.

Letters: n modules, s known modules, k networks, q inputs of the process.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latency.modules.fitted import matern, squared_distance
from supernet.arrays import Floats, Ints
from supernet.fits import gaussian, robust

# Standard deviations of the parts of the logarithm: round numbers. Larger ones, one at a time, changed the
# errors of networks left out of the fit by at most .2 points for subnets and .9 for classifiers
BY_WORK, BY_SLOPE, BY_KIND, BY_INPUTS = 0.3, 0.15, 0.2, 0.2  # of modules timed by themselves
WITHIN, WITHIN_KIND, WITHIN_WORK, WITHIN_PASSING = 0.05, 0.2, 0.15, 0.1  # of modules inside of networks
FAR = 2.0  # how different the work of modules, or the inputs of one kind, are that say little of each other
INPUTS_UNIT = 5.0  # of standardised inputs, of which a kind has about 25
MODULE_NOISE, NETWORK_NOISE = 0.1, 0.03  # of the logarithms
ROUNDS, TRUST = 6, 3.0  # of making sums linear, with less weight for what is off by so many deviations
HALF = 0.5  # utilisation from which a module by itself finds its caches as cold as inside of a network
CALL_MS, ELEMENT_MS, LEAST_MS = 0.01, 1e-6, 2e-3  # units of what a call and an element that passes add


@dataclass(frozen=True, eq=False)
class Points:
    """n modules under their conditions, as the process sees them."""

    kind: Ints  # (n,)
    inputs: Floats  # (n, q) standardised features of their kind, zeros behind
    work: Floats  # (n, 5) logarithms of work and batch, about -1 to 1
    passing: Floats  # (n, 2) what a call, and the elements that pass, are of their time
    idle: Floats  # (n,) 1 on an idle machine, 0 beside a load of HALF or more
    ms: Floats  # (n,) what the predictor says without a shift

    @classmethod
    def of(
        cls, kind: int, inputs: Floats, amounts: Floats, terms: Floats, ms: Floats, width: int
    ) -> "Points":
        """Of one kind, from standardised features, (n, 5) macs, elements, weights, batch and utilisation, and
        (n, 3) terms."""
        macs, moved, params = np.log1p(amounts[:, :3].T)
        idle = (1 - amounts[:, 4] / HALF).clip(0)
        work = [
            (macs - 15) / 3,
            (moved - 13) / 2,
            (macs - moved) / 3,
            (params - 8) / 3,
            np.log2(amounts[:, 3]) / 2,
        ]
        alone = terms[:, 0] + LEAST_MS
        passing = np.stack([CALL_MS / alone, ELEMENT_MS * terms[:, 2] / alone], axis=1).clip(0, 5)
        padded = np.pad(inputs, ((0, 0), (0, width - inputs.shape[1])))
        return cls(np.full(len(ms), kind), padded, np.stack(work, axis=1), passing, idle, ms)

    def take(self, rows: NDArray[Any]) -> "Points":
        """Some of the modules, by number or by mask."""
        return Points(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


def joined(parts: list[Points]) -> Points:
    """All modules of the parts."""
    names = [field.name for field in fields(Points)]
    return Points(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


@dataclass(frozen=True, eq=False)
class Observed:
    """What a shift is learned from: modules timed by themselves, and (k,) networks as sums of modules."""

    alone: Points
    alone_ms: Floats
    within: Points  # all different modules of the networks
    counts: Floats  # (k, n) how often each is in a network
    network_ms: Floats


@dataclass(frozen=True, eq=False)
class Shift:
    """The log factors that s known modules tell of any other."""

    known: Points
    weights: Floats  # (s,) of the part of modules by themselves
    within: Floats  # (s,) of the part inside of networks

    def __add__(self, other: "Shift") -> "Shift":
        """Both, one after the other."""
        both = [np.concatenate(pair) for pair in ((self.weights, other.weights), (self.within, other.within))]
        return Shift(joined([self.known, other.known]), *both)

    def log_factor(self, points: Points, *, alone: bool = False) -> Floats:
        """(n,) logarithms of actual over predicted ms of modules inside of a network, or by themselves."""
        factor = np.empty(len(points.ms))
        for kind in np.unique(points.kind):
            rows = np.flatnonzero(points.kind == kind)
            alike = self.known.kind == kind
            own = self.known.take(alike)
            for some in np.array_split(rows, -(-len(rows) // 2048)):
                asked = points.take(some)
                factor[some] = _common(asked, self.known) @ self.weights
                factor[some] += _of_kind(asked, own) @ self.weights[alike]
                if not alone:
                    factor[some] += _passing(asked, self.known) @ self.within
                    factor[some] += _of_kind_within(asked, own) @ self.within[alike]
        return factor

    def stored(self) -> tuple[dict[str, NDArray[Any]], Any]:
        arrays = {f"shift/{field.name}": getattr(self.known, field.name) for field in fields(Points)}
        single = {
            name: a.astype(np.float32) if a.dtype.kind == "f" else a.astype(np.int16)
            for name, a in arrays.items()
        }
        return single | {"shift/weights": self.weights, "shift/within": self.within}, len(self.weights)

    @classmethod
    def restored(cls, arrays: Mapping[str, NDArray[Any]], _: Any) -> "Shift":
        parts = {field.name: arrays[f"shift/{field.name}"] for field in fields(Points)}
        exact: dict[str, Any] = {
            n: a.astype(np.float64) if a.dtype.kind == "f" else a for n, a in parts.items()
        }
        weights, within = arrays["shift/weights"], arrays["shift/within"]
        if any(len(array) != len(weights) for array in (*exact.values(), within)):
            raise ValueError("the arrays of its shift are not of as many modules")
        return cls(Points(**exact), weights, within)


def fit(observed: Observed, groups: Ints) -> tuple[Shift, Floats]:
    """The shift, and the log errors of the modules and the k networks, each predicted without itself.

    Networks are predicted without all of their group (k,). What is far off counts less (Cauchy).
    """
    alone, within, counts = observed.alone, observed.within, observed.counts
    own, cross, inside = _alone(alone, alone), _alone(alone, within), _within(within, within)
    if len(alone.ms):
        inside += _alone(within, within)
    noise = np.repeat([MODULE_NOISE, NETWORK_NOISE], [len(alone.ms), len(counts)])
    trust, factor = np.ones(len(noise)), np.zeros(len(within.ms))
    off_alone = np.log(observed.alone_ms) - np.log(alone.ms)
    for _ in range(ROUNDS):
        parts = counts * (within.ms * np.exp(factor))
        shares = parts / parts.sum(axis=1, keepdims=True)
        off = np.log(observed.network_ms) - np.log(parts.sum(axis=1)) + shares @ factor
        values = np.concatenate([off_alone, off])
        mixed = cross @ shares.T
        covariance = np.block([[own, mixed], [mixed.T, shares @ inside @ shares.T]])
        process = gaussian.condition(covariance + np.diag(noise**2 / trust), values)
        residual = values - covariance @ process.weights
        trust = robust.cauchy_weights(residual / noise, 1.0, TRUST)
        factor = np.concatenate([cross, shares @ inside]).T @ process.weights
    of_modules, of_networks = np.split(process.weights, [len(alone.ms)])
    inner = shares.T @ of_networks
    owner = np.concatenate([np.arange(len(alone.ms)), len(alone.ms) + groups])
    known = joined([alone, within])
    of_machine = inner if len(alone.ms) else np.zeros(len(inner))
    weights = np.concatenate([of_modules, of_machine])
    context = np.concatenate([np.zeros(len(alone.ms)), inner])
    return Shift(known, weights, context), -process.left_out_together(owner)


def _alone(a: Points, b: Points) -> Floats:
    """(n, n) covariance of the factors of modules timed by themselves."""
    return _common(a, b) + _same(a, b) * _of_kind(a, b)


def _within(a: Points, b: Points) -> Floats:
    """(n, n) covariance of what being inside of a network adds."""
    return _passing(a, b) + _same(a, b) * _of_kind_within(a, b)


def _same(a: Points, b: Points) -> NDArray[np.bool_]:
    return a.kind[:, None] == b.kind


def _common(a: Points, b: Points) -> Floats:
    near = matern(squared_distance(a.work / FAR, b.work / FAR))
    return np.asarray(BY_WORK**2 * near + BY_SLOPE**2 * (a.work @ b.work.T))


def _of_kind(a: Points, b: Points) -> Floats:
    unit = FAR * INPUTS_UNIT
    return np.asarray(BY_KIND**2 + BY_INPUTS**2 * matern(squared_distance(a.inputs / unit, b.inputs / unit)))


def _passing(a: Points, b: Points) -> Floats:
    both = np.outer(a.idle, b.idle)
    return np.asarray(both * (WITHIN**2 + WITHIN_PASSING**2 * (a.passing @ b.passing.T)))


def _of_kind_within(a: Points, b: Points) -> Floats:
    near = matern(squared_distance(a.work / FAR, b.work / FAR))
    return np.asarray(np.outer(a.idle, b.idle) * (WITHIN_KIND**2 + WITHIN_WORK**2 * near))
