"""The measurement store: every timed burst of every subnet, append-only, in one SQLite file.

A *sitting* is one session of measuring on one target; a *visit* is a burst of runs of one subnet within it.
The file only grows (`supernet.files.append_only`), and each visit is committed on its own, so a killed
process loses at most the visit in flight. What the database cannot take (disk full, locked for too long) goes
to a CSV file beside it.
"""

import csv
import json
import math
import os
import sqlite3
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic.dataclasses import dataclass

from latency.data import LatencyData
from latency.target import Target
from supernet.files import append_only, artifact, disk
from supernet.files.append_only import StoreError
from supernet.files.command_line import typed
from supernet.files.tables import Table, read_cell
from supernet.space import get_space

TABLES = {
    "sittings": (
        "id TEXT PRIMARY KEY, unix_time REAL NOT NULL, engine_version TEXT NOT NULL, target TEXT NOT NULL, "
        "facts TEXT NOT NULL"
    ),
    "visits": (
        "sitting TEXT NOT NULL REFERENCES sittings(id), unix_time REAL NOT NULL, architecture TEXT NOT NULL, "
        "role TEXT NOT NULL, block INTEGER NOT NULL, round INTEGER NOT NULL, wall_ms TEXT NOT NULL, "
        "cpu_ms TEXT NOT NULL, others REAL, error TEXT, PRIMARY KEY (sitting, unix_time, architecture)"
    ),
    "conditions": (
        "sitting TEXT NOT NULL REFERENCES sittings(id), unix_time REAL NOT NULL, architecture TEXT NOT NULL, "
        "celsius REAL, mhz REAL, PRIMARY KEY (sitting, unix_time, architecture)"
    ),
    "energies": (
        "sitting TEXT NOT NULL REFERENCES sittings(id), unix_time REAL NOT NULL, architecture TEXT NOT NULL, "
        "energy_mj REAL NOT NULL, PRIMARY KEY (sitting, unix_time, architecture)"
    ),
    "latencies": (
        "id INTEGER PRIMARY KEY, unix_time REAL NOT NULL, target TEXT NOT NULL, architecture TEXT NOT NULL, "
        "ms REAL NOT NULL, source TEXT NOT NULL"
    ),
}
# Tables with more of a visit, and their columns: what not every device tells, and older stores lack.
BESIDE = {"conditions": ("celsius", "mhz"), "energies": ("energy_mj",)}
OPTIONAL = [name for names in BESIDE.values() for name in names]
END = "end"  # the role of the last row of a sitting that could have gone on: it came to its end
T = TypeVar("T")
JSON = ("target", "facts", "wall_ms", "cpu_ms")  # columns that hold it


class Row:
    """A dataclass as the database, or a CSV file, holds it: `from_row` reads it."""

    def row(self: Any) -> dict[str, Any]:
        return {k: json.dumps(v) if k in JSON else v for k, v in asdict(self).items()}


def from_row(cls: Callable[..., T], row: Mapping[str, Any]) -> T:
    """A sitting or a visit; ValueError for another row. A CSV file has empty text where nothing is."""
    values = {k: v for k, v in dict(row).items() if v not in (None, "")}
    return cls(**values | {name: json.loads(values[name]) for name in JSON if name in values})


@dataclass(frozen=True)
class Sitting(Row):
    """One session of measuring: `facts` are clocks, load, priority and versions at its start."""

    id: str
    unix_time: float
    engine_version: str
    target: Target
    facts: Mapping[str, Any]

    @classmethod
    def begin(cls, target: Target, engine_version: str, facts: Mapping[str, Any]) -> "Sitting":
        return cls(uuid.uuid4().hex, time.time(), engine_version, target, facts)


@dataclass(frozen=True)
class Visit(Row):
    """A burst of runs of one subnet. `others` is the share of the machine that other processes used.

    Devices that say it also have the temperature of the processor after the burst, the frequency of its
    core, and the energy of a run.
    """

    sitting: str
    unix_time: float
    architecture: str  # one-line name
    role: str  # candidate, anchor, or END
    block: int  # subnets of a block take turns with each other
    round: int
    wall_ms: tuple[float, ...]
    cpu_ms: tuple[float, ...]  # of the process
    others: float | None = None
    error: str | None = None  # why it could not be prepared or run
    celsius: float | None = None
    mhz: float | None = None
    energy_mj: float | None = None

    def row(self) -> dict[str, Any]:
        return {name: value for name, value in super().row().items() if name not in OPTIONAL}

    def beside(self, names: Sequence[str]) -> dict[str, float | None]:
        """Those of its values that are not in its row."""
        return {name: getattr(self, name) for name in names}


