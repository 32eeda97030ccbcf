"""The networks behind genomes, built by the `ofa` package's own elastic classes: with random weights, with
weights trained here (`supernet.training.train`) or with those that the OFA authors published.

Batch norm is always calibrated anew for a subnet: the statistics that a supernet gathers in training are a
mixture over all subnets that were sampled, right for none of them.
"""

from __future__ import annotations

import pickle
import urllib.error
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from supernet.arrays import Genomes
from supernet.files import artifact
from supernet.registry import unknown_name
from supernet.space import SearchSpace, get_space
from supernet.spaces import mobile, ofa_resnet50
from supernet.weights.images import IMAGENET_MEAN, IMAGENET_STD, check_mixed

if TYPE_CHECKING:
    import torch

FAMILIES = ("ofa_mbv3", "ofa_proxyless", "ofa_resnet50", "ofa_small")
KIND = "supernet"
_GITHUB = "https://raw.githubusercontent.com/han-cai/files/master/ofa/ofa_nets/"
PUBLISHED: Mapping[
    str, tuple[str, ...]
] = {  # space: mirrors of the checkpoint that the OFA authors published
    "ofa_mbv3_w1.0": (f"{_GITHUB}ofa_mbv3_d234_e346_k357_w1.0",),
    "ofa_mbv3_w1.2": (f"{_GITHUB}ofa_mbv3_d234_e346_k357_w1.2",),
    "ofa_proxyless_w1.3": (f"{_GITHUB}ofa_proxyless_d234_e346_k357_w1.3",),
    "ofa_resnet50": ("https://drive.google.com/uc?export=download&id=1xy6VIPEHXqbbqNu3xEZUxhp5FbTVs5cQ",),
}


def supernet(space: SearchSpace, classes: int | None = None) -> Any:
    """The weight-sharing network of an OFA space, a module of the `ofa` package with random weights.

    `classes` defaults to that of the space's layer table. Its `set_active_subnet` checks nothing: use
    `set_active`.
    """
    from ofa.imagenet_classification.elastic_nn.networks import (
        OFAMobileNetV3,
        OFAProxylessNASNets,
        OFAResNets,
    )

    owner = space if space.parent is None else space.parent
    family, _, width = owner.name.partition("_w")
    if family not in FAMILIES:
        raise unknown_name("family of the ofa package", family, FAMILIES)
    classes = classes_of(owner) if classes is None else classes
    if family == "ofa_small":
        from supernet.weights.small_mobilenet import SmallMobileNetV3

        return SmallMobileNetV3(classes)
    if family == "ofa_resnet50":
        return OFAResNets(
            n_classes=classes,
            depth_list=[0, 1, 2],
            expand_ratio_list=[percent / 100 for percent in ofa_resnet50.EXPAND_PERCENT],
            width_mult_list=[percent / 100 for percent in ofa_resnet50.WIDTH_PERCENT],
        )
    network = OFAMobileNetV3 if family == "ofa_mbv3" else OFAProxylessNASNets
    return network(
        n_classes=classes,
        dropout_rate=0,
        width_mult=float(width),
        ks_list=list(mobile.KERNELS),
        expand_ratio_list=list(mobile.EXPANDS),
        depth_list=list(mobile.DEPTHS),
    )


def classes_of(space: SearchSpace) -> int:
    """Outputs of the last layer in the layer table of a space."""
    return int(space.layers(space.canonical(np.ones((1, space.d), np.int8))).cout[0, -1])


def largest(space: SearchSpace) -> Genomes:
    """(1, d) the largest network that sampling allows, without fine-tuning."""
    return space.network(space.canonical(space.allowed[None, :, 1].astype(np.int8)))


def smallest(space: SearchSpace) -> Genomes:
    """(1, d) the smallest network that sampling allows, without fine-tuning."""
    return space.network(space.canonical(space.allowed[None, :, 0].astype(np.int8)))


def set_active(network: Any, space: SearchSpace, genome: Genomes) -> None:
    """Make the supernet compute the (1, d) genome: nothing is copied, and training it trains the supernet."""
    space.check(genome)
    if len(genome) != 1:
        raise ValueError(f"one genome at a time, got {len(genome)}; pass genomes[i : i + 1]")
    network.set_active_subnet(**space.settings(genome)[0])


