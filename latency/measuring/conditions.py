"""The machine while it measures: what other processes use, priority, threads, a background load."""

import contextlib
import os
import platform
import time
from collections.abc import Iterator
from typing import Any

import psutil

from latency.measuring import instruction_sets
from latency.measuring.background import Background
from latency.measuring.machine import torch_threads

BUSY = 0.10  # share of the machine used by others above which several threads cannot be timed
BUSY_PATIENCE_SECONDS = 20.0


class Load:
    """The share of the machine that other processes use, from system and own CPU time."""

    WINDOW_SECONDS = 0.25

    def __init__(self) -> None:
        self._at = self._now()
        self._share: float | None = None

    def _now(self) -> tuple[float, float, float]:
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


def during(utilisation: float, threads: int) -> contextlib.AbstractContextManager[dict[str, Any]]:
    """The conditions that a target asks for, as a context that yields what was granted."""
    return beside(utilisation, threads) if utilisation else undisturbed(threads)


@contextlib.contextmanager
def undisturbed(threads: int) -> Iterator[dict[str, Any]]:
    """High priority where the system grants it (root), and this many PyTorch threads; both as before
    afterwards. Yields the priority that was granted."""
    before = os.getpriority(os.PRIO_PROCESS, 0)
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, -20)
    try:
        with torch_threads(threads):
            yield {"priority": os.getpriority(os.PRIO_PROCESS, 0)}
    finally:
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, 0, before)


@contextlib.contextmanager
def beside(utilisation: float, threads: int) -> Iterator[dict[str, Any]]:
    """Normal priority on the first `threads` cores, a background load on all of them. Yields what it took."""
    before = os.sched_getaffinity(0)
    with Background(utilisation) as load, torch_threads(threads):
        os.sched_setaffinity(0, set(sorted(before)[:threads]))
        try:
            priority = os.getpriority(os.PRIO_PROCESS, 0)
            yield {"priority": priority, "utilisation": load.utilisation}
        finally:
            os.sched_setaffinity(0, before)


def at_start() -> dict[str, Any]:
    """Clock, load and versions at the start of a sitting."""
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
