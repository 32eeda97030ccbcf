"""LayerTable: the layers of a batch of networks as columns, and the footprint metrics that follow from them.

Letters: n architectures, L layer places, S slots, R resolutions, C slot codes.
"""

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from supernet.arrays import Floats, Ints

BYTES_FP32 = 4


class LayerKind(IntEnum):
    """What a layer does. Only CONV and LINEAR have weights."""

    CONV = 0
    LINEAR = 1
    POOL = 2  # window pooling, kernel x kernel
    GLOBAL_POOL = 3


class Activation(IntEnum):
    """The function that follows a layer."""

    NONE = 0
    RELU = 1
    RELU6 = 2
    HARD_SWISH = 3
    SILU = 4
    GELU = 5
    SIGMOID = 6
    HARD_SIGMOID = 7


Column = NDArray[np.int32]


@dataclass(frozen=True)
class LayerTable:
    """(n, L) columns; columns that are the same for all n are broadcast, not copied. Absent layers have live
    = False.

    `size` is the input side in pixels, `held` the elements that must stay in memory beside input and output
    while the layer runs (the shortcut of a residual block), `slot` (L,) the slot of the space that the layer
    belongs to, or -1.
    """

    kind: Column
    cin: Column
    cout: Column
    kernel: Column
    stride: Column
    size: Column
    groups: Column
    bias: Column
    norm: Column
    held: Column
    act: Column
    live: NDArray[np.bool_]
    slot: NDArray[np.int32]

    @property
    def out_size(self) -> Column:
        """(n, L) output side: ceil(size / stride), as 'same' padding gives; 1 after a global pool."""
        return np.where(self.kind == LayerKind.GLOBAL_POOL, 1, -(-self.size // self.stride)).astype(np.int32)

    def _weights(self) -> Ints:
        per_output = self.cin.astype(np.int64) // np.maximum(self.groups, 1) * self.kernel**2
        return np.where((self.kind <= LayerKind.LINEAR) & self.live, per_output * self.cout, 0)

    def _outputs(self) -> Ints:
        return np.where(self.live, self.cout * self.layer_sides() ** 2, 0)

    def layer_sides(self) -> Ints:
        """(n, L) output side of each layer in pixels."""
        return self.out_size.astype(np.int64)

    def layer_counts(self) -> Ints:
        """(n, L) 1 for each layer, for what an engine spends on every one of them."""
        return self.live.astype(np.int64)

    def layer_macs(self) -> Ints:
        """(n, L) multiply-accumulates of one image; biases, norms, pools and sums not counted."""
        return self._weights() * self.layer_sides() ** 2

    def layer_params(self) -> Ints:
        """(n, L) weights, biases and two numbers per normalised channel."""
        extra = self.cout.astype(np.int64) * (self.bias + 2 * self.norm)
        return self._weights() + np.where(self.live, extra, 0)

    def layer_activations(self) -> Ints:
        """(n, L) output elements of layers with weights, one image ("activations" of timm and RegNet)."""
        return np.where(self.kind <= LayerKind.LINEAR, self._outputs(), 0)

    def resident(self) -> Ints:
        """(n, L) elements in memory while a layer runs: input, output and what waits beside them."""
        inputs = np.where(self.live, self.cin.astype(np.int64) * self.size.astype(np.int64) ** 2, 0)
        return inputs + self._outputs() + np.where(self.live, self.held.astype(np.int64), 0)

    def macs(self) -> Ints:
        """(n,) multiply-accumulates of one forward pass at batch 1; biases and norms not counted."""
        return self.layer_macs().sum(axis=1)

    def params(self) -> Ints:
        """(n,) trainable parameters: weights, biases, two per normalised channel."""
        return self.layer_params().sum(axis=1)

    def peak_bytes(self) -> Floats:
        """(n,) fp32 bytes of the activations alive at the worst layer, batch 1: input, output, held shortcut.

        Ours; what an inference engine needs: norms folded into convolutions, activations, sums and products
        in place, every value dropped after its last use. The storages of such a run add up to exactly this
        (tests/science); plain eager PyTorch keeps 1.5-1.8 times as much alive (20 subnets per OFA family):
        separate norms write copies, and Python frames hold their arguments until they return.
        """
        return self.resident().max(axis=1) * float(BYTES_FP32)


@dataclass
class LayerBuilder:
    """Writes a batch of networks down, layer by layer; `size` follows the strides.

    Arguments are scalars or (n,).
    """

    n: int
    size: NDArray[np.int64]  # (n,) current side in pixels
    rows: list[dict[str, NDArray[np.int32]]] = field(default_factory=list)
    slot: list[int] = field(default_factory=list)

    def add(
        self,
        kind: LayerKind,
        cin: Ints | int,
        cout: Ints | int,
        *,
        kernel: Ints | int = 1,
        stride: int = 1,
        groups: Ints | int = 1,
        bias: int = 0,
        norm: int = 1,
        held: Ints | int = 0,
        act: Activation = Activation.NONE,
        live: NDArray[np.bool_] | bool = True,
        slot: int = -1,
        size: Ints | int | None = None,
    ) -> None:
        """One layer. With `size` it is a side branch (squeeze-excite, shortcut): the main size stays."""
        values: dict[str, Any] = dict(kind=int(kind), cin=cin, cout=cout, kernel=kernel, stride=stride)
        values |= dict(groups=groups, bias=bias, norm=norm, held=held, act=int(act), live=live)
        values |= dict(size=self.size if size is None else size)
        row = {key: np.broadcast_to(np.asarray(value, np.int32), self.n) for key, value in values.items()}
        self.rows.append(row)
        self.slot.append(slot)
        if size is None:
            if kind == LayerKind.GLOBAL_POOL:
                self.size = np.ones(self.n, np.int64)
            elif stride > 1:
                self.size = np.where(row["live"], -(-self.size // stride), self.size)

    def table(self) -> LayerTable:
        columns = {key: np.stack([row[key] for row in self.rows], axis=1) for key in self.rows[0]}
        live = columns.pop("live").astype(bool)
        return LayerTable(**columns, live=live, slot=np.array(self.slot, np.int32))


def make_divisible(channels: Floats | Ints | float, divisor: int = 8) -> Ints:
    """Channels rounded to a multiple of `divisor`, never below 90% of the wish (MobileNet's rule, as `ofa`
    has it)."""
    wish = np.asarray(channels, np.float64)
    rounded = np.maximum(divisor, ((wish + divisor / 2).astype(np.int64) // divisor) * divisor)
    return np.where(rounded < 0.9 * wish, rounded + divisor, rounded)
