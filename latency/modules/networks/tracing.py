"""The modules of a network, from running it once without numbers.

Every call of a tensor function is recorded on the meta device (shapes only, no arithmetic), then convolutions
take in the norm and activation that follow them, and runs of layers that make an inverted residual or a
bottleneck block become one module. Nothing depends on the class names of a model library.

No operation is silently free: one that no module kind was measured for is a module that takes about as long
(`stand_ins` of the kinds; else a linear layer of as many multiply-accumulates, or a movement of as many
elements), and says what it stands for. What does not depend on the image is free where it multiplies nothing:
masks, biases of positions.

Letters: m modules.
"""

import os
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from latency.modules.kinds import module_kind
from latency.modules.kinds.layers import (
    BATCH,
    SHUFFLE,
    ActivationFunction,
    Convolution,
    GlobalPool,
    Linear,
    Movement,
    Norm,
)
from latency.modules.kinds.module_kind import Layer, Module, ModuleKind, Operation
from supernet.weights import running

# What only changes how a tensor is looked at, makes a new one, works on a few numbers, or does nothing in
# inference.
FREE = """
    alpha_dropout bfloat16 bool broadcast_to chunk clone contiguous detach device dim dropout dropout1d
    dropout2d dropout3d double dropout_ dtype empty_like expand expand_as feature_dropout fill_ flatten
    float full_like getitem half identity int long is_complex is_contiguous is_cuda is_floating_point
    is_nested is_sparse item layout log masked_fill max movedim narrow ndim ne new_empty new_ones
    new_zeros numel ones_like requires_grad requires_grad_ reshape reshape_as select shape size split
    squeeze stochastic_depth stride swapdims t to tolist type type_as unbind unflatten unsqueeze view
    view_as zero_ zeros_like H T mH mT _is_view eq __bool__ __eq__ __format__ __get__ __getitem__ __len__
    __ne__ __set__ __setitem__
"""


def modules(network: torch.nn.Module, shape: Sequence[int]) -> list[Module]:
    """The m modules of a network in eval mode, for one image (or row) of this shape, in the order they run.

    ValueError that names the operation and the line where a network cannot run without numbers.

    >>> modules(torchvision.models.resnet18(), (3, 224, 224))[0]
    Module(kind='dense', inputs={'cin': 3.0, 'cout': 64.0, 'kernel': 7.0, ...})
    """
    return combined(_recorded(network, shape))


def combined(recorded: Sequence[Layer]) -> list[Module]:
    """The m modules of the layers of a network."""
    layers, traced, at = _fused(recorded), [], 0
    while at < len(layers):
        matches = [(kind, match) for kind in module_kind.all_kinds() if (match := kind.traced(layers[at:]))]
        kind, (inputs, count) = max(matches, key=lambda match: match[1][1])  # a block before its first layer
        stands_for = next((each.stands_for for each in layers[at : at + count] if each.stands_for), "")
        traced.append(Module(kind.name, inputs, layers[at].name, stands_for))
        at += count
    return traced


def _recorded(network: torch.nn.Module, shape: Sequence[int]) -> list[Layer]:
    image = torch.empty((1, *shape), device="meta")
    recorder = Recorder(image)
    with torch.no_grad(), running.naming(network, recorder.names), sdpa_kernel(SDPBackend.MATH):
        try:
            with recorder.counter, recorder:
                running.run_without_numbers(network, image)
        except Exception as error:  # whatever code of the network raises
            line = recorder.failed_at or own_line(traceback.extract_tb(error.__traceback__), running.__file__)
            layer = f"layer {recorder.names[-1]}" if recorder.names[-1] else ""
            places = ", ".join(filter(None, (recorder.failed, layer, line)))
            said = ": ".join(filter(None, (places, type(error).__name__, str(error))))
            size = "x".join(map(str, shape))
            raise ValueError(f"this network cannot be traced on an input of {size}: {said}") from error
    return recorder.layers


