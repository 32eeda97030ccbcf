"""What shrinking buys: `python -m benchmarks.shrink PART [key=value ...]`; prints Markdown and writes JSON.

    peak                       analytic peak memory against the storages of a real run, 20 subnets per family
    int8 supernet=FOLDER       five members of a supernet's front in fp32 and int8: accuracy, bytes, latency
    table supernet=FOLDER      sizes x {plain, augmented, augmented + distilled} x {fp32, int8}, from scratch
    joint                      search over architecture x precision against fp32 only: hypervolume

Options: seeds=3 out=runs/shrink budget=20000 epochs=20 aware=2 (epochs; 0: none) members=5 candidates=40
first=0 (seed of the table).
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from supernet.arrays import Floats
from supernet.files import artifact
from supernet.files.tables import Table

SIZES = {"small": 0.0, "half": 0.5, "large": 1.0}  # place between the smallest and the largest subnet
WAYS: Mapping[str, dict[str, Any]] = {
    "plain": {"augment": "none", "flip": False, "distil": False},
    "augmented": {"distil": False},
    "augmented + distilled": {"distil": True},
}
FAMILIES = ("ofa_mbv3_w1.0", "ofa_proxyless_w1.3", "ofa_resnet50")
CHANGES = (-0.4, -0.8, -1.2)  # points that int8 costs: the declared mean, and a standard deviation either way


def peak(options: Mapping[str, str]) -> list[dict[str, Any]]:
    """Ratios of the storages alive in a real forward pass to the analytic peak."""
    import torch

    from supernet.space import get_space
    from supernet.weights import network
    from supernet.weights.live_memory import executor, live_peak_bytes

    rows = []
    for name in FAMILIES:
        space = get_space(name)
        supernet, genomes = network.supernet(space), space.sample(20, np.random.default_rng(2))
        analytic = space.layers(genomes).peak_bytes()
        found: dict[str, list[float]] = {"engine": [], "eager": []}
        for i in range(len(genomes)):
            subnet = network.extract(supernet, space, genomes[i : i + 1])
            side = network.resolution(space, genomes[i : i + 1])
            image = torch.zeros(1, 3, side, side)
            found["engine"].append(live_peak_bytes(executor(subnet), image) / analytic[i])
            found["eager"].append(live_peak_bytes(subnet, image) / analytic[i])
        within = float(np.mean(np.abs(np.array(found["engine"]) - 1) <= 0.1))
        rows.append({"family": name, "within_10_percent": within, **{k: _range(v) for k, v in found.items()}})
    return rows


def int8(options: Mapping[str, str]) -> list[dict[str, Any]]:
    """Test accuracy, file and latency of front members in both precisions, and what `int8_accuracy=` reads.

    Per seed another front is drawn from other candidates. Latency is measured here, at batch 1.
    """
    from dataclasses import replace

    from latency.measuring.here import here
    from latency.measuring.store import Store
    from latency.zoo.deployed import add_latencies
    from search.plain_front import plain_front
    from supernet.deploy import model, shrink

    folder, rows = Path(options["supernet"]), []
    epochs = int(options.get("aware", 2))
    ways: dict[str, tuple[str, Any]] = {engine: (engine, shrink.Int8()) for engine in model.ENGINES}
    if epochs:
        ways["onnxruntime, aware"] = ("onnxruntime", shrink.Int8Aware(epochs=epochs))
    space = _bench(folder).trained.space.name
    for seed in range(int(options.get("seeds", 3))):
        names = plain_front(folder, int(options.get("candidates", 40)), int(options.get("members", 5)), seed)
        for way, (engine, step) in ways.items():
            bench = replace(_bench(folder, seed), engine=engine)
            cards: dict[str, dict[str, Any]] = {}
            subnets = {}
            with tempfile.TemporaryDirectory() as scratch:
                for name in names:
                    recipe = shrink.Recipe(steps=(step,))
                    stages = shrink.run(recipe, name, bench, Path(scratch, str(len(cards))), {})
                    for stage in stages:
                        title = f"{name} {stage.card['precision']}"
                        cards[title], subnets[title] = dict(stage.card), stage.subnet
                with Store(Path(scratch, "latency.sqlite")) as store:
                    target = here(space, engine=engine)
                    add_latencies(cards, subnets, target, store)
            for name in names:
                before, after = cards[f"{name} fp32"], cards[f"{name} int8"]
                rows.append({"architecture": name, "way": way, "seed": seed})
                rows[-1] |= {"fp32": before["top1"], "int8": after["top1"]}
                rows[-1] |= {"fp32_ece": before["ece"], "int8_ece": after["ece"]}
                for key in ("file_bytes", "weight_bytes", "latency_ms"):
                    rows[-1][f"{key}_ratio"] = after[key] / before[key]
                print(rows[-1], file=sys.stderr, flush=True)
    _print_means(rows, "way")
    return rows


def table(options: Mapping[str, str]) -> list[dict[str, Any]]:
    """The form of S4's experiment: sizes trained from scratch in three ways, deployed in two precisions."""
    from supernet.deploy import shrink

    folder, rows = Path(options["supernet"]), []
    epochs = int(options.get("epochs", 20))
    for seed in range(int(options.get("first", 0)), int(options.get("seeds", 3))):
        bench = _bench(folder, seed)
        space = bench.trained.space.restrict("r", *[bench.trained.resolution[1]] * 2)
        low, high = space.allowed.T
        for size, place in SIZES.items():
            levels = np.ceil(low + place * (high - low))[None].astype(np.int8)
            name = space.format(space.network(space.canonical(levels)))[0]
            for way, how in WAYS.items():
                step = shrink.FineTune(epochs=epochs, from_scratch=True, rate=0.05, **how)
                recipe = shrink.Recipe(steps=(step, shrink.Int8()))
                with tempfile.TemporaryDirectory() as scratch:
                    stages = shrink.run(recipe, name, bench, Path(scratch), {})
                for stage in stages[1:]:
                    wanted = ("precision", "top1", "ece", "file_bytes", "macs")
                    shown = {key: stage.card[key] for key in wanted}
                    rows.append({"size": size, "way": way, "seed": seed, "architecture": name, **shown})
                    print(rows[-1], file=sys.stderr, flush=True)
    return rows


