"""Fit a per-module latency predictor of this machine: `make modules ARGS="target.engine=torch_eager"`.

With `base=` a predictor that exists is brought to this machine, engine and number of threads in minutes.
"""

import time
from dataclasses import field, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from latency.measuring.session import Measuring
from latency.measuring.store import Store
from latency.modules import anchors, fit, selection
from latency.modules import data as module_data
from latency.modules import design as module_design
from latency.modules.data import ModuleData
from latency.modules.design import Design
from latency.modules.fit import AUTO, Fits, Fitting
from latency.modules.networks import measured as networks
from latency.modules.networks.measured import CORRECTING
from latency.modules.predictor import ModulesLatency, Networks
from latency.modules.selection import Selection
from latency.modules.spread import SLACK
from latency.predictors.interface import with_facts
from latency.target import Target
from latency.zoo import catalogue
from search import command
from search.cli import watch
from search.cli.watch import Watched
from supernet import registry
from supernet.files.command_line import then
from supernet.files.run_folder import RunFolder
from supernet.files.tables import Table
from supernet.options import NonNegativeInt, PositiveFloat

FEW_SUBNETS, FEW_MODULES = 12, 30  # of OFA spaces, and modules of each kind, that bring a base here
NETWORKS_SHARE = 0.7  # of those minutes


@command.options
class Options(Watched):
    """What `make modules` takes. Batch, threads and utilisation of the target are varied."""

    target: command.Node
    design: Design = field(default_factory=Design)  # what is measured of each kind of configs/module
    fitting: Fitting = field(default_factory=Fitting)  # how: fitting.models=[ridge,gp] names regressors
    measure: bool = True  # False: fit on what the store holds
    # an engine whose modules ship, or FILE.npz of make modules: brought to this target, nothing fitted anew
    base: str | None = None
    minutes: PositiveFloat = 3  # time budget for that
    seconds: PositiveFloat = 1500  # time budget for the modules
    networks: NonNegativeInt = (
        40  # subnets of OFA spaces, at batch 1 and 8, that fit the correction; 0: no correction
    )
    classifiers: tuple[str, ...] = tuple(CORRECTING.split())  # of torchvision, that fit it too
    network_seconds: PositiveFloat = 900  # time budget for all of them
    # a module_data.npz of an earlier run: nothing is measured, its target is taken
    measured: Path | None = None
    store: Path = Path("runs/measurements.sqlite")
    out: Path | None = None  # folder; None: runs/modules-<target>-<time>


def by_scheme(fits: Fits) -> Table:
    """Test scores of each model used everywhere and of the selection."""
    heads = ("scheme", "accuracy %", "within 10%", "R2", "MAPE %", "ms / 100 of each kind", "KB")
    schemes = sorted(fits.schemes().items(), key=lambda item: item[0] == AUTO)
    rows = ((name, s.accuracy, s.within_10, s.r2, s.mape, s.ms, round(s.bytes / 1e3)) for name, s in schemes)
    return Table.from_rows(heads, rows)


def by_module(fits: Fits, chosen: Selection) -> Table:
    """Test accuracy of every model by module kind; the selected one in bold."""
    columns: dict[str, list[object]] = {
        "module": list(fits.test),
        "n": [fits.rows[name] for name in fits.test],
    }
    for model in next(iter(fits.test.values())):
        cells = {name: f"{scores[model].accuracy:.2f}" for name, scores in fits.test.items()}
        columns[model] = [f"**{c}**" if chosen.models[name] == model else c for name, c in cells.items()]
    return Table(columns)


def front(fits: Fits, cost: str, most: int = 8) -> str:
    """Selections that trade validation accuracy for time or size."""
    selections = selection.front(fits.validation, cost)
    shown = np.unique(np.linspace(0, len(selections) - 1, most).astype(int))
    return "\n".join(
        f"  {each.accuracy:.2f}%  {each.ms:6.2f} ms  {each.bytes / 1e3:6.0f} KB"
        for each in (selections[i] for i in shown)
    )


