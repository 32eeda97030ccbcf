"""Module types: the parts that networks are made of, each with its inputs, their ranges and how to build one.

S2 (arXiv 2312.06440) predicts a network from its modules. A convolution here has its batch norm and its
activation with it, as every engine runs them; inverted residuals and bottlenecks are one module each, because
inside a block engines fuse and keep layouts that they give up at its ends.

Letters: n modules, p inputs of a module type.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass as plain_dataclass
from dataclasses import field
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from supernet import registry
from supernet.arrays import Floats
from supernet.layers import Activation, make_divisible
from supernet.registry import unknown_name

if TYPE_CHECKING:
    import torch

Columns = Mapping[str, Floats]  # (n,) values by input
MAX_MACS = 4e8  # of one run, the batch included: some 20 ms on a core
MAX_ELEMENTS = 6e6  # of the input or output of one run: beyond the caches of every core
NONE, RELU, SILU = (int(act) for act in (Activation.NONE, Activation.RELU, Activation.SILU))
MAX, AVERAGE = 0, 1  # modes of pooling
BATCH, LAYER = 0, 1  # of norms
ADD, SCALE = 0, 1  # of elementwise
CONCAT, SHUFFLE = 0, 1  # of movement


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Span:
    """Range of an input, drawn evenly on a logarithmic scale."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high:
            raise ValueError(f"a range needs 0 < low <= high, got {self.low:g} to {self.high:g}")

    def at(self, share: Floats) -> Floats:
        """Whole values at these shares in [0, 1) of the range."""
        return np.round(self.low * (self.high / self.low) ** share)


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Choice:
    """An input with few values; `categorical` ones have no order."""

    values: tuple[float, ...]
    categorical: bool = False

    def at(self, share: Floats) -> Floats:
        """The values at these shares in [0, 1)."""
        return np.array(self.values)[(share * len(self.values)).astype(int)]


@plain_dataclass(frozen=True)
class Work:
    """What one image costs in a module, on paper: (n,) each."""

    macs: Floats
    params: Floats
    read: Floats  # elements of the input
    written: Floats  # elements of the output
    inner: Floats  # elements written and read again within


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ModuleType:
    """One entry of `configs/module`: the kind of module and the ranges its inputs are drawn from.

    `kind` is one of KINDS. Every input that the kind has needs a range or a choice; ranges are what the
    predictor of the type is fitted on, so a network outside of them is extrapolated.
    """

    kind: str
    ranges: Mapping[str, Span]
    choices: Mapping[str, Choice] = field(default_factory=dict)
    points: int = 400

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise unknown_name("kind of module", self.kind, KINDS)
        given, needed = {*self.ranges, *self.choices}, set(KINDS[self.kind].inputs)
        if given != needed:
            raise ValueError(
                f"module {self.kind} has the inputs {', '.join(KINDS[self.kind].inputs)}; "
                f"missing {sorted(needed - given)}, unknown {sorted(given - needed)}"
            )

    @property
    def inputs(self) -> tuple[str, ...]:
        return KINDS[self.kind].inputs

    @property
    def categories(self) -> Mapping[str, tuple[float, ...]]:
        """The values of the inputs that have no order."""
        return {name: choice.values for name, choice in self.choices.items() if choice.categorical}

    def draw(self, n: int, batches: tuple[int, ...], seed: int) -> tuple[Floats, Floats]:
        """(n, p) inputs and (n,) batches, space-filling: scrambled Sobol points, evenly on logarithmic
        scales, without those that are too large to time or that no network would have.

        ValueError when the ranges leave fewer than one point in a hundred.
        """
        from scipy.stats import qmc

        sobol = qmc.Sobol(len(self.inputs) + 1, rng=np.random.default_rng(seed))
        found, batch_found = np.empty((0, len(self.inputs))), np.empty(0)
        drawn = 0
        while len(found) < n:
            if drawn > 100 * n + 8192:
                raise ValueError(f"the ranges of module {self.kind} leave {len(found)} of {drawn} points")
            share = np.minimum(sobol.random(1024), 1 - 1e-9)
            drawn += len(share)
            columns = {
                name: (self.ranges.get(name) or self.choices[name]).at(share[:, j])
                for j, name in enumerate(self.inputs)
            }
            batch = np.array(batches, float)[(share[:, -1] * len(batches)).astype(int)]
            columns, sensible = KINDS[self.kind].settle(columns)
            work = KINDS[self.kind].work(columns)
            held = np.maximum(np.maximum(work.read, work.written), work.inner)
            sensible = sensible & (work.macs * batch <= MAX_MACS) & (held * batch <= MAX_ELEMENTS)
            rows = np.stack([columns[name] for name in self.inputs], axis=1)
            found = np.concatenate([found, rows[sensible]])
            batch_found = np.concatenate([batch_found, batch[sensible]])
        return found[:n], batch_found[:n]

    def columns(self, rows: Floats) -> dict[str, Floats]:
        """(n,) values by input of (n, p) rows."""
        return {name: rows[:, j] for j, name in enumerate(self.inputs)}

    def work(self, rows: Floats) -> Work:
        """What (n, p) modules cost on paper."""
        return KINDS[self.kind].work(self.columns(rows))

    def build(self, row: Floats, batch: int) -> tuple[torch.nn.Module, torch.Tensor]:
        """The module of one (p,) row in eval mode with random weights, and an input of `batch` images."""
        import torch

        noise = torch.Generator().manual_seed(0)
        values = {name: round(float(value)) for name, value in zip(self.inputs, row, strict=True)}
        module, shape = KINDS[self.kind].build(values)
        return module.eval(), torch.randn((batch, *shape), generator=noise)