def joint(options: Mapping[str, str]) -> list[dict[str, Any]]:
    """Hypervolume over (accuracy, latency, weight bytes) of searches with and without the gene.

    Latency from the networks timed on one machine in both precisions that ship (`latency/zoo/measured`);
    accuracy from the ImageNet surrogate and the declared change of int8.
    """
    from latency.predictors.by_precision import ByPrecision
    from latency.predictors.transfer import Transfer
    from latency.zoo import devices
    from search import models, problem
    from search.pareto import hypervolume
    from search.run import Search
    from search.searchers.nsga2 import NSGA2
    from supernet.space import get_space
    from supernet.surrogates.int8_change import Int8Change

    fits = Transfer(resolutions=(128, 224))
    fp32, eight = (fits.fit(devices.load(name)[0]) for name in ("ort_fp32_b1", "ort_int8_b1"))
    space = get_space("ofa_mbv3_w1.0_int8")
    rows = []
    for points in CHANGES:
        for seed in range(int(options.get("seeds", 3))):
            volumes: dict[str, float] = {}
            for name, part in (("joint", space), ("fp32 only", space.restrict("precision", 32, 32))):
                latency = ByPrecision(fp32, eight, part)
                known = models.choose(space=part, latency=latency, int8=Int8Change(points=points))
                asked = problem.build(["accuracy", "latency_ms", "weight_bytes"], known)
                if name == "joint":
                    worst, best = asked.evaluator.reference(asked.space)
                with tempfile.TemporaryDirectory() as scratch:
                    budget = int(options.get("budget", 20000))
                    found = Search(asked, NSGA2(), budget=budget, seed=seed, out=Path(scratch, "run")).run()
                genomes = found.archive.genomes[found.archive.front()]
                costs, _ = asked.evaluator(genomes)
                volumes[name] = hypervolume((costs - best) / (worst - best), np.ones(3))
                share = float(asked.models.in_int8(genomes).mean())
                row = {"points": points, "seed": seed, "search": name, "hypervolume": volumes[name]}
                rows.append({**row, "in_int8": share})
            print(f"{points} points, seed {seed}: {volumes}", file=sys.stderr, flush=True)
    return rows


def _bench(folder: Path, seed: int = 0) -> Any:
    import torch

    from latency.measuring.machine import pairs_overflow
    from supernet.deploy import shrink
    from supernet.training.train import Processes
    from supernet.weights import network
    from supernet.weights.images import Images

    torch.set_num_threads(1)
    alone = Processes(0, 1, torch.device("cpu"))
    trained, images = network.load(folder), Images.from_run_folder(folder)
    return shrink.Bench(trained, images, alone, narrow=pairs_overflow(), seed=seed)


def _range(values: list[float]) -> str:
    return f"{min(values):.3f}-{max(values):.3f}"


def _print_means(rows: list[dict[str, Any]], by: str) -> None:
    for kind in dict.fromkeys(row[by] for row in rows):
        mine = [row for row in rows if row[by] == kind]
        change: Floats = np.array([100 * (row["int8"] - row["fp32"]) for row in mine])
        per_seed = [
            change[[row["seed"] == seed for row in mine]].mean() for seed in {r["seed"] for r in mine}
        ]
        size = np.array([row["file_bytes_ratio"] for row in mine])
        faster = 1 / np.array([row["latency_ms_ratio"] for row in mine])
        print(
            f"{kind}: {change.mean():+.2f} points mean (seeds {min(per_seed):+.2f} to {max(per_seed):+.2f}, "
            f"networks {change.min():+.2f} to {change.max():+.2f}), file {size.mean():.3f} of fp32 "
            f"({size.min():.3f} to {size.max():.3f}), {np.median(faster):.2f} times as fast "
            f"({faster.min():.2f} to {faster.max():.2f}), {len(mine)} networks"
        )


PARTS: Mapping[str, Callable[[Mapping[str, str]], list[dict[str, Any]]]] = {
    "peak": peak,
    "int8": int8,
    "table": table,
    "joint": joint,
}


def main() -> None:
    words = sys.argv[1:]
    options = dict(word.split("=", 1) for word in words if "=" in word)
    asked = [word for word in words if "=" not in word]
    if not asked or (unknown := set(asked) - set(PARTS)):
        sys.exit(f"unknown part {sorted(unknown) if asked else ''}; there are {', '.join(PARTS)}")
    out = Path(options.get("out", "runs/shrink"))
    for part in asked:
        rows = PARTS[part](options)
        artifact.write_json(out / f"{part}.json", rows)
        print(Table.from_rows(list(rows[0]), (row.values() for row in rows)).markdown())


if __name__ == "__main__":
    main()
