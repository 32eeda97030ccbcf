"""Module kinds of one layer: convolutions with their norm and activation, linear layers, and what is between.

Letters: n modules.
"""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from latency.modules.kinds.module_kind import (
    Columns,
    ModuleKind,
    Operation,
    TableLayers,
    Values,
    Work,
    even,
    outputs,
)
from supernet.arrays import Floats
from supernet.layers import Activation, Column, LayerKind, LayerTable

MAX, AVERAGE = 0, 1  # modes of pooling
BATCH, LAYER = 0, 1  # of norms
ADD, SCALE = 0, 1  # of elementwise
CONCAT, SHUFFLE = 0, 1  # of movement
PRODUCTS = """
    linear matmul __matmul__ __rmatmul__ mm bmm addmm baddbmm einsum scaled_dot_product_attention
"""  # of two tensors, as linear layers
REDUCTIONS = """
    adaptive_avg_pool1d adaptive_max_pool2d amax amin sum var std var_mean logsumexp argmax
"""  # that a mean over a map stands in for
MOVES = """
    channel_shuffle embedding gather grid_sample index_select interpolate pixel_shuffle pixel_unshuffle
    repeat_interleave sort take tile topk tril triu upsample where
"""  # that a shuffle of channels stands in for


def side_of(tensor: Any) -> float:
    """Side of the square of the same area as a map of any dimensions; 1 for rows."""
    return math.sqrt(math.prod(tensor.shape[2:]))


