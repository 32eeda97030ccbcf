"""The tables of per-module prediction: `python -m benchmarks.module_tables [PART ...] [engine=...]`.

modules    every regression model and MEDN by module type, schemes, selections: from the measured modules that
           ship (latency/zoo/measured/modules), rows split as `make modules` splits them; `seeds=5` are five
           splits, with the means over them and the accuracy by condition
networks   50 OFA subnets and 15 classifiers of torchvision at batch 1 and 8, never used for fitting, with and
           without the correction, as we measured them
load       modules and 20 subnets beside a background load of 50%: a predictor that knows the utilisation, and
           one that was fitted without it
intervals  coverage of 90% intervals by condition: of modules of unseen shapes (the test rows), and of the
           networks above by the predictors that ship
speed      subnets per second through the predictor, with and without its table

All parts without a name; `rows` uses fewer modules of each type. `out=` is a folder for JSON. One thread.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks import command
from benchmarks.command import timed
from latency.modules import data as module_data
from latency.modules import fit, selection
from latency.modules.data import ModuleData
from latency.modules.fit import Fits, Fitting
from latency.modules.networks import measured as module_networks
from latency.modules.predictor import ModulesLatency, Networks
from latency.modules.selection import Score
from latency.scores import markdown, scores
from latency.zoo import catalogue
from search.commands import modules as fit_modules
from supernet.arrays import Floats
from supernet.files import artifact
from supernet.files.tables import Table
from supernet.prediction import QUANTILE, Prediction
from supernet.space import get_space

SPACE, TEST_SEED, LOADED = "ofa_mbv3_w1.0", 1, 20
HALF = 0.5  # utilisation of the load part
CELLS: dict[str, Callable[[Floats, Floats, Floats], Any]] = {  # of batch, threads and utilisation
    "idle, one thread": lambda batch, threads, busy: (threads == 1) & (busy == 0),
    "idle, two threads": lambda batch, threads, busy: (threads == 2) & (busy == 0),
    "beside a load, one thread": lambda batch, threads, busy: (threads == 1) & (busy > 0),
    "beside a load, two threads": lambda batch, threads, busy: (threads == 2) & (busy > 0),
    "beside half a load": lambda batch, threads, busy: np.abs(busy - HALF) < 0.05,
    "batch 16": lambda batch, threads, busy: batch == 16,
}
CONFIDENCE = 0.9
Measured = TypeVar("Measured", ModuleData, Networks)


@dataclass(frozen=True)
class Options:
    engine: str = ""  # both without a name
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
    schemes: list[dict[str, Score]] = []
    conditions: list[dict[str, dict[str, float]]] = []
    for seed in range(options.seeds):
        fitting = Fitting(seed=seed, models=tuple(filter(None, options.models.split(","))))
        fits = fitting.fit(data, say=print)
        schemes.append(fits.schemes())
        conditions.append(by_condition(fits, data, fitting))
        print(f"\nseed {seed}, {sum(fits.rows.values())} modules, {fits.seconds:.0f} s\n")
        print(fit_modules.by_module(fits, fits.selection), fit_modules.by_scheme(fits), sep="\n\n")
        print(f"\n{against_single(fits)}")
        for cost in ("ms", "bytes"):
            print(f"\nselections against {cost}, validation accuracy:\n{fit_modules.front(fits, cost)}")
        results[str(seed)] = {
            "test": {name: {m: asdict(s) for m, s in of.items()} for name, of in fits.test.items()},
            "schemes": {name: asdict(score) for name, score in fits.schemes().items()},
            "selection": asdict(fits.selection),
            "conditions": conditions[-1],
        }
    print("", over_seeds(schemes).markdown(), "", sep="\n")
    for name in conditions[0]:
        seen = [of[name] for of in conditions if name in of]
        by_scheme = {n: np.mean([of[n] for of in seen]) for n in seen[0]}
        print(f"{name}: " + ", ".join(f"{n} {accuracy:.2f}%" for n, accuracy in by_scheme.items()))
    return results


def over_seeds(schemes: Sequence[Mapping[str, Score]]) -> Table:
    """Means over seeds of the test scores of every scheme, and how the selection stands to it: its accuracy
    less that of the scheme with the standard deviation over seeds, its time as a share, and on how many seeds
    the scheme dominates it."""
    rows = []
    for name in schemes[0]:
        own, auto = [of[name] for of in schemes], [of[fit.AUTO] for of in schemes]
        mean, gains = selection.mean(own), [b.accuracy - a.accuracy for a, b in zip(own, auto, strict=True)]
        share = np.mean([b.ms / a.ms for a, b in zip(own, auto, strict=True)])
        worse = sum(a.dominates(b) for a, b in zip(own, auto, strict=True))
        numbers = (mean.accuracy, mean.within_10, mean.r2, mean.mape, mean.ms / len(own))
        gain = f"{np.mean(gains):+.2f} ({np.std(gains):.2f})"
        rows.append((name, *numbers, round(mean.bytes / len(own) / 1e3), gain, float(share), worse))
    heads = ("scheme", "accuracy %", "within 10%", "R2", "MAPE %", "ms / 100 of each kind", "KB")
    return Table.from_rows((*heads, "selection's gain", "its share of ms", "dominated on"), rows)


def by_condition(fits: Fits, data: Mapping[str, ModuleData], fitting: Fitting) -> dict[str, dict[str, float]]:
    """Mean accuracy over the types of every scheme on the test rows of each condition."""
    schemes = {model: dict.fromkeys(data, model) for model in next(iter(fits.models.values()))}
    schemes |= {fit.AUTO: dict(fits.selection.models)}
    accuracies: dict[str, dict[str, float]] = {}
    for what, holds in CELLS.items():
        for scheme, models in schemes.items():
            by_type = []
            for name, measured in data.items():
                part = measured.take(fit.test_rows(measured, fitting))
                part = part.take(np.flatnonzero(holds(*part.conditions.T[:3])))
                if len(part):
                    said = fits.models[name][models[name]].ms(part.rows, part.conditions)
                    by_type.append(fit.accuracy(said, part.ms))
            if by_type:
                accuracies.setdefault(what, {})[scheme] = float(np.mean(by_type))
    return accuracies


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
    ways = {"sum of modules": replace(predictor, shift=None), "corrected": predictor}
    errors: dict[str, dict[str, float]] = {}
    lines = []
    for batch in module_networks.BATCHES:
        part = _measured(engine, batch=batch)
        classifier = np.array([name.startswith(module_networks.CLASSIFIER) for name in part.names])
        for what, rows in (("OFA subnets", ~classifier), ("torchvision", classifier)):
            for how, way in ways.items():
                errors[f"{what}, batch {batch}, {how}"] = _scores(way, part.take(np.flatnonzero(rows)))
        off = 100 * (predictor.network_ms(part.modules, part.conditions) / part.ms - 1)
        for row in np.flatnonzero(classifier):
            lines.append(f"{part.names[row]:40} batch {batch}  {part.ms[row]:8.2f} ms  {off[row]:+6.1f}%")
    print(markdown(errors, "networks"), *lines, sep="\n")
    return errors


def load(engine: str, options: Options) -> dict[str, Any]:
    """Beside a load of one half: the utilisation known, and not known to fit and prediction."""
    data, fitting = data_of(engine, options), Fitting(models=("svr", "polynomial"))
    subnets = _measured(engine, utilisation=HALF)
    tested = np.isin(subnets.names, module_networks.subnets(SPACE, LOADED, TEST_SEED))
    subnets, predictor = subnets.take(np.flatnonzero(tested)), catalogue.module_predictor(engine)
    accuracies: dict[str, dict[str, float]] = {}
    errors = {}
    for how, known in (("knows", True), ("does not", False)):
        fits, by_type = fitting.fit({name: _visible(modules, known) for name, modules in data.items()}), {}
        for name, modules in data.items():
            rows = fit.test_rows(modules, fitting)
            rows = rows[np.abs(modules.conditions[rows, 2] - HALF) < 0.15]
            part = _visible(modules.take(rows), known)
            said = fits.models[name][fits.selection.models[name]].ms(part.rows, part.conditions)
            by_type[name] = fit.accuracy(said, part.ms)
        print(f"modules, {how}: mean accuracy {np.mean(list(by_type.values())):.2f}% of {len(by_type)} types")
        accuracies[f"modules, {how}"] = by_type
        errors[f"subnets, {how}"] = _scores(predictor, _visible(subnets, known))
    print(markdown(errors, f"{LOADED} subnets beside a load of {HALF:.0%}"))
    return accuracies | errors


def intervals(engine: str, options: Options) -> dict[str, Any]:
    """Shares of modules and networks inside of their intervals, by condition."""
    data, chosen = data_of(engine, options), tuple(filter(None, options.models.split(",")))
    seeds = [covered_modules(data, Fitting(seed=seed, models=chosen)) for seed in range(options.seeds)]
    inside = {what: [one for covered in seeds for one in covered[what]] for what in CELLS}
    shares = {f"modules, {what}": float(np.mean(each)) for what, each in inside.items() if each}
    predictor = catalogue.module_predictor(engine)
    for batch, utilisation in ((1, 0.0), (8, 0.0), (1, HALF)):
        part = _measured(engine, batch=batch, utilisation=utilisation)
        said = predictor.network_ms(part.modules, part.conditions)
        half = QUANTILE(0.5 + CONFIDENCE / 2) * predictor.relative_stds(part.conditions)
        covered = np.abs(part.ms / said - 1) <= half
        classifier = np.array([name.startswith(module_networks.CLASSIFIER) for name in part.names])
        for what, rows_of in (("OFA subnets", ~classifier), ("torchvision", classifier)):
            if rows_of.any():
                name = f"{what}, batch {batch}, utilisation {utilisation:g} (+-{half.mean():.1%})"
                shares[name] = float(covered[rows_of].mean())
    for what, share in shares.items():
        print(f"{what:60} {share:4.0%}")
    return shares


def covered_modules(data: Mapping[str, ModuleData], fitting: Fitting) -> dict[str, list[bool]]:
    """Whether modules of the test part are inside of intervals as wide as those of modules left out of the
    fits were off, by condition."""
    inside: dict[str, list[bool]] = {what: [] for what in CELLS}
    fits = fitting.fit(data)
    spread = fit.error_spread(fits)
    for name, measured in data.items():
        model, left = fits.selection.models[name], fits.left_out[name]
        width = np.quantile(np.abs(left.errors[model]) / spread.factor(left.conditions), CONFIDENCE)
        rows = measured.take(fit.test_rows(measured, fitting))
        off = np.log(fits.models[name][model].ms(rows.rows, rows.conditions) / rows.ms)
        holds = np.abs(off) <= width * spread.factor(rows.conditions)
        for what, where in CELLS.items():
            inside[what] += holds[where(*rows.conditions.T[:3])].tolist()
    return inside


def speed(engine: str, options: Options) -> dict[str, Any]:
    """Subnets per second: the first call builds the table, later ones gather."""
    shipped, space = catalogue.module_predictor(engine), get_space(SPACE)
    genomes = space.sample(options.subnets, np.random.default_rng(0))
    rates: dict[str, dict[str, float]] = {}
    for again in range(3):
        fresh, rates[str(again)] = replace(shipped), {}
        for call in ("first", "later"):
            _, seconds = timed(partial(fresh.predict, genomes, fresh.target))
            rates[str(again)][call] = options.subnets / seconds
    for call in ("first", "later"):
        print(f"{call} call: {np.median([of[call] for of in rates.values()]):,.0f} subnets/s")
    return rates


def _measured(engine: str, *, batch: int = 1, utilisation: float = 0.0) -> Networks:
    """The test networks that ship, under these conditions."""
    networks = module_networks.read_csv(
        catalogue.FOLDER / "measured" / "modules" / f"test_networks_{engine}.csv"
    )
    return networks.take(np.flatnonzero((networks.conditions == [batch, 1, utilisation]).all(axis=1)))


def _scores(predictor: ModulesLatency, part: Networks) -> dict[str, float]:
    said = predictor.network_ms(part.modules, part.conditions)
    return scores(Prediction(said, predictor.relative_stds(part.conditions) * said), part.ms)


def _visible(measured: Measured, utilisation: bool) -> Measured:
    """What is known of the measurements; without the utilisation it is 0."""
    return replace(measured, conditions=measured.conditions * [1, 1, utilisation])


PARTS = {part.__name__: part for part in (modules, networks, load, intervals, speed)}


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
