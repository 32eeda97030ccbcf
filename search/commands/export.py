"""Write a subnet for other programs: `make export ARGS="architecture='...' weights=runs/mine out=phone"`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from latency.measuring.store import Store
from latency.zoo.deployed import latency
from search import command
from supernet import registry
from supernet.deploy import export
from supernet.weights import subnet as subnets


def task(config: dict[str, Any]) -> None:
    import torch

    torch.set_num_threads(1)
    with Console().status("loading"):
        data = registry.build(config.get("data"))
        subnet = subnets.find(config["weights"], config["architecture"], data)
    if config.get("target") is not None:
        target = registry.build(config["target"])
        with Console().status("timing") as status, Store(config["store"]) as store:
            found = latency(target, {subnet.architecture: subnet}, store=store, watch=command.watcher(status))
        subnet = subnet.with_facts(latency=found[subnet.architecture])
    with Console().status("exporting"):
        written = export.export(subnet, Path(config["out"]), config["formats"])
    print(subnet.architecture)
    for name, one in written.items():
        size = f"{one.file_bytes / 1e6:.2f} MB"
        print(f"{name:13} {size:>9}  logits within {one.difference:.0e} of the network's: {one.path}")


def main() -> None:
    command.run("export", task)
