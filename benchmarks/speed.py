"""How fast things are: `python -m benchmarks.speed`. One thread; medians of seven repetitions.

Scoring starts from genomes. The peers' rates are of the code in the `ofa` package, one architecture at a
time as its finder runs it, in the same process.
"""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from search import problem
from search.run import Search
from search.searchers.nsga2 import NSGA2
from supernet.files.tables import Table

N = 100_000
PEER_N = 1_000


def rate(function: Callable[[], object], count: int, repetitions: int = 7) -> float:
    """Architectures per second, median."""
    function()
    seconds = []
    for _ in range(repetitions):
        started = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - started)
    return count / float(np.median(seconds))


def ours() -> dict[str, float]:
    asked = problem.build(["accuracy", "latency_ms", "training_hours"])
    space, rng = asked.space, np.random.default_rng(0)
    genomes, others = space.sample(N, rng), space.sample(N, rng)
    rates = {
        "sample": rate(lambda: space.sample(N, rng), N),
        "mutate": rate(lambda: space.mutate(genomes, rng, 0.02), N),
        "crossover": rate(lambda: space.crossover(genomes, others, rng), N),
    }
    for objective in asked.evaluator.objectives:
        rates[objective.name] = rate(lambda o=objective: o.of(genomes), N)  # type: ignore[misc]
    rates["accuracy + latency + training"] = rate(lambda: asked.evaluator(genomes), N)
    return rates


def peers() -> dict[str, float]:
    """OFA's own sampling and predictor encoding, one architecture at a time as its finder does it."""
    with contextlib.redirect_stdout(io.StringIO()):
        from ofa.tutorial import AccuracyPredictor
        from ofa.tutorial.evolution_finder import ArchManager

    manager, predictor = ArchManager(), AccuracyPredictor(pretrained=False, device="cpu")
    samples = [manager.random_sample() for _ in range(PEER_N)]
    return {
        "sample": rate(lambda: [manager.random_sample() for _ in range(PEER_N)], PEER_N, 3),
        "accuracy": rate(lambda: predictor.predict_accuracy(samples), PEER_N, 3),
    }


def main() -> None:
    with threadpool_limits(1):
        mine = ours()
        theirs = peers()
    rows: list[list[Any]] = []
    for name, value in mine.items():
        peer = theirs.get(name)
        rows.append(
            [name, f"{value:,.0f}", *([f"{peer:,.0f}", f"{value / peer:,.0f}"] if peer else ["", ""])]
        )
    for command in ("import search", "import search.run"):
        seconds = []
        for _ in range(5):
            started = time.perf_counter()
            subprocess.run([sys.executable, "-c", command], check=True)
            seconds.append(time.perf_counter() - started)
        rows.append([f"`{command}`", f"{np.median(seconds):.2f} s", "", ""])
    loops = []
    for seed in range(5):
        with tempfile.TemporaryDirectory() as folder:
            asked = problem.build(["accuracy", "latency_ms", "training_hours"])
            found = Search(asked, NSGA2(), budget=50_000, seed=seed, out=Path(folder) / "run").run()
            loops.append(found.summary["loop_seconds"])
    rows.append(["search loop, 50,000 evaluations, 3 objectives", f"{np.median(loops):.2f} s", "", ""])
    heads = ("architectures per second, one thread", "ours", "ofa package", "ratio")
    print(Table.from_rows(heads, rows).markdown())


if __name__ == "__main__":
    main()
