"""A small OFA-MobileNetV3 for images of 16-64 px (ours): three stages of 1-3 blocks, about 3 M MACs at 32 px.

The network behind it is `weights.designed_mobilenet`; the design is that of OFA-MobileNetV3 (Cai et al.,
2020) with fewer and narrower stages.
"""

from dataclasses import replace

from supernet.layers import Activation
from supernet.options import FileName, PositiveInt, checked
from supernet.space import SearchSpace
from supernet.spaces.mobile import Design

DESIGN = Design(
    stem=16,
    first=16,
    widths=(24, 40, 64),
    head=(384, 512),
    strides=(2, 2, 2),
    squeeze=(False, True, True),
    acts=(Activation.RELU, Activation.HARD_SWISH, Activation.HARD_SWISH),
    outer=Activation.HARD_SWISH,
    elastic=3,
    kernels=(3, 5),
    expands=(2, 3, 4),
    depths=(1, 2, 3),
    resolutions=tuple(range(16, 65, 4)),
    beyond=(),
)


@checked
def space(name: FileName, classes: PositiveInt) -> SearchSpace:
    """Kernels 3/5, expansions 2/3/4, depths 1-3, r 16..64 step 4.

    `classes` is that of the layer table. A supernet has as many as its images: each class more or less adds
    512 MACs and 513 parameters to all subnets alike.
    """
    return replace(DESIGN, classes=classes).space(name)
