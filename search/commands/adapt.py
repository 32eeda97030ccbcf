"""Adapt a predictor to this machine from about ten timed subnets, or to rows of yours: `make adapt`."""

import re
from dataclasses import asdict, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from latency.data import read_published, write_csv
from latency.measuring import jobs, machine
from latency.measuring.remote.fleet import together
from latency.measuring.session import Watcher
from latency.measuring.store import Store
from latency.predictors import interface, lookup_table
from latency.predictors.transfer import Transfer
from latency.scores import markdown
from latency.target import PUBLISHED, Target
from latency.zoo import adaptation, block_table
from latency.zoo.adaptation import Adaptation, Adapted
from latency.zoo.automatic import Automatic
from search import command
from search.cli import devices, watch
from search.cli.watch import Watched
from supernet import registry
from supernet.files import artifact, disk, tables
from supernet.files.command_line import then
from supernet.files.run_folder import RunFolder
from supernet.options import NonNegativeInt, PositiveFloat, Sides
from supernet.space import get_space
from supernet.surrogates import training_cost

NOISY = 6.0  # percent; here 2-4 on a quiet machine
BLOCK_SHARE = 0.27  # seconds for a block over seconds for a subnet, as seen with make lookup-table
FLEET = "devices.json"  # of a run on several devices, written last
TRAINING = "torch_training"  # the engine whose latencies are training steps


@command.options
class Options(Watched):
    """What `make adapt` takes. The options of this machine are those of `latency.measuring.here.here`."""

    target: command.Node
    learner: command.Node
    # addresses of several devices, each adapted to, all at the same time: [ssh://pi@one,ssh://pi@two,adb:SERIAL]
    targets: list[str] = field(default_factory=list)
    # subnets to measure, beside those that the store holds, which count too; 0: from specifications alone
    samples: NonNegativeInt = 10
    tests: NonNegativeInt = 50  # other subnets to measure, to score on; 0: only errors of samples left out
    chosen: bool = True  # beyond five, every second sample lies near a front; False: all at random
    resolution: Sides = None  # None: all that the sources know
    seconds: PositiveFloat | None = None  # time budget: adapts with what there is by then
    seed: NonNegativeInt = 0
    # latencies measured elsewhere, .csv or .csv.gz: nothing is timed here, target= says of what they are
    rows: Path | None = None
    column: str | None = None  # of rows: milliseconds per batch; lat_ms, latency_ms or ms
    # what rows call the device, where they have a column device and spell it otherwise
    rows_of: str | None = None
    store: Path = Path("runs/measurements.sqlite")
    out: Path | None = None  # run folder; None: runs/adapt-<target>-<time>


def save(adapted: Adapted, out: Path) -> None:
    """What the run folder is for: samples.csv, tests.csv, scores.json, device.json and predictor.npz."""
    for name, data in (("samples", adapted.samples), ("tests", adapted.tests)):
        if len(data):
            write_csv(out / f"{name}.csv", data, adapted.energies)
    report = {"seconds": adapted.seconds, "failed": dict(adapted.failed), "table": dict(adapted.table)}
    artifact.write_json(out / "scores.json", report)
    if adapted.samples.target.engine == TRAINING:
        training_cost.save_step(out / "training_step.json", adaptation.step_time(adapted.samples))
    device: dict[str, Any] = {"device": asdict(adapted.predictor.target.spec)}
    if not adapted.samples.target.unit:
        device["rates"] = machine.micro_benchmark()
    artifact.write_json(out / "device.json", device)
    adapted.predictor.save(out / "predictor.npz")


def from_rows(options: Options, target: Target, out: Path) -> Adapted:
    """The predictor of a target from latencies measured elsewhere, saved with them."""
    assert options.rows is not None
    data = read_published(options.rows, target, options.column, options.rows_of)
    learner = registry.build(options.learner)
    if isinstance(learner, Transfer):  # is the usual one: what suits the target and the number of rows
        learner = Automatic(mix=learner)
    with Store(options.store) as store, tables.about(options.rows):
        adapted = adaptation.adapt_to_rows(data, learner, store=store, source=str(options.rows))
    artifact.write_json(out / "device.json", {"device": asdict(target.spec)})
    adapted.predictor.save(out / f"predictor{interface.suffix(adapted.predictor)}")
    write_csv(out / "samples.csv", adapted.samples)  # last: with it the run is finished
    return adapted


def curve(adapted: Adapted) -> list[dict[str, float]]:
    """Errors against the number of samples: a row per number, the scores of each method."""
    rows: dict[int, dict[str, float]] = {}
    for title, found in adapted.table.items():
        if match := re.fullmatch(r"(.+), (\d+) samples", title):
            row = rows.setdefault(int(match[2]), {"samples": int(match[2])})
            row |= {f"{match[1]}/{score}": value for score, value in found.items()}
    return [rows[samples] for samples in sorted(rows)]


