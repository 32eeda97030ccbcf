"""What shrinking buys: `python -m benchmarks.shrink PART [key=value ...]`; prints Markdown and writes JSON.

peak                       analytic peak memory against the storages of a real run, `nets` per family
int8 supernet=FOLDER       five members of a supernet's front in fp32 and int8: accuracy, bytes, latency
table supernet=FOLDER      sizes x {plain, augmented, augmented + distilled} x {fp32, int8}, from scratch
joint                      search over architecture x precision against fp32 only: hypervolume
"""

import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import command
from latency.measuring.here import here
from latency.measuring.machine import pairs_overflow
from latency.measuring.store import Store
from latency.predictors.by_precision import ByPrecision
from latency.predictors.transfer import Transfer
from latency.zoo import devices
from latency.zoo.deployed import add_latencies
from search import models, problem
from search.pareto import hypervolume
from search.ranking.shrink_baseline import plain_front
from search.run import Search
from search.searchers.nsga2 import NSGA2
from supernet.deploy import model, shrink
from supernet.files import artifact
from supernet.files.tables import Table
from supernet.space import get_space
from supernet.surrogates.int8_change import Int8Change
from supernet.training.measured_accuracy import SupernetAccuracy
from supernet.training.step import Processes
from supernet.weights import network
from supernet.weights.augmentation import Augmentation
from supernet.weights.images import Images
from supernet.weights.live_memory import executor, live_peak_bytes

SIZES = {"small": 0.0, "half": 0.5, "large": 1.0}  # place between the smallest and the largest subnet
WAYS: Mapping[str, dict[str, Any]] = {
    "plain": {"augmentation": Augmentation(cut="none"), "distil": "none"},
    "augmented": {"distil": "none"},
    "augmented + distilled": {"distil": "largest"},
}
FAMILIES = ("ofa_mbv3_w1.0", "ofa_proxyless_w1.3", "ofa_resnet50")
CHANGES = (-0.4, -0.8, -1.2)  # points that int8 costs: the declared mean, and a standard deviation either way
Row = dict[str, Any]


@dataclass(frozen=True)
class Options:
    supernet: Path = Path("runs/net")
    seeds: int = 3
    nets: int = 20  # of each family
    members: int = 5  # of the front
    candidates: int = 40  # that the front is drawn from
    aware: int = 2  # epochs of quantisation-aware training; 0: none
    epochs: int = 20
    budget: int = 20_000  # evaluations of a search
    out: Path = Path("runs/shrink")


def peak(options: Options) -> Iterator[Row]:
    """Ratios of the storages alive in a real forward pass to the analytic peak."""
    for name in FAMILIES:
        space = get_space(name)
        supernet, genomes = network.supernet(space), space.sample(options.nets, np.random.default_rng(2))
        real = []
        for i in range(len(genomes)):
            subnet = network.extract(supernet, space, genomes[i : i + 1])
            side = network.resolution(space, genomes[i : i + 1])
            image = torch.zeros(1, 3, side, side)
            real.append([live_peak_bytes(how, image) for how in (executor(subnet), subnet)])
        ratios = np.array(real) / space.layers(genomes).peak_bytes()[:, None]
        engine, eager = (f"{column.min():.3f}-{column.max():.3f}" for column in ratios.T)
        within = float(np.mean(np.abs(ratios[:, 0] - 1) <= 0.1))
        yield {"family": name, "within_10_percent": within, "engine": engine, "eager": eager}


def int8(options: Options) -> Iterator[Row]:
    """Test accuracy, file and latency of front members in both precisions, and what `int8_accuracy=` reads.

    Per seed another front is drawn from other candidates. Latency is measured here, at batch 1.
    """
    ways: dict[str, tuple[str, shrink.Step]] = {engine: (engine, shrink.Int8()) for engine in model.ENGINES}
    if options.aware:
        ways["onnxruntime, aware"] = ("onnxruntime", shrink.Int8Aware(epochs=options.aware))
    for seed in range(options.seeds):
        names = plain_front(
            SupernetAccuracy(folder=options.supernet), options.candidates, options.members, seed
        )
        for way, (engine, step) in ways.items():
            bench = replace(_bench(options.supernet, seed), engine=engine)
            for name, (before, after) in _both(names, step, bench).items():
                row = {"architecture": name, "way": way, "seed": seed}
                row |= {"fp32": before["top1"], "int8": after["top1"]}
                row |= {"fp32_ece": before["ece"], "int8_ece": after["ece"]}
                for key in ("file_bytes", "weight_bytes", "latency_ms"):
                    row[f"{key}_ratio"] = after[key] / before[key]
                yield row


