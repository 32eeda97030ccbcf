"""Self-generated data of module predictors (S2): a declared design per module type, measured on this machine.

A *condition* is what a module runs under: batch, threads, utilisation (the share of the machine that others
use), and whatever else the user declares as a number. The design is fixed by its options and seed, so that a
stopped measuring goes on with what is missing.

Letters: n modules, p inputs of a type, c conditions.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from dataclasses import field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from latency.measuring import session, summary
from latency.measuring.jobs import Job, Rounds
from latency.measuring.session import Watcher
from latency.measuring.store import Sitting, Store
from latency.modules import kinds
from latency.target import Target
from supernet import registry
from supernet.arrays import Floats
from supernet.files import artifact

KIND = "module data"
CONDITIONS = ("batch", "threads", "utilisation")
PREFIX = "module"
ROUNDS = Rounds(fewest=5, most=8, block=256, session_bytes=1e7)


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Design:
    """What is measured of each module type: `configs/modules.yaml`.

    `batches`, `threads` and `utilisations` are what conditions are drawn from; what is listed more often is
    drawn more often. `declared` are numbers that the user holds constant while measuring (a clock, a power
    limit); a later measuring with other values adds to the same store, and the predictor knows them as
    inputs.
    """

    types: tuple[str, ...] = ()
    batches: tuple[Annotated[int, Field(ge=1)], ...] = (1, 1, 2, 4, 8, 16)
    threads: tuple[Annotated[int, Field(ge=1)], ...] = (1, 1, 1, 2)
    utilisations: tuple[Annotated[float, Field(ge=0, le=1)], ...] = (*[0.0] * 8, 0.25, 0.5, 0.75, 1.0)
    declared: Mapping[str, float] = field(default_factory=dict)
    points: int | None = None  # of each type; None: what its file says
    seed: int = 0

    def __post_init__(self) -> None:
        if not (self.batches and self.threads and self.utilisations):
            raise ValueError("batches, threads and utilisations need at least one value each")
        if clash := set(self.declared) & set(CONDITIONS):
            raise ValueError(f"declared={sorted(clash)}: these conditions are varied, not declared")
        for name in self.types:
            if name not in registry.names("module"):
                raise registry.unknown_name("module", name, registry.names("module"))

    def of(self, name: str) -> tuple[Floats, Floats, NDArray[np.int64]]:
        """(n, p) inputs, (n,) batches and (n,) numbers of sitting of a module type."""
        kind = kinds.of(name)
        n = self.points or kind.points
        rows, batch = kind.draw(n, self.batches, self.seed)
        shares = [share for _, _, share in self.sittings()]
        edges = np.round(np.cumsum(shares) * n).astype(int)
        order = np.random.default_rng((self.seed, 1)).permutation(n)
        return rows, batch, np.searchsorted(edges, order, side="right").clip(0, len(shares) - 1)

    def sittings(self) -> list[tuple[int, float, float]]:
        """(threads, utilisation, share of the points) of every sitting, those without load first."""
        every = len(self.threads) * len(self.utilisations)
        return [
            (threads, utilisation, self.threads.count(threads) * self.utilisations.count(utilisation) / every)
            for utilisation in sorted(set(self.utilisations))
            for threads in sorted(set(self.threads))
        ]


@plain_dataclass(frozen=True, eq=False)
class ModuleData:
    """Measurements of one module type on one engine: parallel arrays."""

    name: str
    rows: Floats  # (n, p) inputs of the type
    conditions: Floats  # (n, c) in the order of `condition_names`
    condition_names: tuple[str, ...]
    ms: Floats  # (n,) of one batch
    spread_ms: Floats  # (n,) interquartile range

    def __len__(self) -> int:
        return len(self.ms)

    def take(self, rows: NDArray[Any]) -> ModuleData:
        """The measurements of these rows."""
        return replace(
            self,
            rows=self.rows[rows],
            conditions=self.conditions[rows],
            ms=self.ms[rows],
            spread_ms=self.spread_ms[rows],
        )


def name_of(type_name: str, inputs: Sequence[str], row: Floats, batch: float) -> str:
    """The one-line name of a module in the store, as `module mbconv cin=24 mid=96 ... batch=4`."""
    words = [f"{key}={value:g}" for key, value in zip(inputs, row, strict=True)]
    return " ".join([PREFIX, type_name, *words, f"batch={batch:g}"])


def parse(name: str) -> tuple[str, Floats]:
    """Type and (p + 1,) values of a name: the inputs, then the batch."""
    _, type_name, *words = name.split(" ")
    return type_name, np.array([float(word.partition("=")[2]) for word in words])


def collect(
    target: Target,
    design: Design,
    *,
    store: Store,
    seconds: float | None = None,
    watch: Watcher | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> None:
    """Measure what of the design is not in the store yet; every visit is stored at once.

    One sitting per number of threads and utilisation, each with its share of the `seconds` that are left.
    `target` gives engine and precision.
    """
    types = design.types or tuple(registry.names("module"))
    plan = {name: design.of(name) for name in types}
    known = _known(target, store, design)
    deadline = time.perf_counter() + seconds if seconds is not None else None
    sittings: list[tuple[int, float, list[Job]]] = []
    for number, (threads, utilisation, _) in enumerate(design.sittings()):
        missing: dict[str, Job] = {}
        for name, (rows, batches, sitting) in plan.items():
            kind = kinds.of(name)
            for row, batch in zip(rows[sitting == number], batches[sitting == number], strict=True):
                label = name_of(name, kind.inputs, row, batch)
                if (label, threads, utilisation) not in known:
                    missing[label] = Job(label, partial(kind.build, row, int(batch)))
        order = np.random.default_rng((design.seed, 2, number)).permutation(len(missing))
        distinct = list(missing.values())
        sittings.append((threads, utilisation, [distinct[i] for i in order]))
    waiting = sum(len(jobs) for _, _, jobs in sittings)
    for threads, utilisation, jobs in sittings:
        if not jobs:
            continue
        left = None if deadline is None else (deadline - time.perf_counter()) * len(jobs) / waiting
        waiting -= len(jobs)
        if left is not None and left <= 0:
            break
        at = replace(target, threads=threads, utilisation=utilisation)
        facts = {"declared": dict(design.declared)}
        timed = session.time_jobs(
            at, jobs, store=store, seconds=left, watch=watch, rounds=ROUNDS, facts=facts
        )
        say(
            f"{threads} thread(s), utilisation {timed.facts.get('utilisation', 0.0):.0%}: "
            f"{len(timed.quartiles_ms)} of {len(jobs)} modules in {timed.seconds:.0f} s, {len(timed.failed)} "
            "failed"
        )


def _sittings(target: Target, store: Store) -> list[Sitting]:
    """The sittings on modules with this engine (its version too), precision and instruction set."""

    def what(of: Target) -> Target:
        return replace(of, name="", threads=1, batch=1, space=target.space, utilisation=0.0)

    version = session.engine_of(target).version
    return [
        sitting
        for sitting in store.sittings(engine_version=version)
        if "declared" in sitting.facts and what(sitting.target).key == what(target).key
    ]


def _known(target: Target, store: Store, design: Design) -> set[tuple[str, int | None, float]]:
    """(name, threads, utilisation) of what was measured with these declared numbers."""
    found = set()
    for sitting in _sittings(target, store):
        if sitting.facts["declared"] != dict(design.declared):
            continue
        at, visits = sitting.target, store.visits(sitting.id)
        quartiles, _ = summary.summarise(visits, at)
        names = {*quartiles, *(visit.architecture for visit in visits if visit.error)}
        found |= {(name, at.threads, at.utilisation) for name in names}
    return found


def read(target: Target, store: Store) -> dict[str, ModuleData]:
    """All modules that were measured on this engine and precision, by type; ValueError when there are none.

    Sittings without background load are brought to the scale of the first one with as many threads by their
    anchors. A module that was measured twice under the same conditions is there twice.
    """
    sittings = _sittings(target, store)
    declared = tuple(sorted({name for sitting in sittings for name in sitting.facts["declared"]}))
    lines: dict[str, list[tuple[Floats, list[float], float, float]]] = {}
    first: dict[Any, Mapping[str, float]] = {}
    for sitting in sittings:
        at, numbers = sitting.target, sitting.facts["declared"]
        if missing := set(declared) - set(numbers):
            raise ValueError(
                f"some modules in {store.path} were measured without declared.{sorted(missing)[0]}: give it "
                "every time, or another store="
            )
        quartiles, usual = summary.summarise(store.visits(sitting.id), at)
        scale = 1.0
        if not at.utilisation:
            scale = summary.relative_scale(usual, first.setdefault(at.threads, usual))
        for name, (low, middle, high) in quartiles.items():
            if not name.startswith(PREFIX + " "):
                continue
            type_name, values = parse(name)
            measured = float(sitting.facts.get("utilisation", 0.0))
            conditions = [values[-1], float(at.threads or 1), measured, *(numbers[key] for key in declared)]
            line = (values[:-1], conditions, middle / scale, (high - low) / scale)
            lines.setdefault(type_name, []).append(line)
    if not lines:
        raise ValueError(
            f"no module was measured on {target.engine} {target.precision} in {store.path}: leave "
            "measure=false out"
        )
    return {
        name: ModuleData(
            name,
            np.array([line[0] for line in found]),
            np.array([line[1] for line in found]),
            (*CONDITIONS, *declared),
            np.array([line[2] for line in found]),
            np.array([line[3] for line in found]),
        )
        for name, found in sorted(lines.items())
    }


def save(path: Path, target: Target, data: Mapping[str, ModuleData]) -> None:
    """One file with everything that `load` needs."""
    from dataclasses import asdict

    arrays: dict[str, NDArray[Any]] = {}
    for name, of in data.items():
        arrays |= {f"{name}/rows": of.rows.astype(np.float32)}
        arrays |= {f"{name}/{key}": getattr(of, key).astype(np.float32) for key in ("conditions", "ms")}
        arrays |= {f"{name}/spread_ms": of.spread_ms.astype(np.float32)}
    names = {name: list(of.condition_names) for name, of in data.items()}
    facts = {"target": asdict(target), "condition_names": json.dumps(names)}
    artifact.save(path, KIND, arrays, facts)


def load(path: Path) -> tuple[Target, dict[str, ModuleData]]:
    """Target and data of a saved file; ValueError that names the file when it is something else."""
    arrays, facts = artifact.load(path, KIND)
    try:
        names = json.loads(facts["condition_names"])
        data = {
            name: ModuleData(
                name,
                arrays[f"{name}/rows"].astype(np.float64),
                arrays[f"{name}/conditions"].astype(np.float64),
                tuple(conditions),
                arrays[f"{name}/ms"].astype(np.float64),
                arrays[f"{name}/spread_ms"].astype(np.float64),
            )
            for name, conditions in names.items()
        }
        return Target(**facts["target"]), data
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no usable {KIND} ({error}); left as it is") from error
