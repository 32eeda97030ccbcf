"""HELP's and NASFLAT's few-shot protocols on NAS-Bench-201 and FBNet: mostly ranks, ours in ms too.

HELP (NeurIPS 2021; its loader): sources see the first `train_pool` rows (900 of NAS-Bench-201, 4,000 of
FBNet), the score is taken on the `query` rows after them (1,000), and "middle 80%" drops the fastest and
slowest tenth of each device's rows in the pool, where samples come from, and in the query. Its three FBNet
test devices have no column in the shared table: devices of that table that are neither trained on nor
validated on stand in (a CPU, a phone and a GPU, named before anything was scored), and HELP's own join with
`test_rows`.

NASFLAT (arXiv 2403.02446; its training script): 900 rows per source, 20 samples, scored on all rows of all
cells, samples included. Here: sources and samples from the same pools as HELP's, scored on all rows after the
pool, none dropped. Device sets as far as the columns exist; rows say what is missing.

Samples: a seed draws 600 rows of the pool, `Ensemble.choose` takes N of them; "random" takes the first N
drawn. All methods but the random one see the same samples. Choices were made with `validation=1`: HELP's
validation devices, or the training devices of a NASFLAT set left out in turn.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from benchmarks.protocols.protocol import Fit, Row, Setting, Table, compare, fitting, middle, read
from latency.data import LatencyData
from latency.predictors.ensemble import Ensemble, denoised
from latency.predictors.sources import Source
from supernet import footprint
from supernet.arrays import Floats, Genomes
from supernet.space import get_space

FILES = {"nasbench201": "nasbench201_latency.csv.gz", "fbnet": "fbnet_latency.csv.gz"}
DRAWN = 600  # rows of the pool that samples are chosen from
FBNET_TARGETS = ("gold_6226", "pixel2", "titan_rtx_64")  # of the shared table, in place of HELP's
HELP_MIDDLE = {  # Spearman, 10 samples and 10 reference latencies, middle 80% (HELP, tables 2 and 3)
    "nasbench201": {
        "titan_rtx_256": 0.987,
        "gold_6226": 0.989,
        "fpga": 0.985,
        "pixel2": 0.802,
        "raspi4": 0.890,
        "eyeriss": 0.940,
        "mean": 0.932,
    },
    "fbnet": {"fpga": 0.892, "raspi4": 0.887, "eyeriss": 0.943, "mean": 0.910},
}
NASFLAT = {  # Spearman, 20 samples, all rows, mean over the test devices
    "nasbench201": {"ND": 0.959, "N1": 0.893, "N2": 0.967, "N3": 0.857, "N4": 0.962, "NA": 0.959},
    "fbnet": {"FD": 0.961, "F1": 0.577, "F2": 0.809, "F3": 0.871, "F4": 0.814, "FA": 0.734},
}
HELP_BY_NASFLAT = {"ND": 0.948, "FD": 0.910}

Predict = Callable[[Genomes], Floats]


@dataclass(frozen=True)
class Task:
    """A protocol on one space: what is known, what is asked."""

    protocol: str
    space: str
    train: Sequence[str]
    targets: Sequence[str]
    pool: int  # first rows, where sources are fitted and samples drawn
    query: int | None  # rows after the pool that are scored; None: all of them
    counts: Sequence[int]
    parts: Sequence[str]
    further: bool  # whether columns that only `test_rows` has are targets too


def help_protocol(space: str, counts: Sequence[int], setting: Setting) -> Iterator[Row]:
    """HELP's split of a space, all rows and the middle 80%."""
    split = _splits(setting)["help"][space]
    targets = split["test"] if space == "nasbench201" else [*split["test"], *FBNET_TARGETS]
    task = Task(
        f"help_{'nb201' if space == 'nasbench201' else space}",
        space,
        split["train"],
        split["valid"] if setting.validation else targets,
        split["train_pool"],
        split["query"],
        counts,
        ("all", "middle 80%"),
        further=True,
    )
    if not setting.validation:
        note = "10 samples and the latencies of 10 reference architectures"
        for target, value in HELP_MIDDLE[space].items():
            yield _published(task.protocol, "HELP", target, "middle 80%", value, note)
    yield from _run(task, setting)


def nasflat(space: str, name: str, setting: Setting) -> Iterator[Row]:
    """One of NASFLAT's device sets, 20 samples, all rows."""
    splits = _splits(setting)
    split = splits["nasflat"][space][name]
    task = Task(
        f"nasflat_{name}",
        space,
        split["train"],
        split["train"] if setting.validation else split["test"],
        splits["help"][space]["train_pool"],
        None,
        (20,),
        ("all",),
        further=False,
    )
    if not setting.validation:
        note = "mean over all test devices of the set; scored on all rows, samples included"
        yield _published(task.protocol, "NASFLAT", "mean", "all", NASFLAT[space][name], note)
        if name in HELP_BY_NASFLAT:
            yield _published(task.protocol, "HELP", "mean", "all", HELP_BY_NASFLAT[name], "as NASFLAT ran it")
    yield from _run(task, setting)


