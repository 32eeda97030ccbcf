"""A machine whose timings are known: the networks that are measured take what their names say."""

import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest import mock

from latency.measuring import jobs, machine, place, session
from latency.measuring.jobs import Job
from latency.measuring.remote import runner

FEW_ROUNDS = 3
RATES = dict.fromkeys(("dense", "depthwise", "memory"), 10.0)


class Clock:
    """Stands in for the module `time` where networks are timed. The hours go in whole seconds, as on a coarse
    clock, so many visits have the same time. When the machine's clock is set, by days, so is this one."""

    def __init__(self) -> None:
        self.ns = 10**9
        self._begun = time.time()

    def time(self) -> float:
        days = round((time.time() - self._begun) / 86400)
        return float(1_700_000_000 + self.ns // 10**9 + 86400 * days)

    def perf_counter(self) -> float:
        return self.ns / 1e9

    def perf_counter_ns(self) -> int:
        return self.ns

    def sleep(self, seconds: float) -> None:
        self.ns += int(seconds * 1e9)

    process_time_ns = perf_counter_ns
    process_time = perf_counter


class Engine:
    """Runs nothing; the clock goes on by what the name of the network says, 1 to 2 ms."""

    precision, threads, version = "fp32", 1, "known 1.0"

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def prepare(self, name: str) -> int:
        return 1_000_000 + zlib.crc32(name.encode()) % 1_000_000

    def run(self, session: int) -> None:
        self._clock.ns += session


@contextmanager
def known_timings() -> Iterator[Clock]:
    """Inside the block everything that is timed on this machine takes a known time, and at once."""
    clock = Clock()

    def prepare(local: place.Local, job: Job) -> None:
        local.sessions[job.name] = local.engine.prepare(job.name)

    with ExitStack() as stack:
        for module, name, value in (
            *((module, "time", clock) for module in (session, place, runner)),
            (session, "engine_of", lambda target: Engine(clock)),
            (place.Local, "prepare", prepare),
            (runner, "POWERCAP", "/nowhere"),  # energies differ from run to run
            (machine, "micro_benchmark", lambda: dict(RATES)),
        ):
            stack.enter_context(mock.patch.object(module, name, value))
        # Every round is like the others.
        stack.enter_context(mock.patch.dict(vars(jobs.USUAL), fewest=FEW_ROUNDS, most=FEW_ROUNDS))
        yield clock
