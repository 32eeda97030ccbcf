"""Measure subnets of your supernet: `make accuracy-data ARGS="supernet=runs/mine subnets=300"`.

Appends to a store, so that it goes on where it stopped; writes the CSV that
`make fit ARGS="what=accuracy rows=runs/mine/accuracies-val.csv column=top1"` reads.
"""

from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console

from search import command
from supernet import registry
from supernet.files.command_line import then
from supernet.options import CsvFile, NonNegativeInt, PositiveInt, Sides
from supernet.training import measured_accuracy
from supernet.training.measured_accuracy import SupernetAccuracy


@command.options
class Options:
    """What `make accuracy-data` takes."""

    supernet: str  # run folder of make train, published name, checkpoint of OFA, or hf:OWNER/NAME
    data: command.Node | None = None  # images, where the supernet is no run folder
    subnets: PositiveInt = 300  # the largest, the smallest, random ones
    seed: NonNegativeInt = 0
    resolution: Sides = None  # None: those of the training
    part: Literal["val", "test"] = "val"  # of the images; test is looked at once
    images: PositiveInt | None = None  # the first so many of the part; None: all
    store: Path | None = None  # None: accuracies.sqlite in the run folder; of other weights in runs/NAME
    csv: CsvFile | None = None  # None: accuracies-<part>.csv there
    workers: PositiveInt = 1  # processes (more than one need the extra ray); the values are the same
    threads: PositiveInt = 1


@command.named("accuracy_data")
def main(options: Options, config: dict[str, Any]) -> None:
    import torch

    torch.set_num_threads(options.threads)
    images = registry.build(options.data)
    accuracy = command.take(SupernetAccuracy, options, weights=options.supernet, image_set=images)
    low, high = options.resolution or accuracy.resolutions
    space = accuracy.trained.space.restrict("r", low, high)
    genomes = measured_accuracy.sample(space, options.subnets, options.seed)
    with Console().status("loading the images") as status:

        def watch(done: int, of: int) -> None:
            status.update(f"{done} of {of} subnets measured")

        counts = accuracy.measure(genomes, watch=watch)
    top1 = 100 * counts / accuracy.facts["images"]
    noise = 100 * float(np.mean(accuracy.predict(genomes).std))
    path = options.csv or accuracy.place / f"accuracies-{options.part}.csv"
    print(
        f"{len(top1)} subnets: top-1 {top1.min():.2f} to {top1.max():.2f}%, sd {top1.std():.2f} points, of "
        f"which {noise:.2f} are sampling of {accuracy.facts['images']} images"
    )
    print(f"{measured_accuracy.write_csv(path, accuracy)} subnets of this supernet are in {path}")
    print(then("fit", what="accuracy", rows=path, column="top1"))
