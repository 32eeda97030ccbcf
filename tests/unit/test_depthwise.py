"""Depthwise convolutions on small maps: the same numbers as PyTorch's own."""

from contextlib import nullcontext

import pytest
import torch
from torch.nn.functional import conv2d

from supernet.training import depthwise
from supernet.training.depthwise import SmallMaps


def passes(mode, height, width, kernel, stride):
    """Output and gradients of a depthwise convolution in double precision."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((5, 6, height, width), dtype=torch.double, generator=generator, requires_grad=True)
    weight = torch.randn((6, 1, kernel, kernel), dtype=torch.double, generator=generator, requires_grad=True)
    with mode:
        y = conv2d(x, weight, None, stride, kernel // 2, 1, 6)
    gradient = torch.randn(y.shape, dtype=torch.double, generator=generator)
    return y, *torch.autograd.grad(y, (x, weight), gradient)


@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2, (1, 2)])
def test_gradients_are_those_of_pytorch(kernel, stride):
    for height in (1, 2, 3, 4, 6):
        for width in (height, height + 2):
            ours, theirs = (
                passes(mode, height, width, kernel, stride) for mode in (SmallMaps(), nullcontext())
            )
            small = height < kernel
            assert ("Depthwise" in type(ours[0].grad_fn).__name__) == small
            assert torch.equal(ours[0], theirs[0])
            for mine, reference in zip(ours[1:], theirs[1:], strict=True):
                torch.testing.assert_close(mine, reference, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("groups", "padding", "dilation"), [(2, 1, 1), (1, 1, 1), (4, 2, 1), (4, 2, 2), (4, "same", 1)]
)
def test_other_convolutions_are_left_alone(groups, padding, dilation):
    x, weight = torch.randn((2, 4, 2, 3)), torch.randn((4, 4 // groups, 3, 3), requires_grad=True)
    with SmallMaps():
        y = conv2d(x, weight, None, 1, padding, dilation, groups)
    assert torch.equal(y, conv2d(x, weight, None, 1, padding, dilation, groups))
    assert "Depthwise" not in type(y.grad_fn).__name__


def test_bias_and_the_forms_of_arguments():
    x, weight = torch.randn((2, 4, 2, 3)), torch.randn((4, 1, 3, 3), requires_grad=True)
    bias = torch.randn(4, requires_grad=True)
    for arguments in ((1, 1, 1, 4), ((1,), (1,), (1,), 4), ([1, 2], [1, 1], [1, 1], 4)):
        with SmallMaps():
            ours = conv2d(x, weight, bias, *arguments)
        theirs = conv2d(x, weight, bias, *arguments)
        assert torch.allclose(ours, theirs, atol=1e-6)
        gradients = zip(
            torch.autograd.grad(ours.square().sum(), (weight, bias)),
            torch.autograd.grad(theirs.square().sum(), (weight, bias)),
            strict=True,
        )
        assert all(torch.allclose(mine, reference, rtol=1e-4, atol=1e-4) for mine, reference in gradients)


def test_nothing_changes_without_gradients(monkeypatch):
    x, weight = torch.randn((2, 4, 2, 2)), torch.randn((4, 1, 3, 3), requires_grad=True)
    monkeypatch.setattr(depthwise.Depthwise, "apply", None)
    with SmallMaps(), torch.no_grad():
        y = conv2d(x, weight, None, 1, 1, 1, 4)
    assert torch.equal(y, conv2d(x, weight, None, 1, 1, 1, 4))
