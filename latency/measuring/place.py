"""Where a sitting happens: a place prepares networks and visits them. This process is one; a device that is
reached over a connection is another (`remote.board`)."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np
import psutil

from latency.measuring import conditions
from latency.measuring.engine import Engine, Meter
from latency.measuring.jobs import Job, Rounds
from latency.measuring.remote.runner import BURST, burst
from latency.target import Target

LOADED_SECONDS = 0.012  # a visit under a background load: three of its periods


@dataclass(frozen=True)
class Reading:
    """What one visit of a network gave, or why it gave nothing."""

    name: str
    wall_ms: tuple[float, ...] = ()
    cpu_ms: tuple[float, ...] = ()
    others: float | None = None  # the share of the machine that other processes used
    error: str | None = None
    celsius: float | None = None  # of the processor
    mhz: float | None = None  # of the core
    energy_mj: float | None = None  # of a run
    unix_time: float = field(default_factory=lambda: time.time())


class Place(Protocol):
    """What a sitting needs. `order` are pairs of a key, which no other visit of the sitting has, and the name
    of a network; a network that fails is not visited again."""

    @property
    def version(self) -> str: ...  # of the engine
    @property
    def facts(self) -> Mapping[str, Any]: ...  # of the machine, as the sitting begins
    @property
    def resumes(self) -> bool: ...  # whether a sitting that was broken off goes on
    def room(self) -> int: ...  # networks at once
    def prepare(self, job: Job) -> None: ...
    def visits(self, order: Sequence[tuple[str, str]]) -> Iterator[Reading]: ...
    def forget(self, names: Sequence[str]) -> None: ...
    def cool(self, celsius: float | None) -> None: ...  # wait until it is no hotter, within limits
    def sitting(self, identity: str) -> AbstractContextManager[None]: ...


@dataclass
class Local:
    """This process, for one sitting."""

    engine: Engine
    target: Target
    rounds: Rounds
    load: conditions.Load
    facts: Mapping[str, Any]
    meter: Meter | None = None
    resumes: bool = False  # another process runs at another speed
    sessions: dict[str, Any] = field(default_factory=dict)

    @property
    def version(self) -> str:
        return self.engine.version

    def room(self) -> int:
        return sessions_in(psutil.virtual_memory().available, self.target.batch, self.rounds)

    def prepare(self, job: Job) -> None:
        self.sessions[job.name] = self.engine.prepare(*job.build())

    def visits(self, order: Sequence[tuple[str, str]]) -> Iterator[Reading]:
        """Each visit when it is asked for."""
        for _, name in order:
            if name not in self.sessions:
                continue  # it failed earlier in this round
            try:
                wall, cpu, mj = self._burst(self.sessions[name])
            except Exception as error:  # whatever an engine raises: the others go on
                del self.sessions[name]
                yield Reading(name, error=f"{type(error).__name__}: {error}")
            else:
                yield Reading(name, wall, cpu, self.load.others(), energy_mj=mj)

    def forget(self, names: Sequence[str]) -> None:
        for name in names:
            self.sessions.pop(name, None)

    def cool(self, celsius: float | None) -> None:
        """Nothing: this machine's frequency is not recorded."""

    @contextmanager
    def sitting(self, identity: str) -> Iterator[None]:
        yield

    def _burst(self, session: Any) -> tuple[tuple[float, ...], tuple[float, ...], float | None]:
        if self.target.utilisation:
            return *self._mean_run(session), None
        return burst(partial(self.engine.run, session), self.meter, long_ms=self.rounds.long_ms)

    def _mean_run(self, session: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean wall and CPU time of the runs in three periods of the background load, at least 3."""
        for _ in range(2):
            self.engine.run(session)
        runs, start, start_cpu = 0, time.perf_counter(), time.process_time()
        while runs < BURST or time.perf_counter() - start < LOADED_SECONDS:
            self.engine.run(session)
            runs += 1
        wall, cpu = time.perf_counter() - start, time.process_time() - start_cpu
        return (round(1e3 * wall / runs, 5),), (round(1e3 * cpu / runs, 5),)


def sessions_in(free_bytes: float, batch: int, rounds: Rounds) -> int:
    """How many sessions take turns together: as a quarter of the free memory has room for."""
    return int(np.clip(free_bytes / 4 / (rounds.session_bytes + 12e6 * batch), 8, rounds.block))
