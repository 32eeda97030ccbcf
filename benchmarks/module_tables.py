"""The tables of per-module prediction: `python -m benchmarks.module_tables [PART ...] [engine=...]`.

modules    every regression model and MEDN by module type, schemes, selections: from the measured modules that
           ship (latency/zoo/measured/modules), rows split as `make modules` splits them
networks   50 OFA subnets and 15 classifiers of torchvision at batch 1 and 8, never used for fitting, with and
           without the correction: as we measured them, or `measure=1`: measured here into `store=`
load       modules and 20 subnets beside a background load of 50%: a predictor that knows the utilisation, and
           one that was fitted without it
speed      subnets per second through the predictor, with and without its table

All parts without a name; `rows` uses fewer modules of each type. `out=` is a folder for JSON. One thread.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks import command
from latency.measuring.here import here
from latency.measuring.store import Store
from latency.modules import data as module_data
from latency.modules import fit, selection
from latency.modules import networks as module_networks
from latency.modules.data import ModuleData
from latency.modules.fit import Fits, Fitting
from latency.modules.predictor import Correction, ModulesLatency, Networks
from latency.scores import markdown, scores
from latency.zoo import catalogue
from search.commands import modules as fit_modules
from supernet.files import artifact
from supernet.prediction import Prediction
from supernet.space import get_space

TEST_CLASSIFIERS = (
    *("mobilenet_v2", "mobilenet_v3_large", "efficientnet_b0", "mnasnet1_0", "shufflenet_v2_x1_0"),
    *("regnet_y_400mf", "regnet_x_800mf", "resnet18", "resnet50", "resnext50_32x4d", "densenet121"),
    *("squeezenet1_1", "googlenet", "convnext_tiny", "vit_b_32"),
)
SPACE, SUBNETS, TEST_SEED, LOADED = "ofa_mbv3_w1.0", 50, 1, 20
HALF = 0.5  # utilisation of the load part


@dataclass(frozen=True)
class Options:
    engine: str = ""  # both without a name
    measure: bool = False
    store: Path = Path("runs/measurements.sqlite")
    seeds: int = 1
    rows: int = 0  # measured modules of a type that are used; 0: all
    models: str = ""  # regression models with commas; all without a name
    subnets: int = 200_000  # of the speed part
    out: Path = Path("runs/module-tables")


def data_of(engine: str, options: Options) -> dict[str, ModuleData]:
    """The measured modules by type."""
    _, data = module_data.load(catalogue.FOLDER / "measured" / "modules" / f"{engine}.npz")
    if not options.rows:
        return data
    return {name: of.take(np.arange(min(options.rows, len(of.ms)))) for name, of in data.items()}


def modules(engine: str, options: Options) -> dict[str, Any]:
    """Every model by module type on the test rows; the schemes; the fronts of selections."""
    data = data_of(engine, options)
    results: dict[str, Any] = {}
    for seed in range(options.seeds):
        chosen = tuple(filter(None, options.models.split(",")))
        fits = Fitting(seed=seed, models=chosen).fit(data, say=print)
        print(f"\nseed {seed}, {sum(fits.rows.values())} modules, {fits.seconds:.0f} s\n")
        print(fit_modules.by_module(fits, fits.selection), fit_modules.by_scheme(fits), sep="\n\n")
        print(f"\n{against_single(fits)}")
        for cost in ("ms", "bytes"):
            print(f"\nselections against {cost}, validation accuracy:\n{fit_modules.front(fits, cost)}")
        results[str(seed)] = {
            "test": {name: {m: asdict(s) for m, s in of.items()} for name, of in fits.test.items()},
            "schemes": {name: asdict(score) for name, score in fits.schemes().items()},
            "selection": asdict(fits.selection),
        }
    return results


def against_single(fits: Fits) -> str:
    """The cheapest selections that are as accurate on validation rows as the best single model, tested."""
    singles = [selection.single(fits.validation, m) for m in next(iter(fits.validation.values()))]
    best = max(singles, key=lambda each: each.accuracy)
    model = next(iter(best.models.values()))
    own = fits.schemes()[model]
    lines = [f"most accurate single scheme on validation rows: {model}, test {own.accuracy:.2f}%"]
    for cost in ("ms", "bytes"):
        cheap = next(s for s in selection.front(fits.validation, cost) if s.accuracy >= best.accuracy)
        tested = float(np.mean([score.accuracy for score in fits.test_scores(cheap).values()]))
        share = getattr(cheap, cost) / getattr(best, cost)
        lines.append(f"as accurate at the least {cost}: {share:.2f} of its {cost}, test {tested:.2f}%")
    return "\n".join(lines)


def networks(engine: str, options: Options) -> dict[str, Any]:
    """Unseen networks at batch 1 and 8."""
    predictor = catalogue.module_predictor(engine)
    names = [*module_networks.subnets(SPACE, SUBNETS, TEST_SEED), *TEST_CLASSIFIERS]
    parts = [_measured(engine, names, options, batch=batch) for batch in module_networks.BATCHES]
    errors = {}
    for batch, part in zip(module_networks.BATCHES, parts, strict=True):
        subnets = np.array([not _is_classifier(name) for name in part.names])
        for what, rows in (("OFA subnets", subnets), ("torchvision", ~subnets)):
            for how, of in (("sum of modules", _bare(predictor)), ("corrected", predictor)):
                errors[f"{what}, batch {batch}, {how}"] = _scores(of, part.take(np.flatnonzero(rows)))
    print(markdown(errors, "networks"))
    for batch, part in zip(module_networks.BATCHES, parts, strict=True):
        off = 100 * (predictor.network_ms(part.modules, part.conditions) / part.ms - 1)
        for name, percent, ms in zip(part.names, off, part.ms, strict=True):
            if _is_classifier(name):
                print(f"{name:40} batch {batch}  {ms:8.2f} ms  {percent:+6.1f}%")
    return errors


def load(engine: str, options: Options) -> dict[str, Any]:
    """Beside a load of one half: the utilisation known, and not known to fit and prediction."""
    data = data_of(engine, options)
    blind = {name: _without_utilisation(of) for name, of in data.items()}
    fitting = Fitting(models=("svr", "polynomial"))
    knows, ignores = fitting.fit(data), fitting.fit(blind)
    accuracies: dict[str, dict[str, float]] = {}
    for name, of in data.items():
        rows = fit.test_rows(of, fitting)
        rows = rows[np.abs(of.conditions[rows, 2] - HALF) < 0.15]
        part = of.take(rows)
        for how, fits in (("knows", knows), ("does not", ignores)):
            visible = part if how == "knows" else _without_utilisation(part)
            said = fits.models[name][fits.selection.models[name]].ms(visible.rows, visible.conditions)
            accuracies.setdefault(f"modules, {how}", {})[name] = fit.accuracy(said, part.ms)
    for how, by_type in accuracies.items():
        print(f"{how}: mean accuracy {np.mean(list(by_type.values())):.2f}% of {len(by_type)} module types")
    names = module_networks.subnets(SPACE, LOADED, TEST_SEED)
    measured = _measured(engine, names, options, utilisation=HALF)
    predictor = catalogue.module_predictor(engine)
    idle = measured.conditions.copy()
    idle[:, 2] = 0.0
    table = {
        "subnets, knows": _scores(predictor, measured),
        "subnets, does not": _scores(predictor, replace(measured, conditions=idle)),
    }
    print(markdown(table, f"{LOADED} subnets beside a load of {HALF:.0%}"))
    return accuracies | table


def speed(engine: str, options: Options) -> dict[str, Any]:
    """Subnets per second: the first call builds the table, later ones gather."""
    shipped, space = catalogue.module_predictor(engine), get_space(SPACE)
    genomes = space.sample(options.subnets, np.random.default_rng(0))
    rates: dict[str, dict[str, float]] = {}
    for again in range(3):
        fresh, rates[str(again)] = replace(shipped), {}
        for call in ("first", "later"):
            begun = time.perf_counter()
            fresh.predict(genomes, fresh.target)
            rates[str(again)][call] = options.subnets / (time.perf_counter() - begun)
    for call in ("first", "later"):
        print(f"{call} call: {np.median([of[call] for of in rates.values()]):,.0f} subnets/s")
    return rates


def _measured(
    engine: str, names: Sequence[str], options: Options, *, batch: int = 1, utilisation: float = 0.0
) -> Networks:
    """The test networks under these conditions: those that ship, or measured now."""
    path = catalogue.FOLDER / "measured" / "modules" / f"test_networks_{engine}.csv"
    if not options.measure:
        kept = module_networks.read_csv(path)
        asked = [(name.split(" ")[1] if _is_classifier(name) else name) in names for name in kept.names]
        return kept.take(np.flatnonzero(asked & (kept.conditions == [batch, 1, utilisation]).all(axis=1)))
    with Store(options.store) as store:
        at = here(engine=engine, batch=batch, utilisation=utilisation)
        return module_networks.collect(at, names, store=store)


def _is_classifier(name: str) -> bool:
    return name.startswith(module_networks.CLASSIFIER)


def _bare(predictor: ModulesLatency) -> ModulesLatency:
    return replace(predictor, correction=Correction())


def _scores(predictor: ModulesLatency, part: Networks) -> dict[str, float]:
    said = predictor.network_ms(part.modules, part.conditions)
    return scores(Prediction(said, predictor.relative_std * said), part.ms)


def _without_utilisation(data: ModuleData) -> ModuleData:
    conditions = data.conditions.copy()
    conditions[:, 2] = 0.0
    return replace(data, conditions=conditions)


PARTS = {"modules": modules, "networks": networks, "load": load, "speed": speed}


def main() -> None:
    parts, options = command.words(Options, PARTS)
    engines = [options.engine] if options.engine else list(catalogue.module_engines())
    with threadpool_limits(1):
        for engine in engines:
            for part in parts:
                print(f"\n## {part}, {engine}\n")
                artifact.write_json(options.out / f"{part}_{engine}.json", PARTS[part](engine, options))


if __name__ == "__main__":
    main()
