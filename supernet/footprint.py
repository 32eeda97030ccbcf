"""What architectures cost on paper: MACs, parameters, activations and peak memory of batches of genomes.

Letters: n architectures.
"""

import numpy as np

from supernet import slot_table
from supernet.arrays import Floats, Genomes
from supernet.layers import BYTES_FP32, LayerTable
from supernet.registry import unknown_name
from supernet.slot_table import Cost, SlotTable
from supernet.space import SearchSpace

_COSTS: dict[str, Cost] = {  # of each layer; the largest counts for `peak_bytes`, the sum for the others
    "macs": LayerTable.layer_macs,
    "params": LayerTable.layer_params,
    "activations": LayerTable.layer_activations,
    "peak_bytes": LayerTable.resident,
    "layers": LayerTable.layer_counts,
}


def table(space: SearchSpace, metric: str) -> SlotTable | None:
    """The slot table of a metric of a space (elements, not bytes, for memory); None where there is none."""
    if metric not in _COSTS:
        raise unknown_name("footprint metric", metric, _COSTS)
    return slot_table.tabulate(space, _COSTS[metric], "max" if metric == "peak_bytes" else "sum")


def compute(space: SearchSpace, genomes: Genomes, metric: str) -> Floats:
    """(n,) `macs`, `params`, `layers`, `activations` (elements) or `peak_bytes` (fp32) of one image: the same
    numbers as those of the layer table.

    >>> footprint.compute(space, space.sample(10, np.random.default_rng(0)), "macs")
    """
    slots = table(space, metric)
    unit = BYTES_FP32 if metric == "peak_bytes" else 1
    if slots is not None and not space.reaches_beyond(genomes).any():
        return slots.evaluate(space, genomes) * unit
    values = _COSTS[metric](space.layers(genomes))
    reduced = values.max(axis=1) if metric == "peak_bytes" else values.sum(axis=1)
    return reduced.astype(np.float64) * unit
