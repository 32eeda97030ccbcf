"""Pruning of one subnet: whole channels of its expanded layers, or single weights.

Letters: m middle channels of a block, p those that stay.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from supernet.layers import make_divisible
from supernet.weights import subnet as subnets
from supernet.weights.subnet import Subnet

if TYPE_CHECKING:
    import torch

DIVISOR = 8  # channels stay a multiple of it, as in the `ofa` package


def prune_channels(subnet: Subnet, keep: float) -> Subnet:
    """The subnet with the most important `keep` of the middle channels of every block, weights copied.

    Importance is OFA's (Cai et al., 2020): the L1 norm of the weights that read a channel; for the two middle
    maps of a ResNet block likewise. A block without expansion has no middle channels of its own and stays.
    Norms and the other weights stay as they are: calibrate, and fine-tune, what comes out.
    """
    if not 0 < keep <= 1:
        raise ValueError(f"keep={keep} must lie in (0, 1]: the share of middle channels that stays")
    config = subnet.config
    state = dict(subnet.module.state_dict())
    blocks = [(f"blocks.{i}.conv", node["conv"]) for i, node in enumerate(config["blocks"]) if "conv" in node]
    if config["name"] == "ResNets":
        for i, node in enumerate(config["blocks"]):
            node["mid_channels"] = _prune_bottleneck(state, f"blocks.{i}", keep)
    else:
        for place, node in blocks:
            if node["expand_ratio"] != 1:
                node["mid_channels"] = _prune_inverted(state, place, keep)
    module = subnets.build(config, state)
    pruned = round(keep * subnet.facts.get("pruned", 1.0), 6)
    return Subnet(subnet.architecture, subnet.side, module, {**subnet.facts, "pruned": pruned})


def _kept(importance: torch.Tensor, keep: float) -> torch.Tensor:
    """(p,) the most important channels, in their old order."""
    count = min(len(importance), int(make_divisible(keep * len(importance), DIVISOR)))
    return importance.argsort(descending=True, stable=True)[:count].sort().values


def _reads(weight: torch.Tensor) -> torch.Tensor:
    """(m,) L1 norm of the weights that read each input channel of a convolution."""
    return weight.abs().sum(dim=(0, 2, 3))


def _take(state: dict[str, Any], prefix: str, order: torch.Tensor) -> None:
    """Keep these channels of a convolution's output and of its norm."""
    import torch

    for name in [key for key in state if key.startswith(f"{prefix}.") and state[key].ndim]:
        state[name] = torch.index_select(state[name], 0, order)


def _prune_inverted(state: dict[str, Any], place: str, keep: float) -> int:
    out = f"{place}.point_linear.conv.weight"
    order = _kept(_reads(state[out]), keep)
    _take(state, f"{place}.inverted_bottleneck", order)
    squeeze = f"{place}.depth_conv.se.fc"
    gate = {key: state.pop(key) for key in list(state) if key.startswith(squeeze)}
    _take(state, f"{place}.depth_conv", order)
    state[out] = state[out][:, order]
    if gate:
        weights, biases = "{}.{}.weight", "{}.{}.bias"
        read = gate[weights.format(squeeze, "expand")]
        inner = _reads(read).argsort(descending=True, stable=True)
        inner = inner[: int(make_divisible(len(order) // 4, DIVISOR))].sort().values
        state[weights.format(squeeze, "reduce")] = gate[weights.format(squeeze, "reduce")][inner][:, order]
        state[biases.format(squeeze, "reduce")] = gate[biases.format(squeeze, "reduce")][inner]
        state[weights.format(squeeze, "expand")] = read[order][:, inner]
        state[biases.format(squeeze, "expand")] = gate[biases.format(squeeze, "expand")][order]
    return len(order)


def _prune_bottleneck(state: dict[str, Any], place: str, keep: float) -> int:
    middle, out = f"{place}.conv2.conv.weight", f"{place}.conv3.conv.weight"
    first, second = _kept(_reads(state[middle]), keep), _kept(_reads(state[out]), keep)
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
    import copy

    import torch

    if not 0 < keep <= 1:
        raise ValueError(f"keep={keep} must lie in (0, 1]: the share of weights that stays")
    module = copy.deepcopy(subnet.module)
    weights = [parameter for parameter in module.parameters() if parameter.ndim > 1]
    sizes = torch.cat([weight.detach().abs().flatten() for weight in weights])
    count = max(1, round(keep * len(sizes)))
    threshold = sizes.sort(descending=True).values[count - 1]
    with torch.no_grad():
        for weight in weights:
            weight.mul_(weight.abs() >= threshold)
    return Subnet(subnet.architecture, subnet.side, module, {**subnet.facts, "weights_kept": keep})