@plain_dataclass(frozen=True)
class KindOfModule:
    """`build` gives a module and the shape of its input without batch; `settle` rounds inputs to what exists
    and says which rows are sensible."""

    inputs: tuple[str, ...]
    work: Callable[[Columns], Work]
    build: Callable[[dict[str, int]], tuple[Any, tuple[int, ...]]]
    settle: Callable[[dict[str, Floats]], tuple[dict[str, Floats], Any]]


def of(name: str) -> ModuleType:
    """The module type `configs/module/<name>.yaml`."""
    found: ModuleType = registry.build(registry.load("module", name))
    return found


# ---------------------------------------------------------------------- what modules cost on paper
def _out(side: Floats, stride: Floats) -> Floats:
    return np.ceil(side / stride)


def _convolution(c: Columns) -> Work:
    channels = c.get("channels")
    cin, cout = (c["cin"], c["cout"]) if channels is None else (channels, channels)
    groups = c.get("groups", np.ones(len(cin)) if channels is None else channels)
    kernel = c.get("kernel", np.ones(len(cin)))
    weights = cin / groups * cout * kernel**2
    area = _out(c["side"], c["stride"]) ** 2
    return Work(weights * area, weights + 2 * cout, cin * c["side"] ** 2, cout * area, np.zeros(len(cin)))


def _inverted(c: Columns) -> Work:
    area, small = c["side"] ** 2, _out(c["side"], c["stride"]) ** 2
    squeeze = c.get("squeeze", np.zeros(len(area)))
    weights = c["cin"] * c["mid"] + c["mid"] * c["cout"] + c["kernel"] ** 2 * c["mid"]
    gate = 2 * c["mid"] * squeeze
    macs = c["cin"] * c["mid"] * area + (c["kernel"] ** 2 * c["mid"] + c["mid"] * c["cout"]) * small + gate
    inner = c["mid"] * (area + small) + np.where(squeeze > 0, 2 * c["mid"] * small, 0)
    return Work(macs, weights + gate, c["cin"] * area, c["cout"] * small, inner)


def _bottleneck(c: Columns) -> Work:
    area, small = c["side"] ** 2, _out(c["side"], c["stride"]) ** 2
    branch = np.where(c["shortcut"] > 0, c["cin"] * c["cout"], 0)
    weights = c["cin"] * c["mid"] + 9 * c["mid"] ** 2 + c["mid"] * c["cout"] + branch
    macs = c["cin"] * c["mid"] * area + (9 * c["mid"] ** 2 + c["mid"] * c["cout"] + branch) * small
    inner = c["mid"] * (area + small) + c["cout"] * small
    return Work(macs, weights, c["cin"] * area, c["cout"] * small, inner)


def _linear(c: Columns) -> Work:
    weights, zero = c["cin"] * c["cout"], np.zeros(len(c["cin"]))
    return Work(weights * c["rows"], weights, c["cin"] * c["rows"], c["cout"] * c["rows"], zero)


def _pooling(c: Columns) -> Work:
    padding = (c["kernel"] - 1) // 2
    out = np.floor((c["side"] + 2 * padding - c["kernel"]) / c["stride"]) + 1
    zero, small = np.zeros(len(out)), c["channels"] * out**2
    return Work(zero, zero, c["channels"] * c["side"] ** 2, small, small * c["kernel"] ** 2)


