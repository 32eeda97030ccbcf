"""The modules of a network, from running it once without numbers.

Every call of a tensor function is recorded on the meta device (shapes only, no arithmetic), then convolutions
take in the norm and activation that follow them, and runs of layers that make an inverted residual or a
bottleneck block become one module. Nothing depends on the class names of a model library.

Letters: m modules.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from latency.modules.kinds import module_kind
from latency.modules.kinds.layers import BATCH, ActivationFunction, Convolution, GlobalPool, Norm
from latency.modules.kinds.module_kind import Layer, Module, Operation

# What only changes how a tensor is looked at, makes a new one, works on a few numbers, or does nothing in
# inference.
FREE = """
    alpha_dropout chunk clone contiguous detach device dim dropout dropout_ dtype exp expand expand_as
    feature_dropout fill_ flatten float getitem identity is_cuda is_floating_point is_nested is_sparse item
    layout log masked_fill max ndim ne new_empty new_zeros normalize numel ones_like requires_grad reshape
    shape size split squeeze stochastic_depth to tolist type unbind unflatten unsqueeze view zero_ zeros_like
    T _is_view eq __eq__ __get__ __getitem__ __len__ __ne__ __set__ __setitem__
"""


def modules(network: torch.nn.Module, shape: Sequence[int]) -> list[Module]:
    """The m modules of a network in eval mode, for one image (or row) of this shape, in the order they run.

    ValueError that names an operation which no module kind covers.

    >>> modules(torchvision.models.resnet18(), (3, 224, 224))[0]
    Module(kind='dense', inputs={'cin': 3.0, 'cout': 64.0, 'kernel': 7.0, ...})
    """
    layers, traced, at = _fused(_recorded(network, shape)), [], 0
    while at < len(layers):
        matches = [(kind, match) for kind in module_kind.all_kinds() if (match := kind.traced(layers[at:]))]
        kind, (inputs, count) = max(matches, key=lambda match: match[1][1])  # a block before its first layer
        traced.append(Module(kind.name, inputs))
        at += count
    return traced


def _recorded(network: torch.nn.Module, shape: Sequence[int]) -> list[Layer]:
    layers: list[Layer] = []
    alive: list[Any] = []  # an id is only unique while its tensor lives

    class Recorder(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            name = getattr(func, "__name__", str(func)).removesuffix("_default")
            output = result[0] if name == "multi_head_attention_forward" else result
            if isinstance(output, torch.Tensor) and not isinstance(output, torch.nn.Parameter):
                alive.append(output)
                if layer := _layer(name, args, kwargs or {}, output):
                    layers.append(layer)
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
    return layers


def _layer(name: str, args: Any, kwargs: Mapping[str, Any], result: torch.Tensor) -> Layer | None:
    """The layer that a call is; None for one that is free."""
    listed = args[0] if args and isinstance(args[0], (list, tuple)) else ()  # torch.cat takes a list
    tensors = [arg for arg in (*args, *listed) if isinstance(arg, torch.Tensor)]
    operation = Operation(name, args, kwargs, tensors, result)
    for kind in module_kind.all_kinds():
        spelling = name if name in kind.operations else name.removesuffix("_")  # relu_ works in place
        if spelling in kind.operations:
            inputs = kind.called(replace(operation, name=spelling))
            if kind.covers(inputs):
                return Layer(type(kind), inputs, tuple(map(id, tensors)), id(result))
    if name in FREE.split() or not tensors:
        return None
    raise ValueError(f"no module kind covers the operation {name} of this network (see configs/module)")


def _fused(layers: Sequence[Layer]) -> list[Layer]:
    """Convolutions with the norm and activation that follow them; means of both sides as one pool."""
    fused: list[Layer] = []
    by_result: dict[int, Layer] = {}
    for layer in layers:
        before = by_result.get(layer.sources[0]) if layer.sources else None
        if before is None or not _joins(before, layer):
            before = replace(layer, inputs=dict(layer.inputs))
            fused.append(before)
        elif layer.kind is ActivationFunction:
            before.inputs["act"] = layer.inputs["act"]
        before.result = layer.result
        by_result[layer.result] = before
    return fused


def _joins(before: Layer, layer: Layer) -> bool:
    """Whether engines run a layer as part of the one before it."""
    if issubclass(before.kind, Convolution) and not before.inputs["act"]:
        norm = layer.kind is Norm and layer.inputs["mode"] == BATCH
        return norm or layer.kind is ActivationFunction
    return layer.kind is before.kind is GlobalPool  # a mean, then another
