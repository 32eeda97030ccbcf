"""Parts of a slot table, and the directions in which a mix of tables may be off.

Letters: n architectures, d tables that are mixed, p parts, k directions, r combinations of directions,
S slots, R resolutions, C slot codes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from supernet import slot_table
from supernet.arrays import Floats, Genomes, Ints
from supernet.slot_table import SlotTable
from supernet.space import SearchSpace

WIDE, NARROW = 1.0, 1 / 6  # prior deviations of large parts and sources, and of kinds of blocks, as a ratio


@dataclass(frozen=True, eq=False)
class Masks:
    """Boolean masks of slots and of slot codes, from which parts are made."""

    stages: NDArray[np.bool_]  # (stages, S, C)
    slots: NDArray[np.bool_]  # (S, S, C)
    kinds: NDArray[np.bool_]  # (kinds, S, C): the slots whose kernel, expansion ... has one of its values
    variants: NDArray[np.bool_]  # (codes in use, S, C)


def masks(space: SearchSpace) -> Masks:
    """The masks of a space."""
    shape = slot_table.shape_of(space)[1:]
    stage, genes = slot_table.stages(space), slot_table.gene_levels(space, 0)

    def of_slots(chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return np.broadcast_to(chosen[:, :, None], (len(chosen), *shape))

    def of_codes(chosen: Sequence[NDArray[np.bool_]]) -> NDArray[np.bool_]:
        return np.broadcast_to(np.array(chosen)[:, None, :], (len(chosen), *shape))

    return Masks(
        of_slots(np.eye(int(stage.max()) + 1, dtype=bool)[:, stage]),
        of_slots(np.eye(shape[0], dtype=bool)),
        of_codes([levels == level for levels in genes for level in range(1, int(levels.max()) + 1)]),
        of_codes([np.arange(shape[1]) == code for code in np.flatnonzero((genes > 0).all(axis=0))]),
    )


@dataclass(frozen=True, eq=False)
class Parts:
    """Parts of any table of a space: some cells, the base or not, times a factor per resolution."""

    masks: Floats  # (p, S, C), 1 for the cells of a part
    along: Floats  # (p, R)
    on_base: Floats  # (p,), 1 where the base belongs to a part

    @classmethod
    def from_rows(cls, rows: Iterable[tuple[NDArray[np.bool_], Floats, float]]) -> "Parts":
        """Of the mask, the factors along the resolutions and the share of the base of each part."""
        masks, along, on_base = zip(*rows, strict=True)
        return cls(np.stack(masks).astype(np.float64), np.stack(along), np.array(on_base))

    def at(self, table: SlotTable, codes: NDArray[np.int32], level: NDArray[np.int64]) -> Floats:
        """(n, p) values of the parts for slot codes (n, S) and resolution levels (n,) counted from 0."""
        slots = np.arange(codes.shape[1])
        cells = table.cells[level[:, None], slots, codes]
        values = np.einsum("ns,pns->np", cells, self.masks[:, slots, codes])
        return np.asarray((values + table.base[level, None] * self.on_base) * self.along[:, level].T)

    def combined(self, table: SlotTable, factors: Floats) -> SlotTable:
        """The sum of the parts of a table times (p,) factors."""
        along = (factors[:, None] * self.along).T
        cells = (along @ self.masks.reshape(len(factors), -1)).reshape(table.cells.shape)
        return SlotTable(cells * table.cells, along @ self.on_base * table.base)


def families(space: SearchSpace) -> list[Parts]:
    """Parts that may be off by a factor of their own, from coarse to fine."""
    levels, mask = slot_table.resolution_count(space), masks(space)
    flat, line = np.ones(levels), np.linspace(-1.75, 1.75, levels)  # unit variance over even resolutions
    whole = np.ones(mask.kinds.shape[1:], bool)
    parts = [*mask.stages, *mask.kinds, *(stage & kind for stage in mask.stages for kind in mask.kinds)]
    coarse = [(whole, flat, 1.0), (~whole, flat, 1.0), *((part, flat, 0.0) for part in parts)]
    kinds = [whole, *mask.kinds]
    result = [coarse]
    if levels > 1:
        coarse += [(whole, line, 1.0), (whole, line**2, 1.0)]
        result.append([(stage & kind, line, 0.0) for stage in mask.stages for kind in kinds])
        result.append([(stage, one, 0.0) for stage in mask.stages for one in np.eye(levels)])
    result.append([(slot & kind, flat, 0.0) for slot in mask.slots for kind in kinds])
    result.append([(slot & variant, flat, 0.0) for slot in mask.slots for variant in mask.variants])
    return [Parts.from_rows(rows) for rows in result]


@dataclass(frozen=True, eq=False)
class Samples:
    """What tables and their parts say of n architectures."""

    tables: Floats  # (n, d)
    parts: Floats  # (n, d, p)


@dataclass(frozen=True, eq=False)
class Directions:
    """The ways in which a mix of tables may be off (ours): a factor on the whole, on the constant, on each
    stage, on each kind of block and on each kind in each stage, and a pull towards each table.

    Directions are relative to the mix and in units of their prior standard deviations.
    """

    space: SearchSpace
    tables: Sequence[SlotTable]
    masks: Floats  # (p, S, C)
    on_base: Floats  # (p,)
    widths: Floats  # (p + d,)

    @classmethod
    def from_tables(cls, space: SearchSpace, tables: Sequence[SlotTable]) -> "Directions":
        """The directions of a mix of these tables."""
        mask = masks(space)
        shape = (-1, *mask.kinds.shape[1:])
        both = (mask.stages[:, None] & mask.kinds).reshape(shape)
        fixed = np.stack([np.ones(shape[1:], bool), np.zeros(shape[1:], bool)])
        chosen = np.concatenate([fixed, mask.stages, mask.kinds, both]).astype(np.float64)
        wide = len(fixed) + len(mask.stages)
        on_base = np.zeros(len(chosen))
        on_base[: len(fixed)] = 1
        widths = np.full(len(chosen) + len(tables), WIDE)
        widths[wide : len(chosen)] = NARROW
        return cls(space, tables, chosen, on_base, widths)

    def at(self, genomes: Genomes) -> Samples:
        """What the tables and their parts say of (n, d) canonical genomes."""
        codes, level = self.space.slot_codes(genomes), slot_table.resolution_level(self.space, genomes)
        slots = np.arange(codes.shape[1])
        chosen = self.masks[:, slots, codes]  # (p, n, S)
        cells = np.stack([table.cells[level[:, None], slots, codes] for table in self.tables], axis=1)
        base = np.stack([table.base[level] for table in self.tables], axis=1)
        parts = np.einsum("nds,pns->ndp", cells, chosen) + base[:, :, None] * self.on_base
        return Samples(cells.sum(axis=2) + base, parts)

    def columns(self, samples: Samples, weights: Floats, scale: Floats) -> Floats:
        """(n, k) directions of the mix with (d,) weights; `scale` (d,) brings the tables to its size."""
        mix = samples.tables @ weights
        parts = np.einsum("ndp,d->np", samples.parts, weights) / mix[:, None]
        apart = samples.tables * scale / mix[:, None] - 1
        return np.concatenate([parts, apart], axis=1) * self.widths

    def combined(self, factors: Floats, weights: Floats, scale: Floats) -> tuple[Floats, Floats]:
        """Cells (R, S, C, r) and base (R, r) of what (k, r) factors of the directions do to the mix."""
        scaled = self.widths[:, None] * factors
        parts, apart = scaled[: len(self.masks)], scaled[len(self.masks) :]
        cells = np.stack([table.cells for table in self.tables])  # (d, R, S, C)
        base = np.stack([table.base for table in self.tables])
        each = apart * scale[:, None] - weights[:, None] * apart.sum(axis=0)  # (d, r)
        by_part = np.tensordot(weights, cells, 1)[..., None] * np.einsum("psc,pr->scr", self.masks, parts)
        base_by_part = np.tensordot(weights, base, 1)[:, None] * (self.on_base @ parts)
        return by_part + np.tensordot(cells, each, (0, 0)), base_by_part + np.tensordot(base, each, (0, 0))


def scale_to(mix: Floats, tables: Floats, rows: Ints) -> Floats:
    """(d,) factors that bring the (n, d) tables to the size of the (n,) mix on some rows."""
    return np.asarray(np.exp(np.log(mix[rows, None] / tables[rows]).mean(axis=0)))
