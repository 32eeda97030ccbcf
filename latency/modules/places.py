"""The modules of a batch of OFA subnets, straight from their layers; `tracing` reads them from one network.

Letters: n architectures, L layer places.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latency.modules.kinds import module_kind
from latency.modules.kinds.layers import ADD, Dense, Elementwise, Pointwise
from latency.modules.kinds.module_kind import TableLayers
from supernet.layers import Column, LayerTable


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
    are two means, a shortcut that waits for a convolution is added to it.
    """
    modules: list[Place] = []
    layers, at = TableLayers(table), 0
    while at < len(table.slot):
        matches = [(kind, match) for kind in module_kind.all_kinds() if (match := kind.listed(layers, at))]
        if not matches:
            raise ValueError(f"no module kind covers layer {at} of the networks (see configs/module)")
        kind, (inputs, count) = max(matches, key=lambda match: match[1][1])  # a block before its first layer
        modules.append(Place(kind.name, inputs, table.live[:, at], at))
        waits = table.live[:, at] & (table.held[:, at] > 0)
        if isinstance(kind, (Pointwise, Dense)) and waits.any():
            total = dict(channels=table.cout[:, at], side=table.out_size[:, at])
            total |= dict(mode=np.full(len(waits), ADD, np.int32))
            modules.append(Place(Elementwise.name, total, waits, at))
        at += count
    return modules
