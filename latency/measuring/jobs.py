"""What a sitting times: jobs, and the anchor subnets that every sitting of a space visits."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from latency.target import Target
from supernet import footprint
from supernet.arrays import Genomes
from supernet.space import SearchSpace, get_space

if TYPE_CHECKING:
    import torch

ANCHORS = 3


@dataclass(frozen=True)
class Rounds:
    """How many rounds a candidate takes; runs beyond `long_ms` need one warm-up, one timed run and 5 to 7.

    `block` candidates take turns together, as far as a quarter of the free memory has room for sessions of
    `session_bytes` each.
    """

    fewest: int = 12
    most: int = 20
    long_ms: float = 100.0
    block: int = 64
    session_bytes: float = 150e6


USUAL = Rounds()


@dataclass(frozen=True)
class Job:
    """Something to time: `build` gives a module in eval mode and the input it runs on."""

    name: str
    build: "Callable[[], tuple[torch.nn.Module, torch.Tensor]]"


def anchor_subnets(space: SearchSpace) -> Genomes:
    """(ANCHORS, d) the subnets that every sitting of a space measures.

    A small, a middle and a large one of 300 random ones, by multiply-accumulates.
    """
    drawn = space.network(space.sample(300, np.random.default_rng(20221)))
    order = np.argsort(footprint.compute(space, drawn, "macs"), kind="stable")
    return drawn[order[[len(order) // 10, len(order) // 2, -len(order) // 10]]]


def subnet_jobs(target: Target, genomes: Genomes) -> list[Job]:
    """A job per subnet: random weights, norms settled, native activations, an input that is never zeros."""
    import torch

    from supernet.weights import network

    space = get_space(target.space)
    weights: list[Any] = []  # the supernet, built when the first job needs it

    def build(genome: Genomes) -> "tuple[torch.nn.Module, torch.Tensor]":
        if not weights:
            weights.append(network.supernet(space))
        side, noise = network.resolution(space, genome), torch.Generator().manual_seed(0)
        subnet = network.extract(weights[0], space, genome)
        subnet = network.settle_norms(subnet, torch.randn((2, 3, side, side), generator=noise))
        return subnet, torch.randn((target.batch, 3, side, side), generator=noise)

    return [
        Job(name, partial(build, genomes[row : row + 1])) for row, name in enumerate(space.format(genomes))
    ]