def _global_pool(c: Columns) -> Work:
    zero = np.zeros(len(c["side"]))
    return Work(zero, zero, c["channels"] * c["side"] ** 2, c["channels"], zero)


def _elements(c: Columns) -> Work:
    zero, all_of_them = np.zeros(len(c["side"])), c["channels"] * c["side"] ** 2
    return Work(zero, zero, all_of_them, all_of_them, zero)


def _attention(c: Columns) -> Work:
    pairs = c["windows"] * c["tokens"] ** 2
    zero, size = np.zeros(len(pairs)), c["windows"] * c["tokens"] * c["dim"]
    weights = 4 * c["dim"] ** 2
    macs = weights * c["windows"] * c["tokens"] + 2 * pairs * c["dim"]
    return Work(macs, weights + zero, size, size, 3 * size + 2 * pairs * c["heads"])


# ---------------------------------------------------------------------- what exists
def _even(values: Floats, divisor: int = 8) -> Floats:
    return make_divisible(values, divisor).astype(float)


def _channels(values: Floats) -> Floats:
    """Mostly multiples of 8, as networks have them; one in six even only, which some kernels mind."""
    whole = np.round(values)
    return np.where(whole % 6 == 0, np.maximum(2 * np.round(whole / 2), 8), _even(whole))


def _settle_convolution(c: dict[str, Floats]) -> tuple[dict[str, Floats], Any]:
    first = c["cin"] < 6 if "cin" in c else np.zeros(len(c["side"]), bool)
    if "groups" in c:  # 4 to a multiple of 8 channels a group; half of them as many out as in
        same = np.round(c["cin"] + c["cout"]) % 2 == 0
        c["groups"] = np.maximum(np.round(np.minimum(c["groups"], c["cin"] / 4)), 2)
        each, out = c["cin"] / c["groups"], c["cout"] / c["groups"]
        each, out = (np.where(v < 6, 4, np.maximum(8 * np.round(v / 8), 8)) for v in (each, out))
        c["cin"], c["cout"] = each * c["groups"], np.where(same, each, out) * c["groups"]
    else:
        for name in ("cin", "cout", "channels"):
            if name in c:
                c[name] = _channels(c[name])
        if "cin" in c:
            c["cin"] = np.where(first, 3, c["cin"])  # an image
    kernel = c.get("kernel", np.ones(len(c["side"])))
    # An image is only ever read by a first convolution, at a large side.
    return c, (~first | (c["side"] >= 32)) & (c["side"] >= kernel) & (c["side"] >= c["stride"])


def _settle_block(c: dict[str, Floats]) -> tuple[dict[str, Floats], Any]:
    c["cin"], c["cout"] = _even(c["cin"]), _even(c["cout"])
    sensible = c["mid"] >= c["cin"] if "kernel" in c else c["mid"] <= c["cout"]
    c["mid"] = _even(c["mid"])
    if "skip" in c:
        c["cout"] = np.where(c["skip"] > 0, c["cin"], c["cout"])
        c["stride"] = np.where(c["skip"] > 0, 1, c["stride"])
        sensible = sensible & (c["mid"] <= 8 * c["cin"])
    if "shortcut" in c:
        c["cout"] = np.where(c["shortcut"] == 0, c["cin"], c["cout"])
        c["stride"] = np.where(c["shortcut"] == 0, 1, c["stride"])
        sensible = sensible & (8 * c["mid"] >= c["cout"])
    if "squeeze" in c:
        c["squeeze"] = _even(c["squeeze"])
        sensible = sensible & (c["squeeze"] <= c["mid"] / 2)
    ratio = c["cout"] / c["cin"]
    return c, sensible & (ratio >= 0.25) & (ratio <= 8) & (c["side"] >= c["stride"])


def _settle_free(c: dict[str, Floats]) -> tuple[dict[str, Floats], Any]:
    return c, np.ones(len(next(iter(c.values()))), bool)


def _settle_even(c: dict[str, Floats]) -> tuple[dict[str, Floats], Any]:
    c["channels"] = _even(c["channels"], 2)
    return _settle_free(c)


def _settle_pooling(c: dict[str, Floats]) -> tuple[dict[str, Floats], Any]:
    c["channels"] = _even(c["channels"])
    return c, (c["side"] >= c["kernel"]) & (c["stride"] <= c["kernel"])