PROTOCOLS: dict[str, Callable[[Setting], Iterator[Row]]] = {
    "help_nb201": partial(help_protocol, "nasbench201", (10, 20)),
    "help_fbnet": partial(help_protocol, "fbnet", (10, 20, 50)),
    **{f"nasflat_{name}": partial(nasflat, space, name) for space, sets in NASFLAT.items() for name in sets},
}


def _splits(setting: Setting) -> dict[str, Any]:
    return json.loads((setting.data / "latency_splits.json").read_text())


def _published(protocol: str, method: str, target: str, rows: str, value: float, note: str) -> Row:
    return Row(protocol, method, target, 20, None, rows, {"spearman": value}, published=True, note=note)


def _run(task: Task, setting: Setting) -> Iterator[Row]:
    table = read(setting.data, FILES[task.space], task.space)
    asked = table if setting.test_rows is None else read(setting.data, setting.test_rows, task.space)
    new = [name for name in asked.columns if name not in table.columns]
    targets = [name for name in task.targets if name in asked.columns]
    targets += [name for name in new if task.further and not setting.validation and name not in targets]
    missing = [name for name in task.train if name not in table.columns]
    absent = [name for name in task.targets if name not in asked.columns]
    notes = [f"without the sources {', '.join(missing)}"] if missing else []
    notes += [f"without the targets {', '.join(absent)}"] if absent else []
    pool = slice(0, task.pool)
    known = {name: denoised(table.data(name, pool)) for name in task.train if name in table.columns}
    for target in setting.some(targets):
        others = [source for name, source in known.items() if name != target]
        for part in task.parts:
            for seed, rng in setting.draws():
                parts = _rows(task, table, asked, target, part, rng)
                row = Row(task.protocol, "", target, 0, seed, part, {}, note="; ".join(notes))
                for n in setting.some(task.counts):
                    yield from _compare(replace(row, n=n), others, *parts)


def _rows(
    task: Task, table: Table, asked: Table, target: str, part: str, rng: np.random.Generator
) -> tuple[LatencyData, LatencyData]:
    """What samples are chosen from, and what is scored, samples included if they come from there."""
    drawn_from = table if target in table.columns else asked
    pool = np.arange(task.pool if drawn_from is table else len(asked))
    past = len(table) if task.query is None else task.pool + task.query
    scored = np.arange(task.pool, past) if asked is table else np.arange(len(asked))
    if part != "all":
        pool = pool[middle(drawn_from.columns[target][pool])]
        scored = scored[middle(asked.columns[target][scored])]
    drawn = rng.choice(pool, min(DRAWN, len(pool)), replace=False)
    return drawn_from.data(target, drawn), asked.data(target, scored)


def _compare(row: Row, known: Sequence[Source], drawn: LatencyData, scored: LatencyData) -> Iterator[Row]:
    """Ours and the baselines."""
    ensemble, first = Ensemble(), drawn.take(slice(0, row.n))
    chosen = drawn.take(ensemble.choose(get_space(scored.target.space), known, drawn.genomes, row.n))
    yield from compare(row, _methods(known, chosen), _without(scored, chosen))
    plain = {"ensemble, random samples": fitting(partial(ensemble.fit_from, known), first)}
    yield from compare(row, plain, _without(scored, first))


def _without(data: LatencyData, samples: LatencyData) -> LatencyData:
    taken = {genome.tobytes() for genome in samples.genomes}
    return data.take(np.flatnonzero([genome.tobytes() not in taken for genome in data.genomes]))


def _methods(known: Sequence[Source], samples: LatencyData) -> Mapping[str, Fit]:
    space = get_space(samples.target.space)

    def source_ms(genomes: Genomes) -> Floats:
        return np.stack([source.table.evaluate(space, genomes) for source in known], axis=1)

    def mix() -> Predict:
        from scipy.optimize import nnls

        weights, _ = nnls(source_ms(samples.genomes), samples.ms)
        return lambda genomes: source_ms(genomes) @ weights

    def closest() -> Predict:
        """The source that one factor brings closest to the samples."""
        seen = source_ms(samples.genomes)
        factor = samples.ms @ seen / (seen**2).sum(axis=0)
        best = int(np.argmin(((seen * factor - samples.ms[:, None]) ** 2).sum(axis=0)))
        return lambda genomes: source_ms(genomes)[:, best] * factor[best]

    def line() -> Predict:
        slope, level = np.polyfit(footprint.compute(space, samples.genomes, "macs"), samples.ms, 1)
        return lambda genomes: level + slope * footprint.compute(space, genomes, "macs")

    return {
        "ensemble": fitting(partial(Ensemble().fit_from, known), samples),
        "non-negative mix": mix,
        "closest device x factor": closest,
        "MACs line": line,
    }
