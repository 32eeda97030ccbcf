"""LatencyData: measured latencies of subnets on one target, as parallel arrays."""

import gzip
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latency.target import Target
from supernet.arrays import Floats, Genomes, Ints
from supernet.devices.catalogue import plain
from supernet.files import architectures, artifact, tables
from supernet.files.tables import Columns
from supernet.registry import unknown_name
from supernet.space import get_space

COLUMNS = ("genomes", "ms", "spread_ms")
MOST_APART = 1.5  # times that two measurements of one network may be apart, on a busy machine
MILLISECONDS = ("lat_ms", "latency_ms", "ms")  # what a table may call them


@dataclass(frozen=True, eq=False)
class LatencyData:
    """n measurements; `spread_ms` is the interquartile range of each where it is known, else NaN."""

    target: Target
    genomes: Genomes  # (n, d) of target.space
    ms: Floats  # (n,) of one batch
    spread_ms: Floats  # (n,)

    def __post_init__(self) -> None:
        get_space(self.target.space).check(self.genomes)
        possible = np.isfinite(self.ms) & (self.ms > 0)
        if not possible.all():
            row = int(np.argmin(possible))
            raise ValueError(f"latencies must be positive milliseconds; row {row} has {self.ms[row]}")

    def __len__(self) -> int:
        return len(self.ms)

    def take(self, rows: Ints | slice) -> "LatencyData":
        """The measurements of these rows."""
        return replace(self, genomes=self.genomes[rows], ms=self.ms[rows], spread_ms=self.spread_ms[rows])

    def followed_by(self, later: "LatencyData") -> "LatencyData":
        """These and later measurements of the same target; of a network in both, only the later ones."""
        again = {row.tobytes() for row in later.genomes}
        kept = self.take(
            np.array([i for i, row in enumerate(self.genomes) if row.tobytes() not in again], int)
        )
        columns = (np.concatenate([getattr(part, name) for part in (kept, later)]) for name in COLUMNS)
        return LatencyData(later.target, *columns)


def read_csv(path: str | Path, target: Target, column: str, rows: slice = slice(None)) -> LatencyData:
    """Measurements from a tidy table: `column` in ms, and `architecture` or the columns of the space's genes.

    Of the given rows, those without a measurement are left out.
    """
    return _measurements(tables.select(tables.read_columns(path), rows), target, column, path)


def _measurements(columns: Columns, target: Target, column: str, path: str | Path) -> LatencyData:
    if column not in columns:
        others = [name for name in columns if name not in get_space(target.space).index]
        raise unknown_name(f"column of {path}", column, others)
    columns = tables.select(columns, np.isfinite(tables.numbers(columns, column, path)))
    if not len(columns[column]):
        raise ValueError(f"column {column} of {path} has no number in any of the rows: give another")
    ms, space = columns[column], get_space(target.space)
    genomes = architectures.genomes(columns, space)
    architectures.refuse_contradictions(genomes, ms, space, column, lambda low, high: high > MOST_APART * low)
    try:
        return LatencyData(target, genomes, ms, np.full(len(ms), np.nan))
    except ValueError as error:
        raise ValueError(f"column {column} of {path}: {error}") from error


def read_published(
    path: str | Path, target: Target, column: str | None = None, device: str | None = None
) -> LatencyData:
    """The measurements of a target in a table of several devices and spaces, as publications have them.

    Where the table has the columns `device`, `space` and `batch`, the rows are those of the target; `device`
    is what the table calls it, by default any spelling of its name or title. Networks with input sides that
    the space does not have are left out. Without `column` it is the first of `MILLISECONDS` that is there.

    ValueError, which says what the table has, where no row is left.
    """
    columns, space = tables.read_columns(path), get_space(target.space)
    column = column or next((name for name in MILLISECONDS if name in columns), MILLISECONDS[0])
    devices = {plain(device)} if device else {plain(target.spec.name), plain(target.spec.title)}
    wanted: dict[str, Callable[[Any], bool]] = {
        "device": lambda name: plain(str(name)) in devices,
        "space": lambda name: name == space.name,
        "batch": lambda batch: batch == target.batch,
    }
    if "r" in space.index:
        wanted["r"] = space.axis("r").values.__contains__
    for name, holds in wanted.items():
        if name in columns:
            values = columns[name].tolist()
            kept = np.array([holds(value) for value in values], np.bool_)
            if not kept.any():
                there = ", ".join(map(str, dict.fromkeys(values)))
                asked = device or f"{target.name} ({target.space}, batch {target.batch})"
                raise ValueError(f"{path} has no row of {asked}: its column {name} has {there}")
            columns = tables.select(columns, kept)
    return _measurements(columns, target, column, path)


def write_csv(path: str | Path, data: LatencyData, energies: LatencyData | None = None) -> None:
    """The tidy table that `read_csv` reads: `architecture`, a column per gene, `lat_ms` and `spread_ms`, and
    `energy_mj` where there are `energies`, mJ in place of ms; gzip for `.gz`."""
    space = get_space(data.target.space)
    genes = [j for j, axis in enumerate(space.axes) if not axis.deploy]
    heads = [architectures.COLUMN, *(space.axes[j].name for j in genes), "lat_ms", "spread_ms"]
    names, values = space.format(data.genomes), space.values(data.genomes)[:, genes].tolist()
    measured = zip(names, values, data.ms, data.spread_ms, strict=True)
    rows = [[name, *row, f"{ms:.6g}", f"{spread:.3g}"] for name, row, ms, spread in measured]
    if energies is not None:
        heads.append("energy_mj")
        known = dict(zip(space.format(energies.genomes), energies.ms, strict=True))
        rows = [[*row, f"{known[row[0]]:.6g}" if row[0] in known else ""] for row in rows]
    path, content = Path(path), tables.Table.from_rows(heads, rows).csv().encode()
    artifact.write_bytes(path, gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def held_out(n: int, rows: slice | Ints) -> NDArray[np.bool_]:
    """(n,) whether a row is one of these, which judge a fit on the others; ValueError if either is empty."""
    held = np.zeros(n, bool)
    held[rows] = True
    if not held.any() or held.all():
        raise ValueError(f"validation rows {rows} of {n} leave nothing to fit or nothing to judge")
    return held