def _settle_attention(c: dict[str, Floats]) -> tuple[dict[str, Floats], Any]:
    c["dim"] = np.maximum(np.round(c["dim"] / c["heads"] / 8), 1) * 8 * c["heads"]
    return c, c["windows"] * c["tokens"] <= 4096


# ---------------------------------------------------------------------- networks of one module
def _act(kind: int) -> list[Any]:
    from torch import nn

    made = {
        Activation.RELU: nn.ReLU,
        Activation.RELU6: nn.ReLU6,
        Activation.HARD_SWISH: nn.Hardswish,
        Activation.SILU: nn.SiLU,
        Activation.GELU: nn.GELU,
        Activation.SIGMOID: nn.Sigmoid,
        Activation.HARD_SIGMOID: nn.Hardsigmoid,
    }
    return [] if kind == NONE else [made[Activation(kind)]()]


def _conv(cin: int, cout: int, kernel: int, stride: int, groups: int, act: int) -> Any:
    from torch import nn

    convolution = nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(cout), *_act(act))


def _build_convolution(v: dict[str, int]) -> tuple[Any, tuple[int, ...]]:
    cin, cout = v.get("cin", v.get("channels", 0)), v.get("cout", v.get("channels", 0))
    groups = v.get("groups", v.get("channels", 1))
    module = _conv(cin, cout, v.get("kernel", 1), v["stride"], groups, v["act"])
    return module, (cin, v["side"], v["side"])


def _build_inverted(v: dict[str, int]) -> tuple[Any, tuple[int, ...]]:
    from torch import nn

    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pool = nn.AdaptiveAvgPool2d(1)
            act = _act(SILU if v["act"] == SILU else RELU)
            end = nn.Sigmoid() if v["act"] == SILU else nn.Hardsigmoid()
            squeeze, mid = v["squeeze"], v["mid"]
            self.fc = nn.Sequential(nn.Conv2d(mid, squeeze, 1), *act, nn.Conv2d(squeeze, mid, 1), end)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            if v["means"]:  # OFA's way: two means, which engines run one after the other
                return images * self.fc(images.mean(3, keepdim=True).mean(2, keepdim=True))
            return images * self.fc(self.pool(images))

    class Inverted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(
                _conv(v["cin"], v["mid"], 1, 1, 1, v["act"]),
                _conv(v["mid"], v["mid"], v["kernel"], v["stride"], v["mid"], v["act"]),
                *([Gate()] if v.get("squeeze") else []),
                _conv(v["mid"], v["cout"], 1, 1, 1, NONE),
            )

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images + self.body(images) if v["skip"] else self.body(images)

    return Inverted(), (v["cin"], v["side"], v["side"])


