"""The timing protocol: how long subnets take on this machine, one way for all engines.

Candidates take turns in rounds: each visit is two warm-up runs and a burst of timed ones, in an order drawn
anew every round, so that a slow moment hits none of them alone; how slow a round was follows from all its
candidates, and one that was slow is repeated. Three *anchors*, the same subnets in every sitting, are visited
in every round too: their common scale removes the drift between blocks of candidates and between sittings.
With one thread the process's CPU time is the latency, also on a busy machine; otherwise it is wall time, and
visits while others use the machine do not count. A candidate is done when its visits agree. Every visit goes
to the store at once.
"""

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from latency.data import LatencyData
from latency.measuring import broken_off, conditions, instruction_sets
from latency.measuring.broken_off import Earlier
from latency.measuring.engine import Engine, Meter, OwnMeter, build_engine
from latency.measuring.jobs import USUAL, Job, Rounds, anchor_subnets, subnet_jobs
from latency.measuring.place import Local, Place, Reading
from latency.measuring.remote import reached
from latency.measuring.remote.runner import NoMeterError, Rapl, metered
from latency.measuring.remote.transports import LostError
from latency.measuring.store import Sitting, Store, Visit
from latency.measuring.summary import MIN_VISITS, agreed, as_energies, latencies, summarise, throttled
from latency.target import Target
from supernet import registry
from supernet.arrays import Floats, Genomes
from supernet.space import get_space

COOLINGS = 3  # in a round
COOLER = 3.0  # degrees Celsius below the hottest visit at full speed, before a device goes on that was slower
PREPARING_SHARE = 0.5  # of what is left of a time budget

Watcher = Callable[[int, int, str], None]  # (subnets done, subnets asked for, what happens now)


@dataclass(frozen=True)
class Measuring:
    """How a sitting goes: where its visits are kept, its time budget, who watches, and its rounds."""

    store: Store
    seconds: float | None = None
    watch: Watcher | None = None
    rounds: Rounds = USUAL


@dataclass(frozen=True, eq=False)
class Timed:
    """The result of a sitting: quartiles (3,) in ms by name, in mJ where the device has a meter, and the
    reason of each failure in `failed`."""

    target: Target
    quartiles_ms: Mapping[str, Floats]
    failed: Mapping[str, str]
    anchors_ms: Mapping[str, float]  # medians of the anchors in this sitting
    seconds: float  # of the sitting, preparation included
    facts: Mapping[str, Any]
    quartiles_mj: Mapping[str, Floats] = field(default_factory=dict)

    @cached_property
    def data(self) -> LatencyData:
        """The latencies of a sitting whose jobs were subnets."""
        return latencies(self.target, self.quartiles_ms)

    @cached_property
    def energies(self) -> LatencyData | None:
        """Their energies, mJ in place of ms; None where there is no meter."""
        return latencies(self.target, self.quartiles_mj) if self.quartiles_mj else None

    def describe_energy(self) -> str:
        """What the meter said, or why there is none, in one line."""
        about, energies = self.facts.get("energy", {}), self.energies
        if energies is None:
            why = about.get(
                "refused", "other processes used the machine in every visit, and their energy counts"
            )
            return f"energy: not measured ({why})"
        middle, watts = float(np.median(energies.ms)), about["idle_watts"]
        shared = [self.quartiles_ms[name][1] for name in self.quartiles_mj]
        idle = (
            ""
            if watts is None
            else f", of which {watts * np.median(shared):.3g} mJ idle power ({watts:.3g} W)"
        )
        return f"energy: {middle:.4g} mJ in the median of {len(energies)} subnets{idle}; {about['meter']}"


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
    with place_of(target, how.rounds) as place:
        begun = time.perf_counter()
        deadline = begun + (np.inf if how.seconds is None else how.seconds)
        everything = {**place.facts, **(facts or {})}
        sitting, earlier = broken_off.go_on(how.store, target, place, [job.name for job in jobs], everything)
        with place.sitting(sitting.id):
            run = _Run(place, target, how, sitting, earlier, len(jobs))
            run.prepare_anchors(subnet_jobs(target, anchor_subnets(get_space(target.space))))
            for part in _parts(jobs, place.room()):
                if time.perf_counter() > deadline:
                    break
                run.take_turns(part, deadline)
            broken_off.end(how.store, sitting, place)
    summary, usual = summarise(run.visits, target)
    quartiles = {job.name: summary[job.name] for job in jobs if job.name in summary}
    if not quartiles:
        reasons = "; ".join(f"{name}: {why}" for name, why in list(run.failed.items())[:3])
        raise ValueError(f"nothing could be measured on {target} ({reasons or 'no time'})")
    about = {
        "engine": sitting.engine_version,
        "sitting": sitting.id,
        "visits": len(run.visits),
        **sitting.facts,
    }
    energies, _ = summarise(as_energies(run.visits), target)
    quartiles_mj = {name: energies[name] for name in quartiles if name in energies}
    seconds = time.perf_counter() - begun
    return Timed(target, quartiles, run.failed, usual, seconds, about, quartiles_mj)


