"""Measured accuracy of the subnets of a supernet trained here, kept in an append-only store.

Letters: n architectures.

`SupernetAccuracy` answers like `accuracy.AccuracySurrogate`, only that it measures: each subnet is extracted,
calibrated at its own resolution, and classifies the images of a part. Accuracy after fine-tuning is measured
for a few subnets and predicted from the accuracy before for the others (`gain`). What was measured once is
never measured again.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from supernet.arrays import Floats, Genomes
from supernet.files import artifact, disk, run_folder
from supernet.files.command_line import then
from supernet.files.tables import Table
from supernet.options import GivenPath, NonNegativeInt, PositiveInt, options
from supernet.prediction import Prediction
from supernet.space import SearchSpace
from supernet.surrogates.training_cost import TrainingCost
from supernet.training import gain, step_timing, train
from supernet.training.accuracy_store import AccuracyStore, Measured
from supernet.training.finetune import NO_PROGRESS, FineTuning, Progress, train_further
from supernet.training.gain import Gain
from supernet.training.step import alone
from supernet.training.step_timing import Workplace
from supernet.weights import network
from supernet.weights import subnet as subnets
from supernet.weights.images import Images, ImageSet
from supernet.weights.network import Trained
from supernet.weights.origins import origin

EPOCHS = "finetune_epochs"  # the gene
STORE = "accuracies.sqlite"
POOL = 24  # subnets that those to be fine-tuned are chosen from
CPU_WATTS = 65.0  # of a machine that trains on its CPU: nothing measures it
Watch = Callable[[int, int], None]  # subnets measured so far, and of how many


@options
class SupernetAccuracy:
    """Top-1 of the subnets of a supernet, measured when asked for."""

    # run folder of make train, published name, checkpoint of OFA, or hf:OWNER/NAME
    weights: str | None = None
    image_set: ImageSet | None = (
        None  # data= of the commands; null: those that the supernet of a run folder was trained on
    )
    part: Literal["val", "test"] = "val"  # images that count: val; test is for what comes out of the search
    images: PositiveInt | None = None  # the first so many of the part; null: all
    calibrated: bool = True  # false only shows what calibration is worth
    # null: accuracies.sqlite in the run folder; of other weights in runs/NAME
    store: Path | None = None
    workers: PositiveInt = 1  # processes, through Ray when more than one
    # subnets to fine-tune by each recipe that is asked for; the accuracy of the others after it is predicted
    finetuned: NonNegativeInt = 6
    finetuning: FineTuning = field(default_factory=FineTuning)  # as of make finetune; epochs are the gene's
    folder: GivenPath | None = None  # what weights= was called when it could only be a run folder

    def __post_init__(self) -> None:
        if (self.weights is None) == (self.folder is None):
            raise ValueError(
                "please give evaluator.weights=... (a run folder of make train, or ofa_mbv3_w1.0)"
            )
        origin.check_images(self.origin, self.image_set)
        if 0 < self.finetuned < gain.FEWEST:
            raise ValueError(f"finetuned={self.finetuned} must be 0 or at least {gain.FEWEST} subnets")

    @property
    def origin(self) -> str:
        """What the weights are named by."""
        return str(self.folder) if self.weights is None else self.weights

    @property
    def place(self) -> Path:
        """The folder that keeps what is measured: the run folder, else one of the weights' name."""
        return origin.folder(self.origin)

    @cached_property
    def trained(self) -> Trained:
        return origin.load(self.origin)

    @cached_property
    def data(self) -> Images:
        """The images, labelled and normalised as the weights know them."""
        return origin.images(self.origin, self.trained, self.image_set)

    def absolute(self) -> dict[str, Any]:
        """The options that name files, as they hold in a process that runs in another folder."""
        here, images = Path(self.origin), self.image_set
        if images is not None and images.root is not None:
            images = replace(images, root=images.root.resolve())
        weights = str(here.resolve()) if here.exists() else self.origin
        return {"weights": weights, "folder": None, "image_set": images}

    @property
    def space(self) -> str:
        return self.trained.space.name

    @property
    def resolutions(self) -> tuple[int, int]:
        """Lowest and highest input side in the supernet's training."""
        return self.trained.resolution

    @cached_property
    def accuracies(self) -> AccuracyStore:
        return AccuracyStore(run_folder.own_file(self.place / STORE) if self.store is None else self.store)

    @cached_property
    def facts(self) -> dict[str, Any]:
        """Everything a value depends on beside the network and its resolution: the setting in the store."""
        calibration = len(self.data.parts["calibration"]) if self.calibrated else 0
        count = len(self.data.parts[self.part][: self.images])
        return setting(self.trained.sha256, self.data, self.part, count, calibration)

    @cached_property
    def facts_after(self) -> dict[str, Any]:
        """Everything an accuracy after fine-tuning depends on beside the network and its epochs."""
        recipe = {name: value for name, value in asdict(self.finetuning).items() if name != "epochs"}
        return {**self.facts, "finetuning": recipe}

    @property
    def measured(self) -> str:
        """Names everything that an accuracy depends on besides the network and its recipe."""
        return AccuracyStore.key({**self.facts_after, "finetuned": self.finetuned})

    def predict(self, genomes: Genomes, space: SearchSpace | None = None) -> Prediction:
        """Top-1 in [0, 1] of canonical genomes of `space` (default: the supernet's own), and the standard
        deviation of sampling so many images.

        After fine-tuning it is measured for `finetuned` subnets, at the first call that asks for it, and
        predicted for the others. ValueError for resolutions that the supernet was not trained for, and where
        `finetuned=0` leaves a recipe of the space without accuracy.
        """
        own = self.trained.space
        if space is not None:
            self._check_recipes(space.allowed(EPOCHS))
            genomes = space.embed(genomes, own.name)
        epochs = own.column(genomes, EPOCHS)
        self._check_recipes(np.unique(epochs).tolist())
        total = self.facts["images"]
        before = sampled(self.measure(genomes), total)
        if not epochs.any():
            return before
        recipes = [count for count in own.axis(EPOCHS).values if count]
        mean, std, shared = before.mean.copy(), before.std.copy(), np.zeros((len(genomes), 2 * len(recipes)))
        for i, recipe in enumerate(recipes):
            rows = np.flatnonzero(epochs == recipe)
            if not len(rows):
                continue
            predicted = self.gain(recipe).after(before.mean[rows])
            mean[rows], std[rows] = predicted.mean, predicted.std
            shared[rows, 2 * i : 2 * i + 2] = predicted.shared
            counts = self.measured_after(recipe)
            names = own.format(genomes[rows])
            seen = np.array([name in counts for name in names])
            measured = sampled(np.array([counts[name] for name in names if name in counts], float), total)
            mean[rows[seen]], std[rows[seen]], shared[rows[seen]] = measured.mean, measured.std, 0
        return Prediction(mean, std, shared)

    def _check_recipes(self, recipes: Iterable[int]) -> None:
        if not self.finetuned and (epochs := [str(count) for count in recipes if count]):
            raise ValueError(
                f"finetuned=0 tells no accuracy after {' or '.join(epochs)} epochs of fine-tuning: give "
                "evaluator.finetuned=6, or recipe=0 and no training cost among objectives= and limits="
            )

    @cached_property
    def to_finetune(self) -> Genomes:
        """(k, d) the networks that are fine-tuned: the largest, the smallest, then each time the one of a
        random pool whose accuracy is farthest from those chosen before. More of them begin with the same."""
        space = self.trained.space.restrict("r", *self.resolutions)
        pool = sample(space, max(POOL, self.finetuned), seed=0)
        top1 = self.measure(pool[:POOL])
        picked = [0, 1]
        while len(picked) < min(self.finetuned, POOL):
            distance = np.abs(top1[:, None] - top1[picked]).min(axis=1)
            distance[picked] = -1
            picked.append(int(np.argmax(distance)))
        return pool[[*picked, *range(POOL, self.finetuned)]]

    def to_finetune_by(self, epochs: int) -> Genomes:
        """(k, d) the same networks with a recipe of so many epochs."""
        own, genomes = self.trained.space, self.to_finetune.copy()
        genomes[:, own.index[EPOCHS]] = own.axis(EPOCHS).values.index(epochs) + 1
        return genomes

    def waiting(self, space: SearchSpace) -> Genomes:
        """(m, d) the fine-tunings that predictions in a space need and that the store does not hold."""
        recipes = [count for count in space.allowed(EPOCHS) if count]
        self._check_recipes(recipes)
        own, done = self.trained.space, self.accuracies.values(self.facts_after)
        genomes = np.concatenate([own.parse([]), *map(self.to_finetune_by, recipes)])
        return genomes[[name not in done for name in own.format(genomes)]]

    def measured_after(self, epochs: int, watch: Watch | None = None) -> dict[str, int]:
        """{name: correct images} of the fine-tuned networks after so many epochs; fine-tunes those that are
        not in the store."""
        names = self.trained.space.format(self.to_finetune_by(epochs))
        counts = self._complete(self.facts_after, names, watch)
        return {name: counts[name].correct for name in names}

    def gain(self, epochs: int) -> Gain:
        """What so many epochs of fine-tuning add, by the networks that were fine-tuned."""
        total = self.facts["images"]
        after = np.array(list(self.measured_after(epochs).values())) / total
        return gain.fit(self.measure(self.to_finetune) / total, after, total)

    def describe_gain(self, epochs: int) -> str:
        """What so many epochs of fine-tuning gained, for people."""
        return f"{epochs} epochs of fine-tuning: {self.gain(epochs).describe()}, {self.finetuned} subnets"

    def training_cost(self, rates: TrainingCost) -> TrainingCost:
        """Cost of fine-tuning on the supernet's images, in hours of this machine unless `rates` name another:
        from training steps that are timed here, once."""
        place = Workplace(self.trained, self.data, self.finetuning)
        cost = replace(
            rates,
            images=rates.images or place.images_of_an_epoch,
            batch=rates.batch or self.finetuning.batch,
            distil=self.finetuning.distil != "none",
        )
        if rates.step_file is not None or rates.gpu is not None:
            return cost
        space = self.trained.space.restrict("r", *self.resolutions)
        steps = place.step_file(self.place, sample(space, step_timing.SUBNETS, seed=0))
        on_cpu = network.best_device().type == "cpu"
        return replace(cost, step_file=steps, watts=rates.watts or (CPU_WATTS if on_cpu else None))

    def measure(
        self, genomes: Genomes, space: SearchSpace | None = None, watch: Watch | None = None
    ) -> Floats:
        """(n,) correct images of these genomes; measures and stores those that are not in the store."""
        own = self.trained.space
        if space is not None:
            genomes = space.embed(genomes, own.name)
        own.check(genomes)
        own.check_resolutions(genomes, self.resolutions, f"the supernet {self.origin}")
        names = own.format(own.network(genomes))
        counts = self._complete(self.facts, names, watch)
        return np.array([counts[name].correct for name in names], np.float64)

    def _complete(
        self, facts: Mapping[str, Any], names: Sequence[str], watch: Watch | None
    ) -> dict[str, Measured]:
        """Everything in the store of this setting, after what is missing of these names was measured."""
        counts = self.accuracies.values(facts)
        missing = [name for name in dict.fromkeys(names) if name not in counts]
        for done, (name, measured) in enumerate(self._measured(missing), start=1):
            self.accuracies.add(facts, name, measured)
            counts[name] = measured
            if watch is not None:
                watch(done, len(missing))
        return counts

    def _measured(self, names: Sequence[str]) -> Iterator[tuple[str, Measured]]:
        if self.workers > 1 and len(names) > 1:
            return _through_ray(self, names)
        return ((name, self.evaluate(name)) for name in names)

    def evaluate(self, architecture: str) -> Measured:
        """One subnet measured now, after the fine-tuning that its name says, whatever the store holds."""
        started = time.perf_counter()
        subnet = subnets.from_supernet(self.trained, self.data, architecture, calibrate=self.calibrated)
        own = self.trained.space
        progress = NO_PROGRESS
        if epochs := int(own.column(own.parse([architecture]), EPOCHS)[0]):
            recipe = replace(self.finetuning, epochs=epochs)
            key = AccuracyStore.key({**self.facts_after, "architecture": architecture})
            progress = Progress(checkpoint=self.place / f"finetuning-{key[:12]}.safetensors")
            with threadpool_limits(1):  # as make finetune
                subnet, _, _ = train_further(subnet, self.trained, self.data, recipe, alone(), progress)
        quality = subnets.judge(subnet, self.data, self.part, count=self.images)
        progress.remove()
        return Measured(quality.correct, quality.images, time.perf_counter() - started)


