"""The modules of a network: what `predictors/modules.py` sums over, found by running it once without numbers.

Every call of a tensor function is recorded on the meta device (shapes only, no arithmetic), then convolutions
take in the norm and activation that follow them, and runs of layers that make an inverted residual or a
bottleneck block become one module. Nothing depends on the class names of a model library.

Letters: m modules, p inputs of a type.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from latency.modules.kinds import ADD, AVERAGE, BATCH, CONCAT, LAYER, MAX, SCALE, SHUFFLE
from supernet.layers import Activation

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Module:
    """A module of a network: its type, an entry of `configs/module`, and its inputs by name."""

    type: str
    inputs: Mapping[str, float]


@dataclass
class _Call:
    """A layer as it was called: shapes without batch, `source` and `result` tell what feeds what."""

    kind: str
    inputs: dict[str, float]
    sources: tuple[int, ...]
    result: int


# What only changes how a tensor is looked at, makes a new one, works on a few numbers, or does nothing in
# inference.
FREE = """
    alpha_dropout chunk clone contiguous detach device dim dropout dropout_ dtype exp expand expand_as
    feature_dropout fill_ flatten float getitem identity is_cuda is_floating_point is_nested is_sparse item
    layout log masked_fill max ndim ne new_empty new_zeros normalize numel ones_like requires_grad reshape
    shape size split squeeze stochastic_depth to tolist type unbind unflatten unsqueeze view zero_ zeros_like
    T _is_view eq __eq__ __get__ __getitem__ __len__ __ne__ __set__ __setitem__
