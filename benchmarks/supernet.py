"""Supernets of one's own: `python -m benchmarks.supernet PART out=FOLDER [options]`.

Parts: digits, judge, recipes, stand_alone, finetune, cost, depthwise, augmentation. All run on one thread of
a CPU and go on where they stopped; what they train stays in `out`. CIFAR-10 is the folder `images=` with
{train,test}/CLASS/*.jpg: 10,000 training images, the 10,000 test images, calibration on 1,024 shuffled
training images, 32 x 32 pixels.
"""

import itertools
import json
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import stdtrit
from scipy.stats import spearmanr

from benchmarks import command
from supernet import footprint, registry
from supernet.arrays import Floats, Genomes
from supernet.files import artifact
from supernet.files.tables import Table
from supernet.space import SearchSpace, get_space
from supernet.surrogates import training_cost
from supernet.surrogates.training_cost import Steps
from supernet.training import measured_accuracy, train
from supernet.training.depthwise import SmallMaps
from supernet.training.finetune import FineTuning, fine_tune, train_further
from supernet.training.measured_accuracy import SupernetAccuracy
from supernet.training.recipes import Phase, ProgressiveShrinking, Recipe, Sandwich, epochs_of
from supernet.training.step import Learner, Optimisation, alone, draw, processes
from supernet.weights import network
from supernet.weights import subnet as subnets
from supernet.weights.augmentation import Augmentation
from supernet.weights.images import Epoch, ImageSet, Part, training_batches
from supernet.weights.network import Trained

SPACE = "ofa_small"
SUBNETS = 30  # for spread and split-half reliability
JUDGE = Optimisation(epochs=90, batch=128, forward_batch=128, rate=0.1, weight_decay=3e-4)


@dataclass(frozen=True)
class Options:
    out: Path = Path("runs/bench-supernet")
    images: Path = Path("/tmp/cifar10")
    epochs: int = 90
    seeds: int = 3
    nets: int = 8  # that are trained alone, or timed
    train_images: int = 10_000
    tuned_epochs: int = 2  # of fine-tuning
    ways: int = 8  # of fine-tuning, the first so many


def cifar(options: Options) -> ImageSet:
    """The folder of CIFAR-10 at 32 px; a fifth of the training images is for validation."""
    count = options.train_images
    return ImageSet(
        source="folder", root=options.images, resolution=(32, 32), train_images=count, val=count // 5,
        calibration=min(1024, count),
    )  # fmt: skip


def trained(
    out: Path,
    images: ImageSet,
    recipe: Recipe,
    optimisation: Optimisation,
    *,
    seed: int = 0,
    space: str = SPACE,
) -> dict[str, Any]:
    """Train unless `out` holds the finished run; its summary."""
    if not (out / train.SUMMARY).exists():
        node = {"_target_": "supernet.weights.images.ImageSet", **asdict(images)}
        config = {"data": node, "seed": seed, **asdict(optimisation), "recipe": repr(recipe)}
        plan = train.Plan(get_space(space), images.load(), recipe, optimisation, seed)
        with processes() as group:
            train.train(plan, out, config, group, validate_every=10)
    return json.loads((out / train.SUMMARY).read_text())


def random_subnets(count: int, side: int, seed: int = 7, space: str = SPACE) -> Genomes:
    """(count, d) the largest, the smallest and random ones, at one side."""
    return measured_accuracy.sample(get_space(space).restrict("r", side, side), count, seed)


def split_half(accuracy: SupernetAccuracy, genomes: Genomes) -> float:
    """Spearman correlation of the subnets' accuracies on the two halves of the test images."""
    return float(spearmanr(*on_halves(accuracy, genomes)).statistic)


def on_halves(accuracy: SupernetAccuracy, genomes: Genomes) -> Floats:
    """(2, n) accuracies of the subnets on every other test image, and on the others."""
    data, model = accuracy.data, accuracy.trained
    halves: list[list[float]] = []
    for k in range(2):
        half = replace(data, parts={**data.parts, "test": data.parts["test"][k::2]})
        chosen = [subnets.from_supernet(model, half, name) for name in model.space.format(genomes)]
        halves.append([subnets.judge(subnet, half, "test").top1 for subnet in chosen])
    return np.array(halves)


def digits(options: Options) -> None:
    """`make train` with its defaults, per seed: the largest and the smallest subnet on the test images."""
    images = ImageSet(
        source="digits", resolution=(16, 16), val=200, calibration=512, flip=False, augment="shift"
    )
    epochs = min(60, options.epochs)
    plan = Optimisation(epochs=epochs, batch=64, forward_batch=32, rate=0.05, weight_decay=1e-4)
    ends = random_subnets(2, 16)
    for seed in range(options.seeds):
        folder = options.out / f"digits-{seed}"
        took = trained(folder, images, Sandwich(), plan, seed=seed)
        top1 = 100 * SupernetAccuracy(folder=folder, part="test").predict(ends).mean
        print(
            f"digits, seed {seed}: largest {top1[0]:.2f}%, smallest {top1[1]:.2f}%, "
            f"{took['cpu_seconds']:.0f} s of CPU"
        )


