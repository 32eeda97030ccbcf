"""Parts of a slot table, and the directions in which a mix of tables may be off.

Letters: n architectures, d tables that are mixed, p parts, k directions, r combinations of directions,
S slots, R resolutions, C slot codes.
"""

from collections.abc import Sequence
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


def families(space: SearchSpace, table: SlotTable) -> list[list[SlotTable]]:
    """Tables that are parts of `table`, from coarse to fine: what may be off by a factor of its own."""
    levels, mask = len(table.base), masks(space)
    line = np.linspace(-1.75, 1.75, levels)  # unit variance over evenly drawn resolutions
    one = np.eye(levels)

    def part(chosen: NDArray[np.bool_], along: Floats | None = None) -> SlotTable:
        cells = table.cells * chosen
        return SlotTable(cells if along is None else cells * along[:, None, None], np.zeros(levels))

    coarse = [table, SlotTable(np.zeros_like(table.cells), table.base)]
    coarse += [part(stage) for stage in mask.stages] + [part(kind) for kind in mask.kinds]
    coarse += [part(stage & kind) for stage in mask.stages for kind in mask.kinds]
    result = [coarse]
    whole = np.ones((1, *table.cells.shape[1:]), bool)
    whole_and_kinds = np.concatenate([whole, mask.kinds])
    if levels > 1:
        for along in (line, line**2):
            coarse.append(SlotTable(table.cells * along[:, None, None], table.base * along))
        result.append([part(stage & kind, line) for stage in mask.stages for kind in whole_and_kinds])
        result.append([part(stage, along) for stage in mask.stages for along in one])
    result.append([part(slot & kind) for slot in mask.slots for kind in whole_and_kinds])
    result.append([part(slot & variant) for slot in mask.slots for variant in mask.variants])
    return result


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
