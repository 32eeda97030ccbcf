"""Train a supernet: `make train ARGS="data=folder data.root=images out=runs/mine"`.

Distributed: `torchrun --nproc-per-node=2 -m scripts.train_supernet data=digits out=runs/two`.
"""

import os
from pathlib import Path
from typing import Any

from search import command
from search.cli import watch
from search.cli.watch import Watched
from supernet import registry
from supernet.files.run_folder import FinishedRun
from supernet.files.sinks import Bar, Sink
from supernet.options import NonNegativeInt, PositiveInt
from supernet.training import measured_accuracy, train
from supernet.training.step import Optimisation, processes
from supernet.weights import network
from supernet.weights.augmentation import USUAL

SHOWN = {
    "phase": "{}",
    "loss": "loss {:.3f}",
    "val_largest": "largest {:.3f}",
    "val_smallest": "smallest {:.3f}",
}


@command.options
class Options(Watched, Optimisation):
    """What `make train` takes: the optimisation and what it is for."""

    data: command.Node  # digits, folder, torchvision
    space: command.Node  # one of the ofa package
    recipe: command.Node  # sandwich, progressive, ofa
    augmentation: command.Node | None = None  # None: as data.augment and data.flip say
    seed: NonNegativeInt = 0
    threads: PositiveInt = 1  # of PyTorch on a CPU, per process
    validate_every: PositiveInt = 5  # epochs
    out: Path | None = None  # the run folder: an unfinished run goes on; None: runs/train-<time>


@command.named("train")
def main(options: Options, config: dict[str, Any]) -> None:
    import torch

    optimisation = command.take(Optimisation, options)
    if options.out is None and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("several processes need one run folder: give out=runs/NAME")
    out = command.run_folder(options.out, "train")
    data = options.data
    if data.get("root") is not None:  # the run folder's config must hold from anywhere
        data = data | {"root": str(Path(data["root"]).resolve())}
        config = config | {"data": data}
    torch.set_num_threads(options.threads)
    with processes() as group:
        sinks: list[Sink] = []
        if group.rank == 0:
            sinks.append(Bar("train", optimisation.epochs, SHOWN))
            left = {"weights": out / train.FINISHED}
            run = watch.job("train", options.space["name"], out, config, {}, left)
            sinks += watch.sinks(options, run)
        try:
            images, space = registry.build(data).load(), registry.build(options.space)
            recipe, change = registry.build(options.recipe), registry.build(options.augmentation) or USUAL
            plan = train.Plan(space, images, recipe, optimisation, options.seed, change)
            interval = options.validate_every
            trained = train.train(plan, out, config, group, sinks=sinks, validate_every=interval)
        except KeyboardInterrupt:
            command.stop("train", out)
        except FinishedRun:
            if group.rank == 0:  # the process that finished it may have been killed before it told
                print(measured_accuracy.describe(network.load(out), out))
            raise
        if group.rank == 0:
            print(measured_accuracy.describe(trained, out))
