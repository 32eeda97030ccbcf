"""Phones of which a handful of networks is known: the Note 10's table, brought to them by these networks.

Of three other phones every published network, left out of the fit, is 1.0 to 1.7% off in the mean of a phone
(docs/figures/latency.md). The Note 10's table is of width 1.2 and from 160 pixels on; here it is extended to
smaller inputs and to other widths of the space. Ours.

Letters: R resolutions, S slots, C slot codes.
"""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from latency.data import LatencyData, read_published
from latency.predictors.interface import with_facts
from latency.predictors.slots import SlotLatency
from latency.predictors.sources import Source, predictor, target
from latency.predictors.transfer import Transfer
from latency.target import Target
from supernet import footprint, slot_table
from supernet.arrays import Floats
from supernet.slot_table import SlotTable
from supernet.space import SearchSpace, get_space

TABLE = "note10_lut"
FAMILY = "ofa_mbv3_w"  # the widths of the space whose blocks the table has


def serves(space: str) -> bool:
    """Whether the table can be brought to a space."""
    return space.startswith(FAMILY) and get_space(space).parent is None


def fit(data: LatencyData) -> SlotLatency:
    """The predictor of a phone from two measured networks or more; ValueError for a space of other blocks."""
    if not serves(data.target.space):
        raise ValueError(f"the table of the Note 10 is of {FAMILY}..., not of {data.target.space}")
    return Transfer().fit_from(sources(data.target.space), data)


def fit_published(name: str, data_dir: Path) -> SlotLatency:
    """The predictor that ships of a phone, from the table of published networks."""
    its: Target = target(name)
    fitted = fit(read_published(data_dir / its.rows, its, its.column))
    left_out, samples = fitted.facts["left_out_mape"], fitted.facts["samples"]
    protocol = f"{samples} published networks; each left out once: mean {left_out:.1f}% off"
    return with_facts(fitted, {"protocol": protocol})


@cache
def sources(space: str) -> list[Source]:
    """The table as networks of the space would have it, multiply-accumulates and the number of layers."""
    own, wide, table = get_space(space), get_space(target(TABLE).space), predictor(TABLE)
    sides = own.axis("r").values
    made = narrowed(extended(table.table, wide, table.resolutions[0]), wide, own)
    phone = Source(TABLE, made, (sides[0], sides[-1]), replace(target(TABLE), space=space))
    counts = {name: footprint.table(own, name) for name in ("macs", "layers")}
    return [phone, *(Source(name, of, phone.resolutions) for name, of in counts.items() if of is not None)]


def extended(table: SlotTable, space: SearchSpace, lowest: int) -> SlotTable:
    """The table with the resolutions below the lowest that it knows: lines over the area of each slot's map.

    Lines from 188 pixels on give the sums at 160-184 with 1% mean error (tests/unit/test_adapt_rows.py).
    """
    sides = np.array(space.axis("r").values)
    known, areas = sides >= lowest, slot_table.sides(space).astype(float) ** 2  # (R,), (R, S)
    cells = table.cells.copy()
    for slot in range(cells.shape[1]):
        cells[~known, slot] = _line(areas[:, slot], cells[:, slot], known)
    base = table.base.copy()
    base[~known] = _line(sides.astype(float) ** 2, base[:, None], known)[:, 0]
    return SlotTable(cells, base)


def _line(area: Floats, values: Floats, known: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Floats:
    """(unknown, C) values of a line through the known (R, C) values, by relative least squares."""
    columns = np.stack([np.ones_like(area), area], axis=1)
    weights = 1 / area[known, None]
    line = np.linalg.lstsq(columns[known] * weights, values[known] * weights, rcond=None)[0]
    return np.asarray(np.maximum(columns[~known] @ line, 0))


def narrowed(table: SlotTable, space: SearchSpace, other: SearchSpace) -> SlotTable:
    """The table of a space for another width of it, every block in proportion to its multiply-accumulates.

    The tables of a Core i7-8700K of both widths differ from that by one factor and 2% (standard deviation;
    tests/unit/test_adapt_rows.py).
    """
    of, to = footprint.table(space, "macs"), footprint.table(other, "macs")
    assert of is not None  # of mobile networks
    assert to is not None
    ratio = np.divide(to.cells, of.cells, out=np.zeros_like(of.cells), where=of.cells > 0)
    return SlotTable(table.cells * ratio, table.base * to.base / of.base)
