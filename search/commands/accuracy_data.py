"""Measure subnets of your supernet: `make accuracy-data ARGS="supernet=runs/mine subnets=300"`.

Appends to a store, so that it goes on where it stopped; writes the CSV that
`make fit ARGS="what=accuracy space=ofa_small rows=runs/mine/accuracies.csv column=top1"` reads.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from search import command
from supernet.training import measured_accuracy
from supernet.training.measured_accuracy import SupernetAccuracy


def task(config: dict[str, Any]) -> None:
    import torch

    torch.set_num_threads(config["threads"])
    folder = Path(config["supernet"])
    options = {key: config[key] for key in ("part", "images", "store", "workers")}
    accuracy = SupernetAccuracy(folder=folder, **options)
    if config["subnets"] < 1:
        raise ValueError(f"subnets={config['subnets']} must be at least 1")
    low, high = command.resolution_range(config["resolution"]) or accuracy.resolutions
    space = accuracy.trained.space.restrict("r", low, high)
    genomes = measured_accuracy.sample(space, config["subnets"], config["seed"])
    with Console().status("loading the images") as status:

        def watch(done: int, of: int) -> None:
            status.update(f"{done} of {of} subnets measured")

        counts = accuracy.measure(genomes, watch=watch)
    top1 = 100 * counts / accuracy.facts["images"]
    noise = 100 * float(np.mean(accuracy.predict(genomes).std))
    path = Path(config["csv"] or folder / f"accuracies-{config['part']}.csv")
    print(
        f"{len(top1)} subnets: top-1 {top1.min():.2f} to {top1.max():.2f}%, sd {top1.std():.2f} points, of "
        f"which {noise:.2f} are sampling of {accuracy.facts['images']} images"
    )
    print(f"{measured_accuracy.write_csv(path, accuracy)} subnets of this supernet are in {path}")
    print(f'next: make fit ARGS="what=accuracy space={space.name} rows={path} column=top1 curve=[50,100]"')


def main() -> None:
    command.run("accuracy_data", task)
