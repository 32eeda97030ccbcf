"""Self-generated data of module predictors: a declared design per module kind, measured on this machine.

The design is fixed by its options and seed, so that a stopped measuring goes on with what is missing.

Letters: n modules, p inputs of a kind.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from latency.measuring import session, summary
from latency.measuring.jobs import Job, Rounds
from latency.measuring.session import Measuring
from latency.measuring.store import Sitting, Store
from latency.modules import torch_parts
from latency.modules.data import CONDITIONS, ModuleData
from latency.modules.kinds import module_kind
from latency.modules.kinds.module_kind import ModuleKind
from latency.target import Target
from supernet import registry
from supernet.arrays import Floats
from supernet.options import Fraction, NonNegativeInt, PositiveInt, options

PREFIX = "module"
ROUNDS = Rounds(fewest=5, most=8, block=256, session_bytes=1e7)


@options
class Design:
    """What is measured of each module kind: the option `design` of `make modules`.

    `batches`, `threads` and `utilisations` are what conditions are drawn from; what is listed more often is
    drawn more often. `declared` are numbers that the user holds constant while measuring (a clock, a power
    limit), as `+design.declared.clock_mhz=1800`; a later measuring with other values adds to the same store,
    and the predictor has them as inputs.
    """

    kinds: tuple[str, ...] = ()  # empty: all
    batches: tuple[PositiveInt, ...] = (1, 1, 2, 4, 8, 16)
    threads: tuple[PositiveInt, ...] = (1, 1, 1, 2)
    utilisations: tuple[Fraction, ...] = (*[0.0] * 8, 0.25, 0.5, 0.75, 1.0)
    declared: Mapping[str, float] = field(default_factory=dict)
    points: int | None = None  # of each kind; None: what its file says
    seed: NonNegativeInt = 0

    def __post_init__(self) -> None:
        if not (self.batches and self.threads and self.utilisations):
            raise ValueError("batches, threads and utilisations need at least one value each")
        if clash := set(self.declared) & set(CONDITIONS):
            raise ValueError(f"declared={sorted(clash)}: these conditions are varied, not declared")
        for name in self.kinds:
            module_kind.named(name)

    def points_of(self, name: str) -> tuple[Floats, Floats, NDArray[np.int64]]:
        """(n, p) inputs, (n,) batches and (n,) numbers of sitting of a module kind."""
        kind = module_kind.named(name)
        n = self.points or kind.points
        rows, batch = kind.draw(n, self.batches, self.seed)
        edges = np.round(np.cumsum([share for _, _, share in self.sittings()]) * n).astype(int)
        order = np.random.default_rng((self.seed, 1)).permutation(n)
        return rows, batch, np.searchsorted(edges, order, side="right").clip(0, len(edges) - 1)

    def sittings(self) -> list[tuple[int, float, float]]:
        """(threads, utilisation, share of the points) of every sitting, those without load first."""
        total = len(self.threads) * len(self.utilisations)
        return [
            (threads, utilisation, self.threads.count(threads) * self.utilisations.count(utilisation) / total)
            for utilisation in sorted(set(self.utilisations))
            for threads in sorted(set(self.threads))
        ]

    def jobs(self, measured: set[tuple[str, int | None, float]]) -> list[list[Job]]:
        """The jobs of each sitting, shuffled, without the `measured` ones (name, threads, utilisation)."""
        jobs: list[dict[str, Job]] = [{} for _ in self.sittings()]
        for name in self.kinds or registry.names("module"):
            kind = module_kind.named(name)
            for row, batch, number in zip(*self.points_of(name), strict=True):
                label = name_of(name, kind.inputs, row, batch)
                if (label, *self.sittings()[number][:2]) not in measured:
                    jobs[number][label] = Job(label, partial(build, kind, row, int(batch)))
        orders = (np.random.default_rng((self.seed, 2, i)).permutation(len(by)) for i, by in enumerate(jobs))
        return [[list(by.values())[i] for i in order] for by, order in zip(jobs, orders, strict=True)]


def build(kind: ModuleKind, row: Floats, batch: int) -> tuple[torch.nn.Module, torch.Tensor]:
    """The module of one (p,) row in eval mode with random weights, and an input of `batch` images."""
    values = {name: round(float(value)) for name, value in zip(kind.inputs, row, strict=True)}
    noise = torch.Generator().manual_seed(0)
    network: torch.nn.Module = kind.network(values, torch_parts)
    return network.eval(), torch.randn((batch, *kind.shape(values)), generator=noise)


def name_of(kind: str, inputs: Sequence[str], row: Floats, batch: float) -> str:
    """The one-line name of a module in the store, as `module mbconv cin=24 mid=96 ... batch=4`."""
    words = [f"{key}={value:g}" for key, value in zip(inputs, row, strict=True)]
    return " ".join([PREFIX, kind, *words, f"batch={batch:g}"])


def parse(name: str) -> tuple[str, Floats]:
    """Kind and (p + 1,) values of a name: the inputs, then the batch."""
    _, kind, *words = name.split(" ")
    return kind, np.array([float(word.partition("=")[2]) for word in words])


def collect(
    target: Target, design: Design, how: Measuring, say: Callable[[str], None] = lambda text: None
) -> None:
    """Measure what of the design is not in the store yet; every visit is stored at once.

    One sitting per number of threads and utilisation, each with its share of the seconds that are left.
    `target` gives engine and precision.
    """
    jobs = design.jobs(_measured(target, how.store, design))
    deadline = time.perf_counter() + (np.inf if how.seconds is None else how.seconds)
    waiting = sum(map(len, jobs))
    for (threads, utilisation, _), missing in zip(design.sittings(), jobs, strict=True):
        left = deadline - time.perf_counter()
        if not missing or left <= 0:
            continue
        share = left * len(missing) / waiting if how.seconds is not None else None
        waiting -= len(missing)
        at = replace(stated(target, design), threads=threads, utilisation=utilisation)
        facts = {"declared": dict(at.declared)}
        timed = session.time_jobs(at, missing, replace(how, seconds=share, rounds=ROUNDS), facts)
        say(
            f"{threads} thread(s), utilisation {timed.facts.get('utilisation', 0.0):.0%}: "
            f"{len(timed.quartiles_ms)} of {len(missing)} modules in {timed.seconds:.0f} s, "
            f"{len(timed.failed)} failed"
        )


def stated(target: Target, design: Design) -> Target:
    """The target with the design's declared numbers."""
    return replace(target, declared={**target.declared, **design.declared})


