"""Train a supernet: `make train ARGS="data=folder data.root=images out=runs/mine"`.

Distributed: `torchrun --nproc-per-node=2 -m scripts.train_supernet data=digits out=runs/two`.
"""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path
from typing import Any

from search import command
from supernet import registry
from supernet.files.sinks import Bar, Sink, Wandb
from supernet.training import measured_accuracy, train

SHOWN = {"phase": "{}", "loss": "loss {:.3f}", "val_largest": "val {:.3f}", "val_smallest": ".. {:.3f}"}


def task(config: dict[str, Any]) -> None:
    import torch

    options = {field.name: config[field.name] for field in fields(train.Optimisation)}
    optimisation = train.Optimisation(**options)
    out = _folder(config["out"])
    if config["data"].get("root") is not None:  # the run folder's config must hold from anywhere
        config["data"]["root"] = str(Path(config["data"]["root"]).resolve())
    torch.set_num_threads(config["threads"])
    with train.processes() as group:
        sinks: list[Sink] = []
        if group.rank == 0:
            sinks.append(Bar("train", optimisation.epochs, SHOWN))
            if config["wandb"] != "disabled":
                sinks.append(Wandb(out, config, config["wandb"]))
        try:
            trained = train.train(
                registry.build(config["space"]),
                registry.build(config["data"]).load(),
                registry.build(config["recipe"]),
                optimisation,
                seed=config["seed"],
                out=out,
                config=config,
                sinks=sinks,
                validate_every=config["validate_every"],
                group=group,
            )
        except KeyboardInterrupt:
            command.stop("train", out)
        if group.rank == 0:
            print(measured_accuracy.describe(trained, out))


def _folder(given: str | None) -> Path:
    if given is None and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("several processes need one run folder: give out=runs/NAME")
    return command.run_folder(given, "train")


def main() -> None:
    command.run("train", task)
