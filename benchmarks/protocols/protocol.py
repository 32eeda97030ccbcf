"""What the protocols of the published latency tables share: tables, rows of results, and how they are scored.

A protocol is a generator `run(setting) -> Iterator[Row]` in a file of its own, listed in
`benchmarks/latency_tables.py`. N counts every measurement of the target that a method uses, reference
architectures included. Nothing is chosen on the rows that are reported: `validation=1` reports on the
validation part instead, which is where choices are made.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from latency.data import LatencyData
from latency.predictors.interface import LatencyPredictor
from latency.scores import scores
from latency.target import Target
from supernet.arrays import Floats, Genomes, Ints
from supernet.device import Device
from supernet.files import tables
from supernet.prediction import Prediction, exact
from supernet.space import get_space

MIDDLE = (0.1, 0.9)  # HELP drops the fastest and the slowest tenth of each device's rows
PARTS = ("all", "middle 80%")
Fit = Callable[[], Callable[[Genomes], Prediction | Floats]]
TIMED = 10_000  # architectures that prediction speed is taken on
SAME_NAME = (
    *("year", "cores", "ram_gb", "fp32_tflops", "tdp_w", "sm", "base_mhz", "boost_mhz", "l2_mb"),
    "tensor_cores",
)


@dataclass(frozen=True)
class Setting:
    """What is asked of a protocol."""

    data: Path
    seeds: int = 5
    test_rows: Path | None = None  # report on this table in place of the protocol's own test part
    validation: bool = False  # report on the validation part, where choices are made


@dataclass(frozen=True)
class Row:
    """One result; `scores` as in `latency.scores`, empty for what was not published."""

    protocol: str
    method: str
    target: str
    n: int  # measurements of the target, all counted
    seed: int | None
    rows: str  # "all" or "middle 80%" of the device's rows
    scores: Mapping[str, float]
    fit_seconds: float | None = None
    per_second: float | None = None  # architectures predicted per second, one thread
    published: bool = False
    note: str = ""

    def plain(self) -> dict[str, Any]:
        """One flat object for JSON; scores that are no number become null, their n is `n_test`."""
        facts = {key: value for key, value in vars(self).items() if key != "scores"}
        named = {"n_test" if key == "n" else key: value for key, value in self.scores.items()}
        return facts | {key: float(v) if np.isfinite(v) else None for key, v in named.items()}


@dataclass(frozen=True, eq=False)
class Table:
    """A public table: (n, d) genomes of a space and one latency column per device setting."""

    file: str
    space: str
    genomes: Genomes
    columns: Mapping[str, Floats]  # name without "lat_" -> (n,) ms, NaN where missing
    targets: Mapping[str, Target]

    def __len__(self) -> int:
        return len(self.genomes)

    def data(self, name: str, rows: Ints | NDArray[np.bool_] | slice = slice(None)) -> LatencyData:
        """The latencies of a device setting at some rows; rows without one are left out."""
        ms, genomes = self.columns[name][rows], self.genomes[rows]
        known = np.isfinite(ms) & (ms > 0)
        return LatencyData(self.targets[name], genomes[known], ms[known], np.full(int(known.sum()), np.nan))


def read(data: Path, file: str | Path, space: str) -> Table:
    """A table of the shared data, or a further one with the same columns (a path)."""
    path = Path(file) if Path(file).is_file() else data / file
    found = tables.read_columns(path)
    latencies = {name.removeprefix("lat_"): v for name, v in found.items() if name.startswith("lat_")}
    targets = {name: _target(data, name, space) for name in latencies}
    return Table(path.name, space, get_space(space).encode(found), latencies, targets)


def _target(data: Path, name: str, space: str) -> Target:
    """The target of a column, its device from `hardware.csv`; a further column is DEVICE or DEVICE_BATCH."""
    listed = tables.read_columns(data / "columns.csv")
    at = np.flatnonzero(listed["column"] == f"lat_{name}")
    if len(at):
        device, batch = str(listed["device_id"][at[0]]), listed["batch_size"][at[0]]
        return Target(name, _device(data, device), space, batch=int(batch) if np.isfinite(batch) else 1)
    stem, _, last = name.rpartition("_")
    device, batch = (stem, int(last)) if last.isdigit() and stem else (name, 1)
    return Target(name, _device(data, device), space, batch=max(batch, 1))


def _device(data: Path, name: str) -> Device:
    """What `hardware.csv` says of a device; a device that it does not list has a name only."""
    listed = tables.read_columns(data / "hardware.csv")
    plain = [str(known).replace("_", "") for known in listed["device_id"]]
    near = [i for i, known in enumerate(plain) if known.endswith(name.replace("_", ""))]
    at = np.flatnonzero(listed["device_id"] == name) if name in listed["device_id"] else near
    if not len(at):
        return Device(name, name, "embedded", "not listed")
    row = {key: values[at[0]] for key, values in listed.items()}
    known = {
        ours: float(row[theirs])
        for ours, theirs in (*((n, n) for n in SAME_NAME), ("bandwidth_gbs", "mem_bw_gbs"))
        if np.isfinite(row[theirs])
    }
    words = str(row["microarch"]).split()
    facts = known | {"generation": words[0] if words else None}
    node = {
        "name": str(row["device_id"]),
        "title": str(row["name"]),
        "kind": str(row["kind"]),
        "source": str(row["source"]),
    }
    return TypeAdapter(Device).validate_python(node | facts)


def middle(ms: Floats) -> NDArray[np.bool_]:
    """(n,) rows within HELP's middle 80% of a device's latencies."""
    low, high = np.nanquantile(ms, MIDDLE)
    return (ms >= low) & (ms <= high)


def judged(row: Row, fit: Fit, test: LatencyData) -> Row:
    """`row` with the scores on all of `test` of what `fit()` returns, its fit time and prediction speed.

    A prediction without uncertainty has no coverage.
    """
    return replace(next(judged_parts(row, fit, test, parts=("all",))), rows=row.rows)


def judged_parts(row: Row, fit: Fit, test: LatencyData, parts: tuple[str, ...] = PARTS) -> Iterator[Row]:
    """The same for all test rows and for the middle 80% of them, from one fit."""
    begun = time.perf_counter()
    predict = fit()
    fitted = time.perf_counter() - begun
    answer = predict(test.genomes)
    many = np.tile(test.genomes, (-(-TIMED // len(test)), 1))[:TIMED]
    begun = time.perf_counter()
    predict(many)
    elapsed = time.perf_counter() - begun
    predicted = answer if isinstance(answer, Prediction) else exact(np.asarray(answer))
    for part in parts:
        kept = middle(test.ms) if part == "middle 80%" else np.ones(len(test), bool)
        found = scores(Prediction(predicted.mean[kept], predicted.std[kept]), test.ms[kept])
        if predicted is not answer:
            found["coverage_90"] = float("nan")
        yield replace(
            row,
            rows=part,
            scores=found,
            fit_seconds=round(fitted, 4),
            per_second=round(TIMED / elapsed),
        )


def draws(setting: Setting) -> Iterator[tuple[int, np.random.Generator]]:
    """A seed and its generator per repetition."""
    for seed in range(setting.seeds):
        yield seed, np.random.default_rng(seed)


def fitting(how: Callable[[LatencyData], LatencyPredictor], data: LatencyData) -> Fit:
    """What `judged` takes: `how(data)` gives the predictor of the data's target."""

    def fit() -> Callable[[Genomes], Prediction]:
        fitted = how(data)
        return lambda genomes: fitted.predict(genomes, fitted.target)

    return fit


