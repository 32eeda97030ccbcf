"""The modules of a batch of OFA subnets, straight from their layers: what tracing finds network by network.

Letters: n architectures, L layer places, p inputs of a module type.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latency.modules.kinds import ADD, MAX
from supernet.layers import Activation, Column, Kind, LayerTable

IDENTITY, POOLED = 0, 2  # shortcuts of a bottleneck: none, OFA's average pool and convolution


@dataclass(frozen=True)
class Place:
    """A module that all networks of a table have at the layers `columns`, where `live`: (n,) each input."""

    type: str
    inputs: Mapping[str, Column]
    live: NDArray[np.bool_]
    column: int  # of its first layer


def places(table: LayerTable) -> list[Place]:
    """The modules of these networks in the order they run.

    As the `ofa` package builds its networks: pools over windows outside of blocks are maxima, global pools
    are two means, a shortcut that waits for a convolution is added to it.
    """
    found: list[Place] = []
    at, width = 0, table.kind.shape[1]
    walk = _Walk(table)
    while at < width:
        count = walk.inverted(at, found) or walk.bottleneck(at, found) or walk.single(at, found)
        at += count
    return found


class _Walk:
    """What the columns of a table have in common over all its networks."""

    def __init__(self, table: LayerTable) -> None:
        self.t, live = table, table.live
        conv, one = table.kind == Kind.CONV, table.kernel == 1
        deep = conv & (table.groups == table.cin) & (table.groups > 1)
        self.deep = (deep | ~live).all(axis=0)
        self.pointwise = ((conv & one & ~deep) | ~live).all(axis=0)
        self.dense = ((conv & ~one & (table.groups == 1)) | ~live).all(axis=0)
        self.pool = ((table.kind == Kind.POOL) | ~live).all(axis=0)
        self.gate = ((conv & (table.bias > 0) & (table.size == 1)) | ~live).all(axis=0)

    def _together(self, at: int, *flags: NDArray[np.bool_]) -> bool:
        """Whether the columns from `at` on are of these kinds, and of one slot."""
        end = at + len(flags)
        if end > len(self.deep) or len(set(self.t.slot[at:end].tolist())) > 1:
            return False
        return all(bool(flag[at + i]) for i, flag in enumerate(flags))

    def inverted(self, at: int, found: list[Place]) -> int:
        t = self.t
        if not self._together(at, self.pointwise, self.deep) or (t.act[:, at] == Activation.NONE).any():
            return 0
        squeezed = self._together(at + 2, self.gate, self.gate)
        last = at + (4 if squeezed else 2)
        if not self._together(at + 1, self.deep) or not self._together(last, self.pointwise):
            return 0
        inputs = dict(cin=t.cin[:, at], mid=t.cout[:, at], cout=t.cout[:, last], kernel=t.kernel[:, at + 1])
        inputs |= dict(side=t.size[:, at], stride=t.stride[:, at + 1], act=t.act[:, at])
        inputs |= dict(skip=(t.held[:, last] > 0).astype(np.int32))
        if squeezed:
            inputs |= dict(squeeze=t.cout[:, at + 2], means=np.ones(len(t.cin), np.int32))
        kind = "mbconv_se" if squeezed else "mbconv"
        found.append(Place(kind, inputs, t.live[:, at], at))
        return last + 1 - at

    def bottleneck(self, at: int, found: list[Place]) -> int:
        t = self.t
        if not self._together(at, self.pointwise, self.dense, self.pointwise):
            return 0
        pooled = self._together(at + 2, self.pointwise, self.pool, self.pointwise)
        shortcut = np.full(len(t.cin), POOLED if pooled else IDENTITY, np.int32)
        inputs = dict(cin=t.cin[:, at], mid=t.cout[:, at], cout=t.cout[:, at + 2], side=t.size[:, at])
        inputs |= dict(stride=t.stride[:, at + 1], shortcut=shortcut)
        found.append(Place("bottleneck", inputs, t.live[:, at], at))
        return 5 if pooled else 3

    def single(self, at: int, found: list[Place]) -> int:
        t = self.t
        live = t.live[:, at]
        shape = dict(side=t.size[:, at], stride=t.stride[:, at], act=t.act[:, at])
        if self.deep[at]:
            found.append(
                Place("depthwise", dict(channels=t.cin[:, at], kernel=t.kernel[:, at], **shape), live, at)
            )
        elif self.pointwise[at]:
            found.append(Place("pointwise", dict(cin=t.cin[:, at], cout=t.cout[:, at], **shape), live, at))
            self._sum(at, found)
        elif self.dense[at]:
            size = dict(cin=t.cin[:, at], cout=t.cout[:, at], kernel=t.kernel[:, at])
            found.append(Place("dense", size | shape, live, at))
            self._sum(at, found)
        elif self.pool[at]:
            size = dict(channels=t.cin[:, at], kernel=t.kernel[:, at], side=t.size[:, at])
            size |= dict(stride=t.stride[:, at], mode=np.full(len(live), MAX, np.int32))
            found.append(Place("pooling", size, live, at))
        elif (t.kind[live, at] == Kind.GLOBAL_POOL).all():
            size = dict(channels=t.cin[:, at], side=t.size[:, at], means=np.ones(len(live), np.int32))
            found.append(Place("global_pool", size, live, at))
        else:
            size = dict(cin=t.cin[:, at], cout=t.cout[:, at], rows=np.ones(len(live), np.int32))
            found.append(Place("linear", size, live, at))
        return 1

    def _sum(self, at: int, found: list[Place]) -> None:
        """A shortcut that waits for a convolution is added to it."""
        t = self.t
        waits = t.live[:, at] & (t.held[:, at] > 0)
        if waits.any():
            size = dict(
                channels=t.cout[:, at], side=t.out_size[:, at], mode=np.full(len(waits), ADD, np.int32)
            )
            found.append(Place("elementwise", size, waits, at))
