"""Builds a lookup table of a space on a target: every different block timed by itself (OFA's way).

What `predictors/lookup_table.py` reads. It is the baseline that adapted predictors replace: hundreds of
measurements where they need ten, and sums of blocks are not networks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from latency.measuring import session
from latency.measuring.jobs import Job
from latency.measuring.session import Watcher
from latency.measuring.store import Store
from latency.predictors.lookup_table import Entry, LookupTable, block_entry, check_space, fixed_entries
from latency.target import Target
from supernet import slot_table
from supernet.arrays import Genomes
from supernet.files import artifact
from supernet.layers import LayerTable
from supernet.space import SearchSpace, get_space

if TYPE_CHECKING:
    import torch

OFA_NAMES = {
    "stem": "Conv",
    "block": "expanded_conv",
    "expand": "Conv_1",
    "pool": "AvgPool2D",
    "mix": "Conv_2",
    "classifier": "Logits",
}


@dataclass(frozen=True, eq=False)
class Block:
    """An entry of the table and where to find it: module `place` of a subnet, with its input and output."""

    entry: Entry
    resolution: int  # of the first network that has it
    genome: Genomes  # (1, d)
    place: str | int  # a role, or the number of the block
    shape_in: tuple[int, int]  # (channels, side)
    shape_out: tuple[int, int]

    @property
    def name(self) -> str:
        """OFA's key of the entry."""
        role, sizes = self.entry
        (cin, side), (cout, out) = self.shape_in, self.shape_out
        outer = str(cout) if role == "classifier" else f"{out}x{out}x{cout}"
        name = f"{OFA_NAMES[role]}-input:{side}x{side}x{cin}-output:{outer}"
        if role != "block":
            return name
        mid, kernel, stride, skip, se = sizes[4:]
        return f"{name}-expand:{mid}-kernel:{kernel}-stride:{stride}-idskip:{skip}-se:{se}"


def blocks(space: SearchSpace, resolutions: Sequence[int]) -> list[Block]:
    """Every different block of the space at these input sides, each once per side it is first needed at."""
    check_space(space)
    different: dict[Entry | tuple[Entry, int], Block] = {}
    genomes, slots, _ = slot_table.slot_variants(space)
    for r in resolutions:
        genomes[:, space.index["r"]] = space.axis("r").values.index(r) + 1
        table = space.layers(genomes)
        for entry, layers in fixed_entries(table):
            place = 0 if entry[0] == "block" else entry[0]
            shapes = _shapes(table, 0, layers)
            # The pooled side is not part of the entry: one per resolution.
            key = (entry, r) if place == "pool" else entry
            different.setdefault(key, Block(entry, r, genomes[:1].copy(), place, *shapes))
        for i, s in enumerate(slots):
            layers = np.flatnonzero((table.slot == s) & table.live[i])
            entry = block_entry(table, i, layers)
            shapes = _shapes(table, i, layers)
            different.setdefault(entry, Block(entry, r, genomes[i : i + 1].copy(), int(s) + 1, *shapes))
    return list(different.values())


def count(space: SearchSpace, resolutions: tuple[int, int]) -> int:
    """How many measurements a full lookup table takes between two input sides."""
    low, high = resolutions
    return len(blocks(space, [r for r in space.axis("r").values if low <= r <= high]))


def _shapes(table: LayerTable, row: int, layers: Any) -> tuple[tuple[int, int], tuple[int, int]]:
    first, last = layers[0], layers[-1]
    shape_in = int(table.cin[row, first]), int(table.size[row, first])
    return shape_in, (int(table.cout[row, last]), int(table.out_size[row, last]))


@dataclass(frozen=True, eq=False)
class BuiltTable:
    """The timed blocks by name, the table they make, and what it cost."""

    target: Target
    blocks: Mapping[str, Block]
    quartiles_ms: Mapping[str, Any]
    seconds: float

    def table(self) -> LookupTable:
        """Entries by shape; pools by resolution."""
        entries: dict[Entry, float] = {}
        by_resolution: dict[int, dict[Entry, float]] = {}
        for name, quartiles in self.quartiles_ms.items():
            block = self.blocks[name]
            where = by_resolution.setdefault(block.resolution, {}) if block.entry[0] == "pool" else entries
            where[block.entry] = float(quartiles[1])
        return LookupTable(entries, by_resolution)

    def save(self, folder: Path) -> list[Path]:
        """`<target>_<r>_lookup_table.yaml` per resolution in OFA's form, and `predictor.npz`; returns the
        YAML files."""
        space, written = get_space(self.target.space), []
        by_entry = {block.entry: name for name, block in self.blocks.items() if name in self.quartiles_ms}
        for r in sorted({block.resolution for block in self.blocks.values()}):
            content = {}
            for needed in blocks(space, [r]):
                name = needed.name if needed.name in self.quartiles_ms else by_entry.get(needed.entry)
                if name is not None:
                    low, middle, high = self.quartiles_ms[name]
                    std = float((high - low) / 1.349)
                    content[needed.name] = {"mean": float(middle), "std": std, "count": 1}
            path = folder / f"{self.target.name}_{r}_lookup_table.yaml"
            artifact.write_text(path, yaml.safe_dump(content))
            written.append(path)
        self.table().predictor(replace(self.target, method="lookup_table")).save(folder / "predictor.npz")
        return written


def build(
    target: Target, resolutions: Sequence[int], *, store: Store, watch: Watcher | None = None
) -> BuiltTable:
    """Time every different block of `target.space` at these input sides in one sitting."""
    space = get_space(target.space)
    if unknown := [r for r in resolutions if r not in space.axis("r").values]:
        raise ValueError(f"resolutions={unknown}: {space.name} has only {space.axis('r').values}")
    needed = {block.name: block for block in blocks(space, resolutions)}
    timed = session.time_jobs(target, _jobs(target, needed.values()), session.Measuring(store, watch=watch))
    if timed.failed:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in timed.failed.items())
        raise ValueError(f"{len(timed.failed)} of {len(needed)} blocks failed, so no table: {reasons}")
    return BuiltTable(target, needed, timed.quartiles_ms, timed.seconds)


def _jobs(target: Target, needed: Any) -> list[Job]:
    from supernet.weights import network

    space = get_space(target.space)
    weights: list[Any] = []

    def build_block(block: Block) -> "tuple[torch.nn.Module, torch.Tensor]":
        import torch

        if not weights:
            weights.append(network.supernet(space))
        subnet = network.extract(weights[0], space, block.genome)
        noise = torch.Generator().manual_seed(0)
        images = torch.randn((2, 3, block.resolution, block.resolution), generator=noise)
        subnet = network.settle_norms(subnet, images)
        module = _module(subnet, block.place)
        channels, side = block.shape_in
        sides = () if block.place == "classifier" else (side, side)
        return module, torch.randn((target.batch, channels, *sides), generator=noise)

    return [Job(block.name, partial(build_block, block)) for block in needed]


def _module(subnet: Any, place: str | int) -> "torch.nn.Module":
    """The block or layer of a network of the `ofa` package."""
    if isinstance(place, int):
        return subnet.blocks[place]
    expand = getattr(subnet, "final_expand_layer", subnet.feature_mix_layer)
    return {
        "stem": subnet.first_conv,
        "expand": expand,
        "pool": subnet.global_avg_pool,
        "mix": subnet.feature_mix_layer,
        "classifier": subnet.classifier,
    }[place]
