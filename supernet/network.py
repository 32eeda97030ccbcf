"""The networks behind genomes, built by the `ofa` package's own elastic classes (random weights)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from configs import unknown_name
from supernet.space import Genomes, SearchSpace
from supernet.spaces import mobile, ofa_resnet50

if TYPE_CHECKING:
    import torch

FAMILIES = ("ofa_mbv3", "ofa_proxyless", "ofa_resnet50")


def supernet(space: SearchSpace) -> Any:
    """The weight-sharing network of an OFA space, a module of the `ofa` package with random weights.

    Its `set_active_subnet` checks nothing: pass it `space.settings(genomes)`, which come from canonical
    genomes.
    """
    from ofa.imagenet_classification.elastic_nn.networks import (
        OFAMobileNetV3,
        OFAProxylessNASNets,
        OFAResNets,
    )

    owner = space if space.parent is None else space.parent
    family, _, width = owner.name.partition("_w")
    if family not in FAMILIES:
        raise unknown_name("family of the ofa package", family, FAMILIES)
    if family == "ofa_resnet50":
        return OFAResNets(
            depth_list=[0, 1, 2],
            expand_ratio_list=[percent / 100 for percent in ofa_resnet50.EXPAND_PERCENT],
            width_mult_list=[percent / 100 for percent in ofa_resnet50.WIDTH_PERCENT],
        )
    network = OFAMobileNetV3 if family == "ofa_mbv3" else OFAProxylessNASNets
    return network(
        dropout_rate=0,
        width_mult=float(width),
        ks_list=list(mobile.KERNELS),
        expand_ratio_list=list(mobile.EXPANDS),
        depth_list=list(mobile.DEPTHS),
    )


def extract(network: Any, space: SearchSpace, genome: Genomes) -> torch.nn.Module:
    """The static network of the (1, d) genome, with a copy of its share of the supernet's weights, in eval
    mode."""
    space.check(genome)
    if len(genome) != 1:
        raise ValueError(f"extract takes one genome, got {len(genome)}; pass genomes[i : i + 1]")
    network.set_active_subnet(**space.settings(genome)[0])
    subnet: torch.nn.Module = network.get_active_subnet(preserve_weight=True)
    return subnet.eval()


def resolution(space: SearchSpace, genome: Genomes) -> int:
    """Input side in pixels of the (1, d) genome."""
    return int(np.asarray(space.column(genome, "r"))[0])


def settle_norms(subnet: torch.nn.Module, images: torch.Tensor) -> torch.nn.Module:
    """The subnet with batch norms set to the statistics of these (n, 3, side, side) images, in eval mode.

    With random weights the activations of a deep network would otherwise fade to denormal numbers, which
    are slow, and an int8 engine would find no range to calibrate on.
    """
    import torch

    norms = [module for module in subnet.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0  # the statistics of this batch replace the old ones
    with torch.no_grad():
        subnet.train()(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return subnet.eval()


def with_native_activations(subnet: torch.nn.Module) -> torch.nn.Module:
    """The subnet, changed in place, with the operators Hardswish and Hardsigmoid instead of the `ofa`
    package's written-out relu6(x + 3) / 6: bit-identical, and a single node for every engine."""
    import torch
    from ofa.utils.pytorch_modules import Hsigmoid, Hswish

    native = {Hswish: torch.nn.Hardswish, Hsigmoid: torch.nn.Hardsigmoid}
    for parent in list(subnet.modules()):
        for name, child in list(parent.named_children()):
            if type(child) in native:
                setattr(parent, name, native[type(child)]())
    return subnet
