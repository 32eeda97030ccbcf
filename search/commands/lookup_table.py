"""Build a block lookup table of this machine, and compare it with ten subnets: `make lookup-table`."""

from __future__ import annotations

from typing import Any

import numpy as np
from rich.console import Console

from latency.measuring import jobs
from latency.measuring.store import Store
from latency.scores import markdown, scores
from latency.zoo import adaptation, block_table
from latency.zoo.adaptation import Adapted
from latency.zoo.block_table import BuiltTable
from search import command
from supernet import registry
from supernet.files import artifact
from supernet.files.run_folder import RunFolder


def compare(built: BuiltTable, adapted: Adapted) -> str:
    """Accuracy and cost of the table and of adapting, on the same tests."""
    tests = adapted.tests
    predicted = built.table().predictor(built.target).predict(tests.genomes, tests.target)
    gap = np.log(predicted.mean / tests.ms)
    scale = float(np.exp(np.median(gap)))
    share = (len(adapted.samples) + jobs.ANCHORS) / (len(adapted.samples) + len(tests) + jobs.ANCHORS)
    rows = {f"lookup table, {len(built.quartiles_ms)} blocks": scores(predicted, tests.ms), **adapted.table}
    return "\n".join(
        [
            markdown(rows, "on the tests"),
            "",
            f"lookup table: {len(built.quartiles_ms)} blocks in {built.seconds:.0f} s; transfer: "
            f"{len(adapted.samples)} subnets in about {share * adapted.seconds:.0f} s",
            f"additivity gap: the sum of its blocks is {scale:.3f} of a network, +-{100 * gap.std():.1f}% "
            "between networks",
        ]
    )


def task(config: dict[str, Any]) -> None:
    target = registry.build(config["target"])
    out = command.run_folder(config["out"], f"lookup-table-{target.name}")
    sides = sorted(config["resolutions"])
    if not sides:
        raise ValueError("resolutions=[] names no input side: give at least one")
    print(f"{target.name}: {target}")
    folder = RunFolder(out, "comparison.md" if config["tests"] else "predictor.npz")
    with folder.hold(config), Store(config["store"]) as store, Console().status("starting") as status:
        watch = command.watcher(status)
        built = block_table.build(target, sides, store=store, watch=watch)
        files = built.save(out)
        adapted = None
        if config["tests"]:
            adapted = adaptation.adapt(
                target,
                store=store,
                learner=registry.build(config["learner"]),
                resolution=(sides[0], sides[-1]),
                watch=watch,
                **{key: config[key] for key in ("samples", "tests", "seed")},
            )
    print(
        f"{len(built.quartiles_ms)} blocks in {built.seconds:.0f} s: {', '.join(path.name for path in files)}"
    )
    if adapted is not None:
        comparison = compare(built, adapted)
        artifact.write_text(out / "comparison.md", comparison + "\n")
        print(comparison)
    print(f'next: make search ARGS="predictor=run:{out}"')


def main() -> None:
    command.run("lookup_table", task)