def judge(options: Options) -> None:
    """CIFAR-10: spread, reliability, calibration on and off, of 30 subnets."""
    folder = options.out / "judge"
    plan = replace(JUDGE, epochs=options.epochs)
    took = trained(folder, cifar(options), Sandwich(), plan)
    accuracy = SupernetAccuracy(folder=folder, part="test")
    genomes = random_subnets(SUBNETS, 32)
    predicted = accuracy.predict(genomes)
    top1, macs = 100 * predicted.mean, footprint.compute(get_space(SPACE), genomes, "macs")
    print(f"{took['epochs']} epochs, {took['cpu_seconds']:.0f} s of CPU, seed 0")
    print(f"largest {top1[0]:.2f}%, smallest {top1[1]:.2f}%")
    print(f"{SUBNETS} subnets {top1.min():.2f} to {top1.max():.2f}%")
    print(f"sd {top1.std(ddof=1):.2f} points, of sampling {100 * predicted.std.mean():.2f}")
    print(f"Spearman with MACs {spearmanr(macs, top1).statistic:.2f}")
    print(f"split-half Spearman {split_half(accuracy, genomes):.2f}")
    plain = 100 * replace(accuracy, calibrated=False).predict(genomes).mean
    print(
        f"median with calibration {np.median(top1):.1f}%, without {np.median(plain):.1f}% "
        f"(largest {plain[0]:.1f}%, smallest {plain[1]:.1f}%)"
    )


def work(recipe: Recipe, epochs: int) -> float:
    """Multiply-accumulates of a training per training image: three times the forward pass of each subnet, and
    once that of a teacher."""
    space = get_space(SPACE).restrict("r", 32, 32)
    phases, total = recipe.phases(space), 0.0
    for phase, count in zip(phases, epochs_of(phases, epochs), strict=True):
        total += count * _work_of_epoch(phase, space)
    return total


def _work_of_epoch(phase: Phase, space: SearchSpace) -> float:
    narrow = phase.restricted(space)
    steps = np.concatenate([draw(phase, narrow, seed=0, epoch=0, step=s) for s in range(100)])
    teacher = (
        footprint.compute(space, network.largest(space), "macs")[0] if phase.distil == "teacher" else 0.0
    )
    return float(3 * footprint.compute(space, steps, "macs").sum() / 100 + teacher)


RECIPES: dict[str, Recipe] = {
    "sandwich rule, in-place distillation": Sandwich(distil=True),
    "sandwich rule, no distillation": Sandwich(),
    "progressive shrinking, distillation": ProgressiveShrinking(),
}


def recipes(options: Options) -> None:
    """Recipes with as many multiply-accumulates as the sandwich rule spends in `epochs`."""
    budget = work(Sandwich(), options.epochs)
    genomes = random_subnets(12, 32)
    print(
        "| recipe | epochs | CPU s | largest % | smallest % | mean of 12 % |\n|---|---:|---:|---:|---:|---:|"
    )
    for name, recipe in RECIPES.items():
        fewest = len(recipe.phases(get_space(SPACE)))
        epochs = min(range(fewest, 400), key=lambda n: abs(work(recipe, n) - budget))
        folder = options.out / ("recipe-" + name.replace(",", "").replace(" ", "-"))
        took = trained(folder, cifar(options), recipe, replace(JUDGE, epochs=epochs))
        top1 = 100 * SupernetAccuracy(folder=folder, part="test").predict(genomes).mean
        row = f"| {name} | {epochs} | {took['cpu_seconds']:.0f} | {top1[0]:.2f} | {top1[1]:.2f} "
        print(f"{row}| {top1.mean():.2f} |", flush=True)


