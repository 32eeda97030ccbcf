"""What the protocols of the published latency tables share: tables, rows of results, and how they are scored.

A protocol is a generator `run(setting) -> Iterator[Row]` in a file of its own, listed in
`benchmarks/latency_tables.py`. N counts every measurement of the target that a method uses, reference
architectures included. Nothing is chosen on the rows that are reported: `validation=1` reports on the
validation part instead, which is where choices are made.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from benchmarks.command import timed
from latency.data import LatencyData
from latency.gpu.measurements import hardware
from latency.perceptron import Training
from latency.predictors import baselines
from latency.predictors.additive import Additive
from latency.predictors.interface import LatencyPredictor
from latency.predictors.sources import Source
from latency.scores import scores
from latency.target import Target
from supernet.arrays import Floats, Genomes, Ints
from supernet.files import tables
from supernet.prediction import Prediction, exact
from supernet.space import get_space

MIDDLE = (0.1, 0.9)  # HELP drops the fastest and the slowest tenth of each device's rows
PARTS = ("all", "middle 80%")
Fit = Callable[[], Callable[[Genomes], Prediction | Floats]]
TIMED = 10_000  # architectures that prediction speed is taken on
HELP_OFA = ("ofa_mbv3_gpu_latency.csv.gz", "ofa_mbv3_w1.2")  # HELP's table of GPUs, and its space
OFANAS = ("s1_ofa_latency.csv.gz", "ofa_mbv3_w1.0")
Item = TypeVar("Item")


@dataclass(frozen=True)
class Setting:
    """What is asked of a protocol."""

    data: Path = field(default_factory=tables.data_dir)
    seeds: int = 5
    test_rows: Path | None = None  # report on this table in place of the protocol's own test part
    validation: bool = False  # report on the validation part, where choices are made
    small: bool = False  # shows in seconds that a protocol runs: its first target and count, short trainings

    out: Path = Path("runs/latency-tables")

    def some(self, items: Sequence[Item]) -> Sequence[Item]:
        """The targets, counts or parts to run."""
        return items[:1] if self.small else items

    def few(self, items: Iterable[str]) -> list[str]:
        """The devices to learn from; a small run takes every fourth, which leaves some of other GPUs."""
        return list(items)[:: 4 if self.small else 1]

    def epochs(self, training: Training) -> Training:
        """How to train the networks."""
        return replace(training, epochs=1) if self.small else training

    def draws(self, most: int | None = None) -> Iterator[tuple[int, np.random.Generator]]:
        """A seed and its generator per repetition, at most `most`."""
        for seed in self.some(range(min(self.seeds, most or self.seeds))):
            yield seed, np.random.default_rng(seed)


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
        valid = np.isfinite(ms) & (ms > 0)
        return LatencyData(self.targets[name], genomes[valid], ms[valid], np.full(int(valid.sum()), np.nan))


def read(data: Path, file: str | Path, space: str) -> Table:
    """A table of the shared data, or a further one with the same columns (a path)."""
    path = Path(file) if Path(file).is_file() else data / file
    raw = tables.read_columns(path)
    latencies = {name.removeprefix("lat_"): v for name, v in raw.items() if name.startswith("lat_")}
    targets = {name: _target(data, name, space) for name in latencies}
    return Table(path.name, space, get_space(space).encode(raw), latencies, targets)


def _target(data: Path, name: str, space: str) -> Target:
    """The target of a column, its device from `hardware.csv`; a further column is DEVICE or DEVICE_BATCH."""
    listed = tables.read_columns(data / "columns.csv")
    at = np.flatnonzero(listed["column"] == f"lat_{name}")
    if len(at):
        device, batch = str(listed["device_id"][at[0]]), listed["batch_size"][at[0]]
        return Target(name, hardware(data, device), space, batch=int(batch) if np.isfinite(batch) else 1)
    stem, _, last = name.rpartition("_")
    device, batch = (stem, int(last)) if last.isdigit() and stem else (name, 1)
    return Target(name, hardware(data, device), space, batch=max(batch, 1))


def middle(ms: Floats) -> NDArray[np.bool_]:
    """(n,) rows within HELP's middle 80% of a device's latencies."""
    low, high = np.nanquantile(ms, MIDDLE)
    return (ms >= low) & (ms <= high)


def compare(
    row: Row,
    ways: Mapping[str, Fit],
    test: LatencyData,
    parts: Sequence[str] | None = None,
    timed_on: int = TIMED,
) -> Iterator[Row]:
    """`row` for every method, with the scores on `test` of what its fit returns, fit time and speed.

    The speed is that of `timed_on` architectures; unknown for 0.

    With `parts` a row for each of these parts of the test rows, from one fit. A prediction without
    uncertainty has no coverage.
    """
    many = np.tile(test.genomes, (-(-timed_on // len(test)), 1))[:timed_on]
    for method, fit in ways.items():
        predict, fit_seconds = timed(fit)
        answer = predict(test.genomes)
        speed = round(timed_on / timed(partial(predict, many))[1]) if timed_on else None
        predicted = answer if isinstance(answer, Prediction) else exact(np.asarray(answer))
        for part in parts or (row.rows,):
            kept = middle(test.ms) if parts and part == "middle 80%" else np.ones(len(test), bool)
            errors = scores(predicted.take(kept), test.ms[kept])
            if predicted is not answer:
                errors["coverage_90"] = float("nan")
            result = replace(row, method=method, rows=part, scores=errors)
            yield replace(result, fit_seconds=round(fit_seconds, 4), per_second=speed)


def means(rows: Iterable[Row]) -> Iterator[Row]:
    """The mean over the targets of every method, N, part of the rows and seed, as a target of its own."""
    groups: dict[tuple[str, int, str, int | None], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.method, row.n, row.rows, row.seed].append(row)
    for group in groups.values():
        scores = {key: float(np.mean([row.scores[key] for row in group])) for key in group[0].scores}
        yield replace(group[0], target=f"mean of {len(group)}", scores=scores)


def fitting(how: Callable[..., LatencyPredictor], *arguments: Any) -> Fit:
    """What `compare` takes: `how(*arguments)` gives the predictor of a target."""

    def fit() -> Callable[[Genomes], Prediction]:
        fitted = how(*arguments)
        return lambda genomes: fitted.predict(genomes, fitted.target)

    return fit


def simple(sources: Sequence[Source], samples: LatencyData) -> dict[str, Fit]:
    """What every method has to beat."""

    def fit(name: str) -> Callable[[Genomes], Prediction]:
        return lambda genomes: baselines.from_samples(sources, samples, genomes)[name]

    return {name: partial(fit, name) for name in ("MACs line", "closest device x factor")}


def source(how: Additive, data: LatencyData) -> Source:
    """What is known of a device: the additive predictor of its rows."""
    fitted = how.fit(data)
    return Source(data.target.name, fitted.table, fitted.resolutions, data.target)


def help_rows(setting: Setting) -> slice:
    """HELP's rows that are reported; with `validation` those before them, where choices are made."""
    return slice(3000, 3500) if setting.validation else slice(3500, 4000)


def gpu(name: str) -> str:
    """The GPU of a column: titan_rtx of titan_rtx_64."""
    return name.rsplit("_", 1)[0]


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
    further = read(setting.data, setting.test_rows, table.space)
    if name in table.columns:
        return Split(table.data(name, pool), further.data(name))
    order, half = np.random.default_rng(seed).permutation(len(further)), len(further) // 2
    return Split(further.data(name, order[:half]), further.data(name, order[half:]))


def names_of(setting: Setting, table: Table) -> Sequence[str]:
    """The device settings to report on: those of `test_rows` where it is given."""
    if setting.test_rows is None:
        return setting.some(list(table.columns))
    columns = read(setting.data, setting.test_rows, table.space).columns
    return setting.some([name for name, ms in columns.items() if np.isfinite(ms).any()])