"""
MOVES = "cat concat flip fold pad permute repeat roll stack swapaxes transpose unfold"
ACTIVATIONS = {
    "relu": Activation.RELU,
    "relu_": Activation.RELU,
    "relu6": Activation.RELU6,
    "hardtanh": Activation.RELU6,
    "hardtanh_": Activation.RELU6,
    "hardswish": Activation.HARD_SWISH,
    "hardswish_": Activation.HARD_SWISH,
    "silu": Activation.SILU,
    "silu_": Activation.SILU,
    "gelu": Activation.GELU,
    "sigmoid": Activation.SIGMOID,
    "sigmoid_": Activation.SIGMOID,
    "hardsigmoid": Activation.HARD_SIGMOID,
    "hardsigmoid_": Activation.HARD_SIGMOID,
    "softmax": Activation.SIGMOID,  # an exponential of each element, as that one
    "clip": Activation.RELU6,
    "clamp": Activation.RELU6,
}
ELEMENTWISE = {"add": ADD, "add_": ADD, "__add__": ADD, "__iadd__": ADD, "mul": SCALE, "mul_": SCALE}
ELEMENTWISE |= {"__mul__": SCALE, "__rmul__": SCALE, "__radd__": ADD, "sub": ADD, "div": SCALE}


def modules(network: torch.nn.Module, shape: Sequence[int]) -> list[Module]:
    """The m modules of a network in eval mode, for one image (or row) of this shape, in the order they run.

    ValueError that names an operation which no module type covers.
    """
    return _blocks(_fused(_calls(network, shape)))


# ---------------------------------------------------------------------- what is called
def _calls(network: torch.nn.Module, shape: Sequence[int]) -> list[_Call]:
    import torch
    from torch.overrides import TorchFunctionMode

    found: list[_Call] = []
    alive: list[Any] = []  # an id is only unique while its tensor lives

    class Recorder(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            name = getattr(func, "__name__", str(func)).removesuffix("_default")
            if isinstance(result, torch.Tensor) and not isinstance(result, torch.nn.Parameter):
                alive.append(result)
                call = _call(name, args, kwargs or {}, result)
                if call is not None:
                    found.append(call)
            elif name == "multi_head_attention_forward":
                alive.append(result)
                found.append(_attention(args, result[0]))
            return result

    state = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    bare = {name: torch.empty_like(tensor, device="meta") for name, tensor in state.items()}
    was_training = network.training
    with torch.no_grad():
        image = torch.empty((1, *shape), device="meta")
        try:
            network.eval()
            with Recorder():
                torch.func.functional_call(network, bare, (image,))
        finally:
            network.train(was_training)
    return found


def _side(tensor: Any) -> float:
    """Side of the square of the same area as a map; of rows, as many as they are."""
    if tensor.ndim == 4:
        return math.sqrt(tensor.shape[2] * tensor.shape[3])
    return 1.0


def _call(name: str, args: Any, kwargs: Mapping[str, Any], result: Any) -> _Call | None:
    import torch

    tensors = [arg for arg in args if isinstance(arg, torch.Tensor)]
    for arg in args[:1]:
        if isinstance(arg, (list, tuple)):  # torch.cat takes a list
            tensors += [each for each in arg if isinstance(each, torch.Tensor)]
    sources = tuple(id(each) for each in tensors)
    make = _Maker(name, args, kwargs, tensors, result, sources)
    if name in ("conv2d", "convolution"):
        return make.convolution()
    if name == "linear":
        return make.linear()
    if name in ("matmul", "__matmul__", "bmm", "einsum"):
        return make.product()
    if name in ("max_pool2d", "_max_pool2d", "avg_pool2d", "boolean_dispatch"):
        return make.pooling(MAX if "max" in name or name == "boolean_dispatch" else AVERAGE)
    if name in ("adaptive_avg_pool2d", "mean"):
        return make.global_pool()
    if name in ACTIVATIONS:
        return make.of("activation", act=float(ACTIVATIONS[name]))
    if name in ("batch_norm", "layer_norm"):
        return make.of("norm", mode=float(BATCH if name == "batch_norm" else LAYER))
    if name in ELEMENTWISE:
        mode = ELEMENTWISE[name]
        if len(tensors) == 2 and mode == SCALE and tensors[0].shape == tensors[1].shape:
            mode = ADD
        return make.of("elementwise", mode=float(mode))
    if name in MOVES.split():
        return make.of("movement", mode=float(CONCAT if name in ("cat", "concat", "stack") else SHUFFLE))
    if name == "scaled_dot_product_attention":
        return make.attention_core()
    if name in FREE.split() or not tensors:
        return None
    raise ValueError(f"no module type covers the operation {name} of this network (see latency/tracing.py)")


@dataclass
class _Maker:
    name: str
    args: Any
    kwargs: Mapping[str, Any]
    tensors: list[Any]
    result: Any
    sources: tuple[int, ...]

    def of(self, kind: str, **more: float) -> _Call:
        """A module that works on elements: a map, or rows of channels as a map of as many pixels."""
        shape = self.result.shape
        if self.result.ndim == 4 and self.name != "layer_norm":
            size = dict(channels=float(shape[1]), side=math.sqrt(shape[2] * shape[3]))
        else:
            size = dict(channels=float(shape[-1]), side=math.sqrt(max(self.result.numel() / shape[-1], 1)))
        return _Call(kind, size | more, self.sources, id(self.result))

    def convolution(self) -> _Call:
        image, weight = self.tensors[:2]
        cout, each, kernel = weight.shape[0], weight.shape[1], math.sqrt(weight.shape[2] * weight.shape[3])
        cin, out = image.shape[1], self.result.shape
        groups = cin // each
        stride = max(round(image.shape[2] / out[2]), 1) if weight.shape[2] > 1 else image.shape[2] // out[2]
        inputs = dict(
            cin=float(cin), cout=float(cout), kernel=kernel, side=_side(image), stride=float(stride)
        )
        inputs |= dict(groups=float(groups), act=0.0)
        return _Call("convolution", inputs, self.sources[:1], id(self.result))

    def linear(self) -> _Call:
        weight = self.tensors[1]
        rows = self.result.numel() / weight.shape[0]
        inputs = dict(cin=float(weight.shape[1]), cout=float(weight.shape[0]), rows=rows)
        return _Call("linear", inputs, self.sources[:1], id(self.result))

    def product(self) -> _Call:
        """A product of two activations, as a linear module of as many multiply-accumulates."""
        shared, columns = self.tensors[0].shape[-1], self.result.shape[-1]
        inputs = dict(cin=float(shared), cout=float(columns), rows=self.result.numel() / columns)
        return _Call("linear", inputs, self.sources, id(self.result))

    def pooling(self, mode: int) -> _Call:
        kernel = self.kwargs.get("kernel_size", self.args[1] if len(self.args) > 1 else 2)
        stride = self.kwargs.get("stride", self.args[2] if len(self.args) > 2 else None) or kernel
        first = [value[0] if isinstance(value, (list, tuple)) else value for value in (kernel, stride)]
        image = self.tensors[0]
        inputs = dict(channels=float(image.shape[1]), kernel=float(first[0]), side=_side(image))
        inputs |= dict(stride=float(first[1]), mode=float(mode))
        return _Call("pooling", inputs, self.sources, id(self.result))

    def global_pool(self) -> _Call:
        """A mean over a map, or over what a first mean has left of its sides."""
        image, over = self.tensors[0], self.kwargs.get("dim", self.args[1] if len(self.args) > 1 else None)
        side = _side(image) if image.ndim == 4 else math.sqrt(image.numel() / image.shape[1])
        one_side = self.name == "mean" and (isinstance(over, int) or (over is not None and len(over) == 1))
        size = dict(channels=float(image.shape[1]), side=side, means=float(one_side))
        return _Call("global_pool", size, self.sources, id(self.result))

    def attention_core(self) -> _Call:
        """Attention without its projections, which are linear modules of their own: two products in one."""
        queries, keys = self.tensors[:2]
        rows, width = queries.numel() / queries.shape[-1], queries.shape[-1]
        inputs = dict(cin=float(width), cout=2.0 * keys.shape[-2], rows=float(rows))
        return _Call("linear", inputs, self.sources, id(self.result))


def _attention(args: Any, result: Any) -> _Call:
    """torch.nn.MultiheadAttention: (tokens, 1, dim)."""
    tokens, images, dim = args[0].shape
    inputs = dict(tokens=float(tokens), windows=float(images), dim=float(dim), heads=float(args[4]))
    return _Call("attention", inputs, (id(args[0]),), id(result))


# ---------------------------------------------------------------------- what engines run as one
def _fused(calls: list[_Call]) -> list[_Call]:
    """Convolutions with the norm and activation that follow them; means of both sides as one pool."""
    found: list[_Call] = []
    by_result: dict[int, _Call] = {}
    for call in calls:
        before = by_result.get(call.sources[0]) if call.sources else None
        if before is not None and before.kind == "convolution" and not before.inputs["act"]:
            if call.kind == "norm" and call.inputs["mode"] == BATCH:
                _extend(before, call, by_result)
                continue
            if call.kind == "activation":
                before.inputs["act"] = call.inputs["act"]
                _extend(before, call, by_result)
                continue
        if before is not None and call.kind == before.kind == "global_pool":  # a mean, then another
            _extend(before, call, by_result)
            continue
        found.append(replace(call, inputs=dict(call.inputs)))
        by_result[call.result] = found[-1]
    return found


def _extend(before: _Call, call: _Call, by_result: dict[int, _Call]) -> None:
    before.result = call.result
    by_result[call.result] = before


def _blocks(calls: list[_Call]) -> list[Module]:
    found: list[Module] = []
    at = 0
    while at < len(calls):
        for match in (_inverted, _bottleneck):
            taken = match(calls[at:])
            if taken is not None:
                module, count = taken
                break
        else:
            module, count = _single(calls[at]), 1
        found.append(module)
        at += count
    return found


def _is(call: _Call | None, kind: str) -> bool:
    """Whether a call is a convolution of this kind, or a call of this kind."""
    if call is None:
        return False
    if call.kind != "convolution":
        return call.kind == kind
    c = call.inputs
    if c["groups"] > 1:
        return kind == ("depthwise" if c["groups"] == c["cin"] == c["cout"] else "grouped")
    return kind == ("pointwise" if c["kernel"] == 1 else "dense")


def _at(calls: Sequence[_Call], place: int) -> _Call | None:
    return calls[place] if place < len(calls) else None


def _inverted(calls: list[_Call]) -> tuple[Module, int] | None:
    """Pointwise, depthwise, perhaps a gate, pointwise without activation, perhaps a sum."""
    if len(calls) < 3 or not (_is(calls[0], "pointwise") and _is(calls[1], "depthwise")):
        return None
    expand, deep = calls[0].inputs, calls[1].inputs
    if not expand["act"] or expand["stride"] > 1 or calls[1].sources[0] != calls[0].result:
        return None
    place, gate = 2, _gate(calls[2:])
    if gate is not None:
        place += gate[1]
    project = _at(calls, place)
    if not _is(project, "pointwise"):
        return None
    assert project is not None
    if project.inputs["act"] or project.inputs["stride"] > 1:
        return None
    place += 1
    total = _at(calls, place)
    skip = total is not None and total.kind == "elementwise" and total.inputs["mode"] == ADD
    skip = skip and total is not None and project.result in total.sources
    inputs = dict(cin=expand["cin"], mid=expand["cout"], cout=project.inputs["cout"], kernel=deep["kernel"])
    inputs |= dict(side=expand["side"], stride=deep["stride"], skip=float(skip), act=expand["act"])
    if gate is not None:
        inputs |= gate[0]
    return Module("mbconv_se" if gate else "mbconv", inputs), place + skip


def _gate(calls: list[_Call]) -> tuple[dict[str, float], int] | None:
    """Pool, two convolutions to one pixel, a product."""
    kinds = ("global_pool", "pointwise", "pointwise", "elementwise")
    if len(calls) < 4 or not all(_is(call, kind) for call, kind in zip(calls, kinds, strict=False)):
        return None
    if calls[3].inputs["mode"] != SCALE:
        return None
    return dict(squeeze=calls[1].inputs["cout"], means=calls[0].inputs["means"]), 4


def _bottleneck(calls: list[_Call]) -> tuple[Module, int] | None:
    """Pointwise, 3 x 3, pointwise, a sum and an activation, the shortcut before or behind."""
    for before in _shortcuts(calls):
        body = calls[len(before) :]
        if len(body) < 5 or not all(
            _is(call, kind) for call, kind in zip(body, ("pointwise", "dense", "pointwise"), strict=False)
        ):
            continue
        rest = body[3:]
        after = [] if before else max(_shortcuts(rest), key=len)
        ends = rest[len(after) :][:2]
        if [call.kind for call in ends] != ["elementwise", "activation"]:
            continue
        first, middle, last = (call.inputs for call in body[:3])
        joined = body[2].result in ends[0].sources
        if not joined or first["stride"] > 1 or last["stride"] > 1 or middle["kernel"] != 3:
            continue
        side = before or after
        kind = 0.0 if not side else (2.0 if len(side) == 2 else 1.0)
        inputs = dict(cin=first["cin"], mid=first["cout"], cout=last["cout"], side=first["side"])
        inputs |= dict(stride=middle["stride"], shortcut=kind)
        return Module("bottleneck", inputs), len(before) + 3 + len(after) + 2
    return None


def _shortcuts(calls: list[_Call]) -> list[list[_Call]]:
    """The ways a shortcut may begin here: none, a convolution, an average and a convolution."""
    found: list[list[_Call]] = [[]]
    if len(calls) > 0 and _is(calls[0], "pointwise") and not calls[0].inputs["act"]:
        found.append(calls[:1])
    if len(calls) > 1 and _is(calls[0], "pooling") and _is(calls[1], "pointwise"):
        found.append(calls[:2])
    return found


INPUTS: Mapping[str, Callable[[Mapping[str, float]], dict[str, float]]] = {
    "pointwise": lambda c: {name: c[name] for name in ("cin", "cout", "side", "stride", "act")},
    "depthwise": lambda c: {"channels": c["cin"]} | {n: c[n] for n in ("kernel", "side", "stride", "act")},
    "grouped": lambda c: {
        name: c[name] for name in ("cin", "cout", "groups", "kernel", "side", "stride", "act")
    },
    "dense": lambda c: {name: c[name] for name in ("cin", "cout", "kernel", "side", "stride", "act")},
}


def _single(call: _Call) -> Module:
    if call.kind != "convolution":
        return Module(call.kind, call.inputs)
    kind = next(name for name in INPUTS if _is(call, name))
    return Module(kind, INPUTS[kind](call.inputs))
