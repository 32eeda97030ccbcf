"""How the predictors that ship were fitted; `python -m scripts.fit_zoo [NAME ...]` does it again."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from latency.data import read_csv
from latency.gpu import calibration, measurements, traced
from latency.gpu.measurements import of_latencies
from latency.gpu.model import GpuModel
from latency.modules import data as module_data
from latency.modules import fit as module_fit
from latency.modules.networks import measured as networks
from latency.modules.predictor import ModulesLatency
from latency.predictors import lookup_table
from latency.predictors.additive import Additive
from latency.predictors.interface import with_facts
from latency.predictors.slots import SlotLatency
from latency.predictors.transfer import Transfer
from latency.scores import scores
from latency.target import PUBLISHED, Target
from latency.zoo import catalogue, data_sheets, phones
from supernet.files.tables import read_columns
from supernet.space import get_space

MODELS = ("gp", "medn", "svr", "polynomial")  # that compete for the modules: small and quick
MEASURED = catalogue.FOLDER / "measured"  # our own measurements


def everything() -> list[str]:
    """Names of all that ships."""
    modules = [catalogue.MODULES + engine for engine in catalogue.module_engines()]
    return [*catalogue.names(), data_sheets.MODEL, *modules]


def build(names: list[str], data_dir: Path) -> Iterator[str]:
    """Fit and save these again, from the public tables in `data_dir` or our measurements; a line for each."""
    for name in names:
        path = catalogue.FOLDER / f"{name}.npz"
        if name == data_sheets.MODEL:
            model = fit_gpus(data_dir)
            model.save(path)
            spreads = np.sqrt(np.diag(model.errors.covariance)).round(2).tolist()
            yield f"{name:18} {model.facts['measurements']:,} measurements; a GPU left out is {spreads} off"
        elif name.startswith(catalogue.MODULES):
            modules = fit_modules(name.removeprefix(catalogue.MODULES))
            modules.save(path)
            yield f"{name:18} networks left out {modules.facts['left_out_mape']:.2f}%"
        else:
            fitted = fit(name, data_dir)
            fitted.save(path)
            shown = "sums of a table"
            if "left_out_mape" in fitted.facts:
                shown = f"left-out MAPE {fitted.facts['left_out_mape']:.2f}%"
            size = path.stat().st_size / 1024
            yield f"{name:18} {fitted.target.space:14} r {fitted.resolutions} {shown:24} {size:.0f} KB"


def fit(name: str, data_dir: Path) -> SlotLatency:
    """The predictor of a target, from its public table or our measurements."""
    target, command = catalogue.target(name), {"command": _command(name)}
    if target.method == "lookup_table":
        table = lookup_table.read([data_dir / target.rows]).predictor(target)
        return with_facts(table, command | {"protocol": "sums of the table's entries; 5% assumed"})
    if target.method == PUBLISHED:
        return with_facts(phones.fit_published(name, data_dir), command)
    fitted = _fit_measured(target) if target.method == "measured" else _fit_public(target, data_dir)
    return with_facts(fitted, command)


def _fit_public(target: Target, data_dir: Path) -> SlotLatency:
    """From a public table.

    The ridge is chosen on the validation rows of the target, its scores are those of the rows of its test
    part after a fit on all rows before them. What ships is then fitted on every row with the same ridge.
    """
    if target.test is None:
        raise ValueError(f"configs/target/{target.name}.yaml names no test rows to score its predictor on")
    data = read_csv(data_dir / target.rows, target, target.column)
    first, past = target.test
    trial = Additive(validation=target.validation).fit(data.take(slice(0, first)))
    held_out = data.take(slice(first, past))
    judged = {
        "protocol": f"fitted on rows 0-{first - 1}, tested on {first}-{past - 1}; shipped: all {len(data)}",
        "test": scores(trial.predict(held_out.genomes, target), held_out.ms),
    }
    return with_facts(Additive(ridge=trial.facts["ridge"]).fit(data), judged)


def _fit_measured(target: Target) -> SlotLatency:
    """From our own measurements.

    A correction of what the other targets say (`Transfer`), those of the same device left out: with 500
    subnets a better fit than ridge regression from nothing.
    """
    data = read_csv(MEASURED / f"{target.name}.csv.gz", target, "lat_ms")
    others = catalogue.targets_of(target.space)
    siblings = [name for name in others if catalogue.target(name).spec.name == target.spec.name]
    sides = get_space(target.space).axis("r").values
    fitted = Transfer(resolutions=(sides[0], sides[-1]), without=tuple(siblings)).fit(data)
    protocol = f"{len(data)} random subnets timed by us; left-out error of ten folds"
    return with_facts(fitted, {"protocol": protocol})


def fit_modules(engine: str) -> ModulesLatency:
    """The module predictor of an engine, from the measurements that ship beside it."""
    here, data = module_data.load(MEASURED / "modules" / f"{engine}.npz")
    fits = module_fit.Fitting(models=MODELS).fit(data, say=print)
    timed = networks.read_csv(MEASURED / "modules" / f"networks_{engine}.csv")
    fitted = module_fit.predictor(replace(here, device=here.spec.name), fits).corrected(timed)
    rows = sum(fits.rows.values())
    command = _command(catalogue.MODULES + engine)
    return with_facts(fitted, {"method": "modules", "rows": rows, "command": command})


def fit_gpus(data_dir: Path) -> GpuModel:
    """The model of all GPUs whose measurements are public: networks of OFA's spaces and of timm, kernels."""
    targets = map(catalogue.target, catalogue.names())
    gpus = [target for target in targets if target.rows and target.spec.kind == "gpu"]
    groups = [of_latencies(read_csv(data_dir / gpu.rows, gpu, gpu.column), gpu.rows) for gpu in gpus]
    groups += measurements.of_kernels(read_columns(data_dir / measurements.KERNELS), data_dir)
    groups += traced.groups(data_dir)
    sources = list(dict.fromkeys(f"{gpu.source} ({gpu.licence})" for gpu in gpus))
    model = calibration.GpuTimes().fit(groups)
    facts = {"command": _command(data_sheets.MODEL), "sources": [*sources, *measurements.SOURCES]}
    return replace(model, facts={**model.facts, **facts})


def _command(name: str) -> str:
    return f"python -m scripts.fit_zoo {name}"
