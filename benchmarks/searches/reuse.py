"""What one search saves of another: a warm start after a changed limit, and several devices at once.

`python -m benchmarks.searches.reuse [warm] [devices] [seeds=3] [budget=50000] [searcher=nsga2]`

`warm`: hypervolume with a fifth of the evaluations after another limit, as a share of a search from nothing
with all of them (other seeds), and the same fifth from nothing (v100_b64, three objectives). `devices`:
hypervolume of the projections of a joint front on accuracy and the latency on each device, as a share of
separate searches with half of the budget each.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import command
from latency.zoo import catalogue
from search import models, pareto, problem
from search.archive import Archive
from search.problem import Problem
from search.run import Search
from supernet import registry
from supernet.files.tables import Table

CHANGES = ((20.0, 15.0), (15.0, 20.0))  # ms, before and after
DEVICES = ("note10_lut", "v100_b64")
SHARE = 0.2  # of the evaluations


@dataclass(frozen=True)
class Options:
    seeds: int = 3
    budget: int = 50_000
    searcher: str = "nsga2"


def search(asked: Problem, options: Options, budget: int, seed: int, warm: Any = None) -> Archive:
    with tempfile.TemporaryDirectory() as scratch:
        searcher = registry.get("searcher", options.searcher)
        return Search(asked, searcher, budget, seed, Path(scratch, "run"), warm=warm).run().archive


def warm(options: Options) -> Iterator[dict[str, Any]]:
    few = int(SHARE * options.budget)
    for seed in range(options.seeds):
        for before, after in CHANGES:
            old, new = (
                problem.build(["accuracy", "latency_ms", "training_hours"], limits={"latency_ms": limit})
                for limit in (before, after)
            )
            known = search(old, options, options.budget, seed)
            cold = search(new, options, options.budget, seed + 1000).hypervolume()
            short = search(new, options, few, seed + 1000).hypervolume()
            seeds = known.seeds(new.space, new.evaluator, int(SHARE * few))
            warmed = search(new, options, few, seed + 2000, seeds).hypervolume()
            row = {"limit": f"{before:g} -> {after:g} ms", "seed": seed, "evaluations": few}
            yield row | {"warm": warmed / cold, "from nothing": short / cold}


def devices(options: Options) -> Iterator[dict[str, Any]]:
    predictors = [catalogue.predictor(name) for name in DEVICES]
    both = models.several(models.choose(latency=predictors[0]), predictors)
    names: Sequence[Sequence[str]] = [["latency_ms"], *([f"latency_ms@{name}"] for name in DEVICES)]
    joint, *alone = (problem.build(["accuracy", *one], both) for one in names)
    for seed in range(options.seeds):
        found = search(joint, options, options.budget, seed)
        row: dict[str, Any] = {"seed": seed, "front": found.front_size}
        for column, (name, one) in enumerate(zip(DEVICES, alone, strict=True), start=1):
            separate = search(one, options, options.budget // 2, seed)
            reference = found.reference[[0, column]]
            projected = pareto.hypervolume(found.costs[:, [0, column]], reference)
            row[name] = projected / pareto.hypervolume(separate.costs, reference)
        yield row


PARTS: Mapping[str, Callable[[Options], Iterator[dict[str, Any]]]] = {"warm": warm, "devices": devices}


def main() -> None:
    parts, options = command.words(Options, PARTS)
    for part in parts:
        rows = list(PARTS[part](options))
        print(Table.from_rows(list(rows[0]), [row.values() for row in rows]).markdown())


if __name__ == "__main__":
    main()