@contextlib.contextmanager
def place_of(target: Target, rounds: Rounds = USUAL) -> Iterator[Place]:
    """Where a target is measured: a device that the command line named, or this process, whose conditions
    hold meanwhile."""
    if target.unit:
        with reached.board(target, rounds) as board:
            yield board
        return
    engine = engine_of(target)
    meter, energy = metered(lambda: meter_of(target, engine))
    load = conditions.Load()
    if engine.threads > 1 and not target.utilisation:
        load.wait_until_idle()
    with conditions.during(target.utilisation, engine.threads) as during:
        facts = {**conditions.at_start(), **during, "energy": energy}
        yield Local(engine, target, rounds, load, facts, meter)


def meter_of(target: Target, engine: Engine) -> Meter:
    """What tells the energy of this machine or of its GPU; ValueError with the reason for none."""
    if target.utilisation:
        raise NoMeterError(
            "under a background load its energy would count too: leave target.utilisation= out"
        )
    return engine.meter() if isinstance(engine, OwnMeter) else Rapl()


def check_energy(target: Target) -> None:
    """ValueError with the reason where the energy of networks cannot be measured on a target that can be."""
    try:
        if not target.unit:
            meter_of(target, engine_of(target))
        elif why := reached.facts(target)["energy"].get("refused"):
            raise NoMeterError(why)
    except ValueError as error:
        raise ValueError(f"energy_mj cannot be measured on {target.name}: {error}") from None


def engine_version(target: Target) -> str:
    """The version of a target's engine where it is measured; errors as `engine_of`."""
    return reached.engine_version(target) if target.unit else engine_of(target).version


def engine_of(target: Target) -> Engine:
    """The engine of a target of this machine; ValueError for another target, or if it is not installed."""
    if target.threads is None or target.engine not in registry.names("engine") or target.unit:
        raise ValueError(f"{target.name} ({target}) is not this machine: only target=here can be measured")
    if target.isa is not None:
        instruction_sets.check(target.isa, target.engine)
    return build_engine(target.engine, precision=target.precision, threads=target.threads)