@dataclass(frozen=True, eq=False)
class Split:
    """Where the samples of a target come from, and what is scored."""

    pool: LatencyData
    test: LatencyData

    def draw(self, n: int, rng: np.random.Generator) -> LatencyData:
        """n random rows of the pool."""
        return self.pool.take(rng.choice(len(self.pool), n, replace=False))


def split(setting: Setting, table: Table, name: str, pool: slice, test: slice, seed: int) -> Split:
    """The pool and the test rows of a target.

    With `test_rows` all rows of that file are the test. A target that only that file has gives half of its
    rows, drawn by `seed`, as the pool.
    """
    if setting.test_rows is None:
        return Split(table.data(name, pool), table.data(name, test))
    given = read(setting.data, setting.test_rows, table.space)
    if name in table.columns:
        return Split(table.data(name, pool), given.data(name))
    order = np.random.default_rng(seed).permutation(len(given))
    half = len(given) // 2
    return Split(given.data(name, order[:half]), given.data(name, order[half:]))


def names_of(setting: Setting, table: Table) -> list[str]:
    """The device settings to report on: those of `test_rows` where it is given."""
    if setting.test_rows is None:
        return list(table.columns)
    given = read(setting.data, setting.test_rows, table.space).columns
    return [name for name in given if np.isfinite(given[name]).any()]
