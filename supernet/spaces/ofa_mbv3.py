"""OFA-MobileNetV3 (Cai et al., 2020, arXiv 1908.09791), as the `ofa` package builds it."""

from __future__ import annotations

from supernet.arrays import Genomes
from supernet.layers import Activation, Kind, LayerBuilder, LayerTable, make_divisible
from supernet.space import SearchSpace
from supernet.spaces import mobile

WIDTHS = (16, 16, 24, 40, 80, 112, 160, 960, 1280)
STRIDES = (2, 2, 2, 1, 2)
SQUEEZE = (False, True, False, True, True)
SWISH = Activation.HARD_SWISH
ACTS = (Activation.RELU, Activation.RELU, SWISH, SWISH, SWISH)
CLASSES = 1000


def space(name: str, width: float) -> SearchSpace:
    """Kernels 3/5/7, expansions 3/4/6, depths 2-4, r 128..224 step 4, at one width multiplier (published:
    1.0, 1.2)."""
    stem, first, *stages, expand, mix = (int(make_divisible(base * width)) for base in WIDTHS)

    def layers(space: SearchSpace, genomes: Genomes) -> LayerTable:
        build = LayerBuilder(len(genomes), space.column(genomes, "r"))
        build.add(Kind.CONV, 3, stem, kernel=3, stride=2, act=SWISH)
        held = stem * build.size**2  # the first block has a shortcut: stem and first block are equally wide
        build.add(Kind.CONV, stem, stem, kernel=3, groups=stem, held=held, act=Activation.RELU)
        build.add(Kind.CONV, stem, first, held=held)
        cin = mobile.blocks(
            build,
            space,
            genomes,
            cin=first,
            widths=tuple(stages),
            strides=STRIDES,
            squeeze=SQUEEZE,
            acts=ACTS,
        )
        build.add(Kind.CONV, cin, expand, act=SWISH)
        build.add(Kind.GLOBAL_POOL, expand, expand, norm=0)
        build.add(Kind.CONV, expand, mix, norm=0, act=SWISH)
        build.add(Kind.LINEAR, mix, CLASSES, bias=1, norm=0)
        return build.table()

    return mobile.build_space(name, layers)
