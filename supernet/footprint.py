"""Footprint metrics: the registry of what a model is measured by, with units, and those of batches of genomes
at search speed (MACs, parameters, activations, peak memory)."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from supernet import slot_table
from supernet.arrays import Floats, Genomes
from supernet.layers import BYTES_FP32, LayerTable
from supernet.registry import unknown_name
from supernet.slot_table import SlotTable
from supernet.space import SearchSpace

if TYPE_CHECKING:
    from supernet.weights.subnet import Subnet


@dataclass(frozen=True)
class Measure:
    """A quantity that models are compared by. `shown` is the unit in tables, `scale` that unit's size."""

    unit: str
    title: str
    maximize: bool = False
    shown: str = ""
    scale: float = 1


MEASURES: Mapping[str, Measure] = {
    "params": Measure("params", "trainable parameters", shown="M", scale=1e6),
    "macs": Measure("MACs", "multiply-accumulates of one image", shown="M", scale=1e6),
    "weight_bytes": Measure("B", "weights as they are stored", shown="kB", scale=1e3),
    "activations": Measure("elements", "outputs of layers with weights, one image", shown="M", scale=1e6),
    "peak_bytes": Measure("B", "activations alive at the worst moment, one image", shown="kB", scale=1e3),
    "file_bytes": Measure("B", "the model file on disk", shown="kB", scale=1e3),
    "packed_bytes": Measure("B", "that file compressed (DEFLATE)", shown="kB", scale=1e3),
    "latency_ms": Measure("ms", "one batch on a target", shown="ms"),
    "images_per_second": Measure("1/s", "throughput on a target", maximize=True, shown="img/s"),
    "training_hours": Measure("h", "device-hours of training beyond the supernet", shown="h"),
    "training_kwh": Measure("kWh", "energy of those hours, at a stated power", shown="kWh"),
    "top1": Measure("fraction", "top-1 accuracy", maximize=True, shown="%", scale=0.01),
    "top5": Measure("fraction", "top-5 accuracy", maximize=True, shown="%", scale=0.01),
    "loss": Measure("nats", "cross entropy", shown="nats"),
    "ece": Measure("fraction", "expected calibration error, 15 bins", shown="%", scale=0.01),
}


def measure(name: str) -> Measure:
    """The measure `name`; ValueError with the nearest spelling otherwise."""
    if name not in MEASURES:
        raise unknown_name("measure", name, MEASURES)
    return MEASURES[name]


def images_per_second(latency_ms: float, batch: int) -> float:
    """Throughput of a target that takes so long for one batch."""
    return 1000 * batch / latency_ms


def of_subnet(subnet: Subnet) -> dict[str, float]:
    """`params`, `macs`, `weight_bytes` (fp32) and `peak_bytes` of one network, counted on the network itself:
    also right for pruned ones, which have no genome.

    MACs by torch's flop counter; the peak is that of a real run, see `live_memory`.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from supernet.weights.live_memory import executor, live_peak_bytes

    image = torch.zeros((1, 3, subnet.side, subnet.side))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        subnet.module(image)
    params = sum(parameter.numel() for parameter in subnet.module.parameters())
    return {
        "params": float(params),
        "macs": counter.get_total_flops() / 2,
        "weight_bytes": float(params * BYTES_FP32),
        "peak_bytes": float(live_peak_bytes(executor(subnet.module), image)),
    }


# ---------------------------------------------------------------------- of batches of genomes
_COSTS: dict[str, tuple[Callable[[LayerTable], NDArray[Any]], bool]] = {
    "macs": (LayerTable.layer_macs, False),
    "params": (LayerTable.layer_params, False),
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
    """(n,) `macs`, `params`, `activations` (elements) or `peak_bytes` (fp32), one image.

    Equal to LayerTable's.
    """
    found = table(space, metric)
    unit = BYTES_FP32 if metric == "peak_bytes" else 1
    if found is not None:
        return found.of(space, genomes) * unit
    cost, largest = _COSTS[metric]
    values = cost(space.layers(genomes))
    return np.asarray(values.max(axis=1) if largest else values.sum(axis=1), np.float64) * unit