def _parts(jobs: Sequence[Job], size: int) -> list[Sequence[Job]]:
    """Blocks of about equal length, at most `size`."""
    count = -(-len(jobs) // size)
    edges = np.linspace(0, len(jobs), count + 1).astype(int)
    return [jobs[first:past] for first, past in pairwise(edges)]


@dataclass
class _Run:
    """The state of one sitting."""

    place: Place
    target: Target
    how: Measuring
    sitting: Sitting
    earlier: Earlier
    asked: int
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    visits: list[Visit] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    anchors: dict[str, Job] = field(default_factory=dict)
    late: dict[str, Job] = field(default_factory=dict)  # not prepared: their visits were made earlier
    made: Counter[str] = field(default_factory=Counter)  # visits of this round
    block: int = 0
    round: int = 0
    finished: int = 0

    def prepare_anchors(self, jobs: Sequence[Job]) -> None:
        self.anchors = self._prepare(jobs, "anchor", np.inf)
        if not self.anchors:
            name, reason = next(iter(self.failed.items()))
            raise ValueError(f"{self.target.engine} can run no {self.target.space} subnet; {name}: {reason}")

    def _prepare(self, jobs: Sequence[Job], role: str, deadline: float) -> dict[str, Job]:
        ready: dict[str, Job] = {}
        for job in jobs:
            if time.perf_counter() > deadline:
                break
            if failure := self.earlier.failure(self.round, job.name):
                self._note(failure)
            elif self.earlier.has(job.name):
                ready[job.name] = self.late[job.name] = job
            elif self._prepared(job, role):
                ready[job.name] = job
        return ready

    def _prepared(self, job: Job, role: str) -> bool:
        self._say(f"preparing {job.name}")
        try:
            self.place.prepare(job)
        except LostError:
            raise
        except Exception as error:  # whatever an engine raises: the others go on
            self._record(Reading(job.name, error=f"{type(error).__name__}: {error}"), role)
            return False
        return True

    def _say(self, now: str) -> None:
        if self.how.watch:
            self.how.watch(self.finished, self.asked, now)

    def _record(self, reading: Reading, role: str) -> None:
        place = (self.sitting.id, reading.unix_time, reading.name, role, self.block, self.round)
        times = reading.wall_ms, reading.cpu_ms, reading.others, reading.error
        visit = Visit(*place, *times, reading.celsius, reading.mhz, reading.energy_mj)
        self.how.store.add(self.sitting, visit)
        self._note(visit)

    def _note(self, visit: Visit) -> None:
        self.visits.append(visit)
        if visit.error is not None:
            self.failed[visit.architecture] = visit.error

    def take_turns(self, jobs: Sequence[Job], deadline: float) -> None:
        """Prepare these jobs and take rounds until each is done."""
        self.block += 1
        first, now = len(self.visits), time.perf_counter()
        jobs = [job for job in jobs if job.name not in self.anchors]  # those are measured anyway
        waiting = self._prepare(jobs, "candidate", now + PREPARING_SHARE * (deadline - now))
        for taken in range(self.how.rounds.most if waiting else self.how.rounds.fewest):
            if not waiting and (jobs or taken >= self.how.rounds.fewest):
                break
            self.round, self.made = self.round + 1, Counter()
            self._say(f"round {self.round}, {len(waiting)} subnets")
            # anchors twice: all blocks hang on them
            self._visit(self.rng.permutation([*waiting, *self.anchors, *self.anchors]).tolist())
            self._visit_again(first, deadline)
            for sessions in (self.anchors, waiting):
                for name in sessions.keys() & self.failed.keys():
                    del sessions[name]
            if time.perf_counter() > deadline and taken + 1 >= MIN_VISITS:
                break
            done = agreed(self.visits[first:], list(waiting), self.target, self.how.rounds)
            self._leave(waiting, done)
        self._leave(waiting, list(waiting))

    def _leave(self, waiting: dict[str, Job], names: Sequence[str]) -> None:
        """These have been visited often enough."""
        self.finished += len(names)
        self.place.forget(names)
        for name in names:
            del waiting[name]

    def _visit(self, names: Sequence[str], cool_to: float | None = None, *, cooled: bool = True) -> None:
        """Visit each of these in their order, but for visits that were made before the sitting broke off."""
        order = []
        for name in names:
            self.made[name] += 1
            if visit := self.earlier.take(self.round, name):
                self._note(visit)
            elif name not in self.late or self._prepared(self.late.pop(name), self._role(name)):
                order.append((f"{self.round}/{self.made[name]}/{name}", name))
        if order and not cooled:
            self._say("the device is too hot and cools down")
            self.place.cool(cool_to)
        for reading in self.place.visits(order):
            self._record(reading, self._role(reading.name))

    def _visit_again(self, first: int, deadline: float) -> None:
        """Where the device was too hot and ran slower, wait for it and repeat those visits of this round."""
        for _ in range(COOLINGS):
            visits = self.visits[first:]
            slow = throttled(visits)
            here = [(v, s) for v, s in zip(visits, slow, strict=True) if v.round == self.round]
            whole = {visit.architecture for visit, slowly in here if not slowly}
            again = list(dict.fromkeys(v.architecture for v, slowly in here if slowly))
            again = [name for name in again if name not in whole]
            if not again or time.perf_counter() > deadline:
                return
            heat = [v.celsius for v, slowly in zip(visits, slow, strict=True) if not slowly and v.celsius]
            self._visit(again, max(heat) - COOLER if heat else None, cooled=False)

    def _role(self, name: str) -> str:
        return "anchor" if name in self.anchors else "candidate"
