"""Prune, train and quantise a subnet: `make shrink ARGS="supernet=runs/mine architecture='...'"`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from rich.console import Console

import configs
from latency.deployed import add_latencies
from latency.descriptor import pairs_overflow
from latency.store import Store
from latency.target import Target
from scripts import command
from search.plain_front import dominated, plain_front
from supernet import artifact, deployed_model, evaluation, network, shrink, train


def task(config: dict[str, Any]) -> None:
    import torch

    torch.set_num_threads(1)
    folder = Path(config["supernet"])
    trained, images = network.load(folder), evaluation.images_of(folder)
    out = Path(config["out"] or folder / f"shrink-{HydraConfig.get().runtime.choices['shrink']}")
    target = None if config.get("target") is None else configs.build(config["target"])
    recipe = configs.build(config["shrink"])
    engine = _engine(config["engine"], target, recipe)
    asked = {key: config[key] for key in ("supernet", "architecture", "shrink", "seed", "watts")}
    asked["engine"] = engine
    with train.processes() as group, Console().status("loading") as status:
        bench = shrink.Bench(
            trained,
            images,
            group,
            narrow=pairs_overflow(),
            engine=engine,
            seed=config["seed"],
            watts=config["watts"],
            watch=status.update,
        )
        stages = shrink.run(recipe, config["architecture"], bench, out, asked)
        names = plain_front(folder, config["candidates"], config["plain"], config["seed"])
        others = [shrink.run_plain(name, bench, out / f"plain-{i}") for i, name in enumerate(names)]
        rows = {f"{i} {stage.name}": stage for i, stage in enumerate(stages)}
        rows |= {f"plain {i}": stage for i, stage in enumerate(others)}
        cards = {title: dict(stage.card) for title, stage in rows.items()}
        if target is not None:
            with Store(config["store"]) as store:
                subnets = {title: stage.subnet for title, stage in rows.items()}
                add_latencies(cards, subnets, target, store, command.watcher(status))
    last = list(cards)[len(stages) - 1]
    beaten = dominated(cards, last, [title for title in cards if title.startswith("plain ")])
    text = f"{shrink.table(cards)}\n\n{last} dominates: {', '.join(beaten) or 'none'} of {len(others)} plain"
    artifact.write_text(out / "table.md", text + "\n")
    artifact.write_text(out / "table.json", json.dumps(cards, indent=1) + "\n")
    print(f"{text}\n{deployed_model.path(stages[-1].folder)}")


def _engine(asked: str | None, target: Target | None, recipe: shrink.Recipe) -> str:
    """The engine that int8 models are made for: the target's, or what is asked for where there is none."""
    if target is None or not recipe.quantises:
        return asked or "onnxruntime"
    if target.engine not in deployed_model.ENGINES or asked not in (None, target.engine):
        raise ValueError(
            f"engine={asked} target.engine={target.engine}: int8 steps are timed on the engine that they are "
            f"made for, target.engine={' or '.join(deployed_model.ENGINES)}"
        )
    return target.engine


def main() -> None:
    command.run("shrink", task)


if __name__ == "__main__":
    main()