def extract(network: Any, space: SearchSpace, genome: Genomes) -> torch.nn.Module:
    """The static network of the (1, d) genome, with a copy of its share of the supernet's weights, in eval
    mode."""
    set_active(network, space, genome)
    subnet: torch.nn.Module = network.get_active_subnet(preserve_weight=True)
    return subnet.eval()


def resolution(space: SearchSpace, genome: Genomes) -> int:
    """Input side in pixels of the (1, d) genome."""
    return int(np.asarray(space.column(genome, "r"))[0])


def settle_norms(subnet: torch.nn.Module, images: torch.Tensor) -> torch.nn.Module:
    """The subnet with batch norms set to the statistics of these (n, 3, side, side) images, in eval mode.

    With random weights the activations of a deep network would otherwise fade to denormal numbers, which
    are slow, and an int8 engine would find no range to calibrate on.
    """
    import torch

    norms = [module for module in subnet.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0  # the statistics of this batch replace the old ones
    with torch.no_grad():
        subnet.train()(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return subnet.eval()


def calibrate(
    subnet: torch.nn.Module,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    frequencies: NDArray[np.float64],
    *,
    device: str = "cpu",
) -> torch.nn.Module:
    """The subnet with batch norms set to the mean statistics of these batches of (images, labels), in eval
    mode. `frequencies` (c,) are the shares of the classes in the training set.

    Without it subnets lose a lot (CIFAR-10, 30 subnets: median 59.9 instead of 68.4%, the smallest 32.7
    instead of 67.0%; `python -m benchmarks.supernet judge`).
    ValueError for batches that are ordered by class, which cost 10 points.
    """
    import torch
    from torch.optim.swa_utils import update_bn

    def mixed() -> Iterable[torch.Tensor]:
        for images, labels in batches:
            check_mixed(labels.numpy(), frequencies)
            yield images

    update_bn(mixed(), subnet.to(device), torch.device(device))
    return subnet.eval()


def count_correct(
    subnet: torch.nn.Module,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    *,
    device: str = "cpu",
) -> tuple[int, int]:
    """How many of the images the subnet classifies correctly, and how many there are."""
    import torch

    subnet = subnet.to(device=device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    correct = total = 0
    with torch.inference_mode():
        for images, labels in batches:
            guess = subnet(images.to(device)).argmax(dim=1).cpu()
            correct += int((guess == labels).sum())
            total += len(labels)
    return correct, total


def with_native_activations(subnet: Any) -> Any:
    """The network, changed in place, with the operators Hardswish and Hardsigmoid instead of the `ofa`
    package's written-out relu6(x + 3) / 6: bit-identical, and a single node for every engine."""
    import torch
    from ofa.utils.pytorch_modules import Hsigmoid, Hswish

    native = {Hswish: torch.nn.Hardswish, Hsigmoid: torch.nn.Hardsigmoid}
    for parent in list(subnet.modules()):
        for name, child in list(parent.named_children()):
            if type(child) in native:
                setattr(parent, name, native[type(child)]())
    return subnet


# ---------------------------------------------------------------------- weights
@dataclass(frozen=True, eq=False)
class Trained:
    """A supernet with its weights, and what is known of them. `sha256` is that of the file."""

    space: SearchSpace
    module: Any
    facts: Mapping[str, Any]  # classes, resolution (lowest, highest), mean, std; data, recipe of our own
    sha256: str

    @property
    def resolution(self) -> tuple[int, int]:
        low, high = self.facts["resolution"]
        return int(low), int(high)

    def extract(self, genome: Genomes) -> torch.nn.Module:
        """The static subnet of the (1, d) genome with native activations, not yet calibrated."""
        subnet: torch.nn.Module = with_native_activations(extract(self.module, self.space, genome))
        return subnet


def save(path: Path, tensors: Mapping[str, torch.Tensor], kind: str, facts: Mapping[str, Any]) -> None:
    """Write tensors and JSON facts as one `.safetensors`: the same content, the same bytes."""
    artifact.save(
        path, kind, {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}, facts
    )


def read(path: Path, kind: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """(tensors, facts) of a file of `save`; ValueError that names it when it is damaged or something else."""
    import torch

    arrays, facts = artifact.load(path, kind)
    return {name: torch.from_numpy(array) for name, array in arrays.items()}, facts


def load(path: str | Path) -> Trained:
    """A supernet trained here: its file, or the run folder that holds it."""
    path = Path(path)
    if path.is_dir():
        if not (path / "supernet.safetensors").is_file():
            raise ValueError(f'{path} holds no finished supernet: go on with make train ARGS="out={path}"')
        path = path / "supernet.safetensors"
    elif not path.exists():
        raise ValueError(f"there is no {path}: name the run folder of make train (out= of it)")
    tensors, facts = read(path, KIND)
    space = get_space(facts["space"])
    module = supernet(space, int(facts["classes"]))
    fill(module, tensors, path)
    return Trained(space, module, facts, artifact.checksum(path))


def fill(module: Any, tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Copy tensors into a network; ValueError unless names and shapes are all the same."""
    import torch

    own = module.state_dict()
    wrong = sorted({*own} ^ {*tensors}) or [k for k, v in own.items() if v.shape != tensors[k].shape]
    if wrong:
        raise ValueError(
            f"the weights in {path} are of another network: {len(wrong)} of {len(own)} tensors differ, the "
            f"first is {wrong[0]}"
        )
    torch.nn.Module.load_state_dict(module, dict(tensors))  # ofa's own renames keys and skips missing ones


def published(
    name: str,
    *,
    path: Path | None = None,
    mirrors: Sequence[str] | None = None,
    sha256: str | None = None,
    folder: Path | None = None,
) -> Trained:
    """The ImageNet supernet of the OFA authors for the space `name`, from `path`, or from the first mirror
    that answers (kept in `folder`, default ~/.cache/ofa-frontier).

    Their checkpoints are pickles: only tensors are read from them (`weights_only`). No checksum of them is
    published; with `sha256` the file must match.
    """
    import torch

    if name not in PUBLISHED:
        raise unknown_name("published supernet", name, PUBLISHED)
    if path is None:
        path = fetch(PUBLISHED[name] if mirrors is None else mirrors, sha256=sha256, folder=folder)
    elif not path.is_file():
        raise ValueError(f"no file {path} with the weights of {name}")
    found = artifact.checksum(path)
    if sha256 is not None and found != sha256:
        raise ValueError(
            f"{path} has the SHA-256 {found}, expected {sha256}: not the checkpoint that was meant"
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} is no checkpoint that can be read safely ({error})") from error
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    space = get_space(name)
    module = supernet(space)
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise ValueError(f"{path} holds no weights: expected a dict of tensors, or one under 'state_dict'")
    if len(state) != len(module.state_dict()):
        raise ValueError(
            f"{path} holds {len(state)} tensors, {name} has {len(module.state_dict())}: another network"
        )
    try:
        module.load_state_dict(state)
    except (AssertionError, ValueError, RuntimeError, KeyError) as error:
        raise ValueError(f"the weights in {path} are not those of {name} ({error})") from error
    sides = space.axis("r").values
    facts = {
        "space": name,
        "classes": classes_of(space),
        "resolution": [sides[0], sides[-1]],
        "mean": list(IMAGENET_MEAN),
        "std": list(IMAGENET_STD),
        "source": "published by the OFA authors (github mit-han-lab/once-for-all)",
    }
    return Trained(space, module, facts, found)


def fetch(
    mirrors: Sequence[str],
    *,
    sha256: str | None = None,
    folder: Path | None = None,
    download: Callable[..., None] | None = None,
) -> Path:
    """The file that one of the mirrors serves, downloaded once into `folder`; ValueError that says how to go
    on without a network."""
    import torch

    folder = Path.home() / ".cache" / "ofa-frontier" if folder is None else folder
    path = folder / mirrors[0].rstrip("/").rpartition("/")[2].replace("?", "_").replace("&", "_")
    if path.is_file():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    failures = []
    for url in mirrors:
        try:
            (download or torch.hub.download_url_to_file)(url, str(path), sha256, progress=False)
        except (urllib.error.URLError, OSError, RuntimeError) as error:  # RuntimeError: another checksum
            failures.append(f"{url}: {error}")
        else:
            return path
    raise ValueError(
        f"no mirror served {path.name}:\n  " + "\n  ".join(failures) + "\nWithout a network: download it "
        f"elsewhere and copy it to {path}, or give its path"
    )
