"""The modules of a batch of OFA subnets, straight from their layers; `tracing` reads them from one network.

Letters: n architectures, L layer places.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latency.modules.kinds import module_kind
from latency.modules.kinds.layers import ADD, ActivationFunction, Dense, Elementwise, Linear, Pointwise
from latency.modules.kinds.module_kind import ModuleKind, TableLayers
from supernet.layers import Column, LayerKind, LayerTable


@dataclass(frozen=True)
class Place:
    """A module that all networks of a table have at the same layers, where `live`: (n,) each input."""

    kind: str
    inputs: Mapping[str, Column]
    live: NDArray[np.bool_]
    column: int  # of its first layer


def places(table: LayerTable) -> list[Place]:
    """The modules of a batch of networks in the order they run.

    As the `ofa` package builds its networks: pools over windows outside of blocks are maxima, global pools
    are two means, a shortcut that waits for a convolution is added to it. In a transformer it is added to a
    linear layer with as many outputs. Transposes of heads are left out: engines differ in what they move.
    """
    modules: list[Place] = []
    layers, at = TableLayers(table), 0
    while at < len(table.slot):
        matches = [(kind, match) for kind in module_kind.all_kinds() if (match := kind.listed(layers, at))]
        if not matches:
            raise ValueError(f"no module kind covers layer {at} of the networks (see configs/module)")
        kind, (inputs, count) = max(matches, key=lambda match: match[1][1])  # a block before its first layer
        modules.append(Place(kind.name, inputs, table.live[:, at], at))
        modules += _behind(kind, table, at)
        at += count
    return modules


def _behind(kind: ModuleKind, table: LayerTable, at: int) -> list[Place]:
    """The activation of a linear layer, and the sum of the output of a layer with what waits for it."""
    live, held, act = table.live[:, at], table.held[:, at], table.act[:, at]
    waits, modules = live & (held > 0), []
    if isinstance(kind, Linear):  # what attention or an activation takes is not added to anything
        taken = table.kind[:, at : at + 2] == LayerKind.ATTENTION
        waits &= (held == table.cout[:, at] * table.positions()[:, at]) & (act == 0) & ~taken.any(axis=1)
        if (acts := live & (act > 0)).any():
            inputs = ActivationFunction.of_outputs(table, at, act)
            modules.append(Place(ActivationFunction.name, inputs, acts, at))
    if isinstance(kind, (Pointwise, Dense, Linear)) and waits.any():
        total = Elementwise.of_outputs(table, at, np.full(len(waits), ADD, np.int32))
        modules.append(Place(Elementwise.name, total, waits, at))
    return modules