def _through_ray(accuracy: SupernetAccuracy, names: Sequence[str]) -> Iterator[tuple[str, Measured]]:
    """(name, measured) as they become ready; every worker loads the supernet once and uses one thread."""
    try:
        import ray
        from ray.util import ActorPool
    except ImportError as error:
        raise ValueError(
            "workers= above 1 needs Ray: pip install 'ofa-frontier[ray]'; workers=1 gives the same values"
        ) from error
    gpus = torch.cuda.device_count() / accuracy.workers
    started = not ray.is_initialized()
    if started:
        ray.init(num_cpus=accuracy.workers, include_dashboard=False, log_to_driver=False)
    try:
        actor = ray.remote(num_cpus=1, num_gpus=gpus)(_Worker)
        alone = replace(accuracy, workers=1, **accuracy.absolute())
        pool = ActorPool([actor.remote(alone) for _ in range(accuracy.workers)])
        yield from pool.map_unordered(lambda worker, name: worker.evaluate.remote(name), list(names))
    finally:
        if started:
            ray.shutdown()


class _Worker:
    """A process that evaluates subnets of one supernet."""

    def __init__(self, accuracy: SupernetAccuracy) -> None:
        torch.set_num_threads(1)
        self._accuracy = accuracy

    def evaluate(self, name: str) -> tuple[str, Measured]:
        return name, self._accuracy.evaluate(name)


