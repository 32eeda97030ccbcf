"""The random frontier on real data, its speed, and selection under noise: `python -m benchmarks.efficiency`.

Parts by name (`python -m benchmarks.efficiency speed selection`): speed, findings, spreads, residuals,
selection; all of them take about five minutes on two cores. Needs the public tables.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np

from latency.data import read_csv
from latency.predictors.slots import SlotLatency
from latency.target import Target
from latency.zoo import catalogue
from search import pareto
from search.archive import Archive
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
SEEDS, BUDGET, POPULATION = 10, 2000, 100
VALIDATION = "--validation" in sys.argv  # where options were chosen: other rows, other seeds


def timm() -> Table:
    table: Table = registry.build({**registry.load("table", "timm"), "data_dir": None})
    return table


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


def speed() -> None:
    models = four()
    begun = time.perf_counter()
    found = efficiency(models, draws=10_000, tolerance=0)
    print(
        f"{len(models)} models, {len(models.axes)} axes, {found.draws:,} draws: "
        f"{time.perf_counter() - begun:.1f} s"
    )
    again = efficiency(models, draws=1000, tolerance=0), efficiency(models, draws=1000, tolerance=0)
    print(f"the same again for the same seed: {(again[0].members == again[1].members).all()}")
    drawn = models.draw(0, 0, 50)
    for name, sort in (("moocore", pareto.ranks), ("all pairs, vectorised", naive_depth)):
        begun = time.perf_counter()
        depths = [sort(costs) for costs in drawn]
        print(
            f"dominance depth of a draw, {name}: {1000 * (time.perf_counter() - begun) / len(drawn):.2f} ms"
        )
        print(f"  mean depth {np.mean(depths):.4f}")
    rng = np.random.default_rng(0)
    picked = rng.choice(len(models), 10_000)
    many = Comparison(
        tuple(map(str, range(10_000))),
        tuple(
            NoisyAxis(
                a.name,
                False,
                "linear",
                a.costs[picked] + 0.05 * rng.standard_normal(10_000),
                (Normal(np.full(10_000, 0.05), np.arange(10_000)),),
            )
            for a in models.axes
        ),
    )
    begun = time.perf_counter()
    efficiency(many, draws=200, tolerance=0)
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(
        f"10,000 models, 4 axes: {1000 * (time.perf_counter() - begun) / 200:.1f} ms a draw; "
        f"{used:.2f} GB at most"
    )


def fallen(models: Comparison, found: Efficiency) -> str:
    rows = np.flatnonzero(found.on_front & (found.probability <= LIKELY))
    return ", ".join(f"{models.names[row]} {found.probability[row]:.2f}" for row in rows) or "none"


def findings() -> None:
    table = timm()
    models = table.models()
    found = rank(models)
    print("\n".join(found.findings()))
    for name, view in found.views.items():
        print(
            f"{name}: {int(view.on_front.sum())} on the frontier without noise, "
            f"{int((view.probability > LIKELY).sum())} with P > .5, "
            f"{int((view.probability > 0.05).sum())} with P > .05; fall out: {fallen(models, view)}"
        )
    views = list(found.views.items())
    for i, (name, view) in enumerate(views):
        for other, second in views[i + 1 :]:
            top = [set(each.order[:50].tolist()) for each in (view, second)]
            print(
                f"{name} and {other}: Kendall tau {tau(view, second):.3f}, {len(top[0] & top[1])} of the "
                "first 50 shared"
            )
    assert found.devices is not None
    print("devices:", ", ".join(found.devices.of))
    print(np.array2string(found.devices.agreement, precision=2))
    for what, score in (
        ("P > .5 on all at once", found.devices.everywhere),
        ("P > .5 on the worst", found.devices.worst),
    ):
        print(
            f"{what}: {int((score > LIKELY).sum())}: "
            + ", ".join(models.names[i] for i in np.flatnonzero(score > LIKELY))
        )
    for band in found.bands:
        names = " and ".join(axis.name for axis in band.axes)
        print(
            f"frontier of {names}: Vorob'ev deviation {band.deviation:.1%}, threshold {band.threshold:.0f}%"
        )


def spreads() -> None:
    """How much the answer depends on what is assumed of the noise."""
    fitted = four()
    for axis in timm().models().axes:
        own = axis.noise[0]
        if isinstance(own, Normal):
            print(f"{axis.name}: own spread {np.median(own.spread):.3f} on the {axis.scale} scale (median)")
    options = {
        "fitted to the repeats": fitted,
        "set-ups drawn": four(repeats="setups"),
        "a repeat each": four(repeats="each"),
    }
    for spread in (0.0, 0.01, 0.02, 0.05, 0.1, 0.2):
        options[f"{spread:.0%} on every speed"] = four(spread=spread)
    options["5%, each model for itself"] = four(spread=0.05, error_of=None)
    first = efficiency(fitted, draws=4000, tolerance=0)
    for name, models in options.items():
        found = efficiency(models, draws=4000, tolerance=0)
        likely = int((found.probability > LIKELY).sum())
        kept = int(((found.probability > LIKELY) & (first.probability > LIKELY)).sum())
        print(
            f"{name}: P > .5 for {likely} ({kept} of them as fitted), P > .05 for "
            f"{int((found.probability > 0.05).sum())}; Kendall tau with fitted {tau(first, found):.3f}; "
            f"fall out: {fallen(models, found)}"
        )


def residuals() -> None:
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


def selection() -> None:
    """Hypervolume of the true front, when the latencies that a search sees have errors of real measurements.

    Truth: the shipped predictors. Errors: drawn from the residuals of HELP's measurements about them, on rows
    that no fit has seen; .03 points on accuracy (what repeated evaluations differ by). A network is measured
    once.
    """
    first, seeds = (3000, range(100, 100 + SEEDS)) if VALIDATION else (3500, range(SEEDS))
    space = get_space("ofa_mbv3_w1.2").restrict("r", 160, 224).restrict("finetune_epochs", 0, 0)
    surrogate = accuracy.load("ofa_mbv3_w1.2")
    print(
        f"rows {first}-{first + 499}, seeds {seeds[0]}-{seeds[-1]}, {BUDGET} evaluations, population "
        f"{POPULATION}"
    )
    for name in SELECTION:
        target, predictor = catalogue.target(name), catalogue.predictor(name)
        data = read_csv(data_dir() / target.rows, target, target.column, slice(first, first + 500))
        errors = data.ms / predictor.predict(data.genomes, target).mean
        size = float(np.median(np.abs(np.log(errors))) / 0.6745)

        def true(genomes: Genomes, predictor: SlotLatency = predictor, target: Target = target) -> Floats:
            ms = predictor.predict(space.embed(genomes, target.space), target).mean
            return np.stack([-surrogate.predict(genomes, space).mean, ms], axis=1)

        worst, best = (
            edge(true(space.sample(1000, np.random.default_rng(0))), axis=0) for edge in (np.max, np.min)
        )
        box = float(np.prod(worst - best))
        spread = (0.0004, size)
        plain: Floats | None = None
        searchers: dict[str, Callable[[], NSGA2]] = {"NSGA-II": lambda: NSGA2(population=POPULATION)}
        for denoise in (False, True):
            for select in SELECT:
                searchers[f"{select}{', denoised' if denoise else ''}"] = partial(
                    NoisyNSGA2, population=POPULATION, spread=spread, select=select, denoise=denoise
                )
        print(
            f"{name}: error of a measurement {size:.1%} (robust sd), "
            f"{np.mean(np.abs(errors - 1) > 0.1):.0%} off by more than 10%"
        )
        for label, build in searchers.items():
            found = np.array([_search(build(), space, true, errors, seed, worst) / box for seed in seeds])
            plain = found if plain is None else plain
            gain = found - plain
            half = 2.262 * gain.std(axis=0, ddof=1) / np.sqrt(SEEDS)  # t, 9 degrees of freedom
            print(
                f"  {label:24s} evaluated {found[:, 0].mean():.4f} ({gain[:, 0].mean():+.4f} "
                f"+-{half[0]:.4f}); front chosen {found[:, 1].mean():.4f} ({gain[:, 1].mean():+.4f} "
                f"+-{half[1]:.4f})"
            )


def _search(
    searcher: NSGA2,
    space: SearchSpace,
    true: Callable[[Genomes], Floats],
    errors: Floats,
    seed: int,
    worst: Floats,
) -> Floats:
    """Hypervolume of the true costs of all that was evaluated, and of the front by observed costs."""
    rng, noise = np.random.default_rng(seed), np.random.default_rng((seed, 1))
    archive, truth = Archive(space, ["accuracy", "latency_ms"], worst), []
    while len(archive) < BUDGET:
        genomes = searcher.ask(space, archive, rng)[: BUDGET - len(archive)]
        costs = true(genomes)
        observed = costs * [1, 0] + np.stack(
            [0.0003 * noise.standard_normal(len(costs)), costs[:, 1] * noise.choice(errors, len(costs))],
            axis=1,
        )
        searcher.tell(genomes, observed, np.zeros(len(genomes)))
        archive.add(genomes, observed, np.zeros(len(genomes)))
        truth.append(costs)
    costs = np.concatenate(truth)
    return np.array([pareto.hypervolume(costs, worst), pareto.hypervolume(costs[archive.front()], worst)])


PARTS: dict[str, Callable[[], None]] = {
    "speed": speed,
    "findings": findings,
    "spreads": spreads,
    "residuals": residuals,
    "selection": selection,
}


def main() -> None:
    wanted = [word for word in sys.argv[1:] if not word.startswith("-")] or list(PARTS)
    for name in wanted:
        if name not in PARTS:
            raise registry.unknown_name("part", name, PARTS)
        print(f"\n## {name}")
        PARTS[name]()


if __name__ == "__main__":
    main()
