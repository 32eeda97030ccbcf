"""A family of elastic networks outside of the package: convolutions of elastic depth, width and kernel."""

import numpy as np
import torch
from torch.nn import functional

from supernet.axis import Axis, Gate
from supernet.layers import Activation, LayerBuilder, LayerKind
from supernet.space import SearchSpace
from supernet.spaces import mobile
from supernet.weights.family import WeightEntangled

BLOCKS = 3


def space(name, widths=(4, 8, 12)):
    """One to three convolutions, each with a kernel; one width for all of them."""
    kernels = [Axis(f"ks{i}", (1, 3, 5), "k", i) for i in range(BLOCKS)]
    return SearchSpace(
        name=name,
        axes=(
            mobile.resolution_axis((12, 16, 20), ()),
            Axis("d", (1, 2, 3), "d"),
            Axis("w", widths, "w"),
            *kernels,
            mobile.finetune_axis(),
        ),
        gates=(Gate(4, 1, 2), Gate(5, 1, 3)),
        slots=((3, 2), (4, 2), (5, 2)),
        make_layers=layers,
        family=Tiny,
    )


def layers(space, genomes):
    build = LayerBuilder(len(genomes), space.column(genomes, "r"))
    width, cin = space.column(genomes, "w"), 3
    for i in range(BLOCKS):
        kernel = space.column(genomes, f"ks{i}")
        live = dict(live=kernel > 0, slot=i)
        build.add(LayerKind.CONV, cin, width, kernel=kernel, stride=1 + (i == 0), act=Activation.RELU, **live)
        cin = width
    build.add(LayerKind.GLOBAL_POOL, width, width, norm=0)
    build.add(LayerKind.LINEAR, width, 10, bias=1, norm=0)
    return build.table()


class Tiny(WeightEntangled):
    def network(self, space, genome, classes):
        return Net(*sizes(space, genome), classes)

    def activate(self, module, space, genome):
        module.width, module.kernels = sizes(space, genome)


def sizes(space, genome):
    kernels = [int(space.column(genome, f"ks{i}")[0]) for i in range(BLOCKS)]
    return int(space.column(genome, "w")[0]), [kernel for kernel in kernels if kernel]


class Norm(torch.nn.BatchNorm2d):
    """Of the first channels, as many as there are."""

    def forward(self, x):
        w, training = x.shape[1], self.training
        statistics = self.running_mean[:w], self.running_var[:w], self.weight[:w], self.bias[:w]
        return functional.batch_norm(x, *statistics, training, self.momentum, self.eps)


class Net(torch.nn.Module):
    """Computes with the first `width` channels and one convolution for each of `kernels`."""

    def __init__(self, width, kernels, classes):
        super().__init__()
        self.width, self.kernels = width, kernels
        channels = [3, *[width] * len(kernels)]
        pairs = zip(channels, channels[1:], kernels, strict=False)
        self.convs = torch.nn.ModuleList(torch.nn.Conv2d(a, b, k, bias=False) for a, b, k in pairs)
        self.norms = torch.nn.ModuleList(Norm(width) for _ in kernels)
        self.head = torch.nn.Linear(width, classes)

    def forward(self, x):
        w = self.width
        for i, kernel in enumerate(self.kernels):
            conv = self.convs[i]
            edge = (conv.kernel_size[0] - kernel) // 2
            weight = conv.weight[:w, : x.shape[1], edge : edge + kernel, edge : edge + kernel]
            x = functional.conv2d(x, weight, stride=1 + (i == 0), padding=kernel // 2)
            x = self.norms[i](x).relu()
        return functional.linear(x.mean(dim=(2, 3)), self.head.weight[:, :w], self.head.bias)


def genomes(space, count, seed=0):
    return space.sample(count, np.random.default_rng(seed))