def fronts(fits: Fits) -> list[str]:
    """The `front` of each cost with what it is."""
    return [
        f"selections by validation accuracy against {cost}:\n{front(fits, cost)}" for cost in ("ms", "bytes")
    ]


@command.named("modules")
def main(options: Options, config: dict[str, Any]) -> None:
    target = registry.build(options.target)
    base = None if options.base is None else catalogue.module_base(options.base)
    out = command.run_folder(options.out, f"modules-{target.name}")
    with RunFolder(out, "predictor.npz").hold(config):
        target, data, measured = _measured(options, target) if base is None else _few(options, target)
        module_data.save(out / "module_data.npz", target, data)
        print(f"{target}: {sum(map(len, data.values()))} measured modules of {len(data)} kinds")
        rows: list[dict[str, Any]] = []
        if base is None:
            fits = options.fitting.fit(data, say=print)
            predictor, rows = fit.predictor(target, fits), by_scheme(fits).rows()
            tables = by_module(fits, fits.selection).markdown(), by_scheme(fits).markdown()
            print(*tables, *fronts(fits), sep="\n\n")
        else:
            predictor = anchors.elsewhere(base, target)
        if measured is not None:
            predictor = predictor.corrected(measured, None if base is None else data)
        facts = {"method": "modules", "rows": sum(map(len, data.values()))}
        predictor = with_facts(predictor, facts)
        predictor.save(out / "predictor.npz")
        _report(predictor)
        left = {"predictor": out / "predictor.npz", "measurements": out / "module_data.npz"}
        run = watch.job("modules", target.name, out, config, {}, left)
        watch.report(options, run, rows, dict(predictor.facts))
        print(then("search", predictor=out / "predictor.npz"))


def _few(options: Options, target: Target) -> tuple[Target, dict[str, ModuleData], Networks | None]:
    """A few networks and modules under the conditions of the target, measured within the minutes."""
    deadline = time.perf_counter() + 60 * options.minutes
    design = replace(options.design, threads=(target.threads or 1,), utilisations=(target.utilisation,))
    design = replace(design, points=design.points or FEW_MODULES)
    with Store(options.store) as store, Console().status("starting") as status:
        watch, subnets = command.watcher(status), min(options.networks, FEW_SUBNETS)
        how = Measuring(store, NETWORKS_SHARE * 60 * options.minutes, watch)
        measured = networks.for_correction(target, subnets, options.classifiers, how)
        how = Measuring(store, max(deadline - time.perf_counter(), 1), watch)
        module_design.collect(target, design, how, say=print)
        data = module_design.read(target, store)
    for name, of in list(data.items()):
        threads, utilisation = of.conditions[:, 1], of.conditions[:, 2]
        alike = (threads == target.threads) & (np.abs(utilisation - target.utilisation) < SLACK)
        data[name] = of.take(alike)
    return target, {name: of for name, of in data.items() if len(of)}, measured


def _measured(options: Options, target: Target) -> tuple[Target, dict[str, ModuleData], Networks | None]:
    """The modules and their target, measured now or earlier, and the networks that correct their sum."""
    with Store(options.store) as store, Console().status("starting") as status:
        watch = command.watcher(status)
        if options.measured is not None:
            target, data = module_data.load(options.measured)
        else:
            design = options.design
            if options.measure:
                module_design.collect(target, design, Measuring(store, options.seconds, watch), say=print)
            target = module_design.stated(target, design)
            data = module_design.read(target, store)
        if not options.networks:
            return target, data, None
        how = Measuring(store, options.network_seconds, watch)
        measured = networks.for_correction(target, options.networks, options.classifiers, how)
        return target, data, measured


def _report(predictor: ModulesLatency) -> None:
    facts = predictor.facts
    if "left_out_mape" in facts:
        print(f"\n{facts['networks']} networks corrected it: {facts['left_out_mape']:.2f}% off when left out")
    words = f"target=here target.engine={predictor.target.engine} target.batch=8 target.utilisation=0.5"
    print(f"\nfor other conditions add {words}")
