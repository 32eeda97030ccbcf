"""Fake quantisation: a network computes in float what its int8 form will, so that training can adapt to it.

Weights are rounded per channel and symmetrically, with the norm that follows folded in; inputs of
convolutions and linear layers per tensor and unsigned, as ONNX Runtime's QDQ has them. Rounding passes
gradients straight through (Jacob et al., 2018, arXiv 1712.05877). Norms keep their statistics.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from supernet.deploy.int8 import CLIP, value_range

LARGEST = {False: 127, True: 63}  # of a weight: 8 bits, or 7 where pairs of products would overflow


@contextmanager
def fake_quantised(
    network: torch.nn.Module, ranges: dict[str, tuple[float, float]], *, narrow: bool
) -> Iterator[None]:
    """The network computes as in int8 inside the block; its parameters are the same objects throughout.

    `ranges` of the layers' inputs are those of `input_ranges`.
    """
    replaced: list[tuple[Any, str, torch.nn.Module]] = []
    for place, parent, name, norm in _layers(network):
        layer, after = parent._modules[name], parent._modules[norm] if norm else None
        replaced.append((parent, name, layer))
        parent._modules[name] = FakeQuantised(layer, after, ranges[place], LARGEST[narrow])
        if norm:
            replaced.append((parent, norm, parent._modules[norm]))
            parent._modules[norm] = torch.nn.Identity()
    try:
        yield
    finally:
        for parent, name, module in replaced:
            parent._modules[name] = module


def input_ranges(network: torch.nn.Module, batches: Iterable[torch.Tensor]) -> dict[str, tuple[float, float]]:
    """`int8.value_range` of the inputs of every convolution and linear layer, mean over these batches."""
    device = next(network.parameters()).device
    per_batch: dict[str, list[tuple[float, float]]] = defaultdict(list)

    def watch(place: str) -> Any:
        return lambda _, inputs: per_batch[place].append(value_range(inputs[0].cpu().numpy(), CLIP))

    hooks = [
        parent._modules[name].register_forward_pre_hook(watch(place))
        for place, parent, name, _ in _layers(network)
    ]
    with torch.inference_mode():
        for images in batches:
            network(images.to(device))
    for hook in hooks:
        hook.remove()
    if unseen := [place for place, *_ in _layers(network) if place not in per_batch]:
        raise ValueError(
            f"Int8Aware cannot follow {unseen[0]}: the network uses its weights without calling the layer; "
            "quantise with Int8, or call convolutions and linear layers as modules in networks on their own"
        )
    return {place: tuple(np.mean(ranges, axis=0).tolist()) for place, ranges in per_batch.items()}


def _layers(network: torch.nn.Module) -> Iterator[tuple[str, Any, str, str | None]]:
    """(place, parent, name in it, name of the norm that follows) of every convolution and linear layer."""
    for path, parent in list(network.named_modules()):
        children = list(parent._modules.items())
        for (name, child), (following, after) in pairwise([*children, ("", None)]):
            if isinstance(child, torch.nn.Conv2d | torch.nn.Linear):
                norm = following if isinstance(after, torch.nn.BatchNorm2d) else None
                yield f"{path}.{name}".lstrip("."), parent, name, norm


class FakeQuantised(torch.nn.Module):
    """A convolution or linear layer, and the norm after it, on the grid of int8."""

    def __init__(self, layer: Any, norm: Any, inputs: tuple[float, float], largest: int) -> None:
        super().__init__()
        low, high = inputs
        self.layer, self.norm, self.largest = layer, norm, largest
        self.scale = max(high - low, 1e-8) / 255
        self.zero = round(-low / self.scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The layer's output, (n, c) or (n, c, h, w), from rounded inputs and weights."""
        layer, norm = self.layer, self.norm
        x = torch.fake_quantize_per_tensor_affine(x, self.scale, self.zero, 0, 255)
        weight, bias = layer.weight, layer.bias
        if norm is not None:
            factor = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
            weight = weight * factor.view(-1, *[1] * (weight.ndim - 1))
            shift = -norm.running_mean if bias is None else bias - norm.running_mean
            bias = norm.bias + shift * factor
        steps = weight.detach().abs().flatten(1).amax(dim=1).clamp(min=1e-8) / self.largest
        zeros = torch.zeros_like(steps, dtype=torch.int32)
        grid = (0, -self.largest, self.largest)
        weight = torch.fake_quantize_per_channel_affine(weight, steps, zeros, *grid)
        if isinstance(layer, torch.nn.Linear):
            return functional.linear(x, weight, bias)
        return functional.conv2d(x, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)
