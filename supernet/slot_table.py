"""Slot tables: a cost that is a sum (or a maximum) over the slots of a network, one gather per architecture.

Letters: n architectures, S slots, R resolutions, C slot codes.

Everything additive ends up here: MACs, parameters, training seconds, and the latency predictors after
fitting. A gather of 20 small numbers costs about .1 us per architecture, and its sum does not depend on batch
size or thread count.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import product
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from supernet.arrays import Floats, Genomes, Ints
from supernet.layers import LayerTable
from supernet.space import SearchSpace

Cost = Callable[[LayerTable], NDArray[Any]]  # (n, L) of each layer
Costs = Callable[[LayerTable], Floats]  # (n, L, r) of each layer
Reduce = Literal["sum", "max"]
CHUNK = 4096  # architectures whose numbers stay in the cache


@dataclass(frozen=True, eq=False)
class SlotTable:
    """value(genome) = base[resolution] + sum over slots of cells[resolution, slot, code of the slot]."""

    cells: Floats  # (R, S, C)
    base: Floats  # (R,)
    reduce: Reduce = "sum"

    def evaluate(self, space: SearchSpace, genomes: Genomes) -> Floats:
        """(n,) values of canonical genomes."""
        return self.at(space.slot_codes(genomes), resolution_level(space, genomes))

    def times(self, factor: float) -> "SlotTable":
        """The table of the cost multiplied by a factor."""
        return replace(self, cells=self.cells * factor, base=self.base * factor)

    def check(self, space: SearchSpace) -> None:
        """ValueError for the table of another space."""
        shape = shape_of(space)
        if self.cells.shape != shape or self.base.shape != shape[:1]:
            raise ValueError(f"its table has the shape {self.cells.shape}, {space.name} needs {shape}")

    def stored(self) -> tuple[dict[str, NDArray[Any]], None]:
        """Its arrays, for a file."""
        return {"cells": self.cells, "base": self.base}, None

    @classmethod
    def restored(cls, arrays: Mapping[str, NDArray[Any]], _: Any = None) -> "SlotTable":
        """The sum that a file's arrays `cells` and `base` hold."""
        return cls(arrays["cells"].astype(np.float64), arrays["base"].astype(np.float64))

    def at(self, codes: NDArray[np.int32], level: NDArray[np.int64]) -> Floats:
        """(n,) values for slot codes (n, S) and resolution levels (n,) counted from 0."""
        picked = self.cells.ravel().take(_places(self.cells.shape, codes, level))
        if self.reduce == "max":
            return np.maximum(picked.max(axis=1), self.base[level])
        return picked.sum(axis=1) + self.base[level]


@dataclass(frozen=True, eq=False)
class SlotTables:
    """r slot tables that are asked together: one gather of r neighbouring numbers per slot.

    In single precision; 16 tables take as long as one `SlotTable` of double precision.
    """

    cells: NDArray[np.float32]  # (R, S, C, r)
    base: NDArray[np.float32]  # (R, r)

    def evaluate(self, space: SearchSpace, genomes: Genomes) -> NDArray[np.float32]:
        """(n, r) values of canonical genomes."""
        return self.at(space.slot_codes(genomes), resolution_level(space, genomes))

    def check(self, space: SearchSpace, count: int) -> None:
        """ValueError unless these are so many tables of this space."""
        shape = (*shape_of(space), count)
        if self.cells.shape != shape or self.base.shape != (shape[0], count):
            raise ValueError(f"its tables have the shape {self.cells.shape}, {space.name} needs {shape}")

    def stored(self) -> tuple[dict[str, NDArray[Any]], None]:
        """Its arrays, for a file."""
        return {"cells": self.cells, "base": self.base}, None

    @classmethod
    def restored(cls, arrays: Mapping[str, NDArray[Any]], _: Any = None) -> "SlotTables":
        """The tables that a file's arrays `cells` and `base` hold."""
        return cls(arrays["cells"].astype(np.float32), arrays["base"].astype(np.float32))

    def at(self, codes: NDArray[np.int32], level: NDArray[np.int64]) -> NDArray[np.float32]:
        """(n, r) values for slot codes (n, S) and resolution levels (n,) counted from 0."""
        flat = self.cells.reshape(-1, self.cells.shape[3])
        values = self.base[level]
        for start in range(0, len(codes), CHUNK):
            part = slice(start, start + CHUNK)
            for place in np.ascontiguousarray(_places(self.cells.shape, codes[part], level[part]).T):
                values[part] += flat.take(place, axis=0)
        return values


def _places(shape: tuple[int, ...], codes: NDArray[np.int32], level: NDArray[np.int64]) -> NDArray[np.int32]:
    """(n, S) places in flattened cells, for slot codes (n, S) and resolution levels (n,) from 0."""
    slots, variants = shape[1:3]
    place = codes + np.arange(slots, dtype=np.int32) * variants
    place += (level * (slots * variants)).astype(np.int32)[:, None]
    return place


def resolution_level(space: SearchSpace, genomes: Genomes) -> NDArray[np.int64]:
    """(n,) resolution level from 0; all 0 in a space without resolution gene."""
    if "r" not in space.index:
        return np.zeros(len(genomes), np.int64)
    space.check_inside(genomes)
    return genomes[:, space.index["r"]].astype(np.int64) - 1


def resolution_count(space: SearchSpace) -> int:
    """Number of input sides of a space; 1 without resolution gene."""
    return len(space.axis("r").values) if "r" in space.index else 1


def shape_of(space: SearchSpace) -> tuple[int, int, int]:
    """(R, S, C) of the tables of a space."""
    return resolution_count(space), len(space.slots), space.slot_radix[1]


