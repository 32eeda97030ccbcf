"""The timing protocol: how long subnets take on this machine, one way for all engines.

Candidates take turns in rounds: each visit is two warm-up runs and a burst of timed ones, in an order drawn
anew every round, so that a slow moment hits none of them alone; how slow a round was follows from all its
candidates, and one that was slow is repeated. Three *anchors*, the same subnets in every sitting, are visited
in every round too: their common scale removes the drift between blocks of candidates and between sittings.
With one thread the process's CPU time is the latency, also on a busy machine; otherwise it is wall time, and
visits while others use the machine do not count. A candidate is done when its visits agree. Every visit goes
to the store at once.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import psutil

from latency.data import LatencyData
from latency.measuring import conditions, instruction_sets
from latency.measuring.engine import Engine, build_engine
from latency.measuring.jobs import USUAL, Job, Rounds, anchor_subnets, subnet_jobs
from latency.measuring.store import Sitting, Store, Visit
from latency.measuring.summary import MIN_VISITS, agreed, latencies, summarise
from latency.target import Target
from supernet import registry
from supernet.arrays import Floats, Genomes
from supernet.space import get_space

WARM_UPS = 2
BURST = 3  # timed runs of a visit: noise comes in stretches, so many short visits beat few long ones
PREPARING_SHARE = 0.5  # of what is left of a time budget
LOADED_SECONDS = 0.012  # a visit under a background load: three of its periods

Watcher = Callable[[int, int, str], None]  # (subnets done, subnets asked for, what happens now)
Burst = tuple[tuple[float, ...], tuple[float, ...]]  # wall and CPU time of each run of a visit, ms


@dataclass(frozen=True)
class Measuring:
    """How a sitting goes: where its visits are kept, its time budget, who watches, and its rounds."""

    store: Store
    seconds: float | None = None
    watch: Watcher | None = None
    rounds: Rounds = USUAL


@dataclass(frozen=True, eq=False)
class Timed:
    """The result of a sitting: quartiles (3,) in ms by name, and the reason of each failure in `failed`."""

    target: Target
    quartiles_ms: Mapping[str, Floats]
    failed: Mapping[str, str]
    anchors_ms: Mapping[str, float]  # medians of the anchors in this sitting
    seconds: float  # of the sitting, preparation included
    facts: Mapping[str, Any]

    @cached_property
    def data(self) -> LatencyData:
        """The latencies of a sitting whose jobs were subnets."""
        return latencies(self.target, self.quartiles_ms)


def measure(
    target: Target,
    genomes: Genomes,
    *,
    store: Store,
    seconds: float | None = None,
    watch: Watcher | None = None,
    rounds: Rounds = USUAL,
) -> Timed:
    """Time the networks of these genomes of `target.space` in one sitting; every visit goes to the store.

    With a budget of `seconds`, fewer networks may be measured than were asked for. A network that cannot be
    prepared or run is recorded with its reason, and the others go on. It is a ValueError when the engine is
    missing, when several threads are asked for on a busy machine, or when nothing could be measured.

    >>> target = registry.build(registry.load("target", "here"))
    >>> with Store("runs/measurements.sqlite") as store:
    ...     ms = measure(target, get_space(target.space).extremes(), store=store).data.ms
    """
    space = get_space(target.space)
    space.check(genomes)
    bare = space.network(genomes)
    _, first = np.unique(bare, axis=0, return_index=True)
    jobs = subnet_jobs(target, bare[np.sort(first)])
    return time_jobs(target, jobs, Measuring(store, seconds, watch, rounds))


def time_jobs(
    target: Target, jobs: Sequence[Job], how: Measuring, facts: Mapping[str, Any] | None = None
) -> Timed:
    """Time anything that runs on the target's engine, with the anchors of its space; errors as `measure`.

    With `target.utilisation` a background load runs beside, and latency is what a user waits: wall time at
    normal priority, the mean of a visit that lasts several periods of the load, on the first `target.threads`
    cores. `facts` go to the sitting, with the utilisation that was measured.
    """
    engine = engine_of(target)
    load = conditions.Load()
    if engine.threads > 1 and not target.utilisation:
        load.wait_until_idle()
    begun = time.perf_counter()
    deadline = begun + (np.inf if how.seconds is None else how.seconds)
    with conditions.during(target.utilisation, engine.threads) as during:
        sitting = Sitting.begin(target, engine.version, {**conditions.at_start(), **during, **(facts or {})})
        run = _Run(engine, target, how, sitting, load, len(jobs))
        run.prepare_anchors(subnet_jobs(target, anchor_subnets(get_space(target.space))))
        for part in _parts(jobs, _block_size(target, how.rounds)):
            if time.perf_counter() > deadline:
                break
            run.take_turns(part, deadline)
    everything, usual = summarise(run.visits, target)
    quartiles = {job.name: everything[job.name] for job in jobs if job.name in everything}
    if not quartiles:
        reasons = "; ".join(f"{name}: {why}" for name, why in list(run.failed.items())[:3])
        raise ValueError(f"nothing could be measured on {target} ({reasons or 'no time'})")
    about = {"engine": engine.version, "sitting": sitting.id, "visits": len(run.visits), **sitting.facts}
    return Timed(target, quartiles, run.failed, usual, time.perf_counter() - begun, about)


def engine_of(target: Target) -> Engine:
    """The engine of a target of this machine; ValueError for another target, or if it is not installed."""
    if target.threads is None or target.engine not in registry.names("engine"):
        raise ValueError(f"{target.name} ({target}) is not this machine: only target=here can be measured")
    if target.isa is not None:
        instruction_sets.check(target.isa, target.engine)
    return build_engine(target.engine, precision=target.precision, threads=target.threads)


def _parts(jobs: Sequence[Job], size: int) -> list[Sequence[Job]]:
    """Blocks of about equal length, at most `size`."""
    count = -(-len(jobs) // size)
    edges = np.linspace(0, len(jobs), count + 1).astype(int)
    return [jobs[first:past] for first, past in pairwise(edges)]


def _block_size(target: Target, rounds: Rounds) -> int:
    room = psutil.virtual_memory().available / 4 / (rounds.session_bytes + 12e6 * target.batch)
    return int(np.clip(room, 8, rounds.block))


@dataclass
class _Run:
    """The state of one sitting."""

    engine: Engine
    target: Target
    how: Measuring
    sitting: Sitting
    load: conditions.Load
    asked: int
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    visits: list[Visit] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    anchors: dict[str, Any] = field(default_factory=dict)  # sessions by name
    block: int = 0
    round: int = 0
    finished: int = 0

    def prepare_anchors(self, jobs: Sequence[Job]) -> None:
        self.anchors = self._prepare(jobs, "anchor", np.inf)
        if not self.anchors:
            name, reason = next(iter(self.failed.items()))
            raise ValueError(f"{self.target.engine} can run no {self.target.space} subnet; {name}: {reason}")

    def _prepare(self, jobs: Sequence[Job], role: str, deadline: float) -> dict[str, Any]:
        sessions: dict[str, Any] = {}
        for job in jobs:
            if time.perf_counter() > deadline:
                break
            self._say(f"preparing {job.name}")
            try:
                sessions[job.name] = self.engine.prepare(*job.build())
            except Exception as error:  # whatever an engine raises: the others go on
                self._fail(job.name, role, error)
        return sessions

    def _say(self, now: str) -> None:
        if self.how.watch:
            self.how.watch(self.finished, self.asked, now)

    def _fail(self, name: str, role: str, error: Exception) -> None:
        self.failed[name] = f"{type(error).__name__}: {error}"
        self._record(name, role, ((), ()), self.failed[name])

    def _record(self, name: str, role: str, wall_cpu: Burst, error: str | None = None) -> None:
        place = (self.sitting.id, time.time(), name, role, self.block, self.round)
        self.visits.append(Visit(*place, *wall_cpu, self.load.others(), error))
        self.how.store.add(self.sitting, self.visits[-1])

    def take_turns(self, jobs: Sequence[Job], deadline: float) -> None:
        """Prepare these jobs and take rounds until each is done."""
        self.block += 1
        first, now = len(self.visits), time.perf_counter()
        jobs = [job for job in jobs if job.name not in self.anchors]  # those are measured anyway
        waiting = self._prepare(jobs, "candidate", now + PREPARING_SHARE * (deadline - now))
        for taken in range(self.how.rounds.most if waiting else self.how.rounds.fewest):
            if not waiting and (jobs or taken >= self.how.rounds.fewest):
                break
            self.round += 1
            everyone = {**self.anchors, **waiting}
            names = [*waiting, *self.anchors, *self.anchors]  # anchors twice: all blocks hang on them
            self._say(f"round {self.round}, {len(waiting)} subnets")
            for name in self.rng.permutation(names).tolist():
                if name not in everyone:
                    continue  # failed earlier in this round
                role = "anchor" if name in self.anchors else "candidate"
                try:
                    burst = self._burst(everyone[name])
                except Exception as error:  # the same boundary as in _prepare
                    self._fail(name, role, error)
                    for sessions in (self.anchors, waiting, everyone):
                        sessions.pop(name, None)
                    continue
                self._record(name, role, burst)
            if time.perf_counter() > deadline and taken + 1 >= MIN_VISITS:
                break
            done = agreed(self.visits[first:], list(waiting), self.target, self.how.rounds)
            self.finished += len(done)
            for name in done:
                del waiting[name]
        self.finished += len(waiting)

    def _burst(self, session: Any) -> Burst:
        run = self.engine.run
        begun = time.perf_counter()
        run(session)
        long = time.perf_counter() - begun > self.how.rounds.long_ms / 1000
        for _ in range(0 if long else WARM_UPS - 1):
            run(session)
        if self.target.utilisation:
            return self._mean_run(session)
        wall, cpu = [], []
        for _ in range(1 if long else BURST):
            start, start_cpu = time.perf_counter_ns(), time.process_time_ns()
            on_device = run(session)
            end_cpu, end = time.process_time_ns(), time.perf_counter_ns()
            wall.append((end - start) / 1e6 if on_device is None else on_device)
            cpu.append((end_cpu - start_cpu) / 1e6)
        return tuple(round(ms, 5) for ms in wall), tuple(round(ms, 5) for ms in cpu)

    def _mean_run(self, session: Any) -> Burst:
        """Mean wall and CPU time of the runs in three periods of the background load, at least 3."""
        runs, start, start_cpu = 0, time.perf_counter(), time.process_time()
        while runs < BURST or time.perf_counter() - start < LOADED_SECONDS:
            self.engine.run(session)
            runs += 1
        wall, cpu = time.perf_counter() - start, time.process_time() - start_cpu
        return (round(1e3 * wall / runs, 5),), (round(1e3 * cpu / runs, 5),)
