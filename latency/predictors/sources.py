"""What is known of the latencies of a space: predictors of devices timed before, and footprints.

The predictors are the files of `latency/zoo`, one for each target of `configs/target`.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from latency.predictors import interface
from latency.predictors.slots import SlotLatency
from latency.target import PUBLISHED, Target
from supernet import footprint, registry, slot_table
from supernet.slot_table import SlotTable
from supernet.space import SearchSpace

FOLDER = Path(__file__).parents[1] / "zoo"
FOOTPRINTS = ("macs", "layers", "activations", "params")


@cache
def target(name: str) -> Target:
    """The shipped target `name`; ValueError with the known names and the nearest spelling otherwise."""
    return registry.build(registry.load("target", name))


@cache
def names() -> tuple[str, ...]:
    """Names of the targets that ship a predictor: all of `configs/target` that need no options."""
    shipped = f"{Target.__module__}.{Target.__qualname__}"
    return tuple(n for n in registry.shipped("target") if registry.load("target", n)["_target_"] == shipped)


def targets_of(space: str) -> list[str]:
    """Names of the shipped targets that were measured, or are tables, on networks of this space."""
    nodes = {name: registry.load("target", name) for name in names()}
    return [n for n, node in nodes.items() if node["space"] == space and node.get("method") != PUBLISHED]


@cache
def predictor(name: str) -> SlotLatency:
    """The shipped predictor of a target."""
    return interface.load_as(SlotLatency, FOLDER / f"{target(name).name}.npz")


@dataclass(frozen=True, eq=False)
class Source:
    """A known latency (or footprint) of the networks of a space."""

    name: str
    table: SlotTable
    resolutions: tuple[int, int]
    target: Target | None = None  # None: a footprint


def sources_of(
    space: SearchSpace, *, without: Collection[str] = (), covering: tuple[int, int] | None = None
) -> list[Source]:
    """The predictors of the zoo, multiply-accumulates and the number of layers, without those named.

    The number of layers stands for what an engine spends on every layer. Where the zoo has nothing,
    activations and parameters join them. With `covering`, only sources that know these resolutions, from the
    lowest to the highest. ValueError where none is left, and for an unknown name in `without`.
    """
    shipped = targets_of(space.name)
    if unknown := [name for name in without if name not in (*shipped, *FOOTPRINTS)]:
        raise ValueError(f"without={unknown}: no such source; there are {', '.join([*shipped, *FOOTPRINTS])}")
    devices = [(name, predictor(name)) for name in shipped if name not in without]
    sources = [Source(name, p.table, p.resolutions, p.target) for name, p in devices]
    sides = space.axis("r").values if "r" in space.index else (0,)
    for name in FOOTPRINTS[: 2 if sources else 4]:
        table = footprint.table(space, name)
        if table is not None and name not in without:
            sources.append(Source(name, table, (sides[0], sides[-1])))
    if not sources:
        raise ValueError(f"nothing is known of latencies of {space.name}: fit some hundred measurements")
    if covering is None:
        return sources
    low, high = covering
    kept = [source for source in sources if source.resolutions[0] <= low and source.resolutions[1] >= high]
    if not kept:
        raise ValueError(
            f"no source of {space.name} covers the resolutions {covering}; they cover "
            + ", ".join(f"{s.name} {s.resolutions[0]}-{s.resolutions[1]}" for s in sources)
        )
    return kept


def constant(space: SearchSpace) -> Source:
    """What every network costs alike: a source for mixes, beside those of `sources_of`."""
    shape = slot_table.shape_of(space)
    sides = space.axis("r").values if "r" in space.index else (0,)
    return Source("constant", SlotTable(np.zeros(shape), np.ones(shape[0])), (sides[0], sides[-1]))


def any_of(space: SearchSpace) -> bool:
    """Whether anything is known of the latencies of a space."""
    return bool(targets_of(space.name)) or any(footprint.table(space, name) for name in FOOTPRINTS)


def common_resolutions(sources: Sequence[Source]) -> tuple[int, int]:
    """Lowest and highest input side that all sources cover."""
    low = max(source.resolutions[0] for source in sources)
    high = min(source.resolutions[1] for source in sources)
    if low > high:
        raise ValueError(f"the sources {', '.join(s.name for s in sources)} have no resolution in common")
    return low, high