def _build_bottleneck(v: dict[str, int]) -> tuple[Any, tuple[int, ...]]:
    from torch import nn

    class Bottleneck(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(
                _conv(v["cin"], v["mid"], 1, 1, 1, RELU),
                _conv(v["mid"], v["mid"], 3, v["stride"], 1, RELU),
                _conv(v["mid"], v["cout"], 1, 1, 1, NONE),
            )
            if v["shortcut"] == 1:  # torchvision's: a strided convolution
                self.side = _conv(v["cin"], v["cout"], 1, v["stride"], 1, NONE)
            elif v["shortcut"]:  # OFA's: an average, then a convolution
                pool = nn.AvgPool2d(v["stride"], v["stride"], ceil_mode=True)
                self.side = nn.Sequential(pool, _conv(v["cin"], v["cout"], 1, 1, 1, NONE))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            shortcut = self.side(images) if v["shortcut"] else images
            return nn.functional.relu(self.body(images) + shortcut)

    return Bottleneck(), (v["cin"], v["side"], v["side"])


def _build_linear(v: dict[str, int]) -> tuple[Any, tuple[int, ...]]:
    from torch import nn

    shape = (v["cin"],) if v["rows"] == 1 else (v["rows"], v["cin"])
    return nn.Linear(v["cin"], v["cout"]), shape


def _build_pooling(v: dict[str, int]) -> tuple[Any, tuple[int, ...]]:
    from torch import nn

    kind = nn.MaxPool2d if v["mode"] == MAX else nn.AvgPool2d
    padding = (v["kernel"] - 1) // 2
    return kind(v["kernel"], v["stride"], padding), (v["channels"], v["side"], v["side"])


def _build_global_pool(v: dict[str, int]) -> tuple[Any, tuple[int, ...]]:
    from torch import nn

    class Means(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.mean(3, keepdim=True).mean(2, keepdim=True)

    pool = Means() if v["means"] else nn.AdaptiveAvgPool2d(1)
    return pool, (v["channels"], v["side"], v["side"])


def _build_activation(v: dict[str, int]) -> tuple[Any, tuple[int, ...]]:
    return _act(v["act"])[0], (v["channels"], v["side"], v["side"])


def _build_norm(v: dict[str, int]) -> tuple[Any, tuple[int, ...]]:
    from torch import nn

    if v["mode"] == LAYER:
        return nn.LayerNorm(v["channels"]), (v["side"] ** 2, v["channels"])
    return nn.BatchNorm2d(v["channels"]), (v["channels"], v["side"], v["side"])


def _build_elementwise(v: dict[str, int]) -> tuple[Any, tuple[int, ...]]:
    import torch
    from torch import nn

    class Scale(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images * images[:, :, :1, :1]

    class Add(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.other = nn.Parameter(torch.randn(1, v["channels"], v["side"], v["side"]))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images + self.other

    return Scale() if v["mode"] == SCALE else Add(), (v["channels"], v["side"], v["side"])


def _build_movement(v: dict[str, int]) -> tuple[Any, tuple[int, ...]]:
    import torch
    from torch import nn

    half = v["channels"] // 2

    class Movement(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            if v["mode"] == CONCAT:
                return torch.cat([images[:, half:], images[:, :half]], dim=1)
            n, c, h, w = images.shape
            return images.reshape(n, 2, half, h, w).transpose(1, 2).reshape(n, c, h, w)

    return Movement(), (v["channels"], v["side"], v["side"])


def _build_attention(v: dict[str, int]) -> tuple[Any, tuple[int, ...]]:
    from torch import nn

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.out = nn.Linear(v["dim"], 3 * v["dim"]), nn.Linear(v["dim"], v["dim"])

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            n = tokens.shape[0] * v["windows"]
            parts = self.qkv(tokens).reshape(n, v["tokens"], 3, v["heads"], v["dim"] // v["heads"])
            q, k, values = parts.permute(2, 0, 3, 1, 4)
            found = nn.functional.scaled_dot_product_attention(q, k, values)
            return self.out(found.transpose(1, 2).reshape(tokens.shape))

    return Attention(), (v["windows"] * v["tokens"], v["dim"])


KINDS: Mapping[str, KindOfModule] = {
    "pointwise": KindOfModule(
        ("cin", "cout", "side", "stride", "act"), _convolution, _build_convolution, _settle_convolution
    ),
    "depthwise": KindOfModule(
        ("channels", "kernel", "side", "stride", "act"), _convolution, _build_convolution, _settle_convolution
    ),
    "grouped": KindOfModule(
        ("cin", "cout", "groups", "kernel", "side", "stride", "act"),
        _convolution,
        _build_convolution,
        _settle_convolution,
    ),
    "dense": KindOfModule(
        ("cin", "cout", "kernel", "side", "stride", "act"),
        _convolution,
        _build_convolution,
        _settle_convolution,
    ),
    "mbconv": KindOfModule(
        ("cin", "mid", "cout", "kernel", "side", "stride", "skip", "act"),
        _inverted,
        _build_inverted,
        _settle_block,
    ),
    "mbconv_se": KindOfModule(
        ("cin", "mid", "cout", "squeeze", "kernel", "side", "stride", "skip", "means", "act"),
        _inverted,
        _build_inverted,
        _settle_block,
    ),
    "bottleneck": KindOfModule(
        ("cin", "mid", "cout", "side", "stride", "shortcut"), _bottleneck, _build_bottleneck, _settle_block
    ),
    "linear": KindOfModule(("cin", "cout", "rows"), _linear, _build_linear, _settle_free),
    "pooling": KindOfModule(
        ("channels", "kernel", "side", "stride", "mode"), _pooling, _build_pooling, _settle_pooling
    ),
    "global_pool": KindOfModule(
        ("channels", "side", "means"), _global_pool, _build_global_pool, _settle_free
    ),
    "activation": KindOfModule(("channels", "side", "act"), _elements, _build_activation, _settle_free),
    "norm": KindOfModule(("channels", "side", "mode"), _elements, _build_norm, _settle_free),
    "elementwise": KindOfModule(("channels", "side", "mode"), _elements, _build_elementwise, _settle_free),
    "movement": KindOfModule(("channels", "side", "mode"), _elements, _build_movement, _settle_even),
    "attention": KindOfModule(
        ("tokens", "windows", "dim", "heads"), _attention, _build_attention, _settle_attention
    ),
}
