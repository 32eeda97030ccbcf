"""One network on its own: a static subnet with its weights, no longer part of a supernet.

What is fine-tuned, shrunk and exported. The `ofa` package builds such a network from `config`, plain JSON; a
pruned one too, which is in no search space any more.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from supernet import network, spaces
from supernet.space import Genomes, SearchSpace

if TYPE_CHECKING:
    import torch

KIND, VERSION = "subnet", 1


@dataclass(frozen=True, eq=False)
class Subnet:
    """`module` is a MobileNetV3, ProxylessNASNets or ResNets of the `ofa` package, in eval mode, with native
    activations. `facts` is JSON: mean and std of the normalisation, and whatever is known of the weights."""

    architecture: str  # one-line name; of a pruned network, that of the one it came from
    side: int  # input side in pixels
    module: Any
    facts: Mapping[str, Any]

    @property
    def config(self) -> dict[str, Any]:
        """What the `ofa` package builds the network from."""
        return json.loads(json.dumps(self.module.config))

    def with_facts(self, **facts: Any) -> Subnet:
        return replace(self, facts={**self.facts, **facts})

    def save(self, path: Path) -> None:
        """Write weights, config and facts as one `.safetensors`, aside and renamed."""
        from safetensors.torch import save_file

        path.parent.mkdir(parents=True, exist_ok=True)
        header = {"kind": KIND, "version": VERSION, **self.facts}
        header |= {"architecture": self.architecture, "resolution": self.side, "network": self.config}
        aside = path.with_name(path.name + ".part")
        metadata = {"facts": json.dumps(header, sort_keys=True)}
        save_file(tensors(self.module), aside, metadata=metadata)
        with aside.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(aside, path)


def tensors(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The state of a network, ready to be written: on the CPU, in rows."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}


def parse(architecture: str) -> tuple[SearchSpace, Genomes]:
    """The space and the (1, d) genome of a one-line name."""
    space = spaces.get((architecture.split() or [""])[0])
    return space, space.parse([architecture])


def random(architecture: str) -> Subnet:
    """The network of a one-line name with untrained weights, its norms settled on noise."""
    import torch

    space, genome = parse(architecture)
    side = network.resolution(space, genome)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = network.with_native_activations(network.extract(network.supernet(space), space, genome))
    noise = torch.randn((2, 3, side, side), generator=torch.Generator().manual_seed(0))
    facts = {"mean": [0.0] * 3, "std": [1.0] * 3, "weights": "random: nothing was trained"}
    return Subnet(architecture, side, network.settle_norms(module, noise), facts)


def build(config: Mapping[str, Any], state: Mapping[str, torch.Tensor]) -> Any:
    """The network of the `ofa` package with this config and state, in eval mode, with native activations."""
    import torch
    from ofa.imagenet_classification.networks import get_net_by_name

    plain = json.loads(json.dumps(config))  # the package takes it apart while it builds
    module = get_net_by_name(plain["name"]).build_from_config(plain)
    torch.nn.Module.load_state_dict(module, dict(state))
    return network.with_native_activations(module).eval()


def load(path: Path) -> Subnet:
    """The subnet in a file of `save`, or in a folder that holds `subnet.safetensors`.

    ValueError that names the file when it is damaged or something else.
    """
    from safetensors import SafetensorError, safe_open

    path = path / "subnet.safetensors" if path.is_dir() else path
    if not path.is_file():
        raise ValueError(f"no file {path}; expected a {KIND} (.safetensors) of ofa-frontier")
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {})["facts"])
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if (facts.pop("kind"), facts.pop("version")) != (KIND, VERSION):
            raise ValueError("another kind or version")
        architecture, side, config = (facts.pop(key) for key in ("architecture", "resolution", "network"))
        return Subnet(architecture, side, build(config, state), facts)
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError, TypeError, struct.error) as error:
        raise ValueError(
            f"{path} is damaged or no {KIND} of ofa-frontier ({error}); left as it is"
        ) from error
