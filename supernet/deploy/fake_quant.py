"""Fake quantisation: a network computes in float what its int8 form will, so that training can adapt to it.

Weights per channel and symmetric, with the norm that follows folded in; inputs of convolutions and linear
layers per tensor and unsigned, as ONNX Runtime's QDQ has them. Rounding passes gradients straight through
(Jacob et al., 2018, arXiv 1712.05877). Norms keep their statistics.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from supernet.deploy.int8 import CLIP, value_range

if TYPE_CHECKING:
    import torch

LARGEST = {False: 127, True: 63}  # of a weight: 8 bits, or 7 where pairs of products would overflow


@contextmanager
def fake_quantised(
    network: torch.nn.Module, ranges: dict[str, tuple[float, float]], *, narrow: bool
) -> Iterator[None]:
    """The network computes as in int8 inside the block; its parameters are the same objects throughout.

    `ranges` of inputs by layer, of `input_ranges`.
    """
    import torch

    undo: list[tuple[Any, str, torch.nn.Module]] = []
    for place, parent, name, norm in _layers(network):
        layer = parent._modules[name]
        undo.append((parent, name, layer))
        after = parent._modules[norm] if norm else None
        parent._modules[name] = _layer(layer, after, ranges[place], LARGEST[narrow])
        if norm:
            undo.append((parent, norm, parent._modules[norm]))
            parent._modules[norm] = torch.nn.Identity()
    try:
        yield
    finally:
        for parent, name, layer in undo:
            parent._modules[name] = layer


def input_ranges(network: torch.nn.Module, batches: Iterable[torch.Tensor]) -> dict[str, tuple[float, float]]:
    """`int8.value_range` of the inputs of every convolution and linear layer, mean over these batches."""
    import torch

    found: dict[str, list[tuple[float, float]]] = {}

    def watch(place: str) -> Any:
        def hook(module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            found.setdefault(place, []).append(value_range(inputs[0].numpy(), CLIP))

        return hook

    hooks = [
        parent._modules[name].register_forward_pre_hook(watch(place))
        for place, parent, name, _ in _layers(network)
    ]
    with torch.inference_mode():
        for images in batches:
            network(images)
    for hook in hooks:
        hook.remove()
    means = {place: np.mean(ranges, axis=0).tolist() for place, ranges in found.items()}
    return {place: (low, high) for place, (low, high) in means.items()}


def _layers(network: torch.nn.Module) -> list[tuple[str, Any, str, str | None]]:
    """(place, parent, name in it, name of the norm that follows) of every convolution and linear layer."""
    import torch

    found = []
    for path, parent in network.named_modules():
        children = list(parent._modules.items())
        for i, (name, child) in enumerate(children):
            if isinstance(child, torch.nn.Conv2d | torch.nn.Linear):
                norm = None
                if i + 1 < len(children) and isinstance(children[i + 1][1], torch.nn.BatchNorm2d):
                    norm = children[i + 1][0]
                found.append((f"{path}.{name}".lstrip("."), parent, name, norm))
    return found


def _layer(layer: Any, norm: Any, inputs: tuple[float, float], largest: int) -> torch.nn.Module:
    import torch
    from torch.nn import functional

    low, high = inputs
    scale = max(high - low, 1e-8) / 255
    zero = round(-low / scale)

    class FakeQuantised(torch.nn.Module):
        """A convolution or linear layer, and the norm after it, on the grid of int8."""

        def __init__(self) -> None:
            super().__init__()
            self.layer, self.norm = layer, norm

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.fake_quantize_per_tensor_affine(x, scale, zero, 0, 255)
            weight, bias = layer.weight, layer.bias
            if norm is not None:
                factor = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
                weight = weight * factor.view(-1, *[1] * (weight.ndim - 1))
                shift = -norm.running_mean if bias is None else bias - norm.running_mean
                bias = norm.bias + shift * factor
            steps = weight.detach().abs().flatten(1).amax(dim=1).clamp(min=1e-8) / largest
            zeros = torch.zeros(len(steps), dtype=torch.int32)
            weight = torch.fake_quantize_per_channel_affine(weight, steps, zeros, 0, -largest, largest)
            if isinstance(layer, torch.nn.Linear):
                return functional.linear(x, weight, bias)
            return functional.conv2d(
                x, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups
            )

    return FakeQuantised()