def _sittings(target: Target, store: Store) -> list[Sitting]:
    """The sittings on modules with this engine (its version too), precision and instruction set."""

    def machine(of: Target) -> Any:
        bare = replace(of, space=target.space, batch=1, threads=1)
        return replace(bare, utilisation=0.0, declared={}).key

    sittings = store.sittings(engine_version=session.engine_of(target).version)
    return [s for s in sittings if "declared" in s.facts and machine(s.target) == machine(target)]


def _measured(target: Target, store: Store, design: Design) -> set[tuple[str, int | None, float]]:
    """(name, threads, utilisation) of what was measured, or failed, with the design's declared numbers."""
    measured = set()
    for sitting in _sittings(target, store):
        if sitting.facts["declared"] == dict(stated(target, design).declared):
            at, visits = sitting.target, store.visits(sitting.id)
            names = {*summary.summarise(visits, at)[0], *(v.architecture for v in visits if v.error)}
            measured |= {(name, at.threads, at.utilisation) for name in names}
    return measured


def read(target: Target, store: Store) -> dict[str, ModuleData]:
    """All modules that were measured on this engine and precision, by kind; ValueError when there are none.

    Sittings without background load are brought to the scale of the first one with as many threads and the
    same declared numbers by their anchors. A module that was measured twice under the same conditions is
    there twice.
    """
    sittings = _sittings(target, store)
    declared = tuple(sorted({name for sitting in sittings for name in sitting.facts["declared"]}))
    lines: dict[str, list[tuple[Any, ...]]] = {}
    first: dict[Any, Mapping[str, float]] = {}
    for sitting in sittings:
        at, numbers = sitting.target, sitting.facts["declared"]
        if missing := set(declared) - set(numbers):
            raise ValueError(
                f"some modules in {store.path} were measured without declared.{sorted(missing)[0]}: give it "
                "every time, or another store="
            )
        quartiles, usual = summary.summarise(store.visits(sitting.id), at)
        idle = not at.utilisation
        alike = at.threads, *sorted(numbers.items())  # what is declared slows anchors too
        scale = summary.relative_scale(usual, first.setdefault(alike, usual)) if idle else 1.0
        utilisation = float(sitting.facts.get("utilisation", 0.0))
        for name, (low, middle, high) in quartiles.items():
            if name.startswith(PREFIX + " "):
                kind, (*row, batch) = parse(name)
                conditions = [batch, float(at.threads or 1), utilisation, *(numbers[key] for key in declared)]
                line = (row, conditions, middle / scale, (high - low) / scale)
                lines.setdefault(kind, []).append(line)
    if not lines:
        raise ValueError(
            f"no module was measured on {target.engine} {target.precision} in {store.path}: leave "
            "measure=false out"
        )
    names = (*CONDITIONS, *declared)
    modules = {}
    for kind in sorted(lines):
        rows, under, ms, spread = map(np.array, zip(*lines[kind], strict=True))
        modules[kind] = ModuleData(kind, rows, under, names, ms, spread)
    return modules
