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
    """What a layer does. CONV and LINEAR have weights.

    The tokens of a transformer are the pixels of a map, and `extra` ones beside it (class tokens). LINEAR
    works on each of them.
    """

    CONV = 0
    LINEAR = 1
    POOL = 2  # window pooling, kernel x kernel
    GLOBAL_POOL = 3
    ATTENTION = 4  # from queries, keys, values; `groups` heads, windows of kernel x kernel tokens (0: all)
    NORM = 5  # a norm on its own: layer norm; with `norm` = 1 it scales and shifts
    POSITION = 6  # a learned embedding of each position is added
    TOKENS = 7  # learned tokens (class token) are put beside those of the map


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

    `size` is the input side in pixels, `extra` the tokens beside them, `held` the elements that must stay in
    memory beside input and output while the layer runs (the shortcut of a residual block), `slot` (L,) the
    slot of the space that the layer belongs to, or -1. The `bias` of ATTENTION is one per head and relative
    position in a window (arXiv 2103.14030).
    """

    kind: Column
    cin: Column
    cout: Column
    kernel: Column
    stride: Column
    size: Column
    extra: Column
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

    def positions(self) -> Ints:
        """(n, L) pixels or tokens of each output."""
        extra = np.where(self.kind == LayerKind.GLOBAL_POOL, 0, self.extra)
        return self.layer_sides() ** 2 + extra

    def input_positions(self) -> Ints:
        """(n, L) pixels or tokens of each input."""
        extra = np.where(self.kind == LayerKind.TOKENS, 0, self.extra)
        return self.size.astype(np.int64) ** 2 + extra

    def attended(self) -> Ints:
        """(n, L) tokens that a token attends to: those of its window."""
        return np.where(self.kernel > 0, self.kernel.astype(np.int64) ** 2, self.positions())

    def scores(self) -> Ints:
        """(n, L) elements of the attention maps of all heads; a window at the edge is filled up."""
        across = -(-self.size.astype(np.int64) // np.maximum(self.kernel, 1))
        windows = np.where(self.kernel > 0, across**2, 1)
        heads = np.where((self.kind == LayerKind.ATTENTION) & self.live, self.groups.astype(np.int64), 0)
        return heads * windows * self.attended() ** 2

    def _weights(self) -> Ints:
        per_output = self.cin.astype(np.int64) // np.maximum(self.groups, 1) * self.kernel**2
        return np.where((self.kind <= LayerKind.LINEAR) & self.live, per_output * self.cout, 0)

    def _outputs(self) -> Ints:
        return np.where(self.live, self.cout * self.positions(), 0)

    def layer_sides(self) -> Ints:
        """(n, L) output side of each layer in pixels."""
        return self.out_size.astype(np.int64)

    def layer_counts(self) -> Ints:
        """(n, L) 1 for each layer, for what an engine spends on every one of them."""
        return self.live.astype(np.int64)

    def layer_macs(self) -> Ints:
        """(n, L) multiply-accumulates of one image, those of scores and weighted values of attention among
        them; biases, norms, softmax, pools and sums not counted."""
        channels_of_head = self.cout // np.maximum(self.groups, 1)
        return self._weights() * self.positions() + 2 * self.scores() * channels_of_head

    def layer_params(self) -> Ints:
        """(n, L) weights, biases, two numbers per normalised channel, and what is learned of positions and
        tokens."""
        attention, cout = self.kind == LayerKind.ATTENTION, self.cout.astype(np.int64)
        reach = 2 * np.where(self.kernel > 0, self.kernel, self.size).astype(np.int64) - 1
        per_channel = self.bias + 2 * self.norm
        per_channel = per_channel + np.where(self.kind == LayerKind.POSITION, self.positions(), 0)
        per_channel = per_channel + np.where(self.kind == LayerKind.TOKENS, self.extra, 0)
        learned = np.where(attention, self.bias * self.groups * reach**2, cout * per_channel)
        return self._weights() + np.where(self.live, learned, 0)

    def layer_activations(self) -> Ints:
        """(n, L) output elements of layers with weights and of both products of attention, one image
        ("activations" of timm and RegNet)."""
        counted = (self.kind <= LayerKind.LINEAR) | (self.kind == LayerKind.ATTENTION)
        return np.where(counted, self._outputs() + self.scores(), 0)

    def resident(self) -> Ints:
        """(n, L) elements in memory while a layer runs: input, output, attention maps, what waits beside."""
        kept = self.live & (self.kind != LayerKind.POSITION)  # which is added in place
        inputs = np.where(kept, self.cin.astype(np.int64) * self.input_positions(), 0)
        waiting = np.where(self.live, self.held.astype(np.int64), 0)
        return inputs + self._outputs() + self.scores() + waiting

    def macs(self) -> Ints:
        """(n,) multiply-accumulates of one forward pass at batch 1; biases and norms not counted."""
        return self.layer_macs().sum(axis=1)

    def params(self) -> Ints:
        """(n,) trainable parameters: weights, biases, two per normalised channel."""
        return self.layer_params().sum(axis=1)

    def peak_bytes(self) -> Floats:
        """(n,) fp32 bytes of the activations alive at the worst layer, batch 1: input, output, held shortcut.

        Ours; what an inference engine needs: norms folded into convolutions, activations, sums and products
        in place, every value dropped after its last use; layer norms write a copy, and an attention map is
        whole, as in engines without fused attention. The storages of such a run add up to exactly this
        (tests/science); plain eager PyTorch keeps 1.5-1.8 times as much alive (20 subnets per OFA family):
        separate norms write copies, and Python frames hold their arguments until they return.
        """
        return self.resident().max(axis=1) * float(BYTES_FP32)


@dataclass(frozen=True)
class Heads:
    """The heads of self-attention: how many, of how many channels each, in windows of `window` x `window`
    tokens (0: all attend to all), with a learned bias per relative position or without."""

    count: Ints | int
    channels: Ints | int
    window: int = 0
    relative: bool = False

    @property
    def inner(self) -> Ints:
        """Channels of all heads together."""
        return np.asarray(self.count, np.int64) * self.channels


@dataclass
class LayerBuilder:
    """Writes a batch of networks down, layer by layer; `size` and `extra` (tokens beside the map) follow.

    Arguments are scalars or (n,).

    >>> build = LayerBuilder(n, size)  # a vision transformer
    >>> build.add(LayerKind.CONV, 3, width, kernel=16, stride=16, bias=1, norm=0)
    >>> build.tokens(1, width)
    >>> build.position(width)
    >>> build.transformer(width, 4 * width, Heads(3, 64), slot=0)
    >>> build.norm(width)
    >>> build.keep_one_token()
    >>> build.add(LayerKind.LINEAR, width, classes, bias=1, norm=0)
    """

    n: int
    size: NDArray[np.int64]  # (n,) current side in pixels
    extra: int = 0  # current tokens beside them
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
        """One layer. With `size` it is a side branch (squeeze-excite, shortcut), which leaves the main size
        and the extra tokens as they are."""
        values: dict[str, Any] = dict(kind=int(kind), cin=cin, cout=cout, kernel=kernel, stride=stride)
        values |= dict(groups=groups, bias=bias, norm=norm, held=held, act=int(act), live=live)
        values |= dict(size=self.size, extra=self.extra) if size is None else dict(size=size, extra=0)
        row = {key: np.broadcast_to(np.asarray(value, np.int32), self.n) for key, value in values.items()}
        self.rows.append(row)
        self.slot.append(slot)
        if size is None:
            if kind == LayerKind.GLOBAL_POOL:
                self.keep_one_token()
            elif stride > 1:
                self.size = np.where(row["live"], -(-self.size // stride), self.size)

    def norm(self, channels: Ints | int, *, live: NDArray[np.bool_] | bool = True, slot: int = -1) -> None:
        """A norm of its own with scale and shift: layer norm."""
        self.add(LayerKind.NORM, channels, channels, live=live, slot=slot)

    def tokens(self, count: int, channels: Ints | int, *, slot: int = -1) -> None:
        """Learned tokens beside those of the map: a class token; ValueError where some are already."""
        if self.extra:
            raise ValueError(f"{self.extra} tokens are beside the map already: add all of them at once")
        self.extra = count
        self.add(LayerKind.TOKENS, channels, channels, norm=0, slot=slot)

    def position(self, channels: Ints | int, *, slot: int = -1) -> None:
        """A learned embedding of the position of each token is added to it."""
        self.add(LayerKind.POSITION, channels, channels, norm=0, slot=slot)

    def keep_one_token(self) -> None:
        """Go on with one token, the class token or a mean: a vector."""
        self.size, self.extra = np.ones(self.n, np.int64), 0

    def transformer(
        self,
        channels: Ints | int,
        hidden: Ints | int,
        heads: Heads,
        *,
        live: NDArray[np.bool_] | bool = True,
        slot: int = -1,
    ) -> None:
        """A block as vision transformers have it (arXiv 2010.11929): norm, self-attention, sum, norm, two
        linear layers with `hidden` channels and GELU between them, sum. All linear layers have biases."""
        inner, place = heads.inner, dict[str, Any](live=live, slot=slot)
        line = dict[str, Any](bias=1, norm=0, held=channels * (self.size**2 + self.extra), **place)
        attention = dict[str, Any](
            kernel=heads.window, groups=heads.count, **line | dict(bias=int(heads.relative))
        )
        self.norm(channels, **place)
        self.add(LayerKind.LINEAR, channels, 3 * inner, **line)
        self.add(LayerKind.ATTENTION, 3 * inner, inner, **attention)
        self.add(LayerKind.LINEAR, inner, channels, **line)
        self.norm(channels, **place)
        self.add(LayerKind.LINEAR, channels, hidden, act=Activation.GELU, **line)
        self.add(LayerKind.LINEAR, hidden, channels, **line)

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
