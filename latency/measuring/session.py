"""The timing protocol: how long subnets take on this machine, one way for all engines.

Candidates take turns in rounds: each visit is two warm-up runs and a burst of timed ones, in an order drawn
anew every round, so that a slow moment hits none of them alone; how slow a round was follows from all its
candidates, and one that was slow is repeated. Three *anchors*, the same subnets in every sitting, are visited
in every round too: their common scale removes the drift between blocks of candidates and between sittings.
With one thread the process's CPU time is the latency, also on a busy machine; otherwise it is wall time, and
visits while others use the machine do not count. A candidate is done when its visits agree. Every visit goes
to the store at once.
"""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from latency.data import LatencyData
from latency.measuring import engine as engines
from latency.measuring import instruction_sets
from latency.measuring.background import Background
from latency.measuring.engine import Engine
from latency.measuring.store import Sitting, Store, Visit
from latency.target import Target
from supernet import registry
from supernet.arrays import Floats, Genomes
from supernet.space import SearchSpace, get_space

ANCHORS = 3
WARM_UPS = 2
BURST = 3  # timed runs of a visit: noise comes in stretches, so many short visits beat few long ones
MIN_VISITS = 3  # fewer tell nothing: such a measurement was cut short
PREPARING_SHARE = 0.5  # of what is left of a time budget
AGREEMENT = 0.008  # relative standard error of a subnet's visits at which it is done
LONG_ROUNDS = (5, 7)
SLOW = 1.05  # a round that took this much longer than the others does not count
POLISHES = 5
BUSY = 0.10  # share of the machine used by others above which several threads cannot be timed
BUSY_PATIENCE_SECONDS = 20.0
LOADED_SECONDS = 0.012  # a visit under a background load: three of its periods

if TYPE_CHECKING:
    import torch

Watcher = Callable[[int, int, str], None]  # (subnets done, subnets asked for, what happens now)


@dataclass(frozen=True)
class Rounds:
    """How many rounds a candidate takes; runs beyond `long_ms` need one warm-up, one timed run and 5 to 7.

    `block` candidates take turns together, as far as a quarter of the free memory has room for sessions of
    `session_bytes` each.
    """

    fewest: int = 12
    most: int = 20
    long_ms: float = 100.0
    block: int = 64
    session_bytes: float = 150e6


USUAL = Rounds()


@dataclass(frozen=True)
class Job:
    """Something to time: `build` gives a module in eval mode and the input it runs on."""

    name: str
    build: Callable[[], tuple[torch.nn.Module, torch.Tensor]]


@dataclass(frozen=True, eq=False)
class Timed:
    """What a sitting found: quartiles (3,) in ms by name, `failed` with the reason of each."""

    quartiles_ms: Mapping[str, Floats]
    failed: Mapping[str, str]
    anchors_ms: Mapping[str, float]  # medians of the anchors in this sitting
    seconds: float  # of the sitting, preparation included
    facts: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Measured:
    """A sitting whose candidates are subnets."""

    data: LatencyData
    failed: Mapping[str, str]
    anchors_ms: Mapping[str, float]
    seconds: float
    facts: Mapping[str, Any]