def stand_alone(options: Options) -> None:
    """Subnets trained alone, from scratch, for as many epochs as the supernet of `judge`."""
    folder = options.out / "judge"
    accuracy = SupernetAccuracy(folder=folder, part="test")
    genomes = random_subnets(options.nets, 32)
    shared = 100 * accuracy.predict(genomes).mean
    kept = options.out / "stand_alone.json"
    trained_alone = json.loads(kept.read_text()) if kept.exists() else {}
    recipe = FineTuning(
        epochs=options.epochs, from_scratch=True, distil="none", batch=JUDGE.batch, rate=JUDGE.rate,
        weight_decay=JUDGE.weight_decay,
    )  # fmt: skip
    names = get_space(SPACE).format(genomes)
    with processes() as group:
        for i, name in enumerate(names):
            if name not in trained_alone:
                tuned = fine_tune(accuracy.trained, accuracy.data, genomes[i : i + 1], recipe, group)
                trained_alone[name] = [100 * tuned.after.top1, sum(tuned.epoch_seconds)]
                artifact.write_json(kept, trained_alone)
            top1, seconds = trained_alone[name]
            print(f"{name}: supernet {shared[i]:.2f}%, alone {top1:.2f}%, {seconds:.0f} s", flush=True)
    alone = np.array([trained_alone[name][0] for name in names])
    print(f"mean gap {np.mean(alone - shared):.2f} points, Spearman {spearmanr(alone, shared).statistic:.2f}")


WAYS: dict[str, dict[str, Any]] = {  # the first is what the others are compared with
    "frozen norms, shift and flip": {},
    "no augmentation": {"augmentation": Augmentation(cut="none")},
    "live norms": {"norms": "live"},
    "no teacher": {"distil": "none"},
    "RandAugment": {"augmentation": Augmentation(randaugment=2)},
    "mixup": {"augmentation": Augmentation(mixup=0.2)},
    "CutMix": {"augmentation": Augmentation(cutmix=1.0)},
    "colour jitter": {"augmentation": Augmentation(brightness=0.4, contrast=0.4, saturation=0.4)},
}


def finetune(options: Options) -> None:
    """Ways to fine-tune two subnets, the smallest and a random one, of a supernet per seed: top-1 before and
    after `tuned_epochs`, and the difference from the first way, mean and 90% interval over the seeds.

    The interval is Student's, of the means of both subnets. Choose by the validation images.
    """
    kept = options.out / f"finetune-{options.tuned_epochs}-epochs.json"
    results = json.loads(kept.read_text()) if kept.exists() else {}
    accuracies = []
    for seed in range(options.seeds):
        folder = options.out / f"finetune-{seed}"
        trained(folder, cifar(options), Sandwich(), replace(JUDGE, epochs=options.epochs), seed=seed)
        accuracies.append(SupernetAccuracy(folder=folder))
    for (way, changes), seed in itertools.product(
        [("before", {"epochs": 0}), *list(WAYS.items())[: options.ways]], range(options.seeds)
    ):
        model, data = accuracies[seed].trained, accuracies[seed].data
        recipe = FineTuning(**{"epochs": options.tuned_epochs, "seed": seed, **changes})
        for name in get_space(SPACE).format(random_subnets(3, 32, seed)[1:]):
            key = f"{seed} {way}: {name}"
            if key not in results:
                subnet = subnets.from_supernet(model, data, name)
                subnet, _, _ = train_further(subnet, model, data, recipe, alone())
                parts: tuple[Part, ...] = ("val", "test")
                results[key] = [100 * subnets.judge(subnet, data, part).top1 for part in parts]
                artifact.write_json(kept, results)
    print(_compared(results, list(WAYS)[: options.ways], options.seeds).markdown())


def _compared(results: dict[str, list[float]], ways: list[str], seeds: int) -> Table:
    """A row for each way: top-1 before and after it, on validation and test images, and how much more it
    gains than the first way."""
    table: dict[str, list[Any]] = {"way": ways}
    means = {
        way: np.array(
            [
                np.mean([top1 for key, top1 in results.items() if key.startswith(f"{seed} {way}: ")], axis=0)
                for seed in range(seeds)
            ]
        )
        for way in ("before", *ways)
    }  # (seeds, 2) each
    for column, part in enumerate(("val", "test")):
        table[f"{part} before %"] = [means["before"][:, column].mean()] * len(ways)
        table[f"{part} after %"] = [means[way][:, column].mean() for way in ways]
        differences = np.array([means[way][:, column] - means[ways[0]][:, column] for way in ways])
        half = stdtrit(seeds - 1, 0.95) * differences.std(axis=1, ddof=1) / np.sqrt(seeds)
        shown = [f"{d:+.2f} +- {h:.2f}" for d, h in zip(differences.mean(axis=1), half, strict=True)]
        table[f"{part} difference"] = ["", *shown[1:]]
    return Table(table)


