"""Module kinds of several layers: inverted residuals, bottlenecks, attention.

Letters: n modules.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from latency.modules.kinds.layers import (
    ADD,
    SCALE,
    ActivationFunction,
    Dense,
    Depthwise,
    Elementwise,
    GlobalPool,
    Pointwise,
    Pooling,
)
from latency.modules.kinds.module_kind import (
    Columns,
    Layer,
    ModuleKind,
    Operation,
    TableLayers,
    Values,
    Work,
    even,
    outputs,
)
from supernet.arrays import Floats
from supernet.layers import Activation, Column

IDENTITY, CONVOLVED, POOLED = 0, 1, 2  # shortcuts of a bottleneck: none, torchvision's, and OFA's with a pool


def _begin_with(layers: Sequence[Layer], *kinds: type[ModuleKind]) -> bool:
    return [layer.kind for layer in layers[: len(kinds)]] == list(kinds)


def _areas(c: Columns) -> tuple[Any, Any]:
    """Pixels before and after the stride."""
    return c["side"] ** 2, outputs(c)


def _settle_ends(c: dict[str, Floats], same: Any) -> None:
    """Channels that exist; as many out as in, and no stride, where the input is added to the output."""
    c |= {name: even(c[name]) for name in ("cin", "mid", "cout")}
    c["cout"], c["stride"] = np.where(same, c["cin"], c["cout"]), np.where(same, 1, c["stride"])


def _block_fits(c: dict[str, Floats]) -> Any:
    ratio = c["cout"] / c["cin"]
    return (ratio >= 0.25) & (ratio <= 8) & (c["side"] >= c["stride"])


class MbConv(ModuleKind):
    """Inverted residual block (MobileNetV2): pointwise, depthwise, pointwise without activation, a sum."""

    name = "mbconv"
    inputs: ClassVar[tuple[str, ...]] = ("cin", "mid", "cout", "kernel", "side", "stride", "skip", "act")
    gate: ClassVar[tuple[type[ModuleKind], ...]] = ()  # its layers in a network

    def cost(self, c: Columns) -> Work:
        area, small = _areas(c)
        squeeze = c.get("squeeze", np.zeros(len(area)))
        weights = c["cin"] * c["mid"] + c["mid"] * c["cout"] + c["kernel"] ** 2 * c["mid"]
        gate = 2 * c["mid"] * squeeze
        macs = (
            c["cin"] * c["mid"] * area + (c["kernel"] ** 2 * c["mid"] + c["mid"] * c["cout"]) * small + gate
        )
        inner = c["mid"] * (area + small) + np.where(squeeze > 0, 2 * c["mid"] * small, 0)
        return Work(macs, weights + gate, c["cin"] * area, c["cout"] * small, inner)

    def settle(self, c: dict[str, Floats]) -> tuple[dict[str, Floats], Any]:
        sensible = c["mid"] >= even(c["cin"])
        _settle_ends(c, same=c["skip"] > 0)
        sensible &= c["mid"] <= 8 * c["cin"]
        if "squeeze" in c:
            c["squeeze"] = even(c["squeeze"])
            sensible &= c["squeeze"] <= c["mid"] / 2
        return c, sensible & _block_fits(c)

    def network(self, v: Values, parts: Any) -> Any:
        mid, act = v["mid"], v["act"]
        body = parts.nn.Sequential(
            parts.convolution(v["cin"], mid, act=act),
            parts.convolution(mid, mid, v["kernel"], v["stride"], groups=mid, act=act),
            *([parts.gate(mid, v["squeeze"], means=v["means"], act=act)] if self.gate else []),
            parts.convolution(mid, v["cout"]),
        )
        return parts.Sum(body) if v["skip"] else body

    def traced(self, layers: Sequence[Layer]) -> tuple[dict[str, float], int] | None:
        pattern: list[type[ModuleKind]] = [Pointwise, Depthwise, *self.gate, Pointwise]
        if not _begin_with(layers, *pattern):
            return None
        expand, deep, *gate, project = layers[: len(pattern)]
        first, last = expand.inputs, project.inputs
        if not first["act"] or first["stride"] != 1 or deep.sources[0] != expand.result:
            return None
        if last["act"] or last["stride"] != 1 or (gate and gate[-1].inputs["mode"] != SCALE):
            return None
        after = layers[len(pattern) : len(pattern) + 1]
        skip = _begin_with(after, Elementwise) and after[0].inputs["mode"] == ADD
        skip = skip and {project.result, expand.sources[0]} <= set(after[0].sources)
        inputs = dict(cin=first["cin"], mid=first["cout"], cout=last["cout"], kernel=deep.inputs["kernel"])
        inputs |= dict(side=first["side"], stride=deep.inputs["stride"], skip=float(skip), act=first["act"])
        if gate:
            inputs |= dict(squeeze=gate[1].inputs["cout"], means=gate[0].inputs["means"])
        return inputs, len(pattern) + skip

    def listed(self, layers: TableLayers, at: int) -> tuple[dict[str, Column], int] | None:
        squeezes = [at + 2, at + 3] if self.gate else []  # a table has the two convolutions of a gate
        pattern = (Pointwise, Depthwise, *[Pointwise for _ in squeezes], Pointwise)
        t, last = layers.table, at + len(pattern) - 1
        if not layers.are(at, *pattern) or (t.act[:, at] == Activation.NONE).any():
            return None
        gates = ((t.bias > 0) & (t.size == 1)) | ~t.live
        if not gates[:, squeezes].all():
            return None
        inputs = layers.inputs(at, ("cin", "side", "act")) | layers.inputs(at + 1, ("kernel", "stride"))
        inputs |= dict(mid=t.cout[:, at], cout=t.cout[:, last], skip=(t.held[:, last] > 0).astype(np.int32))
        if squeezes:
            inputs |= dict(squeeze=t.cout[:, at + 2]) | layers.inputs(at, ("means",))
        return inputs, len(pattern)


class MbConvSe(MbConv):
    """The same with squeeze-and-excitation (MobileNetV3, EfficientNet); `means`: its pool as two means."""

    name = "mbconv_se"
    inputs = ("cin", "mid", "cout", "squeeze", "kernel", "side", "stride", "skip", "means", "act")
    gate = (GlobalPool, Pointwise, Pointwise, Elementwise)


class Bottleneck(ModuleKind):
    """Bottleneck block (ResNet): pointwise, 3 x 3, pointwise, a sum with the shortcut, an activation."""

    name = "bottleneck"
    inputs = ("cin", "mid", "cout", "side", "stride", "shortcut")

    def cost(self, c: Columns) -> Work:
        area, small = _areas(c)
        branch = np.where(c["shortcut"] > 0, c["cin"] * c["cout"], 0)
        weights = c["cin"] * c["mid"] + 9 * c["mid"] ** 2 + c["mid"] * c["cout"] + branch
        macs = c["cin"] * c["mid"] * area + (9 * c["mid"] ** 2 + c["mid"] * c["cout"] + branch) * small
        inner = c["mid"] * (area + small) + c["cout"] * small
        return Work(macs, weights, c["cin"] * area, c["cout"] * small, inner)

    def settle(self, c: dict[str, Floats]) -> tuple[dict[str, Floats], Any]:
        sensible = c["mid"] <= even(c["cout"])
        _settle_ends(c, same=c["shortcut"] == IDENTITY)
        return c, sensible & (8 * c["mid"] >= c["cout"]) & _block_fits(c)

    def network(self, v: Values, parts: Any) -> Any:
        cin, mid, cout, stride, relu = v["cin"], v["mid"], v["cout"], v["stride"], Activation.RELU
        body = parts.nn.Sequential(
            parts.convolution(cin, mid, act=relu),
            parts.convolution(mid, mid, 3, stride, act=relu),
            parts.convolution(mid, cout),
        )
        if v["shortcut"] == IDENTITY:
            return parts.Sum(body, act=relu)
        if v["shortcut"] == CONVOLVED:
            return parts.Sum(body, parts.convolution(cin, cout, 1, stride), act=relu)
        pool = parts.nn.AvgPool2d(stride, stride, ceil_mode=True)
        return parts.Sum(body, parts.nn.Sequential(pool, parts.convolution(cin, cout)), act=relu)

    def traced(self, layers: Sequence[Layer]) -> tuple[dict[str, float], int] | None:
        """The layers of the shortcut may come before or behind those of the body."""
        for before in _shortcuts(layers):
            body = layers[before:]
            after = 0 if before else max(_shortcuts(body[3:]))
            sums = body[3 + after :]
            if not _begin_with(body, Pointwise, Dense, Pointwise):
                continue
            if not _begin_with(sums, Elementwise, ActivationFunction):
                continue
            first, middle, last = (layer.inputs for layer in body[:3])
            other = (layers[:before] or body[3 : 3 + after] or body[:1])[0].sources[0]
            joined = body[2].result in sums[0].sources and other == body[0].sources[0]
            if not joined or first["stride"] != 1 or last["stride"] != 1 or middle["kernel"] != 3:
                continue
            inputs = dict(cin=first["cin"], mid=first["cout"], cout=last["cout"], side=first["side"])
            inputs |= dict(stride=middle["stride"], shortcut=float(before or after))
            return inputs, before + 3 + after + 2
        return None

    def listed(self, layers: TableLayers, at: int) -> tuple[dict[str, Column], int] | None:
        if not layers.are(at, Pointwise, Dense, Pointwise):
            return None
        pooled = layers.are(at + 2, Pointwise, Pooling, Pointwise)
        t = layers.table
        shortcut = np.full(len(t.cin), POOLED if pooled else IDENTITY, np.int32)
        inputs = layers.inputs(at, ("cin", "side")) | layers.inputs(at + 1, ("stride",))
        inputs |= dict(mid=t.cout[:, at], cout=t.cout[:, at + 2], shortcut=shortcut)
        return inputs, 5 if pooled else 3


def _shortcuts(layers: Sequence[Layer]) -> list[int]:
    """The numbers of layers that a shortcut may have here, which are its names too: IDENTITY, ..."""
    lengths = [IDENTITY]
    if _begin_with(layers, Pointwise) and not layers[0].inputs["act"]:
        lengths.append(CONVOLVED)
    if _begin_with(layers, Pooling, Pointwise):
        lengths.append(POOLED)
    return lengths


class Attention(ModuleKind):
    """Multi-head self-attention with its projections, in windows."""

    name = "attention"
    inputs = ("tokens", "windows", "dim", "heads")
    operations: ClassVar = {"multi_head_attention_forward": 0.0}

    def cost(self, c: Columns) -> Work:
        pairs = c["windows"] * c["tokens"] ** 2
        size, weights = c["windows"] * c["tokens"] * c["dim"], 4 * c["dim"] ** 2
        macs = weights * c["windows"] * c["tokens"] + 2 * pairs * c["dim"]
        return Work(macs, weights, size, size, 3 * size + 2 * pairs * c["heads"])

    def settle(self, c: dict[str, Floats]) -> tuple[dict[str, Floats], Any]:
        c["dim"] = np.maximum(np.round(c["dim"] / c["heads"] / 8), 1) * 8 * c["heads"]
        return c, c["windows"] * c["tokens"] <= 4096

    def network(self, v: Values, parts: Any) -> Any:
        return parts.Attention(v["tokens"], v["windows"], dim=v["dim"], heads=v["heads"])

    def shape(self, v: Values) -> tuple[int, ...]:
        return v["windows"] * v["tokens"], v["dim"]

    def called(self, op: Operation) -> dict[str, float]:
        """torch.nn.MultiheadAttention, on (tokens, 1, dim)."""
        tokens, images, dim = op.args[0].shape
        return dict(tokens=float(tokens), windows=float(images), dim=float(dim), heads=float(op.args[4]))
