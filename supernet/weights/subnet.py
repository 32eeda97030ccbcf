"""One network on its own: a static subnet with its weights, no longer part of a supernet.

What is fine-tuned, shrunk and exported. The family of its space builds such a network from `config`, plain
JSON; a pruned one of the OFA families too, which is in no search space any more. All commands take subnets
out of a supernet, calibrate and judge them here, so that they say the same accuracy of the same subnet.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from supernet.arrays import Genomes
from supernet.files import architectures, run_folder
from supernet.space import SearchSpace, get_space
from supernet.weights import family, network, quality
from supernet.weights.images import Images, Part
from supernet.weights.network import Trained
from supernet.weights.quality import Quality

KIND = "subnet"
FILE = run_folder.SUBNET
BATCH = 250  # images of a forward pass in calibration and judging
RESIZE_SMALL = "bilinear, antialiased, to side x side"
RESIZE_PHOTO = "bilinear, the shorter side to 8/7 of side, then the central side x side"


@dataclass(frozen=True, eq=False)
class Subnet:
    """`module` is a network of the space's family, in eval mode. It rests on the CPU; what computes with it
    takes it to a device and back (`placed`). `facts` is JSON: mean and std of the normalisation, and whatever
    is known of the weights."""

    architecture: str  # one-line name; of a pruned network, that of the one it came from
    side: int  # input side in pixels
    module: Any
    facts: Mapping[str, Any]

    @property
    def config(self) -> dict[str, Any]:
        """What the family of its space builds the network from, beside its name."""
        return family.of(parse(self.architecture)[0]).config(self.module)

    def with_facts(self, **facts: Any) -> "Subnet":
        """The same network with more, or other, facts."""
        return replace(self, facts={**self.facts, **facts})

    def with_quality(self, quality: Quality, part: Part) -> "Subnet":
        """The same network with its quality on a part of the images among the facts."""
        return self.with_facts(accuracy={**asdict(quality), "part": part})

    def save(self, path: Path) -> None:
        """Write weights, config and facts as one `.safetensors`."""
        facts = {**self.facts, "architecture": self.architecture, "resolution": self.side}
        facts |= {"family": family.name(parse(self.architecture)[0]), "network": self.config}
        network.save(path, self.module.state_dict(), KIND, facts)


def load(path: Path) -> Subnet:
    """The subnet in a file of `Subnet.save`, or in a folder that holds `subnet.safetensors`.

    ValueError that names the file when it is damaged or something else.
    """
    path = path / FILE if path.is_dir() else path
    state, facts = network.read(path, KIND)
    facts = {key: value for key, value in facts.items() if key not in ("kind", "version")}
    try:
        space, genome = parse(facts.pop("architecture"))
        side, config, name = int(facts.pop("resolution")), facts.pop("network"), space.format(genome)[0]
        if (built_by := facts.pop("family", family.name(space))) != family.name(space):
            raise ValueError(f"{path} is of the family {built_by}; {space.name} is now {family.name(space)}")
        if side != network.resolution(space, genome):
            raise ValueError(f"{path} is damaged: {name} is not of {side} px; left as it is")
        return Subnet(name, side, build(name, config, state), facts)
    except (KeyError, RuntimeError, TypeError) as error:
        raise ValueError(
            f"{path} holds no usable {KIND} ({error}; release 0.1 left some facts out); give another"
        ) from error


def build(architecture: str, config: Mapping[str, Any], state: Mapping[str, torch.Tensor]) -> Any:
    """The network of a one-line name with this config and state, in eval mode."""
    module = untrained(architecture, config)
    torch.nn.Module.load_state_dict(module, dict(state))  # ofa's own renames keys and skips missing ones
    return module


def untrained(architecture: str, config: Mapping[str, Any], seed: int = 0) -> Any:
    """The network of a one-line name with this config, in eval mode, with the weights that a training starts
    from; they follow from the seed."""
    space, genome = parse(architecture)
    owner = space.owner
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = family.of(space).from_config(config, owner, space.embed(genome, owner.name))
    return module.eval()


def parse(architecture: str) -> tuple[SearchSpace, Genomes]:
    """The space and the (1, d) genome of a one-line name."""
    space = get_space((architecture.split() or [""])[0])
    return space, space.parse([architecture])


def random(architecture: str) -> Subnet:
    """The network of a one-line name with untrained weights, its norms settled on noise."""
    space, genome = parse(architecture)
    side = network.resolution(space, genome)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = network.extract(network.supernet(space), space, genome)
    noise = torch.randn((2, 3, side, side), generator=torch.Generator().manual_seed(0))
    facts = {"mean": [0.0] * 3, "std": [1.0] * 3, "weights": "random: nothing was trained"}
    return Subnet(architecture, side, network.settle_norms(module, noise), facts)


def from_supernet(trained: Trained, images: Images, architecture: str, *, calibrate: bool = True) -> Subnet:
    """The subnet of a supernet, its norms calibrated on the calibration images.

    Only to show what that is worth, `calibrate=False` leaves the norms as the supernet has them.
    """
    space, genome = trained.space, architectures.parse([architecture], trained.space)
    space.check_resolutions(genome, trained.resolution, "the supernet")
    facts = {
        "mean": list(trained.facts["mean"]),
        "std": list(trained.facts["std"]),
        "resize": RESIZE_SMALL if images.in_memory else RESIZE_PHOTO,
        "classes": trained.facts["classes"],
        "supernet": trained.sha256,
    }
    labels = trained.facts.get("labels", images.classes)  # those of the weights, where they say them
    if len(labels) == trained.facts["classes"]:
        facts["labels"] = list(labels)
    side = network.resolution(space, genome)
    subnet = Subnet(space.format(genome)[0], side, trained.extract(genome), facts)
    return calibrated(subnet, images) if calibrate else subnet


def largest(trained: Trained, images: Images, side: int) -> Subnet:
    """The largest subnet of a supernet at one input side, which teaches others."""
    space = trained.space
    return from_supernet(trained, images, space.format(network.largest(space.restrict("r", side, side)))[0])


@contextmanager
def placed(module: torch.nn.Module, device: torch.device) -> Iterator[torch.device]:
    """Inside the block the network is on the device, channels last; after it as it rests, on the CPU."""
    module.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    try:
        yield device
    finally:
        module.to(device="cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]


def calibrated(subnet: Subnet, images: Images) -> Subnet:
    """The subnet, its norms set anew (in place) on the calibration images, on the best device here."""
    batches = images.batches("calibration", subnet.side, BATCH)
    with placed(subnet.module, network.best_device()) as device:
        network.calibrate(subnet.module, batches, images.frequencies, device=device)
    return subnet


def judge(subnet: Subnet, images: Images, part: Part, *, count: int | None = None) -> Quality:
    """Quality of a subnet on a part of the images (or its first `count`), on the best device here."""
    batches = images.batches(part, subnet.side, BATCH, images=count)
    with placed(subnet.module, network.best_device()) as device:
        return quality.evaluate(quality.runner(subnet.module, device), batches)
