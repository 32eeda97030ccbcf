"""The parts that `ModuleKind.network` builds the torch module of a module kind from."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from supernet.layers import Activation

ACTIVATIONS: dict[int, Callable[[], nn.Module]] = {
    Activation.NONE: nn.Identity,
    Activation.RELU: nn.ReLU,
    Activation.RELU6: nn.ReLU6,
    Activation.HARD_SWISH: nn.Hardswish,
    Activation.SILU: nn.SiLU,
    Activation.GELU: nn.GELU,
    Activation.SIGMOID: nn.Sigmoid,
    Activation.HARD_SIGMOID: nn.Hardsigmoid,
}


def activation(act: int) -> nn.Module:
    """The activation function that `supernet.layers.Activation` names."""
    return ACTIVATIONS[act]()


def convolution(
    cin: int, cout: int, kernel: int = 1, stride: int = 1, *, groups: int = 1, act: int = Activation.NONE
) -> nn.Sequential:
    """A convolution, its batch norm and its activation."""
    layers = [
        nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(cout),
    ]
    return nn.Sequential(*layers, *([activation(act)] if act else []))


class Function(nn.Module):
    """A function of one tensor as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, images: Tensor) -> Tensor:
        return self.function(images)


def global_mean(means: int) -> nn.Module:
    """The mean over a map; `means`: OFA's way, two means, which engines run one after the other."""
    if means:
        return Function(lambda images: images.mean(3, keepdim=True).mean(2, keepdim=True))
    return nn.AdaptiveAvgPool2d(1)


def swap_halves(images: Tensor) -> Tensor:
    """The second half of the channels and the first, concatenated."""
    half = images.shape[1] // 2
    return torch.cat([images[:, half:], images[:, :half]], dim=1)


def shuffle_channels(images: Tensor) -> Tensor:
    """The channels of both halves in turn."""
    n, channels, height, width = images.shape
    pairs = images.reshape(n, 2, channels // 2, height, width)
    return pairs.transpose(1, 2).reshape(n, channels, height, width)


class Add(nn.Module):
    """Another map, added."""

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.other = nn.Parameter(torch.randn(1, channels, side, side))

    def forward(self, images: Tensor) -> Tensor:
        return images + self.other


def gate(mid: int, squeeze: int, *, means: int, act: int) -> nn.Module:
    """Squeeze-and-excitation, as MobileNetV3 has it, or with SiLU as EfficientNet."""
    from torchvision.ops import SqueezeExcitation  # here, because its import takes as long as that of torch

    functions = (nn.SiLU, nn.Sigmoid) if act == Activation.SILU else (nn.ReLU, nn.Hardsigmoid)
    block: nn.Module = SqueezeExcitation(mid, squeeze, *functions)
    block.avgpool = global_mean(means)
    return block


class Sum(nn.Module):
    """A body and its shortcut added, with an activation behind."""

    def __init__(
        self, body: nn.Module, shortcut: nn.Module | None = None, act: int = Activation.NONE
    ) -> None:
        super().__init__()
        self.body, self.shortcut, self.act = body, shortcut or nn.Identity(), activation(act)

    def forward(self, images: Tensor) -> Tensor:
        return self.act(self.body(images) + self.shortcut(images))


class Attention(nn.Module):
    """Multi-head self-attention within windows of as many tokens."""

    def __init__(self, tokens: int, windows: int, *, dim: int, heads: int) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.windows, self.shape = windows, (tokens, 3, heads, dim // heads)

    def forward(self, tokens: Tensor) -> Tensor:
        parts = self.qkv(tokens).reshape(tokens.shape[0] * self.windows, *self.shape)
        attended = nn.functional.scaled_dot_product_attention(*parts.permute(2, 0, 3, 1, 4))
        return self.out(attended.transpose(1, 2).reshape(tokens.shape))
