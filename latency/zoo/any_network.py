"""Any network on a GPU that is known by its data sheet, kernel by kernel.

Letters: k kernels.
"""

from collections.abc import Sequence

import numpy as np
import torch

from latency.gpu import traced
from latency.gpu.chip import chip
from latency.gpu.kernels import PART_OF, PARTS, Kernels, Kind
from latency.modules.breakdown import Breakdown
from latency.modules.kinds.module_kind import Module
from latency.target import Target
from latency.zoo import data_sheets

SHOWN = ("rows", "cols", "depth", "copies", "maps")  # what a table says of a kernel


def on_gpu(network: torch.nn.Module, shape: Sequence[int], target: Target) -> tuple[Breakdown, str]:
    """The breakdown of a batch of the target's size, eager PyTorch, and in words what it rests on.

    The time of a kernel is its share of the network's, also where the host is what limits it. ValueError for
    a network that cannot be traced and for a target that is no GPU.
    """
    fitted, why = data_sheets.predictor(target)
    kernels, names = traced.kernels_of(network, shape)
    batched = kernels.at_batch(target.batch)
    times = data_sheets.gpu_model().times(chip(target.spec, target.precision))
    device = times.ms(batched)
    parts = [(device * (PART_OF[kernels.kind] == part)).sum() for part in range(len(PARTS))]
    whole = fitted.errors.prediction(np.array([[*parts, times.launches(batched).sum()]]))
    total, std = float(whole.mean[0]), float(whole.std[0])
    scaled = device * np.exp(fitted.errors.shift[PART_OF[kernels.kind]])
    modules = tuple(_module(kernels, place, name) for place, name in enumerate(names))
    return Breakdown(modules, scaled * (total / scaled.sum()), target, std / total), why


def _module(kernels: Kernels, place: int, name: str) -> Module:
    one = kernels.take(place)
    inputs = {key: float(getattr(one, key)) for key in SHOWN if getattr(one, key)}
    return Module(Kind(int(one.kind)).name.lower(), inputs, name)