def _both(names: list[str], step: shrink.Step, bench: shrink.Bench) -> dict[str, list[dict[str, Any]]]:
    """{name: its cards before and after the step}, with the latencies on this machine."""
    stages, cards = {}, {}
    with tempfile.TemporaryDirectory() as scratch:
        for i, name in enumerate(names):
            recipe = shrink.Recipe(steps=(step,))
            for k, stage in enumerate(shrink.run(recipe, name, bench, Path(scratch, str(i)), {})):
                stages[f"{k} {name}"], cards[f"{k} {name}"] = stage.subnet, dict(stage.card)
        with Store(Path(scratch, "latency.sqlite")) as store:
            add_latencies(cards, stages, here(bench.trained.space.name, engine=bench.engine), store)
    return {name: [cards[f"{k} {name}"] for k in range(2)] for name in names}


def table(options: Options) -> Iterator[Row]:
    """Sizes trained from scratch in three ways, deployed in two precisions."""
    for seed in range(options.seeds):
        bench = _bench(options.supernet, seed)
        space = bench.trained.space.restrict("r", *[bench.trained.resolution[1]] * 2)
        for size, place in SIZES.items():
            places = np.ceil(place * (space.width - 1))[None].astype(np.int64)
            name = space.format(space.network(space.at(places)))[0]
            for way, how in WAYS.items():
                step = shrink.FineTune(epochs=options.epochs, from_scratch=True, rate=0.05, **how)
                recipe = shrink.Recipe(steps=(step, shrink.Int8()))
                with tempfile.TemporaryDirectory() as scratch:
                    stages = shrink.run(recipe, name, bench, Path(scratch), {})
                for stage in stages[1:]:
                    shown = ("precision", "top1", "ece", "file_bytes", "macs")
                    row = {"size": size, "way": way, "seed": seed, "architecture": name}
                    yield row | {key: stage.card[key] for key in shown}


def joint(options: Options) -> Iterator[Row]:
    """Hypervolume over (accuracy, latency, weight bytes) of searches with and without the gene.

    Latency from the networks timed on one machine in both precisions that ship (`latency/zoo/measured`);
    accuracy from the ImageNet surrogate and the declared change of int8.
    """
    fits = Transfer(resolutions=(128, 224))
    fp32, eight = (fits.fit(devices.load(name)[0]) for name in ("ort_fp32_b1", "ort_int8_b1"))
    space = get_space("ofa_mbv3_w1.0_int8")
    parts = {"joint": space, "fp32 only": space.restrict("precision", 32, 32)}
    for points in CHANGES:
        for seed in range(options.seeds):
            for name, part in parts.items():
                latency = ByPrecision(fp32, eight, part)
                chosen = models.choose(space=part, latency=latency, int8=Int8Change(points=points))
                asked = problem.build(["accuracy", "latency_ms", "weight_bytes"], chosen)
                if name == "joint":
                    worst, best = asked.evaluator.reference(asked.space)
                with tempfile.TemporaryDirectory() as scratch:
                    out = Path(scratch, "run")
                    result = Search(asked, NSGA2(), budget=options.budget, seed=seed, out=out).run()
                genomes = result.archive.genomes[result.archive.front()]
                costs, _ = asked.evaluator(genomes)
                row = {"points": points, "seed": seed, "search": name}
                row["hypervolume"] = hypervolume((costs - best) / (worst - best), np.ones(3))
                yield row | {"in_int8": float(asked.models.in_int8(genomes).mean())}


def _bench(folder: Path, seed: int) -> shrink.Bench:
    torch.set_num_threads(1)
    alone = Processes(0, 1, torch.device("cpu"))
    trained, images = network.load(folder), Images.from_run_folder(folder)
    return shrink.Bench(trained, images, alone, narrow=pairs_overflow(), seed=seed)


def _print_means(rows: Sequence[Row]) -> None:
    for way in dict.fromkeys(row["way"] for row in rows):
        mine = [row for row in rows if row["way"] == way]
        change = np.array([100 * (row["int8"] - row["fp32"]) for row in mine])
        seeds = np.array([row["seed"] for row in mine])
        per_seed = [change[seeds == seed].mean() for seed in set(seeds)]
        size = np.array([row["file_bytes_ratio"] for row in mine])
        faster = 1 / np.array([row["latency_ms_ratio"] for row in mine])
        print(
            f"{way}: {change.mean():+.2f} points mean (seeds {min(per_seed):+.2f} to {max(per_seed):+.2f}, "
            f"networks {change.min():+.2f} to {change.max():+.2f}), file {size.mean():.3f} of fp32 "
            f"({size.min():.3f} to {size.max():.3f}), {np.median(faster):.2f} times as fast "
            f"({faster.min():.2f} to {faster.max():.2f}), {len(mine)} networks"
        )


PARTS = {part.__name__: part for part in (peak, int8, table, joint)}


def main() -> None:
    parts, options = command.words(Options, PARTS)
    for part in parts:
        rows = []
        for row in PARTS[part](options):
            rows.append(row)
            print(row, file=sys.stderr, flush=True)
        if part == "int8":
            _print_means(rows)
        artifact.write_json(options.out / f"{part}.json", rows)
        print(Table.from_rows(list(rows[0]), (row.values() for row in rows)).markdown())


if __name__ == "__main__":
    main()
