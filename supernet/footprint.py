"""What architectures cost on paper: MACs, parameters, activations and peak memory of batches of genomes.

Letters: n architectures.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from supernet import slot_table
from supernet.arrays import Floats, Genomes
from supernet.layers import BYTES_FP32, LayerTable
from supernet.registry import unknown_name
from supernet.slot_table import SlotTable
from supernet.space import SearchSpace

# By metric: the cost of each layer, and whether the largest layer counts instead of the sum of all.
_COSTS: dict[str, tuple[Callable[[LayerTable], NDArray[Any]], bool]] = {
    "macs": (LayerTable.layer_macs, False),
    "params": (LayerTable.layer_params, False),
    "activations": (LayerTable.layer_activations, False),
    "peak_bytes": (LayerTable.resident, True),
    "layers": (LayerTable.layer_counts, False),
}


def table(space: SearchSpace, metric: str) -> SlotTable | None:
    """The slot table of a metric of a space (elements, not bytes, for memory); None where there is none."""
    if metric not in _COSTS:
        raise unknown_name("footprint metric", metric, _COSTS)
    cost, largest = _COSTS[metric]
    return slot_table.tabulate(space, cost, "max" if largest else "sum")


def compute(space: SearchSpace, genomes: Genomes, metric: str) -> Floats:
    """(n,) `macs`, `params`, `layers`, `activations` (elements) or `peak_bytes` (fp32) of one image: the same
    numbers as those of the layer table.

    >>> footprint.compute(space, space.sample(10, np.random.default_rng(0)), "macs")
    """
    slots = table(space, metric)
    unit = BYTES_FP32 if metric == "peak_bytes" else 1
    if slots is not None:
        return slots.evaluate(space, genomes) * unit
    cost, largest = _COSTS[metric]
    values = cost(space.layers(genomes))
    return np.asarray(values.max(axis=1) if largest else values.sum(axis=1), np.float64) * unit
