"""Families of elastic networks: what a search space needs so that its networks can be trained and deployed.

A space names its family in `SearchSpace.family`: the class itself, or "module:Class" where torch should not
be imported before a network is needed. Everything that has weights goes through it: training, timing,
evaluating, fine-tuning, shrinking and exporting. Files record the name of the space; which code builds its
networks is the space's to say, never a file's.

A space with a family has the axes `r` (input side in pixels) and `finetune_epochs`, which
`supernet.spaces.mobile` makes (`resolution_axis`, `finetune_axis`). Most families of one's own share weights
by position, and are a subclass of `WeightEntangled` with two methods:

    class Elastic(WeightEntangled):
        def network(self, space, genome, classes):
            return Net(dimensions(space, genome), classes)

        def activate(self, module, space, genome):
            module.set_dimensions(dimensions(space, genome))

The tests of a family should hold `extract` against `activate`: both compute the same logits.
"""

import pkgutil
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch

from supernet.arrays import Genomes
from supernet.space import SearchSpace

NEEDED = {"r": "resolution_axis", "finetune_epochs": "finetune_axis"}  # axis: what makes it


class Family(Protocol):
    """What builds, sets and takes apart the networks of a space. It is made without arguments.

    `space` is the space that owns the supernet, and `genome` a canonical (1, d) genome of it. Networks map
    (b, 3, r, r) images to (b, classes) logits. Those that are new have the weights a training starts from,
    drawn from torch's generator.
    """

    loading: str  # Python lines that build `network` from `about`, the exported subnet.json: for its load.py

    def build(self, space: SearchSpace, classes: int) -> Any:
        """The weight-sharing network."""

    def activate(self, module: Any, space: SearchSpace, genome: Genomes) -> None:
        """Make the weight-sharing network compute the genome; nothing is copied."""

    def extract(self, module: Any, space: SearchSpace, genome: Genomes) -> torch.nn.Module:
        """The network of the genome on its own, with a copy of its share of the weights."""

    def config(self, module: Any) -> dict[str, Any]:
        """JSON that, with space and genome, `from_config` builds an extracted network from."""

    def from_config(self, config: Mapping[str, Any], space: SearchSpace, genome: Genomes) -> torch.nn.Module:
        """An extracted network, with new weights. What a file says in `config` is data, not code."""


@runtime_checkable
class SortsChannels(Protocol):
    """A family that can put the most important channels first, as OFA's progressive shrinking does before it
    opens another width of the blocks (Cai et al., 2020, arXiv 1908.09791)."""

    def sort_channels(self, module: Any, levels: int) -> None:
        """Sort in place, so that no subnet with the upper `levels` - 1 widths changes its outputs."""


class WeightEntangled:
    """A family whose networks use the same weights by position (AutoFormer, Chen et al., 2021, arXiv
    2107.00651): the first channels and blocks of a larger network, and the middle of its kernels.

    A subclass says how the network of a genome is built (`network`) and how one is set to compute a smaller
    one (`activate`). The weight-sharing network is then that of the largest genome. Parameters and buffers of
    a network have the names of those of the largest, and at most their sizes. Layers whose rows are no single
    stretch of channels (queries, keys and values in one matrix, say) need an `extract` of their own.
    """

    loading = """\
# needs ofa-frontier, and the space: an installed plugin, or that of supernet.choices.use_folders(DIR)
from supernet.weights import subnet
network = subnet.untrained(about["name"], about["network"])"""

    def network(self, space: SearchSpace, genome: Genomes, classes: int) -> Any:
        """The network of a genome on its own."""
        raise NotImplementedError(f"{type(self).__name__} does not say how a network is built")

    def activate(self, module: Any, space: SearchSpace, genome: Genomes) -> None:
        """Make a larger network compute the genome."""
        raise NotImplementedError(f"{type(self).__name__} does not say how a subnet is set")

    def build(self, space: SearchSpace, classes: int) -> Any:
        return self._network(space, space.network(space.extremes()[1:]), classes)

    def extract(self, module: Any, space: SearchSpace, genome: Genomes) -> torch.nn.Module:
        subnet = self._network(space, genome, module.classes)
        whole = module.state_dict()
        if unknown := sorted(set(subnet.state_dict()) - set(whole)):
            raise ValueError(f"{space.name}: {unknown[0]} of a subnet is no part of the supernet")
        subnet.load_state_dict({name: _share(whole[name], own) for name, own in subnet.state_dict().items()})
        return subnet.eval()

    def config(self, module: Any) -> dict[str, Any]:
        return {"classes": module.classes}

    def from_config(self, config: Mapping[str, Any], space: SearchSpace, genome: Genomes) -> torch.nn.Module:
        return self._network(space, genome, int(config["classes"]))

    def _network(self, space: SearchSpace, genome: Genomes, classes: int) -> Any:
        module = self.network(space, genome, classes)
        module.classes = classes  # stays with copies, for `extract` and `config`
        return module


def _share(whole: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """The first channels of a tensor, and of kernels their middle, in the shape of `own`."""
    spatial = 2 if whole.ndim > 3 else whole.ndim  # the first dimension that is none of channels
    starts = [
        (have - want) // 2 if i >= spatial else 0
        for i, (have, want) in enumerate(zip(whole.shape, own.shape, strict=True))
    ]
    return whole[tuple(slice(a, a + want) for a, want in zip(starts, own.shape, strict=True))]


def of(space: SearchSpace) -> Family:
    """The family of a space's networks; ValueError for a space that has none, or lacks an axis.

    >>> of(get_space("ofa_small")).build(get_space("ofa_small"), classes=10)
    """
    owner = space.owner
    if owner.family is None:
        raise ValueError(f"{space.name} is a benchmark of latencies: it has no weight-sharing network")
    if missing := [name for name in NEEDED if name not in owner.index]:
        makers = ", ".join(f"supernet.spaces.mobile.{NEEDED[name]}" for name in missing)
        raise ValueError(f"{space.name} lacks the axes {', '.join(missing)} of a trained space: {makers}")
    try:
        made = pkgutil.resolve_name(owner.family) if isinstance(owner.family, str) else owner.family
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{space.name} names the family {owner.family!r}, which is none ({error})"
        ) from error
    family: Family = made()
    return family


def sorting(space: SearchSpace) -> SortsChannels:
    """The family of a space that sorts channels; ValueError for one that does not."""
    family = of(space)
    if not isinstance(family, SortsChannels):
        raise ValueError(
            f"the family of {space.name}, {name(space)}, has no sort_channels, which this recipe needs "
            "before it opens expansions: train with recipe=sandwich, or give the family one"
        )
    return family


def name(space: SearchSpace) -> str:
    """Class of the family, which files record; ValueError for a space that has none."""
    return type(of(space)).__name__
