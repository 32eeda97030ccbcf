"""Fit a per-module latency predictor of this machine: `make modules ARGS="target.engine=torch_eager"`."""

from __future__ import annotations

from dataclasses import field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic.dataclasses import dataclass
from rich.console import Console

from latency.measuring.store import Store
from latency.modules import data as module_data
from latency.modules import design as module_design
from latency.modules import fit, networks, selection
from latency.modules.design import Design
from latency.modules.fit import AUTO, Fits, Fitting
from latency.modules.predictor import ModulesLatency
from latency.modules.selection import Selection
from latency.predictors.interface import with_facts
from latency.target import Target
from search import command
from supernet import registry
from supernet.files.run_folder import RunFolder
from supernet.files.tables import Table

CLASSIFIERS = (
    "mobilenet_v3_small",
    "efficientnet_b1",
    "efficientnet_b2",
    "mnasnet0_5",
    "mnasnet0_75",
    "mnasnet1_3",
    "shufflenet_v2_x0_5",
    "shufflenet_v2_x1_5",
    "shufflenet_v2_x2_0",
    "regnet_x_400mf",
    "regnet_y_800mf",
    "regnet_x_1_6gf",
    "regnet_y_1_6gf",
    "resnet34",
    "densenet169",
    "squeezenet1_0",
    "alexnet",
    "swin_t",
)


@dataclass(frozen=True, kw_only=True, config=command.CONFIG)
class Options:
    """What `make modules` takes. Batch, threads and utilisation of the target are varied."""

    target: dict[str, Any]
    design: Design = field(default_factory=Design)  # what is measured of each type of configs/module
    fitting: Fitting = field(default_factory=Fitting)
    measure: bool = True  # False: fit on what the store holds
    seconds: float = 1500  # time budget for the modules
    networks: int = 40  # subnets of OFA spaces, at batch 1 and 8, that fit the correction; 0: no correction
    classifiers: tuple[str, ...] = CLASSIFIERS  # of torchvision, that fit it too
    network_seconds: float = 900  # time budget for all of them
    # a module_data.npz of an earlier run: nothing is measured, its target is taken
    measured: Path | None = None
    store: Path = Path("runs/measurements.sqlite")
    out: Path | None = None  # folder; None: runs/modules-<target>-<time>


def by_scheme(fits: Fits) -> Table:
    """Test scores of each model used everywhere and of the selection."""
    heads = ("scheme", "accuracy %", "R2", "MAPE %", "ms / 100 of each type", "KB")
    schemes = sorted(fits.schemes().items(), key=lambda item: item[0] == AUTO)
    return Table.from_rows(
        heads, ((name, s.accuracy, s.r2, s.mape, s.ms, round(s.bytes / 1e3)) for name, s in schemes)
    )


def by_module(fits: Fits, chosen: Selection) -> Table:
    """Test accuracy of every model by module type; the selected one in bold."""
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
    every = selection.front(fits.candidates(), cost)
    places = np.unique(np.linspace(0, len(every) - 1, most).astype(int))
    return "\n".join(
        f"  {each.accuracy:.2f}%  {each.ms:6.2f} ms  {each.bytes / 1e3:6.0f} KB"
        for each in (every[i] for i in places)
    )


def task(options: Options, config: dict[str, Any]) -> None:
    target = registry.build(options.target)
    out = command.run_folder(options.out, f"modules-{target.name}")
    with RunFolder(out, "predictor.npz").hold(config):
        _fit(options, target, out)


def _fit(options: Options, target: Target, out: Path) -> None:
    with Store(options.store) as store, Console().status("starting") as status:
        watch = command.watcher(status)
        if options.measure and options.measured is None:
            module_design.collect(
                target, options.design, store=store, seconds=options.seconds, watch=watch, say=print
            )
        if options.measured is None:
            data = module_design.read(target, store)
        else:
            target, data = module_data.load(options.measured)
        measured = None
        if options.networks:
            measured = networks.for_correction(
                target,
                options.networks,
                options.classifiers,
                store=store,
                seconds=options.network_seconds,
                watch=watch,
            )
    module_data.save(out / "module_data.npz", target, data)
    print(f"{target}: {sum(map(len, data.values()))} measured modules of {len(data)} types")
    fits = options.fitting.fit(data, say=print)
    found = fit.predictor(target, fits)
    if measured is not None:
        found = found.corrected(measured)
    _save(out, found, fits)


def _save(out: Path, found: ModulesLatency, fits: Fits) -> None:
    found = with_facts(found, {"method": "modules", "rows": sum(fits.rows.values())})
    found.save(out / "predictor.npz")
    print(by_module(fits, fits.selection).markdown(), by_scheme(fits).markdown(), sep="\n\n")
    for cost in ("ms", "bytes"):
        print(f"\nselections by validation accuracy against {cost}:\n{front(fits, cost)}")
    if "left_out_mape" in found.facts:
        error, count = found.facts["left_out_mape"], found.facts["networks"]
        print(f"\n{count} networks corrected it: {error:.2f}% off when left out")
    words = f"target=here target.engine={found.target.engine} target.batch=8 target.utilisation=0.5"
    print(f'\nsearch with it: make search ARGS="predictor={out}/predictor.npz"; for other conditions {words}')


def main() -> None:
    command.run("modules", task)
