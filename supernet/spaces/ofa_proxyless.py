"""OFA-ProxylessNAS (Cai et al., 2020, arXiv 1908.09791), as the `ofa` package builds it."""

from __future__ import annotations

from supernet.arrays import Genomes
from supernet.layers import Activation, Kind, LayerBuilder, LayerTable, make_divisible
from supernet.space import SearchSpace
from supernet.spaces import mobile

WIDTHS = (32, 16, 24, 40, 80, 96, 192, 320, 1280)
STRIDES = (2, 2, 2, 1, 2, 1)
ACT = Activation.RELU6
CLASSES = 1000


def space(name: str, width: float) -> SearchSpace:
    """As OFA-MobileNetV3, without squeeze-excite and with a sixth stage of one block (published width:
    1.3)."""
    stem, first, *stages, mix = (int(make_divisible(base * width)) for base in WIDTHS)

    def layers(space: SearchSpace, genomes: Genomes) -> LayerTable:
        build = LayerBuilder(len(genomes), space.column(genomes, "r"))
        build.add(Kind.CONV, 3, stem, kernel=3, stride=2, act=ACT)
        build.add(Kind.CONV, stem, stem, kernel=3, groups=stem, act=ACT)
        build.add(Kind.CONV, stem, first)
        cin = mobile.blocks(
            build,
            space,
            genomes,
            cin=first,
            widths=tuple(stages),
            strides=STRIDES,
            squeeze=(False,) * len(stages),
            acts=(ACT,) * len(stages),
        )
        build.add(Kind.CONV, cin, mix, act=ACT)
        build.add(Kind.GLOBAL_POOL, mix, mix, norm=0)
        build.add(Kind.LINEAR, mix, CLASSES, bias=1, norm=0)
        return build.table()

    return mobile.build_space(name, layers, tail=1)
