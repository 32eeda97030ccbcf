"""Noisy axes: what models are compared by when no number is exact, and how probable it is that a model is on
the frontier.

Letters: n models, k axes, B draws, r repeats, e shared errors.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from search import pareto
from supernet.arrays import Floats, Ints, Rng

Scale = Literal["linear", "log", "logit"]


# The open interval of the values on each scale, in words, and the functions to the scale and back.
SCALES: dict[Scale, tuple[float, float, str, Callable[[Floats], Floats], Callable[[Floats], Floats]]] = {
    "linear": (-np.inf, np.inf, "finite numbers", np.asarray, np.asarray),
    "log": (0, np.inf, "positive numbers", np.log, np.exp),
    "logit": (0, 1, "between 0 and 1", logit, expit),
}


def on_scale(values: Floats, scale: Scale) -> Floats:
    """Values on the scale that errors are added on."""
    return SCALES[scale][3](values)


def off_scale(scaled: Floats, scale: Scale) -> Floats:
    """The inverse of `on_scale`."""
    return SCALES[scale][4](scaled)


@dataclass(frozen=True, eq=False)
class Normal:
    """Normal errors. Models of one `owner` (0, 1, ..) share the error: the same standard normal number."""

    spread: Floats  # (n,) standard deviation
    owner: Ints  # (n,)

    def __post_init__(self) -> None:
        good = np.isfinite(self.spread) & (self.spread >= 0)
        if not good.all():
            row = int(np.argmin(good))
            raise ValueError(f"the spread {self.spread[row]} of model {row} must be 0 (exact) or more")

    def draw(self, rng: Rng, count: int) -> Floats:
        """(count, n)"""
        return self.spread * rng.standard_normal((count, int(self.owner.max()) + 1))[:, self.owner]


@dataclass(frozen=True, eq=False)
class Shared:
    """Normal errors that all models have in common, each model to its own extent."""

    # (n, e) what one standard deviation of each error does to each model
    loadings: Floats | NDArray[np.float32]

    def draw(self, rng: Rng, count: int) -> Floats:
        """(count, n)"""
        return np.asarray(rng.standard_normal((count, self.loadings.shape[1])) @ self.loadings.T)


@dataclass(frozen=True, eq=False)
class Repeats:
    """Bootstrap of repeated measurements: each owner shows one of them. One owner for all models: a draw is
    one set-up, the same for all."""

    deviation: Floats  # (n, r) from the model's value
    owner: Ints  # (n,)

    def draw(self, rng: Rng, count: int) -> Floats:
        picked = rng.integers(self.deviation.shape[1], size=(count, int(self.owner.max()) + 1))
        return self.deviation[np.arange(len(self.owner)), picked[:, self.owner]]


@dataclass(frozen=True, eq=False)
class NoisyAxis:
    """What models are compared by: a value per model, and the noise about it.

    Axes with the same `source` draw the same errors (a latency and a throughput of the same runs).
    """

    name: str
    maximize: bool
    scale: Scale
    values: Floats  # (n,) in `unit`; fractions for logit
    noise: tuple[Normal | Shared | Repeats, ...] = ()  # errors on the scale, which add up
    unit: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        low, high, allowed, *_ = SCALES[self.scale]
        good = (low < self.values) & (self.values < high)
        if not good.all():
            row = int(np.argmin(good))
            raise ValueError(
                f"axis {self.name}: the value {self.values[row]} of model {row} is not allowed on the "
                f"{self.scale} scale, which takes {allowed}"
            )

    @cached_property
    def costs(self) -> Floats:
        """(n,) values on the axis's scale, lower is better."""
        return self._sign * on_scale(self.values, self.scale)

    @cached_property
    def width(self) -> float:
        """Standard deviation of the costs over the models: the unit of distances."""
        return float(np.std(self.costs)) or 1.0

    def draw(self, seed: int, block: int, count: int) -> Floats:
        """(count, n) drawn costs; the same for the same seed, source and block, whatever the other axes."""
        rng = np.random.default_rng([seed, crc32((self.source or self.name).encode()), block])
        errors = [noise.draw(rng, count) for noise in self.noise]
        return self.costs + self._sign * sum(errors, start=np.zeros((count, 1)))

    def in_units(self, costs: Floats) -> Floats:
        """Costs as values again."""
        return off_scale(self._sign * costs, self.scale)

    @property
    def _sign(self) -> int:
        return -1 if self.maximize else 1


def front_probability(drawn: Floats) -> Floats:
    """(n,) share of the (B, n, k) drawn costs in which a model is on the frontier."""
    return np.mean([pareto.is_front(costs) for costs in drawn], axis=0)
