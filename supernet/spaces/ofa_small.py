"""A small OFA-MobileNetV3 for images of 16-64 px (ours): three stages of 1-3 blocks, about 3 M MACs at 32 px.

The network behind it is `weights.small_mobilenet`; the design is that of OFA-MobileNetV3 (Cai et al., 2020)
with fewer and narrower stages.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from supernet.arrays import Genomes
from supernet.layers import Activation, Kind, LayerBuilder, LayerTable, make_divisible
from supernet.space import Axis, Gate, SearchSpace
from supernet.spaces import mobile

STEM = 16  # channels of the stem and of the first block, which is always there
WIDTHS = (24, 40, 64)  # per stage
STRIDES = (2, 2, 2)
SQUEEZE = (False, True, True)
ACTS = (Activation.RELU, Activation.HARD_SWISH, Activation.HARD_SWISH)
EXPAND, MIX = 384, 512  # channels of the last convolution and of the features
STAGES, BLOCKS = len(WIDTHS), 3
KERNELS = (3, 5)
EXPANDS = (2, 3, 4)
DEPTHS = (1, 2, 3)
RESOLUTIONS = tuple(range(16, 65, 4))


def space(name: str, classes: int) -> SearchSpace:
    """Kernels 3/5, expansions 2/3/4, depths 1-3, r 16..64 step 4.

    `classes` is that of the layer table. A supernet has as many as its images: each class more or less adds
    512 MACs and 513 parameters to all subnets alike.
    """

    def layers(space: SearchSpace, genomes: Genomes) -> LayerTable:
        build = LayerBuilder(len(genomes), space.column(genomes, "r"))
        build.add(Kind.CONV, 3, STEM, kernel=3, stride=2, act=Activation.HARD_SWISH)
        held = STEM * build.size**2
        build.add(Kind.CONV, STEM, STEM, kernel=3, groups=STEM, held=held, act=Activation.RELU)
        build.add(Kind.CONV, STEM, STEM, held=held)
        cin = STEM
        for i in range(STAGES * BLOCKS):
            stage, block = divmod(i, BLOCKS)
            kernel, expand = space.column(genomes, f"ks{i}"), space.column(genomes, f"e{i}")
            mobile.inverted_residual(
                build,
                cin,
                WIDTHS[stage],
                kernel=kernel,
                middle=make_divisible(cin * expand.astype(np.float64)),
                stride=STRIDES[stage] if block == 0 else 1,
                squeeze=SQUEEZE[stage],
                act=ACTS[stage],
                live=kernel > 0,
                slot=i,
            )
            cin = WIDTHS[stage]
        build.add(Kind.CONV, cin, EXPAND, act=Activation.HARD_SWISH)
        build.add(Kind.GLOBAL_POOL, EXPAND, EXPAND, norm=0)
        build.add(Kind.CONV, EXPAND, MIX, norm=0, act=Activation.HARD_SWISH)
        build.add(Kind.LINEAR, MIX, classes, bias=1, norm=0)
        return build.table()

    stages = [i // BLOCKS for i in range(STAGES * BLOCKS)]
    depth = [Axis(f"d{s}", DEPTHS, "d", s) for s in range(STAGES)]
    kernel = [Axis(f"ks{i}", KERNELS, "k", stage) for i, stage in enumerate(stages)]
    expand = [Axis(f"e{i}", EXPANDS, "e", stage) for i, stage in enumerate(stages)]
    slots = tuple((1 + STAGES + i, 1 + STAGES + len(stages) + i) for i in range(len(stages)))
    return SearchSpace(
        name=name,
        axes=(mobile.resolution_axis(RESOLUTIONS), *depth, *kernel, *expand, mobile.finetune_axis()),
        # Block b of a stage exists from depth b + 1 on, which is level b + 1.
        gates=tuple(
            Gate(gene, 1 + stages[i], i % BLOCKS + 1)
            for i, genes in enumerate(slots)
            for gene in genes
            if i % BLOCKS > 0
        ),
        slots=slots,
        make_layers=layers,
        make_settings=_settings,
    )


def _settings(space: SearchSpace, genomes: Genomes) -> list[dict[str, Any]]:
    """As of the larger mobile spaces: absent blocks get the smallest values, which the package ignores."""
    values = space.values(genomes)
    kernel_genes, expand_genes = (list(genes) for genes in zip(*space.slots, strict=True))
    kernels = np.maximum(values[:, kernel_genes], KERNELS[0])
    expands = np.maximum(values[:, expand_genes], EXPANDS[0])
    return [
        {"r": [int(r)], "d": d.tolist(), "ks": k.tolist(), "e": e.tolist()}
        for r, d, k, e in zip(values[:, 0], values[:, 1 : 1 + STAGES], kernels, expands, strict=True)
    ]
