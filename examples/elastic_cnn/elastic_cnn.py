"""A convolutional search space of one's own: inverted residual blocks for images of 24 to 48 pixels.

A `Design` says the layout. The elastic blocks of the `ofa` package are behind it, so that progressive
shrinking, cutting channels and the form of the OFA authors (`formats=[net_config]`) come with it.
"""

from supernet.layers import Activation
from supernet.space import SearchSpace
from supernet.spaces.mobile import Design

RELU, SWISH = Activation.RELU, Activation.HARD_SWISH
DESIGN = Design(
    stem=16,
    first=16,  # channels of the first block, which is always there
    widths=(24, 32, 64, 96),  # of each stage; two stages of the same width must not follow each other
    head=(384, 512),  # of the last convolution, and of the features behind the pooling
    strides=(2, 2, 2, 1),
    squeeze=(False, True, True, True),  # squeeze-and-excitation
    acts=(RELU, RELU, SWISH, SWISH),
    outer=SWISH,  # of stem and head
    classes=10,  # of the layer table; a supernet has the classes of its images
    elastic=3,  # stages of elastic depth; those after them have one block
    kernels=(3, 5, 7),
    expands=(2, 3, 4),
    depths=(1, 2, 3),
    resolutions=(24, 32, 40, 48),
    beyond=(),
)


def space(name: str) -> SearchSpace:
    """Kernels 3/5/7, expansions 2/3/4, depths 1-3, r 24..48 step 8."""
    return DESIGN.space(name)