class Convolution(ModuleKind):
    """A convolution with the batch norm and the activation that follow it."""

    operations = dict.fromkeys(("conv2d", "convolution"), 0.0)
    stand_ins = dict.fromkeys(
        ("conv1d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), 0.0
    )
    layer = LayerKind.CONV

    @staticmethod
    def sizes(c: Mapping[str, Any]) -> tuple[Any, Any, Any, Any]:
        """Channels in and out, kernel and groups."""
        channels = c.get("channels", 1)
        return c.get("cin", channels), c.get("cout", channels), c.get("kernel", 1), c.get("groups", channels)

    def cost(self, c: Columns) -> Work:
        cin, cout, kernel, groups = self.sizes(c)
        weights = cin / groups * cout * kernel**2
        area = outputs(c)
        return Work(weights * area, weights + 2 * cout, cin * c["side"] ** 2, cout * area)

    def settle(self, c: dict[str, Floats]) -> tuple[dict[str, Floats], Any]:
        image = c.get("cin", np.full(len(c["side"]), np.inf)) < 6
        c |= {name: _channels(c[name]) for name in ("cin", "cout", "channels") if name in c}
        if "cin" in c:
            c["cin"] = np.where(image, 3, c["cin"])
        # An image is only ever read by a first convolution, at a large side.
        return c, (~image | (c["side"] >= 32)) & _fits(c)

    def network(self, v: Values, parts: Any) -> Any:
        cin, cout, kernel, groups = self.sizes(v)
        return parts.convolution(cin, cout, kernel, v["stride"], groups=groups, act=v["act"])

    def called(self, op: Operation) -> dict[str, float]:
        """A transposed convolution has the kernel that makes as many multiply-accumulates of its outputs."""
        image, weight = op.tensors[:2]
        before, after = (math.prod(tensor.shape[2:]) for tensor in (image, op.result))
        taps = float(math.prod(weight.shape[2:]))
        channels, cout, groups = image.shape[1], op.result.shape[1], image.shape[1] / weight.shape[1]
        if "transpose" in op.name:
            groups, taps = op.argument(6, "groups", 1), taps * before / after
        return dict(
            channels=float(channels),
            cin=float(channels),
            cout=float(cout),
            kernel=math.sqrt(taps),
            side=side_of(image),
            stride=_stride(op, before, after),
            groups=float(groups),
            act=0.0,
        )


def _stride(op: Operation, before: int, after: int) -> float:
    """The stride of a convolution, or the one that says its pixels (`outputs`) where padding changes them."""
    strides = op.argument(3, "stride", 1)
    sizes = strides if isinstance(strides, (list, tuple)) else (strides,)
    stride = math.prod(sizes) ** (1 / len(sizes))
    told = outputs({"side": math.sqrt(before), "stride": stride})
    return stride if math.isclose(told, after) else math.sqrt(before / after)


def _channels(values: Floats) -> Floats:
    """Mostly multiples of 8, as networks have them; one in six even only, which some kernels mind."""
    whole = np.round(values)
    return np.where(whole % 6 == 0, np.maximum(2 * np.round(whole / 2), 8), even(whole))


def _fits(c: dict[str, Floats]) -> Any:
    return (c["side"] >= c.get("kernel", 1)) & (c["side"] >= c["stride"])


def _one_each(c: Columns) -> Any:
    return (c["groups"] == c["cin"]) & (c["groups"] == c["cout"])


class Pointwise(Convolution):
    name = "pointwise"
    inputs = ("cin", "cout", "side", "stride", "act")
    covers = staticmethod(lambda c: (c["groups"] == 1) & (c["kernel"] == 1))


class Dense(Convolution):
    name = "dense"
    inputs = ("cin", "cout", "kernel", "side", "stride", "act")
    covers = staticmethod(lambda c: (c["groups"] == 1) & (c["kernel"] != 1))


class Depthwise(Convolution):
    name = "depthwise"
    inputs = ("channels", "kernel", "side", "stride", "act")
    covers = staticmethod(lambda c: (c["groups"] > 1) & _one_each(c))


class Grouped(Convolution):
    name = "grouped"
    inputs = ("cin", "cout", "groups", "kernel", "side", "stride", "act")

    def settle(self, c: dict[str, Floats]) -> tuple[dict[str, Floats], Any]:
        """4 to a multiple of 8 channels a group; half of them as many out as in."""
        same = np.round(c["cin"] + c["cout"]) % 2 == 0
        c["groups"] = np.maximum(np.round(np.minimum(c["groups"], c["cin"] / 4)), 2)
        each, out = c["cin"] / c["groups"], c["cout"] / c["groups"]
        each, out = (np.where(v < 6, 4, np.maximum(8 * np.round(v / 8), 8)) for v in (each, out))
        c["cin"], c["cout"] = each * c["groups"], np.where(same, each, out) * c["groups"]
        return c, _fits(c)

    covers = staticmethod(lambda c: (c["groups"] > 1) & (_one_each(c) == 0))


class Linear(ModuleKind):
    """A fully connected layer on rows; also products of two activations, as many multiply-accumulates."""

    name = "linear"
    inputs = ("cin", "cout", "rows")
    operations = dict.fromkeys(PRODUCTS.split(), 0.0)
    layer = LayerKind.LINEAR

    def cost(self, c: Columns) -> Work:
        weights = c["cin"] * c["cout"]
        return Work(weights * c["rows"], weights, c["cin"] * c["rows"], c["cout"] * c["rows"])

    def network(self, v: Values, parts: Any) -> Any:
        return parts.nn.Linear(v["cin"], v["cout"])

    def shape(self, v: Values) -> tuple[int, ...]:
        return (v["cin"],) if v["rows"] == 1 else (v["rows"], v["cin"])

    def called(self, op: Operation) -> dict[str, float]:
        cout = op.result.shape[-1] if op.result.ndim else 1
        rows = op.result.numel() / cout
        cin = op.macs / op.result.numel()
        if op.name == "scaled_dot_product_attention":  # without projections; its two products as one
            query, keys = op.tensors[:2]
            cin, rows = query.shape[-1], query.numel() / query.shape[-1]
            cout = op.macs / query.numel() if op.macs else 2 * keys.shape[-2]
        return dict(cin=float(cin), cout=float(cout), rows=float(rows))

    def listed(self, layers: TableLayers, at: int) -> tuple[dict[str, Column], int] | None:
        t = layers.table
        if not ((t.kind[:, at] == LayerKind.ATTENTION) | ~t.live[:, at]).all():
            return super().listed(layers, at)
        attended = t.attended()[:, at]
        products: dict[str, Any] = dict(
            cin=t.cout[:, at] // np.maximum(t.groups[:, at], 1), cout=2 * attended
        )
        return products | dict(rows=t.scores()[:, at] // np.maximum(attended, 1)), 1


class Pooling(ModuleKind):
    name = "pooling"
    inputs = ("channels", "kernel", "side", "stride", "mode")
    operations = dict.fromkeys(("max_pool2d", "_max_pool2d", "boolean_dispatch"), MAX) | {
        "avg_pool2d": AVERAGE
    }
    stand_ins = dict.fromkeys(("max_pool1d", "max_pool3d"), MAX) | dict.fromkeys(
        ("avg_pool1d", "avg_pool3d", "lp_pool2d"), AVERAGE
    )
    layer = LayerKind.POOL

    def cost(self, c: Columns) -> Work:
        padding = (c["kernel"] - 1) // 2
        out = np.floor((c["side"] + 2 * padding - c["kernel"]) / c["stride"]) + 1
        small = c["channels"] * out**2
        return Work(read=c["channels"] * c["side"] ** 2, written=small, inner=small * c["kernel"] ** 2)

    def settle(self, c: dict[str, Floats]) -> tuple[dict[str, Floats], Any]:
        c["channels"] = even(c["channels"])
        return c, (c["side"] >= c["kernel"]) & (c["stride"] <= c["kernel"])

    def network(self, v: Values, parts: Any) -> Any:
        pool = parts.nn.MaxPool2d if v["mode"] == MAX else parts.nn.AvgPool2d
        return pool(v["kernel"], v["stride"], (v["kernel"] - 1) // 2)

    def called(self, op: Operation) -> dict[str, float]:
        kernel = op.argument(1, "kernel_size", 2)
        sizes = (kernel, op.argument(2, "stride") or kernel)
        image, mode = op.tensors[0], float({**self.operations, **self.stand_ins}[op.name])
        lengths = (size[0] if isinstance(size, (list, tuple)) else size for size in sizes)
        # in one dimension or three: the square map and the kernel of as many elements
        kernel, stride = (float(max(round(length ** ((image.ndim - 2) / 2)), 1)) for length in lengths)
        size = dict(channels=float(image.shape[1]), kernel=kernel, side=side_of(image))
        return size | dict(stride=stride, mode=mode)


class GlobalPool(ModuleKind):
    """The mean over a map; `means`: as two means, the `ofa` package's way."""

    name = "global_pool"
    inputs = ("channels", "side", "means")
    operations = dict.fromkeys(("adaptive_avg_pool2d", "mean"), 0.0)
    stand_ins = dict.fromkeys(REDUCTIONS.split(), 0.0)
    layer = LayerKind.GLOBAL_POOL

    def cost(self, c: Columns) -> Work:
        return Work(read=c["channels"] * c["side"] ** 2, written=c["channels"])

    def network(self, v: Values, parts: Any) -> Any:
        return parts.global_mean(v["means"])

    def called(self, op: Operation) -> dict[str, float]:
        """A mean over a map, over what a first mean has left of its sides, or over tokens."""
        image, over = op.tensors[0], op.argument(1, "dim")
        sides = [over] if isinstance(over, int) else list(over or ())
        tokens = op.name == "mean" and image.ndim == 3 and [side % 3 for side in sides] == [1]
        channels = image.shape[2 if tokens else min(1, image.ndim - 1)]
        side = side_of(image) if image.ndim == 4 else math.sqrt(image.numel() / channels)
        return dict(channels=float(channels), side=side, means=float(op.name == "mean" and len(sides) == 1))


class Elements(ModuleKind):
    """A module that works on the elements of a map, or of rows of channels as a map of as many pixels."""

    inputs = ("channels", "side", "mode")
    on_tokens: ClassVar[int] = 0  # the mode of its `layer` in a LayerTable

    def cost(self, c: Columns) -> Work:
        size = c["channels"] * c["side"] ** 2
        return Work(read=size, written=size)

    def called(self, op: Operation) -> dict[str, float]:
        shape = op.result.shape
        if op.result.ndim == 4 and op.name != "layer_norm":
            channels, side = shape[1], math.sqrt(shape[2] * shape[3])
        else:
            channels = shape[-1] if op.result.ndim else 1
            side = math.sqrt(max(op.result.numel() / channels, 1))
        mode = {**self.stand_ins, **self.operations}.get(op.name, 0.0)
        return {"channels": float(channels), "side": side, self.inputs[-1]: float(mode)}

    def listed(self, layers: TableLayers, at: int) -> tuple[dict[str, Column], int] | None:
        if self.layer is None or not layers.are(at, type(self)):
            return None
        return self.of_outputs(layers.table, at, np.full(len(layers.table.cin), self.on_tokens)), 1

    @classmethod
    def of_outputs(cls, table: LayerTable, at: int, mode: Any) -> dict[str, Any]:
        """(n,) inputs of such a module on the outputs of the layers at `at`."""
        side = np.sqrt(table.positions()[:, at])
        return {"channels": table.cout[:, at], "side": side, cls.inputs[-1]: mode}


class ActivationFunction(Elements):
    name = "activation"
    inputs = ("channels", "side", "act")
    operations: ClassVar = {
        "relu": Activation.RELU,
        "relu6": Activation.RELU6,
        "hardtanh": Activation.RELU6,
        "clip": Activation.RELU6,
        "clamp": Activation.RELU6,
        "hardswish": Activation.HARD_SWISH,
        "silu": Activation.SILU,
        "gelu": Activation.GELU,
        "sigmoid": Activation.SIGMOID,
        "softmax": Activation.SIGMOID,  # an exponential of each element, as that one
        "hardsigmoid": Activation.HARD_SIGMOID,
    }
    stand_ins = (
        dict.fromkeys(("leaky_relu", "prelu", "threshold"), Activation.RELU)
        | dict.fromkeys(("elu", "celu", "selu", "mish", "softplus", "glu"), Activation.SILU)
        | dict.fromkeys(("tanh", "log_softmax", "exp", "erf", "logsigmoid"), Activation.SIGMOID)
    )

    def network(self, v: Values, parts: Any) -> Any:
        return parts.activation(v["act"])


class Norm(Elements):
    name = "norm"
    operations: ClassVar = {"batch_norm": BATCH, "layer_norm": LAYER}
    stand_ins = dict.fromkeys(
        ("group_norm", "instance_norm", "rms_norm", "normalize", "local_response_norm"), LAYER
    )
    layer, on_tokens = LayerKind.NORM, LAYER

    def network(self, v: Values, parts: Any) -> Any:
        return (parts.nn.LayerNorm if v["mode"] == LAYER else parts.nn.BatchNorm2d)(v["channels"])

    def shape(self, v: Values) -> tuple[int, ...]:
        return (v["side"] ** 2, v["channels"]) if v["mode"] == LAYER else super().shape(v)


class Elementwise(Elements):
    """Two maps added, or a map scaled by channel."""

    name = "elementwise"
    operations = dict.fromkeys(("add", "__add__", "__iadd__", "__radd__", "sub"), ADD) | dict.fromkeys(
        ("mul", "__mul__", "__rmul__", "div"), SCALE
    )
    layer, on_tokens = LayerKind.POSITION, ADD

    def network(self, v: Values, parts: Any) -> Any:
        if v["mode"] == SCALE:
            return parts.Function(lambda images: images * images[:, :, :1, :1])
        return parts.Add(v["channels"], v["side"])

    def called(self, op: Operation) -> dict[str, float]:
        maps = len(op.tensors) == 2 and op.tensors[0].shape == op.tensors[1].shape
        return super().called(op) | (dict(mode=float(ADD)) if maps else {})


class Movement(Elements):
    """Elements that move: a concatenation, or a shuffle of channels."""

    name = "movement"
    operations = dict.fromkeys(("cat", "concat", "stack"), CONCAT) | dict.fromkeys(
        ("flip", "fold", "pad", "permute", "repeat", "roll", "swapaxes", "transpose", "unfold"), SHUFFLE
    )
    stand_ins = dict.fromkeys(MOVES.split(), SHUFFLE)
    layer, on_tokens = LayerKind.TOKENS, CONCAT

    def settle(self, c: dict[str, Floats]) -> tuple[dict[str, Floats], Any]:
        c["channels"] = even(c["channels"], 2)
        return c, True

    def network(self, v: Values, parts: Any) -> Any:
        return parts.Function(parts.swap_halves if v["mode"] == CONCAT else parts.shuffle_channels)
