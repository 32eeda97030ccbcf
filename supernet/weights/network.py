"""The networks behind genomes, built by the family of their space (`supernet.weights.family`): with random
weights, with weights trained here (`supernet.training.train`) or with those that the OFA authors published.

Batch norm is always calibrated anew for a subnet: the statistics that a supernet gathers in training are a
mixture over all subnets that were sampled, right for none of them.
"""

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.modules.batchnorm import _BatchNorm

from supernet.arrays import Genomes
from supernet.files import artifact, run_folder
from supernet.space import SearchSpace, get_space
from supernet.weights import family
from supernet.weights.images import check_mixed

KIND = "supernet"
FILE = run_folder.SUPERNET


def best_device() -> torch.device:
    """The GPU of this process (LOCAL_RANK of `torchrun`) where there is one, else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def supernet(space: SearchSpace, classes: int | None = None) -> Any:
    """The weight-sharing network of a space, as its family builds it, with the weights of an untrained one.

    `classes` defaults to that of the space's layer table.
    """
    owner = replace(space.owner, restricted=())
    return family.of(space).build(owner, owner.classes if classes is None else classes)


def largest(space: SearchSpace) -> Genomes:
    """(1, d) the largest network that sampling allows, without fine-tuning."""
    return space.network(space.extremes()[1:])


def smallest(space: SearchSpace) -> Genomes:
    """(1, d) the smallest network that sampling allows, without fine-tuning."""
    return space.network(space.extremes()[:1])


def _check_one(space: SearchSpace, genome: Genomes) -> None:
    space.check(genome)
    if len(genome) != 1:
        raise ValueError(f"one genome at a time, got {len(genome)}; pass genomes[i : i + 1]")


def set_active(network: Any, space: SearchSpace, genome: Genomes) -> None:
    """Make the supernet compute the (1, d) genome: nothing is copied, and training it trains the supernet."""
    _check_one(space, genome)
    owner = space.owner
    family.of(space).activate(network, owner, space.embed(genome, owner.name))


def extract(network: Any, space: SearchSpace, genome: Genomes) -> torch.nn.Module:
    """The static network of the (1, d) genome, with a copy of its share of the supernet's weights, in eval
    mode."""
    _check_one(space, genome)
    owner = space.owner
    return family.of(space).extract(network, owner, space.embed(genome, owner.name)).eval()


def resolution(space: SearchSpace, genome: Genomes) -> int:
    """Input side in pixels of the (1, d) genome."""
    return int(np.asarray(space.column(genome, "r"))[0])


def settle_norms(subnet: torch.nn.Module, images: torch.Tensor) -> torch.nn.Module:
    """The subnet with batch norms set to the statistics of these (n, 3, side, side) images, in eval mode.

    With random weights the activations of a deep network would otherwise fade to denormal numbers, which
    are slow, and an int8 engine would find no range to calibrate on.
    """
    return _with_statistics(subnet, [images], None)


def calibrate(
    subnet: torch.nn.Module,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    frequencies: NDArray[np.float64],
    *,
    device: torch.device | None = None,
) -> torch.nn.Module:
    """The subnet with batch norms set to the mean statistics of these batches of (images, labels), in eval
    mode. It is on `device` (the CPU by default); `frequencies` (c,) are the shares of the classes in the
    training set.

    The statistics are OFA's: means over the images, of the biased variance. Without them subnets lose a lot
    (CIFAR-10, 30 subnets: median 59.9 instead of 68.4%, the smallest 32.7 instead of 67.0%; `python -m
    benchmarks.supernet judge`).
    ValueError for batches that are ordered by class, which cost 10 points.
    """

    def mixed() -> Iterable[torch.Tensor]:
        for images, labels in batches:
            check_mixed(labels.numpy(), frequencies)
            yield images

    return _with_statistics(subnet, mixed(), device)


def _with_statistics(
    subnet: torch.nn.Module, batches: Iterable[torch.Tensor], device: torch.device | None
) -> torch.nn.Module:
    """The subnet with the mean statistics of what its norms see of these (b, 3, side, side) images."""
    norms = {name: m for name, m in subnet.named_modules() if isinstance(m, _BatchNorm)}
    usual = {norm: norm.momentum for norm in norms.values()}
    sums: dict[torch.nn.Module, torch.Tensor] = {}
    seen: Counter[torch.nn.Module] = Counter()  # images, or what a norm sees in their place

    def watch(norm: Any, inputs: tuple[torch.Tensor, ...], _: torch.Tensor) -> None:
        maps = inputs[0]
        values = maps.numel() / maps.shape[1]  # of each channel
        variance = norm.running_var.double() * (1 - 1 / values)  # biased, as OFA takes it
        weighted = torch.stack([norm.running_mean.double(), variance]) * len(maps)
        sums[norm] = sums[norm] + weighted if norm in sums else weighted
        seen[norm] += len(maps)

    hooks = [norm.register_forward_hook(watch) for norm in usual]
    try:
        subnet.train()
        for norm in usual:
            norm.momentum = 1.0  # the running statistics are those of the last batch
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked.zero_()  # what a training counted depends on its processes
        with torch.no_grad():
            for images in batches:
                subnet(images.to(device))
    finally:
        for hook, (norm, momentum) in zip(hooks, usual.items(), strict=True):
            hook.remove()
            norm.momentum = momentum
    if unseen := [name for name, norm in norms.items() if norm not in sums]:
        raise ValueError(
            f"the norm {unseen[0]} was not called, so it cannot be calibrated: a network on its own has no "
            "norm that it does not use, and calls those that it has as modules"
        )
    for norm in usual:
        mean, variance = sums[norm] / seen[norm]
        norm.running_mean.copy_(mean)  # type: ignore[union-attr]
        norm.running_var.copy_(variance)  # type: ignore[union-attr]
    return subnet.eval()


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
        """The static subnet of the (1, d) genome, not yet calibrated."""
        return extract(self.module, self.space, genome)


def save(path: Path, tensors: Mapping[str, torch.Tensor], kind: str, facts: Mapping[str, Any]) -> None:
    """Write tensors and JSON facts as one `.safetensors`: the same content, the same bytes."""
    arrays = {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}
    artifact.save(path, kind, arrays, facts)


def read(path: Path, kind: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """(tensors, facts) of a file of `save`; ValueError that names it when it is damaged or something else, or
    when a weight is no finite number."""
    arrays, facts = artifact.load(path, kind)
    artifact.check_finite(arrays, path)
    return {name: torch.from_numpy(array) for name, array in arrays.items()}, facts


def load(path: str | Path) -> Trained:
    """A supernet trained here: its file, or the run folder that holds it."""
    path = Path(path)
    if path.is_dir():
        if not (path / FILE).is_file():
            raise ValueError(f'{path} holds no finished supernet: go on with make train ARGS="out={path}"')
        path = path / FILE
    elif not path.exists():
        raise ValueError(f"there is no {path}: name the run folder of make train (out= of it)")
    tensors, facts = read(path, KIND)
    with artifact.usable(path, KIND):
        space, classes = get_space(facts["space"]), int(facts["classes"])
        low, high = map(int, facts["resolution"])
        mean, std = ([float(value) for value in facts.get(name, (1, 1, 1))] for name in ("mean", "std"))
        if not (0 < low <= high and len(mean) == len(std) == 3 and min(std) > 0):
            raise ValueError("resolution, mean and std of its images are not those of images")
        # Before a network of any size is built.
        if not any(classes in tensor.shape for tensor in tensors.values()):
            raise ValueError(f"no tensor is of {classes} classes")
        module = supernet(space, classes)
    fill(module, tensors, path)
    return Trained(space, module, facts, artifact.checksum(path))


def fill(module: Any, tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Copy tensors into a network; ValueError unless names and shapes are all the same."""
    own = module.state_dict()
    wrong = sorted({*own} ^ {*tensors}) or [k for k, v in own.items() if v.shape != tensors[k].shape]
    if wrong:
        raise ValueError(
            f"the weights in {path} are of another network: {len(wrong)} of {len(own)} tensors differ, the "
            f"first is {wrong[0]}; left as it is, give another"
        )
    torch.nn.Module.load_state_dict(module, dict(tensors))  # ofa's own renames keys and skips missing ones
