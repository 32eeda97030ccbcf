"""OFA-ProxylessNAS (Cai et al., 2020, arXiv 1908.09791), as the `ofa` package builds it."""

from supernet.layers import Activation, make_divisible
from supernet.options import FileName, PositiveFloat, checked
from supernet.space import SearchSpace
from supernet.spaces.mobile import Design

WIDTHS = (32, 16, 24, 40, 80, 96, 192, 320, 1280)


def design(width: float) -> Design:
    """The layout at a width multiplier (published: 1.3)."""
    stem, first, *stages, features = (int(make_divisible(base * width)) for base in WIDTHS)
    return Design(
        family="supernet.weights.ofa_families:ProxylessNAS",
        stem=stem,
        first=first,
        widths=tuple(stages),
        head=(features,),
        multiplier=width,
        strides=(2, 2, 2, 1, 2, 1),
        squeeze=(False,) * len(stages),
        acts=(Activation.RELU6,) * len(stages),
        outer=Activation.RELU6,
    )


@checked
def space(name: FileName, width: PositiveFloat) -> SearchSpace:
    """As OFA-MobileNetV3, without squeeze-excite and with a sixth stage of one block."""
    return design(width).space(name)
