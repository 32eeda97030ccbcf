"""Time subnets on this machine into the measurement store: `make measure ARGS="subnets=30 sittings=2"`."""

import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from latency.data import write_csv
from latency.measuring import session, summary
from latency.measuring.machine import micro_benchmark, specification
from latency.measuring.session import Timed
from latency.measuring.store import Store
from latency.predictors import sampling
from latency.target import Target
from search import command, front_table
from search.cli import devices, watch
from search.cli.watch import Watched
from supernet import registry
from supernet.arrays import Genomes
from supernet.files import architectures, disk
from supernet.files.command_line import then
from supernet.options import CsvFile, NonNegativeInt, PositiveFloat, PositiveInt, Sides, TableFile
from supernet.space import get_space

SUBNETS = 30
MARK = "shortlist"  # the column of front.csv


@command.options
class Options(Watched):
    """What `make measure` takes."""

    target: command.Node
    subnets: PositiveInt | None = None  # random subnets, or members of a front; None: 30
    # in place of random subnets: a file with a name per line, a CSV with a column architecture (of front.csv
    # the shortlist, and others at even distances), one name, or RUN:best@20ms, RUN:knee of a finished search
    names: str | None = None
    sittings: PositiveInt = 1  # the same subnets again: from 2 on, repeatability is reported
    resolution: Sides = None
    seconds: PositiveFloat | None = None  # time budget of a sitting
    seed: NonNegativeInt = 0
    store: Path = Path("runs/measurements.sqlite")
    descriptor: NonNegativeInt = 0  # run the micro-benchmark of this machine as often, and measure no subnets
    csv: TableFile | None = (
        None  # .csv or .csv.gz of the latencies, for make fit; None: runs/measured-<target>-<time>
    )
    export_csv: CsvFile | None = None  # write every visit in the store to this file, and measure nothing
    import_csv: Path | None = None  # add the visits of such a file to the store, and measure nothing


def subnets(options: Options) -> tuple[Target, Genomes]:
    """The target and the subnets to measure: random ones, or the named ones, whose space it then has unless
    they are of a part of its own."""
    target: Target = registry.build(options.target)
    if options.names is not None:
        listed = names(options.names, options.subnets)
        own = architectures.space_of(listed)
        if target.space not in (own.name, own.owner.name):
            target = replace(target, space=own.name)
        return target, architectures.parse(listed, get_space(target.space))
    space = get_space(target.space)
    wanted = options.resolution
    if wanted is not None:
        space = space.restrict("r", *wanted)
    return target, sampling.draw(space, options.subnets or SUBNETS, np.random.default_rng(options.seed))


def names(source: str, count: int | None) -> list[str]:
    """The one-line names of the option `names`: 30 of a front and all of another list, unless `count` is
    given."""
    path = Path(source)
    if not path.is_file():
        if not re.search("[: ]", source):
            raise ValueError(f"names={path}: no such file; give one with an architecture per line")
        return [front_table.architecture(source)]
    columns = architectures.read(path)
    listed = list(map(str, columns[architectures.COLUMN]))
    count = count or (SUBNETS if MARK in columns else len(listed))
    if count >= len(listed):
        return listed
    marked = columns[MARK] == "True" if MARK in columns else np.zeros(len(listed), bool)
    first, others = np.flatnonzero(marked)[:count], np.flatnonzero(~marked)
    spread = others[np.linspace(0, len(others) - 1, count - len(first)).round().astype(int)]
    print(f"{count} of the {len(listed):,} architectures of {path}; subnets= takes more")
    return [listed[row] for row in sorted({*first.tolist(), *spread.tolist()})]


