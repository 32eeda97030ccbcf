"""What a GPU runs for a network: the kernels of eager PyTorch as columns.

Letters: n architectures, L layers, k kernels.

A layer is several kernels: its convolution, its norm, its activation (OFA's hard swish is four), the sum of a
shortcut, the pooling and the product of squeeze-and-excitation. In mobile networks they take more time than
the products, because each reads and writes a whole feature map.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from supernet.arrays import Floats, Ints
from supernet.layers import Activation, LayerKind, LayerTable


class Kind(IntEnum):
    """What a kernel does."""

    CONV = 0  # dense or grouped, window larger than one pixel
    POINTWISE = 1
    DEPTHWISE = 2
    LINEAR = 3  # on vectors or tokens; convolutions of one pixel too
    BATCHED = 4  # product of batches of matrices
    ELEMENTWISE = 5
    NORM = 6  # batch norm with fixed statistics
    ROWS = 7  # layer norm, softmax
    POOL = 8  # and other reductions
    COPY = 9


MATRIX = (Kind.CONV, Kind.POINTWISE, Kind.LINEAR, Kind.BATCHED)
PARTS = ("products", "depthwise", "moving")  # kernels that a GPU or its software is off by alike
PART_OF = np.array([0, 0, 1, 0, 0, 2, 2, 2, 2, 2])  # (kinds,) place in PARTS
ACTIVATION_PASSES = {  # maps that each kernel of an activation reads or writes
    Activation.NONE: (),
    Activation.HARD_SWISH: (2, 2, 3, 2),  # x * relu6(x + 3) / 6, as the `ofa` package writes it
    Activation.HARD_SIGMOID: (2, 2, 2),
}


@dataclass(frozen=True, eq=False)
class Kernels:
    """Columns of one shape. Matrix kinds multiply `copies` times (rows, depth) by (depth, cols).

    A depthwise convolution has `rows` x `cols` outputs of window^2 products each (`depth`).
    """

    kind: NDArray[np.int64]
    rows: Floats
    cols: Floats
    depth: Floats
    copies: Floats
    maps: Floats  # elements of inputs and outputs
    weights: Floats  # elements
    outputs: Floats  # elements
    side: Floats  # of a convolution's output
    window: Floats  # of a convolution, its side
    stride: Floats
    count: Floats  # how many times it runs; 0 for layers that are absent

    @property
    def macs(self) -> Floats:
        """Multiply-accumulates of each kernel."""
        return np.where(self.kind <= Kind.BATCHED, self.rows * self.cols * self.depth * self.copies, 0.0)

    def at_batch(self, batch: int) -> "Kernels":
        """The kernels of a batch of images, from those of one."""
        batched = self.kind == Kind.BATCHED
        return replace(
            self,
            rows=np.where(batched, self.rows, self.rows * batch),
            copies=np.where(batched, self.copies * batch, self.copies),
            maps=self.maps * batch,
            outputs=self.outputs * batch,
        )

    def take(self, which: Any) -> "Kernels":
        """The kernels that an index selects."""
        return Kernels(**{f.name: getattr(self, f.name)[which] for f in fields(self)})

    def ravel(self) -> "Kernels":
        """(k,) the same kernels in one row."""
        return Kernels(**{f.name: np.ravel(getattr(self, f.name)) for f in fields(self)})

    def distinct(self) -> tuple["Kernels", Ints]:
        """(u,) the kernels that differ in more than their count, which is 1, and (k,) the place of each."""
        columns = [getattr(self, f.name) for f in fields(self) if f.name != "count"]
        order = np.lexsort(columns)
        new = np.ones(len(order), np.bool_)
        new[1:] = np.logical_or.reduce([column[order][1:] != column[order][:-1] for column in columns])
        place = np.empty(len(order), np.int64)
        place[order] = np.cumsum(new) - 1
        first = order[new]
        return replace(self.take(first), count=np.ones(len(first))), place

    def merged(self) -> "Kernels":
        """The kernels that differ, with the sum of their counts."""
        distinct, place = self.distinct()
        return replace(distinct, count=np.bincount(place, weights=self.count).astype(np.float64))


def concatenate(parts: Sequence[Kernels]) -> Kernels:
    """All kernels in one row of columns."""
    return Kernels(
        **{f.name: np.concatenate([getattr(part, f.name).ravel() for part in parts]) for f in fields(Kernels)}
    )


def kernels(kind: Kind | NDArray[np.int64], count: Any = 1, **columns: Any) -> Kernels:
    """Kernels from some columns; the others are 1 (sizes) or 0 (elements)."""
    usual = dict(rows=1, cols=1, depth=1, copies=1, maps=0, weights=0, outputs=0, side=1, window=1, stride=1)
    values = {"count": count, **usual, **columns}
    shape = np.broadcast_shapes(*(np.shape(value) for value in (kind, *values.values())))
    floats = {name: np.broadcast_to(np.asarray(value, float), shape) for name, value in values.items()}
    return Kernels(kind=np.broadcast_to(np.asarray(kind, np.int64), shape), **floats)


def of_layers(table: LayerTable, norms: bool = True) -> Iterator[Kernels]:
    """(n, L) kernels of one image at a time: the products of all layers, then their norms, and so on.

    Without `norms` batch norms are taken to be folded into the convolutions.
    """
    conv, live = table.kind == LayerKind.CONV, table.live.astype(float)
    positions, outputs = table.positions().astype(float), (table.cout * table.positions()).astype(float)
    yield _products(table, positions, outputs)
    with_norm = live * (table.norm > 0) * (table.kind <= LayerKind.LINEAR)
    if norms:
        yield kernels(Kind.NORM, with_norm, maps=2 * outputs, outputs=outputs)
    for passes, used in _activations(table):
        yield kernels(Kind.ELEMENTWISE, live * used, maps=passes * outputs, outputs=outputs)
    depthwise = conv & (table.groups > 1) & (table.groups == table.cin)
    shortcut = conv & (table.held > 0) & ~depthwise & (table.size > 1) & (table.act == Activation.NONE)
    yield kernels(Kind.ELEMENTWISE, live * shortcut, maps=3 * outputs, outputs=outputs)
    yield from _squeeze(table, depthwise, outputs)


def _products(table: LayerTable, positions: Floats, outputs: Floats) -> Kernels:
    """(n, L) the kernel with the products of each layer, or what it does instead."""
    conv, linear = table.kind == LayerKind.CONV, table.kind == LayerKind.LINEAR
    attention, pool = table.kind == LayerKind.ATTENTION, np.isin(table.kind, (2, 3))
    depthwise = conv & (table.groups > 1) & (table.groups == table.cin)
    one = conv & (table.kernel == 1) & (table.size > 1)
    vector = linear | (conv & (table.size == 1))
    rows_kind = table.kind == LayerKind.NORM
    kind = np.select(
        [depthwise, vector, one, conv, attention, pool, rows_kind],
        [Kind.DEPTHWISE, Kind.LINEAR, Kind.POINTWISE, Kind.CONV, Kind.BATCHED, Kind.POOL, Kind.ROWS],
        Kind.COPY,
    )
    groups = np.maximum(table.groups, 1).astype(float)
    matrix = conv | linear
    attended, heads = table.attended().astype(float), np.where(attention, groups, 1)
    inner = table.cout / heads
    inputs = table.cin * table.input_positions().astype(float)
    window = table.kernel**2
    columns = dict(
        rows=np.where(matrix | attention, positions, 1),
        cols=np.where(depthwise, table.cout, np.where(matrix, table.cout / groups, attended)),
        depth=np.where(depthwise, window, np.where(matrix, table.cin / groups * window, 2 * inner)),
        copies=np.where(depthwise, 1, np.where(matrix, groups, heads)),
        maps=inputs + outputs + 2 * table.scores(),
        weights=np.where(matrix, table.layer_params(), 0),
        outputs=outputs,
        side=table.layer_sides(),
        window=table.kernel,
        stride=table.stride,
    )  # fmt: skip
    return kernels(kind, table.live, **columns)


def _activations(table: LayerTable) -> Iterator[tuple[Floats, NDArray[np.bool_]]]:
    """(n, L) maps read or written, and whether it is run, of every kernel of the activations."""
    passes = [ACTIVATION_PASSES.get(act, (2,)) for act in Activation]
    for place in range(max(map(len, passes))):
        moved = np.array([row[place] if place < len(row) else 0 for row in passes], float)[table.act]
        yield moved, moved > 0


def _squeeze(table: LayerTable, depthwise: NDArray[np.bool_], outputs: Floats) -> Iterator[Kernels]:
    """(n, L) the means and the product of squeeze-and-excitation, in the column of the convolution before."""
    gated = np.zeros(table.live.shape, bool)
    after = (table.kind == LayerKind.CONV) & (table.size == 1) & table.live
    gated[:, :-1] = after[:, 1:] & depthwise[:, :-1]
    side = table.layer_sides().astype(float)
    yield kernels(Kind.POOL, gated, maps=outputs * (1 + 1 / side), outputs=outputs / side)
    yield kernels(Kind.POOL, gated, maps=outputs / side * (1 + 1 / side), outputs=outputs / side**2)
    yield kernels(Kind.ELEMENTWISE, gated, maps=2 * outputs + outputs / side**2, outputs=outputs)
