"""OFA-MobileNetV3 of the `ofa` package with the layout of any `Design`."""

from ofa.imagenet_classification.elastic_nn.modules.dynamic_layers import DynamicMBConvLayer
from ofa.imagenet_classification.elastic_nn.networks import OFAMobileNetV3
from ofa.utils.layers import ConvLayer, IdentityLayer, LinearLayer, MBConvLayer, ResidualBlock

from supernet.layers import Activation
from supernet.spaces.mobile import Design

NAMES = {Activation.RELU: "relu", Activation.RELU6: "relu6", Activation.HARD_SWISH: "h_swish"}


class DesignedMobileNetV3(OFAMobileNetV3):  # type: ignore[misc]  # ofa has no types
    """Sampling, setting and extracting subnets are inherited; only the layout is new.

    The inherited constructor ignores stage widths and has five stages, so it is not called.
    """

    def __init__(self, design: Design, classes: int) -> None:
        if len(design.head) != 2 or not {*design.acts, design.outer} <= {*NAMES}:
            raise ValueError(
                f"a design with head={design.head} and activations {[a.name for a in design.acts]} is not "
                f"built: two widths of the head are needed, and {', '.join(a.name for a in NAMES)}"
            )
        self.ks_list = list(design.kernels)
        self.expand_ratio_list = list(design.expands)
        self.depth_list = list(design.depths)
        stem, outer = design.stem, NAMES[design.outer]
        inner = "relu" if outer == "h_swish" else outer
        first = MBConvLayer(stem, design.first, kernel_size=3, stride=1, expand_ratio=1, act_func=inner)
        blocks = [ResidualBlock(first, IdentityLayer(stem, stem) if stem == design.first else None)]
        self.block_group_info: list[list[int]] = [[] for _ in design.widths]
        cin = design.first
        for stage, block in design.places:
            self.block_group_info[stage].append(len(blocks))
            width, stride = design.widths[stage], design.strides[stage] if block == 0 else 1
            elastic = DynamicMBConvLayer(
                in_channel_list=[cin],
                out_channel_list=[width],
                kernel_size_list=self.ks_list,
                expand_ratio_list=self.expand_ratio_list,
                stride=stride,
                act_func=NAMES[design.acts[stage]],
                use_se=design.squeeze[stage],
            )
            shortcut = IdentityLayer(cin, cin) if stride == 1 and cin == width else None
            blocks.append(ResidualBlock(elastic, shortcut))
            cin = width
        expand, features = design.head
        super(OFAMobileNetV3, self).__init__(
            ConvLayer(3, stem, kernel_size=3, stride=2, act_func=outer),
            blocks,
            ConvLayer(cin, expand, kernel_size=1, act_func=outer),
            ConvLayer(expand, features, kernel_size=1, bias=False, use_bn=False, act_func=outer),
            LinearLayer(features, classes),
        )
        self.set_bn_param(momentum=0.1, eps=1e-5)
        self.runtime_depth = [design.depths[-1]] * len(design.widths)
