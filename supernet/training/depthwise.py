"""Depthwise convolutions that train faster on a CPU: the gradient of their weights on maps smaller than the
kernel.

There oneDNN has no fast kernel (torch 2.14, AVX2). The last stages of small supernets are such maps, and half
of a training step went there (`python -m benchmarks.supernet depthwise`).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import conv2d
from torch.overrides import TorchFunctionMode

Pair = tuple[int, int]
DEFAULTS = (None, None, None, 1, 0, 1, 1)  # of conv2d: x, weight, bias, stride, padding, dilation, groups


class SmallMaps(TorchFunctionMode):
    """Within `with SmallMaps():`, depthwise convolutions on a CPU whose map is smaller than their kernel sum
    the gradient of their weights up shift by shift. Outputs are the same, gradients up to rounding."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is conv2d and not kwargs and _pays(complete := (*args, *DEFAULTS[len(args) :])):
            x, weight, bias, stride = complete[:4]
            output = Depthwise.apply(x, weight, _pair(stride))
            return output if bias is None else output + bias.view(1, -1, 1, 1)
        return func(*args, **(kwargs or {}))


def _pair(value: int | Sequence[int]) -> Pair:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


def _pays(arguments: tuple[Any, ...]) -> bool:
    """Whether conv2d with all its seven positional arguments is such a convolution, in training on a CPU."""
    x, weight, _, _, padding, dilation, groups = arguments
    kernel = weight.shape[-1]
    return (
        x.ndim == 4
        and groups == x.shape[1] == weight.shape[0]
        and min(x.shape[2:]) < kernel == weight.shape[-2]
        and x.device.type == "cpu"
        and not isinstance(padding, str)
        and _pair(padding) == (kernel // 2, kernel // 2)
        and _pair(dilation) == (1, 1)
        and torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
    )


class Depthwise(torch.autograd.Function):
    """A depthwise convolution with padding kernel // 2 and without bias; see `weight_gradient`."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, stride: Pair) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return conv2d(x, weight, None, stride, weight.shape[-1] // 2, 1, x.shape[1])

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None]:
        x, weight = ctx.saved_tensors
        of_x = of_weight = None
        if ctx.needs_input_grad[0]:
            half = weight.shape[-1] // 2
            of_x = torch.ops.aten.convolution_backward(
                gradient, x, weight, None, ctx.stride, (half, half), (1, 1), False, (0, 0), x.shape[1],
                (True, False, False),
            )[0]  # fmt: skip
        if ctx.needs_input_grad[1]:
            of_weight = weight_gradient(x, gradient, weight.shape[-1], ctx.stride)
        return of_x, of_weight, None


def weight_gradient(x: torch.Tensor, gradient: torch.Tensor, kernel: int, stride: Pair) -> torch.Tensor:
    """(c, 1, kernel, kernel) gradient of the weights of a depthwise convolution with padding kernel // 2,
    from its input (n, c, h, w) and the gradient of its output: a sum of products per place in the kernel."""
    pixels, of_output = x.permute(0, 2, 3, 1), gradient.permute(0, 2, 3, 1)
    channels = x.shape[1]
    total = x.new_zeros((channels, 1, kernel, kernel))
    rows, columns = (
        [_overlap(k - kernel // 2, step, side, out) for k in range(kernel)]
        for step, side, out in zip(stride, x.shape[2:], gradient.shape[2:], strict=True)
    )
    for i, (top, top_out) in enumerate(rows):
        for j, (left, left_out) in enumerate(columns):
            product = pixels[:, top, left] * of_output[:, top_out, left_out]
            total[:, 0, i, j] = product.reshape(-1, channels).sum(0)
    return total


def _overlap(shift: int, stride: int, side: int, out: int) -> tuple[slice, slice]:
    """The pixels of a line that a place in the kernel sees, and the outputs that they go to."""
    first = max(0, -(shift // stride))
    last = max(first, min(out, (side - 1 - shift) // stride + 1))
    return slice(first * stride + shift, max(0, (last - 1) * stride + shift + 1), stride), slice(first, last)