def repeatability(first: Timed, second: Timed) -> str:
    """How far two sittings of the same subnets are apart, before and after their anchors' common scale."""
    from scipy.stats import spearmanr

    row = {genome.tobytes(): i for i, genome in enumerate(first.data.genomes)}
    pairs = [(row[g.tobytes()], j) for j, g in enumerate(second.data.genomes) if g.tobytes() in row]
    if len(pairs) < 2:
        return "too few subnets were measured in both sittings to tell the repeatability"
    i, j = np.array(pairs).T
    scale = summary.relative_scale(second.anchors_ms, first.anchors_ms)
    ratio = second.data.ms[j] / first.data.ms[i]
    apart = 100 * np.abs(ratio / scale - 1)
    rank = spearmanr(first.data.ms[i], second.data.ms[j]).statistic
    return (
        f"repeatability over {len(pairs)} subnets: median difference {np.median(apart):.2f}%, 95th "
        f"percentile {np.quantile(apart, 0.95):.2f}%, Spearman {rank:.4f}; the anchors' scale was "
        f"{scale:.3f} (without it {100 * np.median(np.abs(ratio - 1)):.2f}%)"
    )


def descriptors(times: int) -> str:
    """The machine's rates, and how repeatable they are: median and coefficient of variation."""
    begun = time.perf_counter()
    runs = [micro_benchmark() for _ in range(times)]
    seconds = (time.perf_counter() - begun) / times
    lines = [f"{specification().title}: {seconds:.1f} s a run; GF are 1e9 multiply-accumulates"]
    for name in runs[0]:
        rates = np.array([run[name] for run in runs])
        spread = f"  +-{100 * rates.std(ddof=1) / rates.mean():.1f}%" if times > 1 else ""
        lines.append(f"{name:18} {np.median(rates):9.4g}{spread}")
    return "\n".join(lines)


def exchange(options: Options) -> None:
    """Visits from a CSV file into the store, or from the store, which stays as it is, into a file."""
    if options.import_csv:
        with Store(options.store) as store:
            print(f"added {store.import_csv(options.import_csv)} visits to {options.store}")
        words = devices.again(registry.build(options.target), options.target)
        print(then("adapt", **words, store=options.store))
    if options.export_csv:
        with disk.reserved(options.export_csv), Store.to_read(options.store) as store:
            print(f"wrote {store.export_csv(options.export_csv)} visits to {options.export_csv}")
        print(then("measure", import_csv=options.export_csv, store="runs/another.sqlite"))


@command.named("measure")
def main(options: Options, config: dict[str, Any]) -> None:
    if options.descriptor:
        print(descriptors(options.descriptor))
        print(then("adapt"))
        return
    if options.import_csv or options.export_csv:
        exchange(options)
        return
    (target, genomes), sittings = subnets(options), []
    print(f"{target.name}: {target}")
    logs = command.run_folder(None, f"measured-{target.name}")
    csv = options.csv or Path(f"{logs}.csv")
    with disk.reserved(csv), Store(options.store) as store:
        for _ in range(options.sittings):
            with Console().status("starting") as status:
                show, seconds = command.watcher(status), options.seconds
                sitting = session.measure(target, genomes, store=store, seconds=seconds, watch=show)
            sittings.append(sitting)
            print(f"{len(sitting.data)} subnets in {sitting.seconds:.0f} s, {len(sitting.failed)} failed")
            for name, reason in sitting.failed.items():
                print(f"failed: {name}: {reason}")
        last = sittings[-1].data
        write_csv(csv, last, sittings[-1].energies)
    listed = get_space(target.space).format(last.genomes)
    for name, ms, spread in zip(listed, last.ms, last.spread_ms, strict=True):
        print(f"{ms:9.3f} ms  (iqr {spread:.3f})  {name}")
    print(sittings[-1].describe_energy())
    if len(sittings) > 1:
        print(repeatability(sittings[0], sittings[-1]))
    run = watch.job("measure", target.name, logs, config, {}, {"measurements": csv})
    rows = [{"latency_ms": ms, "spread_ms": iqr} for ms, iqr in zip(last.ms, last.spread_ms, strict=True)]
    watch.report(options, run, rows, {"subnets": len(last), "failed": len(sittings[-1].failed)})
    print(f"written to {csv}")
    print(then("fit", **devices.again(target, options.target), rows=csv, column="lat_ms"))