def gene_levels(space: SearchSpace, slot: int) -> Ints:
    """(genes of the slot, C) the level of each of its genes in each slot code; 0 where it is absent."""
    radix = space.levels[list(space.slots[slot])] + 1
    step = np.cumprod([1, *radix[:-1]])
    return np.asarray(np.arange(space.slot_radix[1]) // step[:, None] % radix[:, None])


def combine(tables: Iterable[tuple[float, SlotTable]]) -> SlotTable:
    """The table of a weighted sum of costs."""
    weighted = list(tables)
    cells = np.sum([weight * table.cells for weight, table in weighted], axis=0)
    return SlotTable(cells, np.sum([weight * table.base for weight, table in weighted], axis=0))


def slot_variants(space: SearchSpace) -> tuple[Genomes, NDArray[np.int64], NDArray[np.int64]]:
    """(v, d) genomes, (v,) slot and (v,) code: each slot of the largest network in each of its variants."""
    largest = space.levels.astype(np.int8)[None, :]
    genomes, slots = [], []
    for s, genes in enumerate(space.slots):
        choices = np.array(list(product(*[range(1, len(space.axes[j].values) + 1) for j in genes])), np.int8)
        varied = np.repeat(largest, len(choices), axis=0)
        varied[:, list(genes)] = choices
        genomes.append(space.canonical(varied))
        slots.append(np.full(len(choices), s))
    batch, slot = np.concatenate(genomes), np.concatenate(slots)
    return batch, slot, space.slot_codes(batch)[np.arange(len(batch)), slot].astype(np.int64)


def tabulate(space: SearchSpace, cost: Cost, reduce: Reduce = "sum") -> SlotTable | None:
    """The slot table of a cost, or None where the layers of the space do not belong to slots.

    It is made once per layout and cost, so that restrictions of a space share it: give a named function or a
    method of a frozen object, not a new lambda each time. The table evaluates each variant of each slot once
    per resolution, and is checked on 512 random networks.
    """
    return _tabulate(_Layout(space.layout, space), cost, reduce)


def tabulate_many(space: SearchSpace, costs: Costs) -> SlotTables | None:
    """The slot tables of r costs that are told together, or None where the layers do not belong to slots.

    Unlike `tabulate` it is made anew at each call.
    """
    made = _cells(space, costs, np.sum)
    return SlotTables(made[0].astype(np.float32), made[1].astype(np.float32)) if made else None


@dataclass(frozen=True)
class _Layout:
    """A space as a key: all its restrictions are equal."""

    key: Hashable
    space: SearchSpace = field(compare=False)


@lru_cache(maxsize=256)
def _tabulate(layout: _Layout, cost: Cost, reduce: Reduce) -> SlotTable | None:
    made = _cells(layout.space, lambda table: cost(table)[..., None], np.sum if reduce == "sum" else np.max)
    if made is None:
        return None
    cells, base = (array[..., 0].copy() for array in made)
    cells.setflags(write=False)
    base.setflags(write=False)
    return SlotTable(cells, base, reduce)


def _cells(space: SearchSpace, costs: Costs, combined: Any) -> tuple[Floats, Floats] | None:
    """(R, S, C, r) cells and (R, r) bases of r costs, or None where 512 random networks disagree."""
    resolutions, (_, codes_per_slot) = resolution_count(space), space.slot_radix
    variants, slot, code = slot_variants(space)
    level = np.repeat(np.arange(resolutions), len(variants))
    genomes = np.tile(variants, (resolutions, 1))
    if "r" in space.index:
        genomes[:, space.index["r"]] = level + 1
    table = space.layers(genomes)
    own = table.slot == np.tile(slot, resolutions)[:, None]
    first = np.arange(len(genomes)) % len(variants) == 0  # has the layers of no slot; the others need not
    table = replace(table, live=table.live & (own | ((table.slot < 0) & first[:, None])))
    values = np.where(table.live[..., None], costs(table), 0)
    cells = np.zeros((resolutions, len(space.slots), codes_per_slot, values.shape[-1]))
    cells[level, np.tile(slot, resolutions), np.tile(code, resolutions)] = combined(
        np.where(own[..., None], values, 0), axis=1
    )
    base = combined(np.where((table.slot < 0)[..., None], values, 0), axis=1)[:: len(variants)]
    base = base.astype(np.float64)

    probe = space.sample(512, np.random.default_rng(0))
    table = space.layers(probe)
    truth = combined(np.where(table.live[..., None], costs(table), 0), axis=1)
    codes, at = space.slot_codes(probe), resolution_level(space, probe)
    picked = cells.reshape(-1, cells.shape[-1])[_places(cells.shape, codes, at)]
    told = np.concatenate([picked, base[at][:, None]], axis=1)
    return (cells, base) if np.allclose(combined(told, axis=1), truth, rtol=1e-9) else None


def sides(space: SearchSpace) -> Floats:
    """(R, S) largest feature-map side among each slot's layers, relative to the largest resolution.

    Ones in a space without resolution gene.
    """
    table = tabulate(space, LayerTable.layer_sides, "max")
    if table is None:
        return np.ones((resolution_count(space), len(space.slots)))
    largest = table.cells.max(axis=2)
    return largest / np.maximum(largest.max(axis=0), 1)


def stages(space: SearchSpace) -> Ints:
    """(S,) number of the stage of each slot: slots whose sides are the same at every resolution."""
    _, stage = np.unique(sides(space).round(9), axis=1, return_inverse=True)
    return np.asarray(stage, np.int64).ravel()
