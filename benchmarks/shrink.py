"""What shrinking buys: `python -m benchmarks.shrink PART [key=value ...]`; prints Markdown and writes JSON.

    peak                       analytic peak memory against the storages of a real run, 20 subnets per family
    int8 supernet=FOLDER       five members of a supernet's front in fp32 and int8: accuracy, bytes
    table supernet=FOLDER      sizes x {plain, augmented, augmented + distilled} x {fp32, int8}, from scratch
    joint                      search over architecture x precision against fp32 only: hypervolume

Options: seeds=3 out=runs/shrink budget=20000 epochs=20 aware=2 (epochs; 0: none) members=5 candidates=40
openvino=1 (int8 by NNCF too).
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from supernet.space import Floats

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

    from supernet import network, spaces
    from supernet.live_memory import executor, live_peak_bytes

    rows = []
    for name in FAMILIES:
        space = spaces.get(name)
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
    """Test accuracy and file of front members in both precisions, and what `int8_accuracy=` reads."""
    from search.plain_front import plain_front
    from supernet import shrink

    folder = Path(options["supernet"])
    bench, rows = _bench(folder), []
    epochs = int(options.get("aware", 2))
    ways: dict[str, Any] = {"int8": shrink.Int8()}
    if epochs:
        ways["int8 aware"] = shrink.Int8Aware(epochs=epochs)
    names = plain_front(folder, int(options.get("candidates", 40)), int(options.get("members", 5)), seed=0)
    with tempfile.TemporaryDirectory() as scratch:
        for i, name in enumerate(names):
            for way, step in ways.items():
                stages = shrink.run(shrink.Recipe(steps=(step,)), name, bench, Path(scratch, f"{way}{i}"), {})
                before, after = (stage.card for stage in stages)
                rows.append(
                    {
                        "architecture": name,
                        "way": way,
                        "fp32": before["top1"],
                        "int8": after["top1"],
                        "fp32_ece": before["ece"],
                        "int8_ece": after["ece"],
                        "bytes_ratio": after["file_bytes"] / before["file_bytes"],
                        "weight_bytes_ratio": after["weight_bytes"] / before["weight_bytes"],
                    }
                )
            if options.get("openvino"):
                ours = {
                    "way": "openvino int8",
                    "fp32": before["top1"],
                    "int8": _openvino_top1(stages[0].subnet, bench),
                }
                rows.append({**rows[-1], **ours, "bytes_ratio": float("nan"), "int8_ece": float("nan")})
    _print_means(rows, "way")
    return rows


def table(options: Mapping[str, str]) -> list[dict[str, Any]]:
    """The form of S4's experiment: sizes trained from scratch in three ways, deployed in two precisions."""
    from supernet import shrink

    folder, rows = Path(options["supernet"]), []
    epochs = int(options.get("epochs", 20))
    for seed in range(int(options.get("seeds", 3))):
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
    from latency.predictors.transfer import Transfer
    from latency.zoo import devices
    from search import problem, run
    from search.pareto import hypervolume
    from search.searchers.nsga2 import NSGA2
    from supernet import spaces
    from supernet.int8_accuracy import Int8Change

    fits = Transfer(resolutions=(128, 224))
    fp32, eight = (fits.fit(devices.load(name)[0]) for name in ("ort_fp32_b1", "ort_int8_b1"))
    space = spaces.get("ofa_mbv3_w1.0_int8")
    rows = []
    for points in CHANGES:
        for seed in range(int(options.get("seeds", 3))):
            volumes: dict[str, float] = {}
            for name, part in (("joint", space), ("fp32 only", space.restrict("precision", 32, 32))):
                asked = problem.build(
                    ["accuracy", "latency_ms", "weight_bytes"],
                    space=part,
                    predictor=fp32,
                    predictor_int8=eight,
                    int8=Int8Change(points=points),
                )
                if name == "joint":
                    worst, best = asked.evaluator.reference(asked.space)
                with tempfile.TemporaryDirectory() as scratch:
                    budget = int(options.get("budget", 20000))
                    found = run.run(
                        asked, NSGA2(), budget=budget, seed=seed, out=Path(scratch, "run"), config={}
                    )
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

    from latency.descriptor import pairs_overflow
    from supernet import evaluation, network, shrink
    from supernet.train import Processes

    torch.set_num_threads(1)
    alone = Processes(0, 1, torch.device("cpu"))
    trained, images = network.load(folder), evaluation.images_of(folder)
    return shrink.Bench(trained, images, alone, narrow=pairs_overflow(), seed=seed)


def _openvino_top1(subnet: Any, bench: Any) -> float:
    """Test accuracy of the subnet in int8 by NNCF, run by OpenVINO; the same calibration images."""
    import openvino

    from supernet import export, quality, shrink
    from supernet.int8 import nncf_int8

    core = openvino.Core()
    batches = shrink.calibration(subnet, bench.images, 256)
    model = nncf_int8(core.read_model(export.onnx_bytes(subnet)), batches, narrow=bench.narrow)
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = core.compile_model(model, "CPU", options)
    pictures = bench.images.batches(bench.part, subnet.side, 250)
    return quality.evaluate(lambda images: np.array(compiled(images)[0]), pictures).top1


def _range(values: list[float]) -> str:
    return f"{min(values):.3f}-{max(values):.3f}"


def _print_means(rows: list[dict[str, Any]], by: str) -> None:
    for kind in dict.fromkeys(row[by] for row in rows):
        mine = [row for row in rows if row[by] == kind]
        change: Floats = np.array([100 * (row["int8"] - row["fp32"]) for row in mine])
        size = np.array([row["bytes_ratio"] for row in mine])
        print(
            f"{kind}: {change.mean():+.2f} points mean ({change.min():+.2f} to {change.max():+.2f}), file "
            f"{size.mean():.3f} of fp32 ({size.min():.3f} to {size.max():.3f}), {len(mine)} networks"
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
    out.mkdir(parents=True, exist_ok=True)
    for part in asked:
        rows = PARTS[part](options)
        (out / f"{part}.json").write_text(json.dumps(rows, indent=1) + "\n")
        heads = list(rows[0])
        print("\n".join(["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]))
        for row in rows:
            shown = (f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values())
            print("| " + " | ".join(shown) + " |")


if __name__ == "__main__":
    main()
