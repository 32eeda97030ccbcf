"""An elastic vision transformer, defined outside of the package: its search space and the networks behind it.

Depth, embedding width and, per block, the heads and the ratio of the hidden layer are searched, as in
AutoFormer (Chen et al., 2021, arXiv 2107.00651): all networks share the first channels, heads and blocks of
the largest. Two convolutions make the tokens (Xiao et al., 2021, arXiv 2106.14881); their mean is classified.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from supernet.arrays import Genomes
from supernet.axis import Axis, Gate
from supernet.layers import Activation, Heads, LayerBuilder, LayerKind, LayerTable
from supernet.space import SearchSpace
from supernet.spaces.mobile import finetune_axis, resolution_axis
from supernet.weights.family import WeightEntangled

RESOLUTIONS, PATCH, STEM, CLASSES = (16, 24, 32), 4, 24, 10  # a supernet has the classes of its images
DEPTHS, WIDTHS, HEADS, RATIOS = (2, 3, 4, 5), (32, 48, 64), (2, 3, 4), (1, 2, 3)
CHANNELS = 16  # of a head
Blocks = list[tuple[int, int]]  # heads and hidden channels of each


def space(name: str) -> SearchSpace:
    """Genes: resolution, depth, width, and the heads and the ratio of each block."""
    blocks = range(DEPTHS[-1])
    first_head, first_ratio = 3, 3 + len(blocks)
    return SearchSpace(
        name=name,
        axes=(
            resolution_axis(RESOLUTIONS, beyond=()),
            Axis("d", DEPTHS, "d"),
            Axis("w", WIDTHS, "w"),
            *(Axis(f"h{i}", HEADS, "h", i) for i in blocks),
            *(Axis(f"m{i}", RATIOS, "m", i) for i in blocks),
            finetune_axis(),
        ),
        # Block i is there from depth i + 1 on.
        gates=tuple(
            Gate(first + i, 1, DEPTHS.index(i + 1) + 1)
            for first in (first_head, first_ratio)
            for i in blocks[DEPTHS[0] :]
        ),
        # The cost of a block depends on its two genes and the width, that of both ends on the width.
        slots=(*((first_head + i, first_ratio + i, 2) for i in blocks), (2,)),
        make_layers=layers,
        family=ElasticVit,
    )


def layers(space: SearchSpace, genomes: Genomes) -> LayerTable:
    """The layers of (n, d) genomes, which MACs, parameters, memory and latency predictors go by."""
    width, ends = space.column(genomes, "w"), dict[str, Any](norm=0, slot=DEPTHS[-1])
    build = LayerBuilder(len(genomes), space.column(genomes, "r"))
    build.add(LayerKind.CONV, 3, STEM, kernel=3, stride=2, bias=1, act=Activation.GELU, **ends)
    build.add(LayerKind.CONV, STEM, width, kernel=3, stride=2, bias=1, **ends)
    build.position(width, slot=DEPTHS[-1])
    for i in range(DEPTHS[-1]):
        heads, hidden = space.column(genomes, f"h{i}"), width * space.column(genomes, f"m{i}")
        build.transformer(width, hidden, Heads(heads, CHANNELS), live=heads > 0, slot=i)
    build.norm(width, slot=DEPTHS[-1])
    build.add(LayerKind.GLOBAL_POOL, width, width, **ends)
    build.add(LayerKind.LINEAR, width, CLASSES, bias=1, **ends)
    return build.table()


class ElasticVit(WeightEntangled):
    """Builds the network of a genome, and sets the largest network to compute a smaller one."""

    def network(self, space: SearchSpace, genome: Genomes, classes: int) -> "Vit":
        return Vit(int(space.column(genome, "r")[0]) // PATCH, *sizes(space, genome), classes)

    def activate(self, module: "Vit", space: SearchSpace, genome: Genomes) -> None:
        module.width, module.active = sizes(space, genome)


def sizes(space: SearchSpace, genome: Genomes) -> tuple[int, Blocks]:
    """The width of a genome, and the heads and the hidden channels of its blocks."""
    value = dict(zip(space.index, space.values(genome)[0].tolist(), strict=True))
    return value["w"], [(value[f"h{i}"], value["w"] * value[f"m{i}"]) for i in range(value["d"])]


def line(layer: nn.Linear, x: Tensor, columns: int, rows: int) -> Tensor:
    """The first rows of a linear layer on the first columns."""
    if (columns, rows) == (layer.in_features, layer.out_features):
        return layer(x)
    return functional.linear(x, layer.weight[:rows, :columns], layer.bias[:rows])


def norm(layer: nn.LayerNorm, x: Tensor, width: int) -> Tensor:
    """A layer norm of the first channels."""
    if (width,) == layer.normalized_shape:
        return layer(x)
    return functional.layer_norm(x, (width,), layer.weight[:width], layer.bias[:width], layer.eps)


class Block(nn.Module):
    """Self-attention and two linear layers, each behind a norm and added to what came in."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        inner = heads * CHANNELS
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.project = nn.Linear(width, 3 * inner), nn.Linear(inner, width)
        self.expand, self.reduce = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor, width: int, heads: int, hidden: int) -> Tensor:
        inner = heads * CHANNELS
        rows = line(self.qkv, norm(self.norm1, x, width), width, 3 * inner)
        # Rows are in the order of the heads: the first rows are all that fewer heads need.
        q, k, v = rows.unflatten(2, (heads, 3, CHANNELS)).permute(3, 0, 2, 1, 4).unbind(0)
        rows = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + line(self.project, rows, inner, width)
        rows = functional.gelu(line(self.expand, norm(self.norm2, x, width), width, hidden))
        return x + line(self.reduce, rows, hidden, width)


class Vit(nn.Module):
    """A network for images of `side` patches; what it computes is said by `width` and `active` blocks."""

    def __init__(self, side: int, width: int, blocks: Blocks, classes: int) -> None:
        super().__init__()
        self.side, self.width, self.active = side, width, blocks
        self.stem, self.embed = nn.Conv2d(3, STEM, 3, 2, 1), nn.Conv2d(STEM, width, 3, 2, 1)
        self.position = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, width, side, side), std=0.02))
        self.blocks = nn.ModuleList(Block(width, *block) for block in blocks)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        width, x = self.width, self.embed(functional.gelu(self.stem(x)))
        edge = (self.side - x.shape[-1]) // 2  # smaller images have the middle of the positions
        position = self.position[..., edge : edge + x.shape[-1], edge : edge + x.shape[-1]]
        x = (x + position)[:, :width].flatten(2).transpose(1, 2)
        for block, (heads, hidden) in zip(self.blocks, self.active, strict=False):
            x = block(x, width, heads, hidden)
        x = norm(self.norm, x, width).mean(dim=1)
        return line(self.head, x, width, self.head.out_features)
