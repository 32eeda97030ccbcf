"""Footprint metrics of batches of genomes at search speed: MACs, parameters, activations, peak memory."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs import unknown_name
from supernet import slot_table
from supernet.layers import BYTES_FP32, LayerTable
from supernet.slot_table import SlotTable
from supernet.space import Floats, Genomes, SearchSpace

_COSTS: dict[str, tuple[Callable[[LayerTable], NDArray[Any]], bool]] = {
    "macs": (LayerTable.layer_macs, False),
    "params": (LayerTable.layer_params, False),
    "depthwise_params": (LayerTable.layer_depthwise_params, False),
    "activations": (LayerTable.layer_activations, False),
    "peak_bytes": (LayerTable.resident, True),
}


_tables: dict[tuple[Hashable, str], SlotTable | None] = {}


def table(space: SearchSpace, metric: str) -> SlotTable | None:
    """The slot table of a metric of a space (elements, not bytes, for memory); None where there is none.

    Made once per layout, so that restrictions of a space share it.
    """
    if metric not in _COSTS:
        raise unknown_name("footprint metric", metric, _COSTS)
    key = (space.layout, metric)
    if key not in _tables:
        cost, largest = _COSTS[metric]
        _tables[key] = slot_table.tabulate(space, cost, "max" if largest else "sum")
    return _tables[key]


def of(space: SearchSpace, genomes: Genomes, metric: str) -> Floats:
    """(n,) `macs`, `params`, `depthwise_params`, `activations` (elements) or `peak_bytes` (fp32), one image.

    Equal to LayerTable's.
    """
    found = table(space, metric)
    unit = BYTES_FP32 if metric == "peak_bytes" else 1
    if found is not None:
        return found.of(space, genomes) * unit
    cost, largest = _COSTS[metric]
    values = cost(space.layers(genomes))
    return np.asarray(values.max(axis=1) if largest else values.sum(axis=1), np.float64) * unit
