"""Pruning of one subnet: whole channels of its expanded layers, or single weights.

Letters: m middle channels of a block, p those that stay.
"""

import copy
from dataclasses import replace
from typing import Any

import torch

from supernet.layers import make_divisible
from supernet.space import SearchSpace
from supernet.weights import family
from supernet.weights import subnet as subnets
from supernet.weights.ofa_families import OfaFamily
from supernet.weights.subnet import Subnet

DIVISOR = 8  # channels stay a multiple of it, as in the `ofa` package
State = dict[str, Any]  # a state dict, changed in place


def prune_channels(subnet: Subnet, keep: float) -> Subnet:
    """The subnet with the most important `keep` of the middle channels of every block, weights copied.

    Importance is OFA's (Cai et al., 2020): the L1 norm of the weights that read a channel; for the two middle
    maps of a ResNet block likewise. A block without expansion has no middle channels of its own and stays.
    Norms and the other weights stay as they are: calibrate, and fine-tune, what comes out.
    """
    check(subnets.parse(subnet.architecture)[0])
    config, state = subnet.config, dict(subnet.module.state_dict())
    for i, node in enumerate(config["blocks"]):
        if config["name"] == "ResNets":
            node["mid_channels"] = _prune_bottleneck(state, f"blocks.{i}", keep)
        elif "conv" in node and node["conv"]["expand_ratio"] != 1:
            node["conv"]["mid_channels"] = _prune_inverted(state, f"blocks.{i}.conv", keep)
    pruned = round(keep * subnet.facts.get("pruned", 1.0), 6)
    return replace(subnet, module=subnets.build(subnet.architecture, config, state)).with_facts(pruned=pruned)


def check(space: SearchSpace) -> None:
    """ValueError for a space whose networks have no blocks that `prune_channels` knows."""
    if not isinstance(family.of(space), OfaFamily):
        raise ValueError(
            f"PruneChannels knows the blocks of the OFA families, not those of {space.name} "
            f"({family.name(space)}): leave it out of the recipe, or take a smaller subnet"
        )


def _most_important(reads: torch.Tensor, count: int) -> torch.Tensor:
    """(p,) the input channels that the largest weights of a convolution read, in their old order."""
    importance = reads.abs().sum(dim=(0, 2, 3))
    return importance.argsort(descending=True, stable=True)[:count].sort().values


def _share(reads: torch.Tensor, keep: float) -> torch.Tensor:
    """(p,) the same for a share of the channels, rounded as the `ofa` package rounds them."""
    channels = reads.shape[1]
    return _most_important(reads, min(channels, int(make_divisible(keep * channels, DIVISOR))))


def _take(state: State, prefix: str, order: torch.Tensor) -> None:
    """Keep these channels of a convolution's output and of its norm."""
    for name in [key for key in state if key.startswith(f"{prefix}.") and state[key].ndim]:
        state[name] = torch.index_select(state[name], 0, order)


def _prune_inverted(state: State, place: str, keep: float) -> int:
    out, squeeze = f"{place}.point_linear.conv.weight", f"{place}.depth_conv.se.fc"
    order = _share(state[out], keep)
    gate = {key: state.pop(key) for key in list(state) if key.startswith(squeeze)}
    _take(state, f"{place}.inverted_bottleneck", order)
    _take(state, f"{place}.depth_conv", order)
    state[out] = state[out][:, order]
    if gate:
        expand = gate[f"{squeeze}.expand.weight"]
        inner = _most_important(expand, int(make_divisible(len(order) // 4, DIVISOR)))
        state[f"{squeeze}.reduce.weight"] = gate[f"{squeeze}.reduce.weight"][inner][:, order]
        state[f"{squeeze}.reduce.bias"] = gate[f"{squeeze}.reduce.bias"][inner]
        state[f"{squeeze}.expand.weight"] = expand[order][:, inner]
        state[f"{squeeze}.expand.bias"] = gate[f"{squeeze}.expand.bias"][order]
    return len(order)


def _prune_bottleneck(state: State, place: str, keep: float) -> int:
    middle, out = f"{place}.conv2.conv.weight", f"{place}.conv3.conv.weight"
    first, second = _share(state[middle], keep), _share(state[out], keep)
    _take(state, f"{place}.conv1", first)
    state[middle] = state[middle][:, first]
    _take(state, f"{place}.conv2", second)
    state[out] = state[out][:, second]
    return len(second)


def prune_weights(subnet: Subnet, keep: float) -> Subnet:
    """The subnet with all but the largest `keep` of its convolution and classifier weights set to zero.

    The threshold is one for the whole network. No engine here is faster for it: only the compressed file is
    smaller.
    """
    module = copy.deepcopy(subnet.module)
    weights = [parameter for parameter in module.parameters() if parameter.ndim > 1]
    sizes = torch.cat([weight.detach().abs().flatten() for weight in weights])
    count = max(1, round(keep * len(sizes)))
    threshold = sizes.sort(descending=True).values[count - 1]
    with torch.no_grad():
        for weight in weights:
            weight.mul_(weight.abs() >= threshold)
    return replace(subnet, module=module).with_facts(weights_kept=keep)