VISIT = [field.name for field in fields(Visit)]
SITTING = [field.name for field in fields(Sitting)]
COLUMNS = [*(f"sitting_{name}" for name in SITTING), *VISIT]


class Store:
    """Open with `with Store(path) as store`.

    Leaving raises StoreError if anything had to go to a CSV file.
    """

    def __init__(self, path: str | Path, database: sqlite3.Connection | None = None) -> None:
        self.path = Path(path)
        self._rescued: dict[Path, str] = {}  # files, and why they were needed
        self._aside: dict[tuple[str, str], list[Visit]] = {}  # visits in them, by sitting and network
        self._database = database or _file(path).connect()
        # An older store that is only read may lack them.
        there = {row["name"] for row in self._rows("SELECT name FROM sqlite_master")}
        self._beside = [name for name in BESIDE if name in there]

    @classmethod
    def to_read(cls, path: str | Path) -> "Store":
        """A store that stays as it is, also on a disk that cannot be written."""
        return cls(path, _file(path).connect_to_read())

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._database.close()
        if not self._rescued:
            return
        reason = "; ".join(dict.fromkeys(self._rescued.values()))
        message = f"{self.path} could not take everything ({reason}); the rest is kept: " + ", ".join(
            typed("measure", import_csv=path, store=self.path) for path in self._rescued
        )
        if error is None:
            raise StoreError(message)
        error.add_note(message)

    def add(self, sitting: Sitting, visit: Visit) -> None:
        """Commit one visit (and its sitting, the first time).

        Two visits at the same time by a coarse clock are two: the later one is moved by the least that makes
        a difference. One that went to a file beside the store counts, too: it must find its place later.
        """
        aside = self._aside.get((visit.sitting, visit.architecture), [])
        if visit in aside:
            return
        if visit.unix_time in (times := [one.unix_time for one in aside]):
            visit = replace(visit, unix_time=math.nextafter(max(times), math.inf))
        try:
            if not self._insert(sitting, visit):
                self._insert(sitting, self._moved(visit))
        except sqlite3.Error as error:
            self._rescue(sitting, visit, str(error))
            self._database.execute("PRAGMA busy_timeout = 100")  # ms: do not wait as long every time

    def _insert(self, sitting: Sitting, visit: Visit) -> int:
        """Add a visit unless it is there; returns how many were added."""
        append_only.insert(self._database, "sittings", sitting.row())
        count = append_only.insert(self._database, "visits", visit.row())
        for table, names in BESIDE.items():
            values = visit.beside(names)
            if count and any(value is not None for value in values.values()):
                key = {name: getattr(visit, name) for name in ("sitting", "unix_time", "architecture")}
                append_only.insert(self._database, table, key | values)
        return count

    def _moved(self, visit: Visit) -> Visit:
        """The visit at a time that no other of its network has; as it is where it is there already, which a
        device that was lost may tell again."""
        query = "SELECT * FROM visits WHERE sitting = ? AND unix_time = ? AND architecture = ?"
        rows = self._database.execute(query, (visit.sitting, visit.unix_time, visit.architecture)).fetchall()
        if not rows or visit.row() in map(dict, rows):
            return visit
        return replace(visit, unix_time=math.nextafter(self._last(visit), math.inf))

    def _last(self, visit: Visit) -> float:
        """The time of the last visit of the same network in the same sitting."""
        query = "SELECT max(unix_time) FROM visits WHERE sitting = ? AND architecture = ?"
        stored = self._database.execute(query, (visit.sitting, visit.architecture)).fetchone()[0]
        aside = self._aside.get((visit.sitting, visit.architecture), ())
        return max(float(stored), *(one.unix_time for one in aside), -math.inf)

    def _rescue(self, sitting: Sitting, visit: Visit, reason: str) -> None:
        with suppress(sqlite3.Error):  # of a store that cannot even be read
            visit = self._moved(visit)
        name = f"{self.path.stem}-{sitting.id[:8]}-{os.getpid()}.csv"
        for folder in (self.path.parent, Path(tempfile.gettempdir())):
            try:
                _append(folder / name, sitting, visit)
            except OSError:
                continue
            self._rescued[folder / name] = reason
            self._aside.setdefault((visit.sitting, visit.architecture), []).append(visit)
            return
        raise StoreError(
            f"neither {self.path} nor a file beside it can take this measurement ({reason}): {visit}"
        )

    def _rows(self, query: str, *values: str) -> list[dict[str, Any]]:
        try:
            return [dict(row) for row in self._database.execute(query, values)]
        except sqlite3.Error as error:
            raise StoreError(f"{self.path} cannot be read ({error}); left as it is, give another") from error

    def sittings(self, target: Target | None = None, engine_version: str | None = None) -> list[Sitting]:
        """The sittings, oldest first: on this target (by key) or all, of one version of the engine or all."""
        rows = self._rows("SELECT * FROM sittings ORDER BY unix_time, id")
        return [
            sitting
            for sitting in (from_row(Sitting, row) for row in rows)
            if target is None or sitting.target.key == target.key
            if engine_version in (None, sitting.engine_version)
        ]

    def visits(self, sitting: str) -> list[Visit]:
        """The visits of a sitting in the order they were made."""
        key = "(sitting, unix_time, architecture)"
        joined = " ".join(f"LEFT JOIN {table} USING {key}" for table in self._beside)
        query = f"SELECT * FROM visits {joined} WHERE sitting = ? ORDER BY block, round, unix_time"
        rows = self._rows(query, sitting)
        return [from_row(Visit, row) for row in rows]

    def add_latencies(self, data: LatencyData, source: str) -> None:
        """Keep latencies that were measured elsewhere, all or none; `source` says where they are from."""
        target, now = json.dumps(asdict(data.target)), time.time()
        names = get_space(data.target.space).format(data.genomes)
        try:
            with self._database:
                self._database.execute("BEGIN")
                for name, ms in zip(names, data.ms.tolist(), strict=True):
                    row = {"architecture": name, "ms": ms, "target": target}
                    row |= {"unix_time": now, "source": source}
                    append_only.insert(self._database, "latencies", row)
        except sqlite3.Error as error:
            raise StoreError(f"{self.path} could not take {source} ({error}); nothing was added") from error

    def latencies(self, target: Target) -> LatencyData:
        """The latencies of a target that were measured elsewhere, oldest first; the last of each network."""
        texts = [row["target"] for row in self._rows("SELECT DISTINCT target FROM latencies")]
        same = {text for text in texts if Target(**json.loads(text)).key == target.key}
        rows = self._rows("SELECT * FROM latencies ORDER BY id")
        ms = {row["architecture"]: row["ms"] for row in rows if row["target"] in same}
        values = np.array(list(ms.values()), np.float64)
        return LatencyData(target, get_space(target.space).parse(list(ms)), values, np.full(len(ms), np.nan))

    def export_csv(self, path: str | Path) -> int:
        """Write every visit with its sitting to a CSV file; returns the number of visits."""
        rows = [_line(s, visit).values() for s in self.sittings() for visit in self.visits(s.id)]
        artifact.write_text(Path(path), Table.from_rows(COLUMNS, rows).csv())
        return len(rows)

    def import_csv(self, path: str | Path) -> int:
        """Add the visits of an exported file that are not there yet; returns how many those were."""
        path, count, number = Path(path), 0, 0
        if not path.is_file():
            raise StoreError(f"no file {path} to import")
        try:
            with path.open(newline="") as file, self._database:
                self._database.execute("BEGIN IMMEDIATE")
                lines = csv.DictReader(file)
                if missing := [n for n in COLUMNS if n not in {*(lines.fieldnames or ()), *OPTIONAL}]:
                    raise ValueError(f"it has no column {missing[0]}")
                for cells in lines:
                    number = lines.line_num
                    line = {name: read_cell(cell or "") for name, cell in cells.items()}
                    sitting = from_row(Sitting, {name: line[f"sitting_{name}"] for name in SITTING})
                    visit = from_row(Visit, {n: line[n] for n in VISIT if n in line or n not in OPTIONAL})
                    count += self._insert(sitting, visit)
        except sqlite3.Error as error:
            raise StoreError(f"{self.path} could not take {path} ({error}); nothing was added") from error
        except (TypeError, ValueError, RecursionError, csv.Error) as error:
            where, why = f"line {number}: " if number else "", " ".join(str(error).split())
            raise StoreError(
                f"{path} is no export of a measurement store ({where}{why}); nothing was added, give what "
                "export_csv= has written"
            ) from error
        return count


def _file(path: str | Path) -> append_only.Database:
    return append_only.Database(Path(path), "measurement", TABLES)


def _line(sitting: Sitting, visit: Visit) -> dict[str, Any]:
    about = {f"sitting_{key}": value for key, value in sitting.row().items()}
    return about | visit.row() | visit.beside(OPTIONAL)


def _append(path: Path, sitting: Sitting, visit: Visit) -> None:
    """Add a line to a rescue file, and bring it to the disk."""
    if visit.error is not None:
        visit = replace(visit, error=" ".join(visit.error.splitlines()))  # a visit is one line
    table = Table.from_rows(COLUMNS, [_line(sitting, visit).values()]).csv()
    with disk.appending(path) as file:
        disk.append(file, table.partition("\n")[2] if file.tell() else table)
        disk.sync(file)
