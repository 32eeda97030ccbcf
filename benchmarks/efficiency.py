"""The random frontier on real data, its speed, and selection under noise: `python -m benchmarks.efficiency`.

`... [PART ...] [seeds=10] [budget=2000] [draws=10000] [validation=1]`, parts speed, findings, spreads,
residuals, selection; all of them take about five minutes on two cores. `validation` is where options were
chosen: other rows, other seeds. Needs the public tables.
"""

import resource
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Literal, cast

import numpy as np
from scipy.stats import t

from benchmarks import command
from benchmarks.command import timed
from benchmarks.ofa_search import search
from latency.data import read_csv
from latency.zoo import catalogue
from search import pareto
from search.noisy_axis import NoisyAxis, Normal
from search.ranking.efficiency import Comparison, Efficiency, efficiency
from search.ranking.model_table import Table
from search.ranking.rank import LIKELY, rank, tau
from search.searchers.noisy_nsga2 import NoisyNSGA2
from search.searchers.nsga2 import NSGA2
from supernet import registry
from supernet.arrays import Floats, Genomes, Ints
from supernet.files.tables import data_dir, read_columns
from supernet.space import SearchSpace, get_space
from supernet.surrogates import accuracy, accuracy_fit

FOUR = ("top1", "rtx3090", "i9", "training")
SELECTION = ("2080ti_b1", "2080ti_b32", "titan_xp_b1", "v100_b32")  # the noisy targets of HELP's data
SELECT: tuple[Literal["probability"], Literal["depth"]] = ("probability", "depth")
POPULATION = 100


@dataclass(frozen=True)
class Options:
    seeds: int = 10  # of a search
    budget: int = 2000  # evaluations of a search
    draws: int = 10_000  # of the frontier; fewer of larger tables
    validation: bool = False


def timm() -> Table:
    return cast(Table, registry.get("table", "timm", data_dir=None))


def four(**noise: Any) -> Comparison:
    """The 712 models that have these four axes; `noise` replaces what is declared for the speeds."""
    table = timm()
    axes = [axis for axis in table.axes if axis.name in FOUR]
    changed = tuple(axis if axis.name == "top1" else replace(axis, **noise) for axis in axes)
    return replace(table, axes=changed, views={}, devices={}).models()


def naive_depth(costs: Floats) -> Ints:
    """(n,) dominance depth by comparing all pairs: what moocore is compared with."""
    le = (costs[:, None] <= costs[None]).all(axis=2)
    beats = np.asarray(le & ~le.T, bool)
    depth, left, level = np.zeros(len(costs), int), np.ones(len(costs), bool), 0
    while left.any():
        front = left & ~beats[left].any(axis=0)
        depth[front], level = level, level + 1
        left &= ~front
    return depth


