"""A controlled background load: worker processes beside a measurement, pinned one to a core, each busy for a
share of every few milliseconds. What they really take is measured, not assumed."""

import os
import time
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.process import BaseProcess

import numpy as np
import psutil
from threadpoolctl import threadpool_limits

PERIOD_SECONDS = 0.004  # short against a visit, long against the operating system's clock
WATCH_SECONDS = 1.0


@dataclass
class Background:
    """Use as a context: `with Background(0.5) as load: load.utilisation`.

    `share` in (0, 1] of every core is wished. `utilisation` is the share of the machine that the workers took
    while nothing else ran: what a user sees who looks at the device before starting a network on it. Half of
    a worker's busy time is matrix products in the cache, half copies of a megabyte.
    """

    share: float
    utilisation: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"a background load of {self.share:g} must be a share in (0, 1] of every core")
        if not hasattr(os, "sched_setaffinity"):
            raise ValueError("a background load needs processes pinned to cores, which only Linux offers")

    def __enter__(self) -> "Background":
        context = get_context("spawn")
        cores = sorted(os.sched_getaffinity(0))
        ready = context.Barrier(len(cores) + 1)
        self._workers: list[BaseProcess] = [
            context.Process(target=work, args=(core, self.share, ready, os.getpid()), daemon=True)
            for core in cores
        ]
        for worker in self._workers:
            worker.start()
        ready.wait(60.0)
        time.sleep(0.3)  # for the workers to settle
        watched = [psutil.Process(worker.pid) for worker in self._workers]
        begun, before = time.perf_counter(), sum(sum(each.cpu_times()[:2]) for each in watched)
        time.sleep(WATCH_SECONDS)
        spent = sum(sum(each.cpu_times()[:2]) for each in watched) - before
        self.utilisation = round(spent / (time.perf_counter() - begun) / len(cores), 3)
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self._workers:
            worker.terminate()
        for worker in self._workers:
            worker.join()


def work(core: int, share: float, ready: object, parent: int) -> None:
    """What a worker does until it is terminated, or its parent is gone."""
    os.sched_setaffinity(0, {core})
    rng = np.random.default_rng(core)
    matrix = rng.random((128, 128), np.float32)
    buffer, copy = np.zeros((2, 1 << 20), np.uint8)
    ready.wait()  # type: ignore[attr-defined]  # a barrier of another process
    with threadpool_limits(1):
        while os.getppid() == parent:
            end = time.perf_counter() + share * PERIOD_SECONDS
            while time.perf_counter() < end:
                matrix @ matrix
                np.copyto(copy, buffer)
            if share < 1:
                time.sleep((1 - share) * PERIOD_SECONDS)
