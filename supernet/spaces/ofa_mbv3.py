"""OFA-MobileNetV3 (Cai et al., 2020, arXiv 1908.09791), as the `ofa` package builds it."""

from supernet.layers import Activation, make_divisible
from supernet.options import FileName, PositiveFloat, checked
from supernet.space import SearchSpace
from supernet.spaces.mobile import Design

WIDTHS = (16, 16, 24, 40, 80, 112, 160, 960, 1280)
RELU, SWISH = Activation.RELU, Activation.HARD_SWISH


def design(width: float) -> Design:
    """The layout at a width multiplier (published: 1.0, 1.2)."""
    stem, first, *stages, expand, mix = (int(make_divisible(base * width)) for base in WIDTHS)
    return Design(
        family="supernet.weights.ofa_families:MobileNetV3",
        stem=stem,
        first=first,
        widths=tuple(stages),
        head=(expand, mix),
        multiplier=width,
        strides=(2, 2, 2, 1, 2),
        squeeze=(False, True, False, True, True),
        acts=(RELU, RELU, SWISH, SWISH, SWISH),
        outer=SWISH,
    )


@checked
def space(name: FileName, width: PositiveFloat) -> SearchSpace:
    """Kernels 3/5/7, expansions 3/4/6, depths 2-4, r 128..224 step 4."""
    return design(width).space(name)