def setting(
    weights: str, data: Images, part: str, images: int, calibration: Any, batch: int = subnets.BATCH
) -> dict[str, Any]:
    """Facts that the accuracy of a subnet depends on: the SHA-256 of its weights, the images, how many of
    which part count, what its norms were calibrated on, images of a forward pass, the version of torch, and
    the kind of device where that is no CPU: others round differently."""
    device = network.best_device().type
    return {
        **({} if device == "cpu" else {"device": device}),
        "supernet": weights,
        "data": data.facts(),
        **({} if data.in_memory else {"transform": subnets.RESIZE_PHOTO}),
        "part": part,
        "images": images,
        "calibration": calibration,
        "batch": batch,
        "torch": torch.__version__,
    }


def sampled(counts: Floats, total: int) -> Prediction:
    """Shares of (n,) correct images, with the deviation of sampling so many images; the rule of succession
    keeps it above 0 where all or none are right."""
    shrunk = (counts + 1) / (total + 2)
    return Prediction(counts / total, np.sqrt(shrunk * (1 - shrunk) / total))


def sample(space: SearchSpace, count: int, seed: int) -> Genomes:
    """(count, d) different bare networks: the largest, the smallest, then random ones.

    ValueError when the space has fewer.
    """
    rng = np.random.default_rng(seed)
    genomes = np.concatenate([network.largest(space), network.smallest(space)])[:count]
    for _ in range(100):
        if len(genomes) == count:
            return genomes
        pool = np.concatenate([genomes, space.network(space.sample(2 * count, rng))])
        _, first = np.unique(pool, axis=0, return_index=True)
        genomes = pool[np.sort(first)][:count]
    raise ValueError(f"{space.name} as restricted has fewer than {count} different networks")


