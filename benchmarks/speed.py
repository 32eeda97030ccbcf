"""How fast things are: `python -m benchmarks.speed [subnets=100000] [budget=50000] [repetitions=7]`.

One thread; medians over the repetitions. Scoring starts from genomes. The peers' rates are of the code in the
`ofa` package, one architecture at a time as its finder runs it, in the same process.
"""

import contextlib
import io
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks import command
from benchmarks.command import timed
from search import problem
from search.run import Search
from search.searchers.nsga2 import NSGA2
from supernet.files.tables import Table

OBJECTIVES = ["accuracy", "latency_ms", "training_hours"]


@dataclass(frozen=True)
class Options:
    subnets: int = 100_000
    budget: int = 50_000  # evaluations of the search
    repetitions: int = 7  # of which the median counts


def median_seconds(function: Callable[[], object], repetitions: int) -> float:
    """Of some repetitions, after one that does not count."""
    return float(np.median([timed(function)[1] for _ in range(repetitions + 1)][1:]))


def ours(options: Options) -> dict[str, float]:
    asked = problem.build(OBJECTIVES)
    space, rng, n = asked.space, np.random.default_rng(0), options.subnets
    genomes, others = space.sample(n, rng), space.sample(n, rng)
    functions: dict[str, Callable[[], object]] = {
        "sample": lambda: space.sample(n, rng),
        "mutate": lambda: space.mutate(genomes, rng, 0.02),
        "crossover": lambda: space.crossover(genomes, others, rng),
        **{objective.name: partial(objective.of, genomes) for objective in asked.evaluator.objectives},
        "accuracy + latency + training": lambda: asked.evaluator(genomes),
    }
    return {name: n / median_seconds(function, options.repetitions) for name, function in functions.items()}


def peers(options: Options) -> dict[str, float]:
    """OFA's own sampling and predictor encoding, one architecture at a time as its finder does it."""
    with contextlib.redirect_stdout(io.StringIO()):
        from ofa.tutorial import AccuracyPredictor
        from ofa.tutorial.evolution_finder import ArchManager

    manager, predictor = ArchManager(), AccuracyPredictor(pretrained=False, device="cpu")
    n = options.subnets // 100
    samples = [manager.random_sample() for _ in range(n)]
    return {
        "sample": n / median_seconds(lambda: [manager.random_sample() for _ in range(n)], 3),
        "accuracy": n / median_seconds(lambda: predictor.predict_accuracy(samples), 3),
    }


def loop_seconds(budget: int, seed: int) -> float:
    """Seconds of the loop of a whole search."""
    asked = problem.build(OBJECTIVES)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        result = Search(asked, NSGA2(), budget=budget, seed=seed, out=out).run()
    return result.summary["loop_seconds"]


def main() -> None:
    _, options = command.words(Options, ())
    with threadpool_limits(1):
        mine, theirs = ours(options), peers(options)
    lines: list[list[Any]] = []
    for name, value in mine.items():
        peer = theirs.get(name)
        ratio = (f"{peer:,.0f}", f"{value / peer:,.0f}") if peer else ("", "")
        lines.append([name, f"{value:,.0f}", *ratio])
    few = min(options.repetitions, 5)
    for code in ("import search", "import search.run"):
        seconds = median_seconds(partial(subprocess.run, [sys.executable, "-c", code], check=True), few)
        lines.append([f"`{code}`", f"{seconds:.2f} s", "", ""])
    loop = float(np.median([loop_seconds(options.budget, seed) for seed in range(few)]))
    lines.append([f"search loop, {options.budget:,} evaluations, 3 objectives", f"{loop:.2f} s", "", ""])
    heads = ["architectures per second, one thread", "ours", "ofa package", "ratio"]
    print(Table.from_rows(heads, lines).markdown())


if __name__ == "__main__":
    main()