def cost(options: Options) -> None:
    """CPU time of an epoch of fine-tuning, 10 subnets, against predictions adapted with 3 of them.

    2,048 images; the subnets take turns in 3 rounds, the least time counts. Weights are random: they do not
    change the time.
    """
    space, data = get_space(SPACE), cifar(options).load()
    few_images = {**data.parts, "train": data.parts["train"][:2048], "test": data.parts["test"][:256]}
    part = replace(data, parts=few_images)
    facts = {"resolution": [32, 32], "classes": 10, "mean": list(data.mean), "std": list(data.std)}
    model = Trained(space, network.supernet(space, 10), facts, "")
    genomes = random_subnets(10, 32, seed=31)  # 11 and 23 were looked at when the form was chosen
    recipe = FineTuning(epochs=1, batch=64, distil="none")
    rounds = np.empty((3, len(genomes)))
    with processes() as group:
        for k in range(len(rounds)):
            for i in range(len(genomes)):
                tuned = fine_tune(model, part, genomes[i : i + 1], recipe, group)
                rounds[k, i] = tuned.epoch_seconds[0]
    seconds = rounds.min(axis=0)
    print(f"spread of the rounds: {100 * np.median(rounds.std(axis=0) / rounds.mean(axis=0)):.1f}%")
    ms = 1000 * seconds / 2048
    few = np.array([0, 1, 2])  # the largest, the smallest and a random one
    steps = Steps.from_genomes(space, genomes, 64)
    base = training_cost.fitted()["mobile"]
    predicted = training_cost.fit(steps.take(few), ms[few], base).ms(steps)
    scale = float(np.median((ms / base.ms(steps))[few]))
    for label, guess in (("adapted", predicted), ("one factor", scale * base.ms(steps))):
        error = 100 * np.abs(guess / ms - 1)
        rest = np.setdiff1d(np.arange(len(ms)), few)
        print(f"{label}: MAPE {error.mean():.1f}% of all 10, {error[rest].mean():.1f}% of the 7 others")
    for name, measured, guess in zip(space.format(genomes), ms, predicted, strict=True):
        print(f"{name}: {measured:.3f} ms per image measured, {guess:.3f} predicted")


def depthwise(options: Options) -> None:
    """Forward and backward passes of 128 images with and without `training.depthwise`, taking turns."""
    space = get_space(SPACE)
    module = network.supernet(space, 10).to(memory_format=torch.channels_last)
    labels = torch.randint(10, (128,))
    for side in (16, 32):
        images = torch.randn(128, 3, side, side).to(memory_format=torch.channels_last)
        genomes = random_subnets(8, side)
        seconds = np.empty((7, len(genomes), 2))
        for round_, i, fast in np.ndindex(seconds.shape):
            network.set_active(module, space, genomes[i : i + 1])
            started = time.perf_counter()
            with SmallMaps() if fast else nullcontext():
                logits = module(images)
            torch.nn.functional.cross_entropy(logits, labels).backward()  # type: ignore[no-untyped-call]
            seconds[round_, i, fast] = time.perf_counter() - started
        before, after = 1000 * np.median(seconds[1:], axis=0).T
        print(
            f"{side} px, {len(genomes)} subnets: largest {before[0]:.0f} -> {after[0]:.0f} ms, smallest "
            f"{before[1]:.0f} -> {after[1]:.0f} ms, all {before.sum() / after.sum():.2f} times as fast"
        )


def augmentation(options: Options) -> None:
    """CPU time of each augmentation of digits at 32 px, per 64 images and relative to a step of the sandwich
    rule on them; medians of `seeds` times five rounds in turns."""
    images = ImageSet(source="digits", resolution=(32, 32), val=200, train_images=640).load()
    space, plan = get_space(SPACE), Optimisation(batch=64, forward_batch=64)
    with processes() as group:
        learner = Learner(space, 10, plan, group, 0)
    phase = Sandwich().phases(space)[-1]
    genomes = draw(phase, space, seed=0, epoch=0, step=0)
    names = registry.names("augmentation")
    loaders = {
        name: training_batches(images, Epoch(0, 0, 64, 64, (32,), registry.get("augmentation", name)))
        for name in names
    }
    seconds: dict[str, list[float]] = {}
    for _ in range(5 * options.seeds):
        for name, loader in loaders.items():
            begin = time.process_time()
            batches = list(loader)
            seconds.setdefault(name, []).append((time.process_time() - begin) / len(loader))
        begin = time.process_time()
        learner.begin(0.01, epoch=0, step=0)
        learner.add_gradients(phase, genomes, *batches[0], 1)
        learner.finish_step()
        seconds.setdefault("step", []).append(time.process_time() - begin)
    ms = {name: 1000 * float(np.median(values)) for name, values in seconds.items()}
    for name, value in ms.items():
        print(f"{name}: {value:.1f} ms per 64 images, {100 * value / ms['step']:.0f}% of a training step")


PARTS = {
    part.__name__: part
    for part in (
        digits,
        judge,
        recipes,
        stand_alone,
        finetune,
        cost,
        depthwise,
        augmentation,
    )
}


def main() -> None:
    torch.set_num_threads(1)
    parts, options = command.words(Options, PARTS)
    for part in parts:
        print(f"## {part}", flush=True)
        PARTS[part](options)


if __name__ == "__main__":
    main()