def anchors(space: SearchSpace) -> Genomes:
    """(ANCHORS, d) the subnets that every sitting of a space measures.

    A small, a middle and a large one of 300 random ones, by multiply-accumulates.
    """
    from supernet import footprint

    drawn = space.network(space.sample(300, np.random.default_rng(20221)))
    order = np.argsort(footprint.of(space, drawn, "macs"), kind="stable")
    return drawn[order[[len(order) // 10, len(order) // 2, -len(order) // 10]]]


def measure(
    target: Target,
    genomes: Genomes,
    *,
    store: Store,
    seconds: float | None = None,
    watch: Watcher | None = None,
    rounds: Rounds = USUAL,
) -> Measured:
    """Time the networks of these genomes of `target.space` in one sitting; every visit goes to the store.

    With a budget of `seconds` fewer may be measured than asked. A subnet that cannot be prepared or run is
    recorded with its reason, and the others go on. ValueError when the engine is missing, when several
    threads are asked for on a busy machine, or when nothing at all could be measured.
    """
    space = get_space(target.space)
    space.check(genomes)
    bare = space.network(genomes)
    _, first = np.unique(bare, axis=0, return_index=True)
    jobs = subnet_jobs(target, bare[np.sort(first)])
    timed = time_jobs(target, jobs, store=store, seconds=seconds, watch=watch, rounds=rounds)
    data = _latencies(target, timed.quartiles_ms)
    return Measured(data, timed.failed, timed.anchors_ms, timed.seconds, timed.facts)


def subnet_jobs(target: Target, genomes: Genomes) -> list[Job]:
    """A job per subnet: random weights, norms settled, native activations, an input that is never zeros."""
    import torch

    from supernet.weights import network

    space = get_space(target.space)
    weights: list[Any] = []  # the supernet, built when the first job needs it

    def build(genome: Genomes) -> tuple[torch.nn.Module, torch.Tensor]:
        if not weights:
            weights.append(network.supernet(space))
        side, noise = network.resolution(space, genome), torch.Generator().manual_seed(0)
        subnet = network.with_native_activations(network.extract(weights[0], space, genome))
        subnet = network.settle_norms(subnet, torch.randn((2, 3, side, side), generator=noise))
        return subnet, torch.randn((target.batch, 3, side, side), generator=noise)

    return [
        Job(name, partial(build, genomes[row : row + 1])) for row, name in enumerate(space.format(genomes))
    ]


def time_jobs(
    target: Target,
    jobs: Sequence[Job],
    *,
    store: Store,
    seconds: float | None = None,
    watch: Watcher | None = None,
    rounds: Rounds = USUAL,
    facts: Mapping[str, Any] | None = None,
) -> Timed:
    """Time anything that runs on the target's engine, with the anchors of its space; errors as `measure`.

    With `target.utilisation` a background load runs beside, and latency is what a user waits: wall time at
    normal priority, the mean of a visit that lasts several periods of the load, on the first `target.threads`
    cores. `facts` go to the sitting, with the utilisation that was measured.
    """
    engine = engine_of(target)
    load = _Load()
    if engine.threads > 1 and not target.utilisation:
        load.wait_until_idle()
    begun = time.perf_counter()
    deadline = begun + seconds if seconds is not None else np.inf
    place = _beside(target.utilisation, engine.threads) if target.utilisation else undisturbed(engine.threads)
    with place as conditions:
        sitting = Sitting.begin(target, engine.version, {**_conditions(), **conditions, **(facts or {})})
        watch = watch or (lambda done, of, now: None)
        run = _Run(engine, target, store, sitting, load, watch, len(jobs), rounds)
        run.prepare_anchors(subnet_jobs(target, anchors(get_space(target.space))))
        for part in _parts(jobs, _block_size(target, rounds)):
            if time.perf_counter() > deadline:
                break
            run.take_turns(part, deadline)
    everything, usual = summarise(run.visits, target)
    quartiles = {job.name: everything[job.name] for job in jobs if job.name in everything}
    if not quartiles:
        reasons = "; ".join(f"{name}: {why}" for name, why in list(run.failed.items())[:3])
        raise ValueError(f"nothing could be measured on {target} ({reasons or 'no time'})")
    about = {"engine": engine.version, "sitting": sitting.id, "visits": len(run.visits), **sitting.facts}
    return Timed(quartiles, run.failed, usual, time.perf_counter() - begun, about)


def engine_of(target: Target) -> Engine:
    """The engine of a target of this machine; ValueError for another target, or if it is not installed."""
    if target.threads is None or target.engine not in registry.names("engine"):
        raise ValueError(f"{target.name} ({target}) is not this machine: only target=here can be measured")
    if target.isa is not None:
        instruction_sets.check(target.isa, target.engine)
    return engines.build(target.engine, precision=target.precision, threads=target.threads)


def _parts(jobs: Sequence[Job], size: int) -> list[Sequence[Job]]:
    """Blocks of about equal length, at most `size`."""
    count = -(-len(jobs) // size)
    edges = np.linspace(0, len(jobs), count + 1).astype(int)
    return [jobs[first:past] for first, past in pairwise(edges)]


def _block_size(target: Target, rounds: Rounds) -> int:
    import psutil

    room = psutil.virtual_memory().available / 4 / (rounds.session_bytes + 12e6 * target.batch)
    return int(np.clip(room, 8, rounds.block))


class _Run:
    """The state of one sitting."""

    def __init__(
        self,
        engine: Engine,
        target: Target,
        store: Store,
        sitting: Sitting,
        load: _Load,
        watch: Watcher,
        asked: int,
        rounds: Rounds,
    ) -> None:
        self.engine, self.target = engine, target
        self.store, self.sitting, self.load, self.watch, self.asked = store, sitting, load, watch, asked
        self.rounds, self.rng = rounds, np.random.default_rng(0)
        self.visits: list[Visit] = []
        self.failed: dict[str, str] = {}
        self.anchors: dict[str, Any] = {}
        self.block = self.round = self.finished = 0

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
            self.watch(self.finished, self.asked, f"preparing {job.name}")
            try:
                sessions[job.name] = self.engine.prepare(*job.build())
            except Exception as error:  # whatever an engine raises: the others go on
                self._fail(job.name, role, error)
        return sessions

    def _fail(self, name: str, role: str, error: Exception) -> None:
        self.failed[name] = f"{type(error).__name__}: {error}"
        self._record(name, role, (), (), self.failed[name])

    def _record(
        self, name: str, role: str, wall: tuple[float, ...], cpu: tuple[float, ...], error: str | None = None
    ) -> Visit:
        visit = Visit(
            self.sitting.id,
            time.time(),
            name,
            role,
            self.block,
            self.round,
            wall,
            cpu,
            self.load.others(),
            error,
        )
        self.visits.append(visit)
        self.store.add(self.sitting, visit)
        return visit

    def take_turns(self, jobs: Sequence[Job], deadline: float) -> None:
        """Prepare these jobs and take rounds until each is done."""
        self.block += 1
        first, now = len(self.visits), time.perf_counter()
        jobs = [job for job in jobs if job.name not in self.anchors]  # those are measured anyway
        waiting = self._prepare(jobs, "candidate", now + PREPARING_SHARE * (deadline - now))
        for taken in range(self.rounds.most if waiting else self.rounds.fewest):
            if not waiting and (jobs or taken >= self.rounds.fewest):
                break
            self.round += 1
            everyone = {**self.anchors, **waiting}
            names = [*waiting, *self.anchors, *self.anchors]  # anchors twice: all blocks hang on them
            self.watch(self.finished, self.asked, f"round {self.round}, {len(waiting)} subnets")
            for index in self.rng.permutation(len(names)):
                name = names[index]
                if name not in everyone:
                    continue  # failed earlier in this round
                role = "anchor" if name in self.anchors else "candidate"
                try:
                    wall, cpu = self._burst(everyone[name])
                except Exception as error:  # the same boundary as in _prepare
                    self._fail(name, role, error)
                    for sessions in (self.anchors, waiting, everyone):
                        sessions.pop(name, None)
                    continue
                self._record(name, role, wall, cpu)
            if time.perf_counter() > deadline and taken + 1 >= MIN_VISITS:
                break
            done = _agreed(self.visits[first:], list(waiting), self.target, self.rounds)
            self.finished += len(done)
            for name in done:
                del waiting[name]
        self.finished += len(waiting)

    def _burst(self, session: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
        run = self.engine.run
        begun = time.perf_counter()
        run(session)
        long = time.perf_counter() - begun > self.rounds.long_ms / 1000
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

    def _mean_run(self, session: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean wall and CPU time of the runs in three periods of the background load, at least 3."""
        runs, start, start_cpu = 0, time.perf_counter(), time.process_time()
        while runs < BURST or time.perf_counter() - start < LOADED_SECONDS:
            self.engine.run(session)
            runs += 1
        wall, cpu = time.perf_counter() - start, time.process_time() - start_cpu
        return (round(1e3 * wall / runs, 5),), (round(1e3 * cpu / runs, 5),)


# ---------------------------------------------------------------------- from visits to latencies
def _runs_ms(visit: Visit, target: Target) -> list[float]:
    """CPU times where they are the latency, else wall times; without readings of a clock that stood still."""
    on_host = target.threads == 1 and target.spec.kind == "cpu" and not target.utilisation
    return [ms for ms in (visit.cpu_ms if on_host else visit.wall_ms) if ms > 0]


def burst_ms(visit: Visit, target: Target) -> float:
    """The latency of one visit: the least of its runs (under a background load their mean is one)."""
    return min(_runs_ms(visit, target))


def counts(visit: Visit, target: Target) -> bool:
    """Whether a visit tells the latency: it ran, and with several threads the machine was free."""
    if visit.error or not _runs_ms(visit, target):
        return False
    return bool(target.utilisation) or target.threads == 1 or visit.others is None or visit.others <= BUSY


def _polished(visits: Sequence[Visit], target: Target) -> dict[str, Floats]:
    """Per subnet of one block its latencies (ms) in the rounds that count, freed of the drift of the rounds.

    Median polish of log latency = subnet + round (Tukey): all subnets of a block tell how slow a round was.
    """
    names = list(dict.fromkeys(visit.architecture for visit in visits))
    rounds = sorted({visit.round for visit in visits})
    row, column = {n: i for i, n in enumerate(names)}, {r: j for j, r in enumerate(rounds)}
    logs = np.full((len(names), len(rounds)), np.nan)
    for visit in visits:
        if counts(visit, target):
            cell = row[visit.architecture], column[visit.round]
            logs[cell] = np.nanmean([logs[cell], np.log(burst_ms(visit, target))])  # anchors come twice
    logs = logs[:, np.isfinite(logs).any(axis=0)]
    heard = np.isfinite(logs).any(axis=1)
    kept = logs[heard]
    drift = np.zeros(kept.shape[1])
    for _ in range(POLISHES):
        subnet = np.nanmedian(kept - drift, axis=1, keepdims=True)
        drift = np.nanmedian(kept - subnet, axis=0)
        drift -= np.median(drift) if len(drift) else 0.0
    usual = drift <= np.log(SLOW)
    freed = np.exp(kept[:, usual] - drift[usual])
    values = [values[np.isfinite(values)] for values in freed]
    return {names[i]: v for i, v in zip(np.flatnonzero(heard), values, strict=True) if len(v)}


def _agreed(visits: Sequence[Visit], names: Sequence[str], target: Target, rounds: Rounds) -> list[str]:
    """Those of `names` whose visits in one block agree."""
    found = _polished(visits, target)
    return [name for name in names if name in found and _is_done(found[name], rounds)]


def _is_done(values: Floats, rounds: Rounds) -> bool:
    long = bool(np.median(values) >= rounds.long_ms)
    if len(values) < (LONG_ROUNDS[0] if long else rounds.fewest):
        return False
    return _standard_error(values) <= AGREEMENT or (long and len(values) >= LONG_ROUNDS[1])


def _standard_error(values: Floats) -> float:
    """Relative standard error of a median, from the interquartile range (that of a normal sample)."""
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    return float(1.2533 * (high - low) / 1.349 / np.sqrt(len(values)) / middle)


def summarise(visits: Sequence[Visit], target: Target) -> tuple[dict[str, Floats], dict[str, float]]:
    """Quartiles (ms) of all that was measured in one sitting, and the medians of its anchors.

    Blocks are brought to the common scale of their anchors. What broke down once, or was visited fewer than
    MIN_VISITS times (a sitting that was cut short), is left out.
    """
    blocks: dict[int, list[Visit]] = {}
    broken = {visit.architecture for visit in visits if visit.error}
    anchor = {visit.architecture for visit in visits if visit.role == "anchor"} - broken
    for visit in visits:
        blocks.setdefault(visit.block, []).append(visit)
    polished = [
        {name: values for name, values in _polished(of_block, target).items() if len(values) >= MIN_VISITS}
        for of_block in blocks.values()
    ]
    of_anchor: dict[str, list[Floats]] = {}
    for block in polished:
        for name in anchor & block.keys():
            of_anchor.setdefault(name, []).append(block[name])
    usual = {name: float(np.median([np.median(v) for v in values])) for name, values in of_anchor.items()}
    found: dict[str, list[Floats]] = {}
    for block in polished:
        ratios = [float(np.median(block[name])) / ms for name, ms in usual.items() if name in block]
        scale = float(np.median(ratios)) if ratios else 1.0
        for name, values in block.items():
            if name not in broken:
                found.setdefault(name, []).append(values / scale)
    quartiles = {n: np.quantile(np.concatenate(values), (0.25, 0.5, 0.75)) for n, values in found.items()}
    return quartiles, dict(sorted(usual.items()))


def _latencies(target: Target, quartiles_ms: Mapping[str, Floats]) -> LatencyData:
    table = np.array(list(quartiles_ms.values())).reshape(-1, 3)
    return LatencyData(
        target, get_space(target.space).parse(quartiles_ms), table[:, 1], table[:, 2] - table[:, 0]
    )


def relative_scale(anchors_ms: Mapping[str, float], reference: Mapping[str, float]) -> float:
    """How much slower one sitting was than another, by the anchors of both."""
    shared = [ms / reference[name] for name, ms in anchors_ms.items() if name in reference]
    return float(np.median(shared)) if shared else 1.0


def known(store: Store, target: Target, engine_version: str) -> tuple[LatencyData, dict[str, float]]:
    """All subnets measured on this target with this version of its engine, on the scale of the last sitting,
    and the anchors of that sitting. A subnet measured in several sittings has the median.
    """
    empty = get_space(target.space).parse([])
    parts = []
    for sitting in store.sittings(target, engine_version):
        quartiles, usual = summarise(store.visits(sitting.id), target)
        subnets = {name: q for name, q in quartiles.items() if name.startswith(target.space)}
        if subnets and usual:
            parts.append((_latencies(target, subnets), usual))
    if not parts:
        return LatencyData(target, empty, np.empty(0), np.empty(0)), {}
    last = parts[-1][1]
    scales = [relative_scale(usual, last) for _, usual in parts]
    genomes = np.concatenate([data.genomes for data, _ in parts])
    ms = np.concatenate([data.ms / scale for (data, _), scale in zip(parts, scales, strict=True)])
    spread = np.concatenate([data.spread_ms / scale for (data, _), scale in zip(parts, scales, strict=True)])
    distinct, owner = np.unique(genomes, axis=0, return_inverse=True)
    rows = [np.flatnonzero(owner.ravel() == i) for i in range(len(distinct))]
    middle = np.array([np.median(ms[of]) for of in rows])
    return LatencyData(target, distinct, middle, np.array([np.median(spread[of]) for of in rows])), last


# ---------------------------------------------------------------------- the machine meanwhile
class _Load:
    """The share of the machine that other processes use, from system and own CPU time."""

    WINDOW_SECONDS = 0.25

    def __init__(self) -> None:
        self._at = self._now()
        self._share: float | None = None

    def _now(self) -> tuple[float, float, float]:
        import psutil

        times = psutil.cpu_times()
        busy = sum(times) - times.idle - getattr(times, "iowait", 0.0)
        busy -= getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)  # counted within user time
        return time.perf_counter(), busy, time.process_time()

    def others(self) -> float | None:
        """Share in [0, 1] over the last quarter of a second or more; None in the first moment."""
        before, now = self._at, self._now()
        elapsed = now[0] - before[0]
        if elapsed >= self.WINDOW_SECONDS:
            used = (now[1] - before[1]) - (now[2] - before[2])
            self._share = round(min(1.0, max(0.0, used / elapsed / (os.cpu_count() or 1))), 3)
            self._at = now
        return self._share

    def wait_until_idle(self) -> None:
        """ValueError when others keep using the machine: times of several threads would mean nothing."""
        end = time.perf_counter() + BUSY_PATIENCE_SECONDS
        while time.perf_counter() < end:
            time.sleep(2 * self.WINDOW_SECONDS)
            share = self.others()
            if share is not None and share <= BUSY:
                return
        raise ValueError(
            f"other processes use {self._share:.0%} of this machine, and the times of several threads are "
            f"only right below {BUSY:.0%}: stop them, or measure with threads=1"
        )


@contextlib.contextmanager
def undisturbed(threads: int) -> Iterator[dict[str, Any]]:
    """High priority where the system grants it (root), and this many PyTorch threads; both as before
    afterwards. Yields the priority that was granted."""
    before = os.getpriority(os.PRIO_PROCESS, 0)
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, -20)
    try:
        with _torch_threads(threads):
            yield {"priority": os.getpriority(os.PRIO_PROCESS, 0)}
    finally:
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, 0, before)


@contextlib.contextmanager
def _beside(utilisation: float, threads: int) -> Iterator[dict[str, Any]]:
    """Normal priority on the first `threads` cores, a background load on all of them. Yields what it took."""
    before = os.sched_getaffinity(0)
    with Background(utilisation) as load, _torch_threads(threads):
        os.sched_setaffinity(0, set(sorted(before)[:threads]))
        try:
            priority = os.getpriority(os.PRIO_PROCESS, 0)
            yield {"priority": priority, "utilisation": load.utilisation}
        finally:
            os.sched_setaffinity(0, before)


@contextlib.contextmanager
def _torch_threads(threads: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _conditions() -> dict[str, Any]:
    """Clock, load and versions at the start of a sitting."""
    import psutil

    clock = psutil.cpu_freq() if hasattr(psutil, "cpu_freq") else None
    return {
        "host": platform.node(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "clock_mhz": clock.current if clock else None,
        "clock_max_mhz": clock.max if clock else None,
        "load": list(psutil.getloadavg()),
        "limits": {name: os.environ[name] for name in instruction_sets.VARIABLES if name in os.environ},
    }
