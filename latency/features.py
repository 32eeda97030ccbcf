"""Features of architectures for regressions: what its layers do, by class of layer, and its genes.

Letters: n architectures, p features.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from supernet import slot_table
from supernet.arrays import Floats, Genomes
from supernet.layers import LayerKind, LayerTable
from supernet.space import SearchSpace

SIZES = (7, 14, 28)  # output sides at which pointwise convolutions are told apart
LINE_NOISE = 0.05  # of log latencies about a line in log MACs


def features(space: SearchSpace, genomes: Genomes) -> Floats:
    """(n, p) log MACs; MACs of each class of layer over all MACs; logs of parameters, activations and layers
    over MACs; one-hot genes."""
    tables = [slot_table.tabulate(space, cost) for cost in COSTS]
    columns = [table.evaluate(space, genomes) for table in tables if table is not None]
    if len(columns) < len(COSTS):
        layers = space.layers(genomes)
        columns = [cost(layers).sum(axis=1).astype(np.float64) for cost in COSTS]
    macs, *of_classes, params, activations, count = columns
    total = np.maximum(macs, 1.0)
    parts = [np.log(total), *(part / total for part in of_classes)]
    parts += [np.log(np.maximum(part, 1.0) / total) for part in (params, activations, count)]
    return np.concatenate([np.stack(parts, axis=1), space.one_hot(genomes)], axis=1)


Cost = Callable[[LayerTable], NDArray[Any]]


def _depthwise(kernel: int) -> Cost:
    return lambda t: t.layer_macs() * ((t.kind == LayerKind.CONV) & (t.groups > 1) & (t.kernel == kernel))


def _pointwise(step: int) -> Cost:
    return lambda t: (
        t.layer_macs()
        * ((t.kind == LayerKind.CONV) & (t.kernel == 1) & (t.groups <= 1))
        * (np.digitize(t.out_size, SIZES) == step)
    )


# (n, L) MACs; MACs of each class of layer; parameters, activations and layers; one feature each. What the
# classes leave of the MACs is that of attention: no class of its own, or all fitted predictors would change.
COSTS: tuple[Cost, ...] = (
    LayerTable.layer_macs,
    *map(_depthwise, (3, 5, 7)),
    *map(_pointwise, range(len(SIZES) + 1)),
    lambda t: t.layer_macs() * ((t.kind == LayerKind.CONV) & (t.kernel > 1) & (t.groups <= 1)),
    lambda t: t.layer_macs() * (t.kind == LayerKind.LINEAR),
    LayerTable.layer_params,
    LayerTable.layer_activations,
    lambda t: t.live * 1,
)


@dataclass(frozen=True, eq=False)
class Scale:
    """Columns brought to mean 0 and deviation 1; NaN becomes the mean, a constant column 0."""

    middle: Floats
    spread: Floats

    @classmethod
    def from_rows(cls, x: Floats) -> "Scale":
        """The scale of the columns of x (n, p)."""
        finite = np.isfinite(x)
        count = np.maximum(finite.sum(axis=0), 1)
        middle = np.where(finite, x, 0).sum(axis=0) / count
        spread = np.sqrt((np.where(finite, x - middle, 0) ** 2).sum(axis=0) / count)
        return cls(middle, np.where(spread > 1e-9, spread, np.inf))

    @classmethod
    def from_features(cls, x: Floats) -> "Scale":
        """That of architecture features: the one-hot genes together weigh as much as the others together."""
        scale = cls.from_rows(x)
        genes = (x.shape[1] - len(COSTS)) / len(COSTS)
        weights = np.where(np.arange(x.shape[1]) < len(COSTS), 1.0, genes**0.5)
        return cls(scale.middle, scale.spread * weights)

    def __call__(self, x: Floats) -> Floats:
        return np.asarray(np.where(np.isfinite(x), (x - self.middle) / self.spread, 0.0))


def squared_distance(a: Floats, b: Floats) -> Floats:
    """(n, m) mean squared differences of the rows."""
    total = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T
    return np.maximum(total, 0) / max(a.shape[1], 1)


@dataclass(frozen=True, eq=False)
class Line:
    """log ms = middle + slope (log MACs - log MACs at the middle)."""

    middle: float
    slope: float
    at: float

    @classmethod
    def from_rows(cls, log_macs: Floats, log_ms: Floats, slope: float = 0.0, doubt: float = 1e3) -> "Line":
        """The line through rows; its slope was thought to be `slope` +- `doubt` before they were seen."""
        at = float(log_macs.mean())
        away, trust = (log_macs - at) / LINE_NOISE**2, doubt**-2
        slope = float((away @ log_ms + trust * slope) / (away @ (log_macs - at) + trust))
        return cls(float(log_ms.mean()), slope, at)

    def __call__(self, log_macs: Floats) -> Floats:
        return self.middle + self.slope * (log_macs - self.at)
