"""Build a block lookup table of this machine, and compare it with ten subnets: `make lookup-table`."""

from dataclasses import field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from latency.measuring import jobs
from latency.measuring.store import Store
from latency.scores import markdown, scores
from latency.zoo import adaptation, block_table
from latency.zoo.adaptation import Adaptation, Adapted
from latency.zoo.block_table import BuiltTable
from search import command
from supernet import registry
from supernet.files import artifact
from supernet.files.command_line import then
from supernet.files.run_folder import RunFolder
from supernet.options import NonNegativeInt, PositiveInt


@command.options
class Options:
    """What `make lookup-table` takes."""

    target: command.Node
    learner: command.Node
    # input sides whose blocks are timed; sides between are interpolated
    resolutions: list[PositiveInt] = field(default_factory=lambda: [160, 176, 192, 208, 224])
    samples: NonNegativeInt = 10  # whole subnets for the comparison
    tests: NonNegativeInt = 50  # whole subnets to score both on; 0: build the table only
    seed: NonNegativeInt = 0
    store: Path = Path("runs/measurements.sqlite")
    out: Path | None = None  # folder; None: runs/lookup-table-<target>-<time>


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


@command.named("lookup_table")
def main(options: Options, config: dict[str, Any]) -> None:
    target = registry.build(options.target)
    out = command.run_folder(options.out, f"lookup-table-{target.name}")
    sides = sorted(options.resolutions)
    if not sides:
        raise ValueError("resolutions=[] names no input side: give at least one")
    print(f"{target.name}: {target}")
    folder = RunFolder(out, "comparison.md" if options.tests else "predictor.npz")
    with folder.hold(config), Store(options.store) as store, Console().status("starting") as status:
        watch = command.watcher(status)
        built = block_table.build(target, sides, store=store, watch=watch)
        files = built.save(out)
        comparison = ""
        if options.tests:
            learner = registry.build(options.learner)
            how = command.take(Adaptation, options, resolution=(sides[0], sides[-1]), learner=learner)
            adapted = adaptation.adapt(target, how, store=store, watch=watch)
            comparison = compare(built, adapted)
            artifact.write_text(out / "comparison.md", comparison + "\n")
    print(
        f"{len(built.quartiles_ms)} blocks in {built.seconds:.0f} s: {', '.join(path.name for path in files)}"
    )
    if comparison:
        print(comparison)
    print(then("search", predictor=f"run:{out}"))
