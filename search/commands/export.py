"""Write a subnet for other programs: `make export ARGS="architecture='...' weights=runs/mine out=phone"`."""

from dataclasses import field
from pathlib import Path
from typing import Any

from rich.console import Console

from latency.measuring.store import Store
from latency.zoo.deployed import latency
from search import command, front_table
from supernet import registry
from supernet.deploy import export
from supernet.files.command_line import then
from supernet.weights.origins import origin


@command.options
class Options:
    """What `make export` takes."""

    # run folder of make train, subnet folder of make finetune, checkpoint of the OFA authors, or random
    weights: str
    # one-line name, RUN:best@20ms, RUN:best or RUN:knee of a finished search, or path of a net.config; a
    # subnet folder names its own
    architecture: str | None = None
    # also net_config (the ofa package's own form), openvino, executorch
    formats: list[str] = field(default_factory=lambda: ["onnx", "torch_export", "state_dict"])
    out: Path  # folder
    target: command.Node | None = None  # its latency goes into the files; here: timed now
    data: command.Node | None = None  # images to calibrate the norms of published weights on
    store: Path = Path("runs/measurements.sqlite")


@command.named("export")
def main(options: Options, config: dict[str, Any]) -> None:
    import torch

    torch.set_num_threads(1)
    architecture = None if options.architecture is None else front_table.architecture(options.architecture)
    with Console().status("loading"):
        data = registry.build(options.data)
        subnet = origin.subnet(options.weights, architecture, data)
    if options.target is not None:
        target = registry.build(options.target)
        with Console().status("timing") as status, Store(options.store) as store:
            timed = latency(target, {subnet.architecture: subnet}, store=store, watch=command.watcher(status))
        subnet = subnet.with_facts(latency=timed[subnet.architecture])
    with Console().status("exporting"):
        written = export.export(subnet, options.out, options.formats)
    print(subnet.architecture)
    for name, one in written.items():
        size = f"{one.file_bytes / 1e6:.2f} MB"
        print(f"{name:13} {size:>9}  logits within {one.difference:.0e} of the network's: {one.path}")
    print(then("measure", names=subnet.architecture))