def describe(adapted: Adapted, options: Options, out: Path, *, follows: bool = True) -> str:
    """Scores, cost and, where it `follows`, the next command, for the terminal."""
    predictor, count = adapted.predictor, len(adapted.samples) - adapted.earlier
    lines = [f"failed: {name}: {reason}" for name, reason in adapted.failed.items()]
    if options.rows is None and count < options.samples:
        lines.append(f"only {count} of {options.samples} samples could be measured; adapted with those")
    if adapted.earlier:
        lines.append(
            f"{adapted.earlier} subnets measured earlier are samples too (another store= begins anew)"
        )
    if "why" in predictor.facts:
        lines.append(predictor.facts["why"])
    if adapted.table:
        lines += ["", markdown(adapted.table, "on the tests"), ""]
    if "mix" in predictor.facts and "left_out_mape" in predictor.facts:
        mix = ", ".join(f"{name} {part:.0%}" for name, part in predictor.facts["mix"].items())
        lines.append(f"a mix of {mix}; samples left out: {predictor.facts['left_out_mape']:.1f}% off")
    lines.append(f"90% of measurements are expected within +-{1.645 * predictor.relative_std:.1%}")
    names = get_space(predictor.target.space).format(adapted.samples.genomes)
    lines += [
        "samples:",
        *(f"{ms:9.3f} ms  {name}" for name, ms in zip(names, adapted.samples.ms, strict=True)),
    ]
    if options.rows is not None:
        return "\n".join([*lines, then("search", predictor=f"run:{out}")])
    if len(adapted.samples):
        agree = 100 * float(np.median(adapted.samples.spread_ms / adapted.samples.ms))
        noisy = "; a noisy machine: close other programs, or give more samples=" if agree > NOISY else ""
        lines.append(f"the middle half of a subnet's visits spanned {agree:.1f}%{noisy}")
    lines.append(f"timed {count} subnets and {len(adapted.tests)} tests in {adapted.seconds:.0f} s")
    lines += [adapted.energy] if adapted.energy else []
    space = get_space(predictor.target.space)
    if lookup_table.serves(space) and adapted.seconds and predictor.target.engine != TRAINING:
        blocks = block_table.count(space, predictor.resolutions)
        each = BLOCK_SHARE * adapted.seconds / (count + len(adapted.tests) + jobs.ANCHORS)
        lines.append(f"a lookup table of this space: {blocks:,} blocks, about {blocks * each:.0f} s")
    if not follows:
        return "\n".join(lines)
    use: dict[str, Any] = {"predictor": f"run:{out}"}
    if predictor.target.unit:  # the front is verified there too
        use = {**devices.again(predictor.target, options.target), **use}
    if len(adapted.samples):  # half of them are within such a limit
        use["latency_limit_ms"] = float(f"{np.median(adapted.samples.ms):.2g}")
    if predictor.target.engine == TRAINING:
        use = {"training.step_file": out / "training_step.json"}
    return "\n".join([*lines, then("search", **use)])


def fleet(options: Options, how: Adaptation, config: dict[str, Any]) -> None:
    """Adapt to several devices at the same time; each has a folder of its own in that of the run."""
    targets = devices.reach(options.targets, options.target)
    out = command.run_folder(options.out, f"adapt-{len(targets)}-devices")

    def one(target: Target, watch: Watcher) -> Adapted:
        with Store(options.store) as store:  # of this thread
            return adaptation.adapt(target, how, store=store, watch=watch)

    folder = RunFolder(out, FLEET)
    with folder.hold(config):
        with devices.bars(targets) as watchers:
            everything = together([partial(one, target, watchers[target.name]) for target in targets])
        for target, adapted in zip(targets, everything, strict=True):
            disk.make_folder(out / target.name)
            save(adapted, out / target.name)
            print(
                f"\n{target.name}: {target}\n{describe(adapted, options, out / target.name, follows=False)}"
            )
        artifact.write_json(out / FLEET, {target.name: target.unit for target in targets})
    limits = {f"latency_ms@{one.name}": float(f"{np.median(a.samples.ms):.2g}")
              for one, a in zip(targets, everything, strict=True) if len(a.samples)}  # fmt: skip
    again = {"samples": max(2, min(len(one.samples) for one in everything)), "store": options.store}
    print(then("search", targets=options.targets, limits=limits, **again))


@command.named("adapt")
def main(options: Options, config: dict[str, Any]) -> None:
    if options.targets:
        if options.rows is not None:
            raise ValueError("rows= are of one target: give target=, or leave rows= out")
        learner = registry.build(options.learner)
        sides = options.resolution
        fleet(options, command.take(Adaptation, options, resolution=sides, learner=learner), config)
        return
    target = registry.build(options.target)
    out = command.run_folder(options.out, f"adapt-{target.name}")
    if options.rows is not None:
        print(f"{target.name}: {target}")
        with RunFolder(out, "samples.csv").hold(config):
            print(describe(from_rows(options, target, out), options, out))
        return
    if options.samples + options.tests and target.method in ("data sheet", PUBLISHED):
        raise ValueError(f"{target.name} is not this machine: give rows=FILE with latencies measured on it")
    if target.engine == TRAINING and options.samples < adaptation.MIN_STEPS:
        raise ValueError(f"samples={options.samples}: training steps need at least {adaptation.MIN_STEPS}")
    sides, learner = options.resolution, registry.build(options.learner)
    how = command.take(Adaptation, options, resolution=sides, learner=learner)
    print(f"{target.name}: {target}")
    console = Console()
    folder = RunFolder(out, "predictor.npz")
    with folder.hold(config), Store(options.store) as store, console.status("starting") as status:
        adapted = adaptation.adapt(target, how, store=store, watch=command.watcher(status))
        save(adapted, out)
        left = {"predictor": out / "predictor.npz", "measurements": out / "samples.csv"}
        run = watch.job("adapt", target.name, out, config, {}, left)
        watch.report(options, run, curve(adapted), {"seconds": adapted.seconds, **adapted.predictor.facts})
    print(describe(adapted, options, out))