def write_csv(path: Path, accuracy: SupernetAccuracy) -> int:
    """Write every subnet of the setting as a tidy CSV that `make fit ARGS="what=accuracy ..."` reads; returns
    how many."""
    space, store = accuracy.trained.space, accuracy.accuracies
    with disk.reserved(path, disk.WAIT_SECONDS):  # others add to the store meanwhile: the file has all of it
        counts = store.values(accuracy.facts)
        if not counts:
            raise ValueError(f"{store.path} holds no subnet of this supernet and these images yet")
        top1 = [f"{one.correct / one.images:.6f}" for one in counts.values()]
        measured: dict[str, Sequence[Any]] = {"top1": top1, "images": [one.images for one in counts.values()]}
        artifact.write_text(path, rows(space, list(counts), measured).csv())
    return len(counts)


def rows(space: SearchSpace, names: Sequence[str], measured: Mapping[str, Sequence[Any]]) -> Table:
    """A table of networks as `make fit` reads it: genes, MACs, what was measured of them, one-line names."""
    genomes = space.parse(names)
    genes = {a.name: space.values(genomes)[:, space.index[a.name]] for a in space.axes if not a.deploy}
    columns = genes | {"macs": space.layers(genomes).macs()}
    whole = {name: values.tolist() for name, values in columns.items()}
    return Table({**whole, **measured, "architecture": list(names)})


def describe(trained: Trained, folder: Path) -> str:
    """What a finished training reached, on images it never looked at, and how to go on."""
    accuracy = SupernetAccuracy(folder=folder, part="test")
    space = trained.space.restrict("r", trained.resolution[1], trained.resolution[1])
    ends = np.concatenate([network.largest(space), network.smallest(space)])
    top1 = accuracy.predict(ends).mean
    took = json.loads((folder / train.SUMMARY).read_text())
    macs = space.layers(ends).macs() / 1e6
    lines = [
        f"{name} subnet ({mac:.2f} M MACs): {100 * value:.1f}% of {accuracy.facts['images']} test images"
        for name, mac, value in zip(("largest", "smallest"), macs, top1, strict=True)
    ]
    lines.append(f"{took['epochs']} epochs, {took['cpu_seconds']:.0f} s of CPU: {folder / train.FINISHED}")
    return "\n".join([*lines, then("accuracy-data", supernet=folder)])
