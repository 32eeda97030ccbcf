"""FBNet (Wu et al., 2019, arXiv 1812.03443) in the CIFAR-100 form of HW-NAS-Bench.

A latency benchmark here.
"""

from typing import Any

import numpy as np

from supernet.arrays import Genomes
from supernet.axis import Axis
from supernet.layers import LayerBuilder, LayerKind, LayerTable
from supernet.options import FileName, PositiveInt, checked
from supernet.space import SearchSpace

# operation 0..8 of the data: k3_e1, k3_e1_g2, k3_e3, k3_e6, k5_e1, k5_e1_g2, k5_e3, k5_e6, skip
KERNEL = np.array([3, 3, 3, 3, 5, 5, 5, 5, 1])
EXPAND = np.array([1, 1, 3, 6, 1, 1, 3, 6, 1])
GROUPS = np.array([1, 2, 1, 1, 1, 2, 1, 1, 1])
SKIP = 8
STAGE_LAYERS = (1, 4, 4, 4, 4, 4, 1)
STAGE_WIDTHS = (16, 24, 32, 64, 112, 184, 352)
STAGE_STRIDES = (1, 1, 2, 2, 1, 2, 1)
STEM, HEAD, SIZE = 16, 1504, 32


@checked
def space(name: FileName, classes: PositiveInt) -> SearchSpace:
    """22 layers, nine operations each, 32 x 32 images."""
    stages = [stage for stage, count in enumerate(STAGE_LAYERS) for _ in range(count)]
    return SearchSpace(
        name=name,
        axes=tuple(Axis(f"op{i}", tuple(range(9)), "op", stage) for i, stage in enumerate(stages)),
        gates=(),
        slots=tuple((i,) for i in range(len(stages))),
        make_layers=lambda space, genomes: _layers(genomes, classes),
    )


def _layers(genomes: Genomes, classes: int) -> LayerTable:
    """Inverted residuals with grouped 1x1 convolutions.

    A skip that changes the shape is one 1x1 convolution.
    """
    build = LayerBuilder(len(genomes), np.full(len(genomes), SIZE))
    build.add(LayerKind.CONV, 3, STEM, kernel=3)
    cin, slot = STEM, 0
    for count, cout, first_stride in zip(STAGE_LAYERS, STAGE_WIDTHS, STAGE_STRIDES, strict=True):
        for layer in range(count):
            stride = first_stride if layer == 0 else 1
            chosen = genomes[:, slot].astype(np.int64) - 1
            block = chosen != SKIP
            middle, groups = cin * EXPAND[chosen], GROUPS[chosen]
            held = cin * build.size**2 if stride == 1 and cin == cout else 0
            size = build.size
            build.add(LayerKind.CONV, cin, middle, groups=groups, held=held, live=block, slot=slot, size=size)
            deep: dict[str, Any] = dict(kernel=KERNEL[chosen], stride=stride, groups=middle, size=size)
            build.add(LayerKind.CONV, middle, middle, **deep, held=held, live=block, slot=slot)
            if stride != 1 or cin != cout:
                build.add(LayerKind.CONV, cin, cout, stride=stride, live=~block, slot=slot, size=size)
            build.size = -(-size // stride)
            build.add(LayerKind.CONV, middle, cout, groups=groups, held=held, live=block, slot=slot)
            cin, slot = cout, slot + 1
    build.add(LayerKind.CONV, cin, HEAD)
    build.add(LayerKind.GLOBAL_POOL, HEAD, HEAD, norm=0)
    build.add(LayerKind.LINEAR, HEAD, classes, bias=1, norm=0)
    return build.table()
