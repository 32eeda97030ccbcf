"""Measured accuracy of the subnets of a supernet trained here, kept in an append-only store.

Letters: n architectures.

`SupernetAccuracy` answers like `accuracy.AccuracySurrogate`, only that nothing is predicted: each subnet is
extracted, calibrated at its own resolution, and classifies the images of a part. What was measured once is
never measured again.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import PositiveInt

from supernet.arrays import Floats, Genomes
from supernet.files import artifact
from supernet.files.tables import Table
from supernet.options import options
from supernet.prediction import Prediction
from supernet.space import SearchSpace
from supernet.training import train
from supernet.training.accuracy_store import AccuracyStore, Measured
from supernet.weights import network
from supernet.weights import subnet as subnets
from supernet.weights.images import Images
from supernet.weights.network import Trained

STORE = "accuracies.sqlite"
Watch = Callable[[int, int], None]  # subnets measured so far, and of how many


@options
class SupernetAccuracy:
    """Top-1 of the subnets of the supernet in a run folder of `make train`, measured when asked for."""

    folder: Path  # run folder of make train
    part: Literal["val", "test"] = "val"  # images that count: val; test is for what comes out of the search
    images: PositiveInt | None = None  # the first so many of the part; null: all
    calibrated: bool = True  # false only shows what calibration is worth
    store: Path | None = None  # null: accuracies.sqlite in the folder
    workers: PositiveInt = 1  # processes, through Ray when more than one

    @cached_property
    def trained(self) -> Trained:
        return network.load(self.folder)

    @cached_property
    def data(self) -> Images:
        return Images.from_run_folder(self.folder)

    @property
    def space(self) -> str:
        return self.trained.space.name

    @property
    def resolutions(self) -> tuple[int, int]:
        """Lowest and highest input side in the supernet's training."""
        return self.trained.resolution

    @cached_property
    def accuracies(self) -> AccuracyStore:
        return AccuracyStore(self.folder / STORE if self.store is None else self.store)

    @cached_property
    def facts(self) -> dict[str, Any]:
        """Everything a value depends on beside the network and its resolution: the setting in the store."""
        return {
            "supernet": self.trained.sha256,
            "data": self.data.facts(),
            "part": self.part,
            "images": len(self.data.parts[self.part][: self.images]),
            "calibration": len(self.data.parts["calibration"]) if self.calibrated else 0,
            "batch": subnets.BATCH,
            "torch": torch.__version__,
        }

    @property
    def measured(self) -> str:
        """Names everything that an accuracy depends on besides the network: the setting in the store."""
        return AccuracyStore.key(self.facts)

    def predict(self, genomes: Genomes, space: SearchSpace | None = None) -> Prediction:
        """Top-1 in [0, 1] of canonical genomes of `space` (default: the supernet's own), and the standard
        deviation of sampling so many images.

        Fine-tuning is not simulated: all recipes of a network have its accuracy as it comes out of the
        supernet. ValueError for resolutions that the supernet was not trained for.
        """
        counts = self.measure(genomes, space)
        total = self.facts["images"]
        # The rule of succession keeps the deviation above 0 where all or none are right.
        shrunk = (counts + 1) / (total + 2)
        return Prediction(counts / total, np.sqrt(shrunk * (1 - shrunk) / total))

    def measure(
        self, genomes: Genomes, space: SearchSpace | None = None, watch: Watch | None = None
    ) -> Floats:
        """(n,) correct images of these genomes; measures and stores those that are not in the store."""
        own = self.trained.space
        if space is not None:
            genomes = space.embed(genomes, own.name)
        own.check(genomes)
        own.check_resolutions(genomes, self.resolutions, f"the supernet in {self.folder}")
        names = own.format(own.network(genomes))
        counts = self.accuracies.values(self.facts)
        missing = [name for name in dict.fromkeys(names) if name not in counts]
        for done, (name, measured) in enumerate(self._measured(missing), start=1):
            self.accuracies.add(self.facts, name, measured)
            counts[name] = measured
            if watch is not None:
                watch(done, len(missing))
        return np.array([counts[name].correct for name in names], np.float64)

    def _measured(self, names: Sequence[str]) -> Iterator[tuple[str, Measured]]:
        if self.workers > 1 and len(names) > 1:
            return _through_ray(self, names)
        return ((name, self.evaluate(name)) for name in names)

    def evaluate(self, architecture: str) -> Measured:
        """One subnet measured now, whatever the store holds."""
        started = time.perf_counter()
        subnet = subnets.from_supernet(self.trained, self.data, architecture, calibrate=self.calibrated)
        quality = subnets.judge(subnet, self.data, self.part, count=self.images)
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
        alone = replace(accuracy, workers=1, folder=accuracy.folder.resolve())
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
    space, counts = accuracy.trained.space, accuracy.accuracies.values(accuracy.facts)
    if not counts:
        raise ValueError(f"{accuracy.accuracies.path} holds no subnet of this supernet and these images yet")
    genomes = space.parse(counts)
    shown = [axis for axis in space.axes if not axis.deploy]
    values = space.values(genomes)[:, [space.index[axis.name] for axis in shown]]
    macs = space.layers(genomes).macs()
    heads = [*(axis.name for axis in shown), "macs", "top1", "images", "architecture"]
    rows = (
        [*row, mac, f"{measured.correct / measured.images:.6f}", measured.images, name]
        for row, mac, (name, measured) in zip(values.tolist(), macs.tolist(), counts.items(), strict=True)
    )
    artifact.write_text(path, Table.from_rows(heads, rows).csv())
    return len(counts)


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
    lines.append(f'next: make accuracy-data ARGS="supernet={folder}"')
    return "\n".join(lines)
