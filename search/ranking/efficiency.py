"""The random Pareto frontier: how probable it is that a model is on it, given the noise of every axis.

Letters: n models, k axes, B draws, f models on one frontier.

Every axis gives a model a distribution instead of a number. In each of B draws all values are drawn, and the
models that no other dominates are on the frontier of that draw. What is counted over the draws (formulas and
sources in docs/efficiency.md): the share of draws on the frontier, the dominance depth, the distance to the
frontier, the rank. Axes are compared on their own scale (log for times), where all are costs: lower is
better.

A draw costs one non-dominated sort, O(k n log n) in practice with moocore, and O(n f k) for the distances;
memory is O(block x n x k), never n^2.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from search import pareto
from search.noisy_axis import NoisyAxis
from search.pareto import Mask
from supernet.arrays import Floats, Ints
from supernet.registry import unknown_name

DRAWS = 10_000
TOLERANCE = 0.005  # of the standard error of a relative efficiency, at which drawing stops
CHECKED_EVERY = 1000  # draws
INTERVAL_DRAWS = 1000  # that the interval is taken from, so that memory stays O(n)
BLOCK = 500_000  # values of one axis drawn at a time, and pairs compared at a time


@dataclass(frozen=True, eq=False)
class Comparison:
    """n models and the axes they are compared by. `views` are sets of axes to rank by (the first is the main
    one; without, all axes and their subsets), `devices` sets of axes that each stand for one device."""

    names: tuple[str, ...]
    axes: tuple[NoisyAxis, ...]
    views: Mapping[str, Sequence[str]] = field(default_factory=dict)
    devices: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.names or not self.axes:
            raise ValueError(f"{len(self.names)} models and {len(self.axes)} axes: nothing to rank")
        for what, listed in (("model", self.names), ("axis", [axis.name for axis in self.axes])):
            if len(set(listed)) < len(listed):
                twice = next(name for i, name in enumerate(listed) if name in listed[:i])
                raise ValueError(f"{what} {twice!r} is there twice: every {what} needs its own name")
        for axis in self.axes:
            if len(axis.values) != len(self.names):
                raise ValueError(f"axis {axis.name} has {len(axis.values)} values, not {len(self.names)}")

    def __len__(self) -> int:
        return len(self.names)

    def axis(self, name: str) -> NoisyAxis:
        for axis in self.axes:
            if axis.name == name:
                return axis
        raise unknown_name("axis", name, [axis.name for axis in self.axes])

    def by(self, axes: Sequence[str]) -> "Comparison":
        """The same models, compared by these axes only."""
        return replace(self, axes=tuple(self.axis(name) for name in axes))

    @property
    def costs(self) -> Floats:
        """(n, k)"""
        return np.stack([axis.costs for axis in self.axes], axis=1)

    def draw(self, seed: int, block: int, count: int) -> Floats:
        """(count, n, k) drawn costs."""
        return np.stack([axis.draw(seed, block, count) for axis in self.axes], axis=2)


@dataclass(frozen=True, eq=False)
class Efficiency:
    """What the draws say of each model; every array is (n,). Errors are Monte-Carlo standard errors."""

    axes: tuple[str, ...]
    draws: int
    probability: Floats  # to be on the frontier
    probability_error: Floats
    relative: Floats  # probability over that of the best model: the relative efficiency, in [0, 1]
    relative_error: Floats
    depth: Floats  # expected dominance depth: 0 on the frontier, 1 on the frontier of the rest, ..
    depth_error: Floats
    distance: Floats  # expected distance to the frontier, in standard deviations of the axes
    rank: Floats  # expected rank; the rank of a draw is 1 + the models of lesser depth, 1 on the frontier
    rank_low: Ints
    rank_high: Ints  # 90% of the draws lie in [rank_low, rank_high]
    preferred: Floats | None  # probability to have the least weighted sum of costs, where weights are given
    on_front: Mask  # without noise
    nominal_depth: Ints
    nominal_distance: Floats
    members: NDArray[np.uint8] = field(repr=False)  # (B, ceil(n / 8)) the frontier of each draw, packed bits

    @cached_property
    def order(self) -> Ints:
        """(n,) models from best to worst: by probability, then expected depth, then expected distance."""
        return np.lexsort((self.nominal_distance, self.distance, self.depth, -self.probability))


def efficiency(
    models: Comparison,
    *,
    seed: int = 0,
    draws: int = DRAWS,
    tolerance: float = TOLERANCE,
    weights: Mapping[str, float] | None = None,
) -> Efficiency:
    """Draw until every relative efficiency has a standard error of at most `tolerance`, or `draws` times.

    With `weights` (by axis; those not named weigh 0) also the probability to be preferred. The same seed
    gives the same draws of an axis, whatever the other axes are.
    """
    if draws < 1 or seed < 0 or not tolerance >= 0:
        raise ValueError(
            f"draws={draws} must be at least 1, seed={seed} and tolerance={tolerance} not negative"
        )
    n = len(models)
    tally = _Tally(models, weights)
    size = max(1, min(CHECKED_EVERY // 2, BLOCK // n))
    block = checked = 0
    while tally.draws < draws:
        for costs in models.draw(seed, block, size)[: draws - tally.draws]:
            tally.add(costs)
        block += 1
        if tally.draws - checked >= CHECKED_EVERY and tally.draws < draws:
            checked = tally.draws
            if _relative(np.array(tally.members), n)[1].max() <= tolerance:
                break
    return tally.efficiency()


class _Tally:
    """Sums over the draws so far."""

    def __init__(self, models: Comparison, weights: Mapping[str, float] | None) -> None:
        self.models = models
        self.width = np.array([axis.width for axis in models.axes])
        self.preference = _preference(models, weights) / self.width if weights else None
        self.members: list[NDArray[np.uint8]] = []
        self.ranks: list[Ints] = []
        self.depth, self.squared_depth, self.distance, self.rank, self.preferred = np.zeros((5, len(models)))

    @property
    def draws(self) -> int:
        return len(self.members)

    def add(self, costs: Floats) -> None:
        """Count one draw (n, k)."""
        depth = pareto.ranks(costs)
        rank = _rank(depth)
        self.depth += depth
        self.squared_depth += depth**2
        self.rank += rank
        self.distance += distance(costs, depth == 0, self.width)
        if self.preference is not None:
            total = costs @ self.preference
            least = total == total.min()
            self.preferred += least / least.sum()
        self.members.append(np.packbits(depth == 0))
        if len(self.ranks) < INTERVAL_DRAWS:
            self.ranks.append(rank.astype(np.int32))

    def efficiency(self) -> Efficiency:
        """Means over the draws and their errors."""
        models, draws, packed = self.models, self.draws, np.array(self.members)
        probability = _counts(packed, len(models)) / draws
        relative, relative_error = _relative(packed, len(models))
        smoothed = (probability * draws + 1) / (draws + 2)
        low, high = np.quantile(np.array(self.ranks), (0.05, 0.95), axis=0, method="nearest")
        mean = self.depth / draws
        nominal = pareto.ranks(models.costs)
        return Efficiency(
            axes=tuple(axis.name for axis in models.axes),
            draws=draws,
            probability=probability,
            probability_error=np.sqrt(smoothed * (1 - smoothed) / draws),
            relative=relative,
            relative_error=relative_error,
            depth=mean,
            depth_error=np.sqrt(np.maximum(self.squared_depth / draws - mean**2, 0) / draws),
            distance=self.distance / draws,
            rank=self.rank / draws,
            rank_low=low.astype(np.int64),
            rank_high=high.astype(np.int64),
            preferred=self.preferred / draws if self.preference is not None else None,
            on_front=nominal == 0,
            nominal_depth=nominal,
            nominal_distance=distance(models.costs, nominal == 0, self.width),
            members=packed,
        )


def distance(costs: Floats, on_front: Mask, width: Floats) -> Floats:
    """(n,) by how much every cost of a model would have to fall, in units of `width` (k,), for no frontier
    member to dominate it strictly in all axes: max over members j of min over axes of (c_i - c_j) / width, 0
    on the frontier. The additive epsilon indicator (Zitzler et al., 2003) of the frontier and one model."""
    front = costs[on_front] / width
    apart = np.zeros(len(costs))
    behind = np.flatnonzero(~on_front)
    step = max(1, BLOCK // len(front))
    for first in range(0, len(behind), step):
        rows = behind[first : first + step]
        scaled = costs[rows] / width
        least = scaled[:, :1] - front[:, 0]
        for j in range(1, costs.shape[1]):
            np.minimum(least, scaled[:, j : j + 1] - front[:, j], out=least)
        apart[rows] = np.maximum(least.max(axis=1), 0)
    return apart


def on_all(several: Sequence[Efficiency], n: int) -> Floats:
    """(n,) probability to be on all these frontiers at once: they are of the same draws."""
    count = min(efficiency.draws for efficiency in several)
    together = np.bitwise_and.reduce([efficiency.members[:count] for efficiency in several])
    return _counts(together, n) / count


def _preference(models: Comparison, weights: Mapping[str, float]) -> Floats:
    for name, weight in weights.items():
        models.axis(name)
        if not (np.isfinite(weight) and weight >= 0):
            raise ValueError(f"weights.{name}={weight} must be a number that is not negative")
    listed = np.array([weights.get(axis.name, 0.0) for axis in models.axes])
    if not listed.any():
        raise ValueError(f"weights={dict(weights)} are all 0: give at least one axis a weight")
    return listed


def _rank(depth: Ints) -> Ints:
    """(n,) 1 + the number of models of lesser depth."""
    return 1 + np.concatenate([[0], np.cumsum(np.bincount(depth))])[depth]


def _counts(packed: NDArray[np.uint8], n: int) -> Floats:
    """(n,) in how many of the packed frontiers a model is; unpacked in parts."""
    step = max(1, 100 * BLOCK // n)
    parts = [
        np.unpackbits(packed[first : first + step], axis=1, count=n).sum(axis=0, dtype=np.float64)
        for first in range(0, len(packed), step)
    ]
    return np.sum(parts, axis=0) if parts else np.zeros(n)


def _relative(packed: NDArray[np.uint8], n: int) -> tuple[Floats, Floats]:
    """(n,), (n,) probability over the highest probability, and its standard error.

    Delta method for the ratio of two means of the same draws; with one success and one failure added, so that
    a share of 0 or 1 does not pretend to be exact.
    """
    draws = len(packed)
    counts = _counts(packed, n)
    best = int(np.argmax(counts))
    with_best = (packed[:, best // 8] >> (7 - best % 8)) & 1 == 1
    joint = _counts(packed[with_best], n) / draws
    p, top = (counts + 1) / (draws + 2), counts[best] / draws
    variance = p * (1 - p) - 2 * (p / top) * (joint - p * top) + (p / top) ** 2 * top * (1 - top)
    error = np.sqrt(np.maximum(variance, 0) / draws) / top
    error[best] = 0.0
    return counts / draws / top, error