def speed(options: Options) -> None:
    """Seconds of the whole thing, of its sorting, and of 10,000 models."""
    models, draws = four(), options.draws
    _, seconds = timed(lambda: efficiency(models, draws=draws, tolerance=0))
    print(f"{len(models)} models, {len(models.axes)} axes, {draws:,} draws: {seconds:.1f} s")
    drawn = models.draw(0, 0, 50)
    for name, sort in (("moocore", pareto.ranks), ("all pairs, vectorised", naive_depth)):
        depths, seconds = timed(lambda sort=sort: [sort(costs) for costs in drawn])  # type: ignore[misc]
        ms = 1000 * seconds / len(drawn)
        print(f"dominance depth of a draw, {name}: {ms:.2f} ms\n  mean depth {np.mean(depths):.4f}")
    rng, count = np.random.default_rng(0), 10_000
    picked = rng.choice(len(models), count)
    noise = (Normal(np.full(count, 0.05), np.arange(count)),)
    axes = [
        NoisyAxis(axis.name, False, "linear", axis.costs[picked] + 0.05 * rng.standard_normal(count), noise)
        for axis in models.axes
    ]
    many = Comparison(tuple(map(str, range(count))), tuple(axes))
    _, seconds = timed(lambda: efficiency(many, draws=draws // 50, tolerance=0))
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"10,000 models, 4 axes: {1000 * seconds / (draws // 50):.1f} ms a draw; {used:.2f} GB at most")


def standing(models: Comparison, scores: Efficiency) -> str:
    """How many are probably and possibly on the frontier, and who is only on that of the means."""
    likely, possible = ((scores.probability > level).sum() for level in (LIKELY, 0.05))
    rows = np.flatnonzero(scores.on_front & (scores.probability <= LIKELY))
    fallen = ", ".join(f"{models.names[row]} {scores.probability[row]:.2f}" for row in rows) or "none"
    return f"{likely} with P > .5, {possible} with P > .05; fall out: {fallen}"


def findings(options: Options) -> None:
    """What docs/efficiency.md says of timm's models."""
    models = timm().models()
    ranking = rank(models, draws=options.draws)
    print("\n".join(ranking.findings()))
    for name, view in ranking.views.items():
        print(f"{name}: {view.on_front.sum()} on the frontier without noise, {standing(models, view)}")
    for (name, view), (other, second) in combinations(ranking.views.items(), 2):
        shared = len(np.intersect1d(view.order[:50], second.order[:50]))
        print(f"{name} and {other}: Kendall tau {tau(view, second):.3f}, {shared} of the first 50 shared")
    assert ranking.devices is not None
    print("devices:", ", ".join(ranking.devices.of))
    print(np.array2string(ranking.devices.agreement, precision=2))
    everywhere = {"all at once": ranking.devices.everywhere, "the worst": ranking.devices.worst}
    for what, score in everywhere.items():
        likely = [models.names[i] for i in np.flatnonzero(score > LIKELY)]
        print(f"P > .5 on {what}: {len(likely)}: {', '.join(likely)}")
    for band in ranking.bands:
        names = " and ".join(axis.name for axis in band.axes)
        spread = f"Vorob'ev deviation {band.deviation:.1%}, threshold {band.threshold:.0f}%"
        print(f"frontier of {names}: {spread}")


def spreads(options: Options) -> None:
    """How much the answer depends on what is assumed of the noise."""
    for axis in timm().models().axes:
        own = axis.noise[0]
        if isinstance(own, Normal):
            print(f"{axis.name}: own spread {np.median(own.spread):.3f} on the {axis.scale} scale (median)")
    assumed: dict[str, dict[str, Any]] = {
        "fitted to the repeats": {},
        "set-ups drawn": {"repeats": "setups"},
        "a repeat each": {"repeats": "each"},
        **{f"{spread}% on every speed": {"spread": spread / 100} for spread in (0, 1, 2, 5, 10, 20)},
        "5%, each model for itself": {"spread": 0.05, "error_of": None},
    }
    draws = int(0.4 * options.draws)
    fitted = efficiency(four(), draws=draws, tolerance=0)
    for name, noise in assumed.items():
        models = four(**noise)
        scores = efficiency(models, draws=draws, tolerance=0)
        both = ((scores.probability > LIKELY) & (fitted.probability > LIKELY)).sum()
        print(
            f"{name}: {standing(models, scores)}; {both} with P > .5 here and as fitted, "
            f"Kendall tau with fitted {tau(fitted, scores):.3f}"
        )


def residuals(options: Options) -> None:
    """Whether predictors err alike on similar subnets: correlation of test residuals by equal genes."""
    rows, space = read_columns(data_dir() / "ofa_mbv3_accuracy.csv.gz"), get_space("ofa_mbv3_w1.0")
    genomes, top1 = space.encode(rows), rows["top1"] / 100
    order = np.random.default_rng(0).permutation(len(top1))
    train, test = order[:1000], order[1000:]
    error = accuracy_fit.fit(space, genomes[train], top1[train]).predict(genomes[test]).mean - top1[test]
    error = np.clip((error - np.median(error)) / np.median(np.abs(error - np.median(error))), -4, 4)
    pairs = np.triu_indices(len(test), 1)
    same = (genomes[test][:, None] == genomes[test][None]).mean(axis=2)[pairs]
    product = np.outer(error, error)[pairs] / np.var(error)
    for low, high in ((0.0, 0.5), (0.5, 0.8), (0.8, 0.95), (0.95, 1.0)):
        part = (same > low) & (same <= high)
        print(
            f"accuracy residuals, {low:.0%} to {high:.0%} of genes equal: r {product[part].mean():+.3f} "
            f"({part.sum()} pairs)"
        )


def selection(options: Options) -> None:
    """Hypervolume of the true front, when the latencies that a search sees have errors of real measurements.

    Truth: the shipped predictors. Errors: drawn from the residuals of HELP's measurements about them, on rows
    that no fit has seen; .03 points on accuracy (what repeated evaluations differ by). A network is measured
    once.
    """
    first, begin = (3000, 100) if options.validation else (3500, 0)
    seeds = range(begin, begin + options.seeds)
    space = get_space("ofa_mbv3_w1.2").restrict("r", 160, 224).restrict("finetune_epochs", 0, 0)
    print(
        f"rows {first}-{first + 499}, seeds {seeds[0]}-{seeds[-1]}, {options.budget} evaluations, population "
        f"{POPULATION}"
    )
    for name in SELECTION:
        _select_on(name, space, slice(first, first + 500), seeds, options.budget)


def _select_on(name: str, space: SearchSpace, rows: slice, seeds: range, budget: int) -> None:
    target, predictor = catalogue.target(name), catalogue.predictor(name)
    surrogate = accuracy.load("ofa_mbv3_w1.2")
    data = read_csv(data_dir() / target.rows, target, target.column, rows)
    errors = data.ms / predictor.predict(data.genomes, target).mean
    size, outliers = float(np.median(np.abs(np.log(errors))) / 0.6745), np.mean(np.abs(errors - 1) > 0.1)
    print(f"{name}: error of a measurement {size:.1%} (robust sd), {outliers:.0%} off by more than 10%")

    def true(genomes: Genomes) -> Floats:
        """(n, 2) accuracy, negated, by our surrogate, and latency by the shipped predictor."""
        ms = predictor.predict(space.embed(genomes, target.space), target).mean
        return np.stack([-surrogate.predict(genomes, space).mean, ms], axis=1)

    searchers = {"NSGA-II": NSGA2(population=POPULATION)}
    for denoise in (False, True):
        for select in SELECT:
            searchers[f"{select}{', denoised' if denoise else ''}"] = NoisyNSGA2(
                population=POPULATION, spread=(0.0004, size), select=select, denoise=denoise
            )
    volumes = {
        label: np.array([_volumes(how, space, true, errors, seed, budget) for seed in seeds])
        for label, how in searchers.items()
    }
    for label, volume in volumes.items():
        gain = volume - volumes["NSGA-II"]
        half = t.ppf(0.975, max(len(seeds) - 1, 1)) * gain.std(axis=0) / np.sqrt(max(len(seeds) - 1, 1))
        columns = zip(volume.mean(axis=0), gain.mean(axis=0), half, strict=True)
        evaluated, chosen = (f"{mean:.4f} ({more:+.4f} +-{spread:.4f})" for mean, more, spread in columns)
        print(f"  {label:24s} evaluated {evaluated}; front chosen {chosen}")


def _volumes(
    searcher: NSGA2,
    space: SearchSpace,
    true: Callable[[Genomes], Floats],
    errors: Floats,
    seed: int,
    budget: int,
) -> Floats:
    """(2,) hypervolume of the true costs of all that was evaluated, and of the front by observed costs, as
    shares of the box that random networks span."""
    noise, truth = np.random.default_rng((seed, 1)), []

    def observe(genomes: Genomes) -> tuple[Floats, Floats]:
        costs = true(genomes)
        truth.append(costs)
        top1 = 0.0003 * noise.standard_normal(len(costs))
        ms = costs[:, 1] * noise.choice(errors, len(costs))
        return np.stack([costs[:, 0] + top1, ms], axis=1), np.zeros(len(costs))

    sample = true(space.sample(1000, np.random.default_rng(0)))
    worst, best = sample.max(axis=0), sample.min(axis=0)
    archive, _ = search(space, observe, replace(searcher), budget, np.random.default_rng(seed), worst)
    costs = np.concatenate(truth)
    volumes = [pareto.hypervolume(part, worst) for part in (costs, costs[archive.front()])]
    return np.array(volumes) / float(np.prod(worst - best))


PARTS = {part.__name__: part for part in (speed, findings, spreads, residuals, selection)}


def main() -> None:
    parts, options = command.words(Options, PARTS)
    for name in parts:
        print(f"\n## {name}")
        PARTS[name](options)


if __name__ == "__main__":
    main()