class Recorder(TorchFunctionMode):
    """Keeps the layers that depend on an image, of all calls of tensor functions while it is on.

    `names` is the stack of the modules that are running, `failed` the operation that could not be run, and
    `failed_at` the line that called it.
    """

    def __init__(self, image: torch.Tensor) -> None:
        super().__init__()
        self.layers: list[Layer] = []
        self.names: list[str] = [""]
        self.failed = self.failed_at = ""
        self.counter = _Counter()  # type: ignore[no-untyped-call]
        self._alive: list[Any] = [image]  # an id is only unique while its tensor lives
        self._of_image = {id(image)}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before, name = self.counter.macs, getattr(func, "__name__", str(func)).removesuffix("_default")
        try:
            result = func(*args, **(kwargs or {}))
        except Exception:
            self.failed = f"operation {name}"
            self.failed_at = own_line(traceback.extract_stack(), running.__file__)
            raise
        self.record(name, args, kwargs or {}, result, self.counter.macs - before)
        return result

    def record(self, name: str, args: Any, kwargs: Mapping[str, Any], result: Any, macs: float) -> None:
        """Keep what a call did, if it multiplied or worked on what depends on the image."""
        tensors = [leaf for leaf in tree_leaves((args, dict(kwargs))) if isinstance(leaf, torch.Tensor)]
        if not macs and not any(id(tensor) in self._of_image for tensor in tensors):
            return
        changed = tensors[:1] if result is None else []  # __setitem__
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self._alive += outputs
        self._of_image |= {id(tensor) for tensor in (*outputs, *changed)}
        if outputs and (layer := _layer(Operation(name, args, kwargs, tensors, outputs[0], macs))):
            layer.name = self.names[-1]
            self.layers.append(layer)


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts multiply-accumulates, as PyTorch's own counter of floating-point operations does."""

    macs = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if count := flop_registry.get(func.overloadpacket):
            self.macs += count(*args, **(kwargs or {}), out_val=result) / 2
        return result


def own_line(frames: traceback.StackSummary, caller: str) -> str:
    """Where a network's own code was: the last line after those of the file that called it, outside of
    PyTorch and of this file; nothing where there is none."""
    after = [frame.filename == caller for frame in frames][::-1].index(True)
    ours = (f"{Path(torch.__file__).parent}{os.sep}", "<frozen ", __file__)
    own = [f for f in list(frames)[len(frames) - after :] if not f.filename.startswith(ours)]
    return f"line {own[-1].lineno} of {own[-1].filename} ({own[-1].line})" if own else ""


def _layer(operation: Operation) -> Layer | None:
    """The layer that a call is; None for one that is free."""
    for kind in module_kind.all_kinds():
        if name := _spelling(operation.name, kind.operations):
            inputs = kind.called(replace(operation, name=name))
            if kind.covers(inputs):
                return _of(operation, type(kind), inputs)
    if operation.name in FREE.split() and not operation.macs:
        return None
    for kind in module_kind.all_kinds():
        if name := _spelling(operation.name, kind.stand_ins):
            inputs = kind.called(replace(operation, name=name))
            if kind.covers(inputs):
                return _of(operation, type(kind), inputs, operation.name)
    if operation.macs:
        return _of(operation, Linear, module_kind.named(Linear.name).called(operation), operation.name)
    moved = module_kind.named(Movement.name).called(operation) | {Movement.inputs[-1]: float(SHUFFLE)}
    return _of(operation, Movement, moved, operation.name)


def _spelling(name: str, names: Mapping[str, float]) -> str | None:
    """The name, or without its end if it works in place (relu_), where it is there."""
    return next((each for each in (name, name.removesuffix("_")) if each in names), None)


def _of(
    operation: Operation, kind: type[ModuleKind], inputs: dict[str, float], stands_for: str = ""
) -> Layer:
    sources = tuple(map(id, operation.tensors))
    return Layer(kind, inputs, sources, id(operation.result), stands_for=stands_for)


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
        before.result, before.stands_for = layer.result, before.stands_for or layer.stands_for
        by_result[layer.result] = before
    return fused


def _joins(before: Layer, layer: Layer) -> bool:
    """Whether engines run a layer as part of the one before it."""
    if issubclass(before.kind, Convolution) and not before.inputs["act"]:
        norm = layer.kind is Norm and layer.inputs["mode"] == BATCH
        return norm or layer.kind is ActivationFunction
    return layer.kind is before.kind is GlobalPool  # a mean, then another
