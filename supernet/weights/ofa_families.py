"""The families of the `ofa` package, built by its own elastic classes: OFA-MobileNetV3, OFA-ProxylessNAS,
OFA-ResNet50, and mobile networks of any other design."""

import json
from collections.abc import Mapping
from typing import Any

import torch
from ofa.imagenet_classification.elastic_nn import networks
from ofa.imagenet_classification.networks import get_net_by_name
from ofa.utils.my_modules import init_models
from ofa.utils.pytorch_modules import Hsigmoid, Hswish

from supernet.arrays import Genomes
from supernet.space import SearchSpace
from supernet.weights.designed_mobilenet import DesignedMobileNetV3

NATIVE = {Hswish: torch.nn.Hardswish, Hsigmoid: torch.nn.Hardsigmoid}


class OfaFamily:
    """What the families of the package share. Their config is the package's own, of pruned networks too."""

    loading = """\
# needs ofa
from ofa.imagenet_classification.networks import get_net_by_name
network = get_net_by_name(about["network"]["name"]).build_from_config(about["network"])"""

    def elastic(self, space: SearchSpace, classes: int) -> Any:
        """The weight-sharing network as the package builds it."""
        raise NotImplementedError(type(self).__name__)

    def build(self, space: SearchSpace, classes: int) -> Any:
        return started(self.elastic(space, classes))

    def activate(self, module: Any, space: SearchSpace, genome: Genomes) -> None:
        module.set_active_subnet(**space.settings(genome)[0])

    def extract(self, module: Any, space: SearchSpace, genome: Genomes) -> torch.nn.Module:
        self.activate(module, space, genome)
        subnet: torch.nn.Module = with_native_activations(module.get_active_subnet(preserve_weight=True))
        return subnet.eval()

    def config(self, module: Any) -> dict[str, Any]:
        return dict(json.loads(json.dumps(module.config)))

    def from_config(self, config: Mapping[str, Any], space: SearchSpace, genome: Genomes) -> Any:
        plain = json.loads(json.dumps(config))  # the package takes it apart while it builds
        return started(get_net_by_name(plain["name"]).build_from_config(plain))

    def sort_channels(self, module: Any, levels: int) -> None:
        module.re_organize_middle_weights(expand_ratio_stage=levels - 2)


class MobileNetV3(OfaFamily):
    def elastic(self, space: SearchSpace, classes: int) -> Any:
        return networks.OFAMobileNetV3(**_mobile(space, classes))


class ProxylessNAS(OfaFamily):
    def elastic(self, space: SearchSpace, classes: int) -> Any:
        return networks.OFAProxylessNASNets(**_mobile(space, classes))


class DesignedMobile(OfaFamily):
    """OFA-MobileNetV3 of the widths, strides and stages that the space's `Design` says."""

    def elastic(self, space: SearchSpace, classes: int) -> Any:
        return DesignedMobileNetV3(space.design, classes)


class ResNet50(OfaFamily):
    def elastic(self, space: SearchSpace, classes: int) -> Any:
        return networks.OFAResNets(
            n_classes=classes,
            depth_list=list(space.axis("d1").values),
            expand_ratio_list=[percent / 100 for percent in space.axis("e0").values],
            width_mult_list=[percent / 100 for percent in space.axis("w0").values],
        )


def _mobile(space: SearchSpace, classes: int) -> dict[str, Any]:
    return dict(
        n_classes=classes,
        dropout_rate=0,
        width_mult=space.design.multiplier,
        ks_list=list(space.axis("ks0").values),
        expand_ratio_list=list(space.axis("e0").values),
        depth_list=list(space.axis("d0").values),
    )


def started(network: Any) -> Any:
    """The network as OFA starts a training (He et al., 2015, by fan-out), with native activations."""
    init_models(network, "he_fout")
    return with_native_activations(network)


def with_native_activations(network: Any) -> Any:
    """The network, changed in place, with the operators Hardswish and Hardsigmoid instead of the `ofa`
    package's written-out relu6(x + 3) / 6: bit-identical, and a single node for every engine."""
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if type(child) in NATIVE:
                setattr(parent, name, NATIVE[type(child)]())
    return network
