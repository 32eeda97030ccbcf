"""A subnet as the OFA authors publish specialised networks (github han-cai/files, ofa/ofa_specialized): what
`ofa`'s own `get_net_by_name(name).build_from_config(config)` and `load_state_dict` make a network of.

Three files: `net.config`, `run.config` with the input side, and `init` with the weights, which `torch.load`
reads with `weights_only=True`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ofa.imagenet_classification.networks import get_net_by_name

from supernet.files import artifact, disk
from supernet.spaces.net_config import FILE, RUN
from supernet.weights import family
from supernet.weights import subnet as subnets
from supernet.weights.ofa_families import OfaFamily
from supernet.weights.quality import Run
from supernet.weights.quality import runner as quality_runner
from supernet.weights.subnet import Subnet

WEIGHTS = "init"


def check(subnet: Subnet) -> None:
    """ValueError for a network that the `ofa` package does not build."""
    space, _ = subnets.parse(subnet.architecture)
    if not isinstance(family.of(space), OfaFamily):
        raise ValueError(
            f"formats=net_config is a network of the ofa package; {space.name} is of the family "
            f"{family.name(space)}, which formats=onnx, torch_export and state_dict take"
        )


def write(subnet: Subnet, folder: Path, facts: Mapping[str, Any]) -> tuple[Path, ...]:
    """Write the three files; `run.config` holds, beside `image_size`, what is known of the network."""
    files = tuple(folder / name for name in (FILE, RUN, WEIGHTS))
    artifact.write_text(files[0], json.dumps(subnet.config, indent=4) + "\n")
    artifact.write_text(files[1], json.dumps({"image_size": subnet.side, **facts}, indent=4) + "\n")
    with disk.replacing(files[2]) as file:
        torch.save({"state_dict": subnet.module.state_dict()}, file)
    return files


def runner(path: Path) -> Run:
    """The network in the folder of this `net.config`, as the `ofa` package builds it."""
    config = json.loads(path.read_text())
    network = get_net_by_name(config["name"]).build_from_config(config)
    network.load_state_dict(torch.load(path.with_name(WEIGHTS), weights_only=True)["state_dict"])
    return quality_runner(network.eval())
