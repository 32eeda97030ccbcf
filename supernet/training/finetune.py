"""Train one subnet further, or from scratch, and measure what that costs.

The subnet is extracted, so it no longer shares weights; with distillation it learns the labels and the
outputs of the supernet's largest subnet. The measured cost is set against what `training_cost` predicts.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat
from torch.nn.functional import cross_entropy, softmax

from supernet.arrays import Genomes
from supernet.options import AtLeastTwo, FractionBelowOne, options
from supernet.training.depthwise import SmallMaps
from supernet.training.step import DivergedError, Processes, begin, momentum, rate_at, restore_momentum, sgd
from supernet.weights import network
from supernet.weights import subnet as subnets
from supernet.weights.images import Epoch, Images, training_batches
from supernet.weights.network import Trained
from supernet.weights.quality import Quality
from supernet.weights.subnet import Subnet

CHECKPOINT_KIND = "fine-tuning checkpoint"
Watch = Callable[[int, float], None]  # epochs done, and the loss of the last


@options
class FineTuning:
    """The recipe of one subnet. OFA's own: 25 or 75 epochs at a low learning rate, from the supernet."""

    epochs: NonNegativeInt = 25
    from_scratch: bool = False  # without the weights of the supernet
    distil: bool = True  # learn the outputs of the largest subnet as well
    batch: AtLeastTwo = 64
    rate: PositiveFloat = 0.01
    momentum: FractionBelowOne = 0.9
    weight_decay: NonNegativeFloat = 1e-4
    label_smoothing: FractionBelowOne = 0.1
    seed: int = 0


@dataclass(frozen=True)
class Progress:
    """Who is told of each epoch, and the file that lets an interrupted training go on after the last one it
    saved. It is written when the last is older than `seconds`, and removed when the training is finished."""

    watch: Watch | None = None
    checkpoint: Path | None = None
    seconds: float = 30.0


NO_PROGRESS = Progress()


@dataclass(frozen=True, eq=False)
class FineTuned:
    """The trained subnet, calibrated, and what its training took. Qualities are of the test images."""

    subnet: Subnet
    before: Quality  # as it comes out of the supernet, calibrated
    after: Quality
    epoch_seconds: tuple[float, ...]  # CPU time of the process on a CPU, wall time on a GPU
    loss: float  # of the last epoch

    @property
    def hours(self) -> float:
        """Device-hours of all epochs: hours of one CPU thread, or of the GPU."""
        return sum(self.epoch_seconds) / 3600


def energy_kwh(hours: float, watts: float) -> float:
    """Energy of device-hours at a stated power: a model, nothing is measured."""
    return hours * watts / 1000


def fine_tune(
    trained: Trained,
    images: Images,
    genome: Genomes,
    recipe: FineTuning,
    group: Processes,
    progress: Progress = NO_PROGRESS,
) -> FineTuned:
    """Train the subnet of a (1, d) genome by the recipe, at its own resolution and on one process.

    It starts from the supernet's weights unless the recipe says `from_scratch`.

    >>> genome = trained.space.parse(["ofa_small r16 d1-1-1 k3-3-3 e2-2-2 ft0"])
    >>> with processes() as group:
    ...     after = fine_tune(trained, images, genome, FineTuning(epochs=5), group).after
    """
    subnet = subnets.from_supernet(trained, images, trained.space.format(genome)[0])
    before = subnets.judge(subnet, images, "test")
    subnet, seconds, loss = train_further(subnet, trained, images, recipe, group, progress)
    after = subnets.judge(subnet, images, "test")
    return FineTuned(subnet.with_quality(after, "test"), before, after, seconds, loss)


def train_further(
    subnet: Subnet,
    trained: Trained,
    images: Images,
    recipe: FineTuning,
    group: Processes,
    progress: Progress = NO_PROGRESS,
) -> tuple[Subnet, tuple[float, ...], float]:
    """Train a subnet of the supernet by the recipe, in place unless from scratch, and calibrate it.

    Returns the subnet, the seconds of each epoch and the loss of the last.
    """
    if recipe.from_scratch:
        new = subnets.untrained(subnet.architecture, subnet.config, recipe.seed)
        subnet = replace(subnet, module=new)
    teacher = subnets.largest(trained, images, subnet.side).module if recipe.distil else None
    seconds, loss = train_alone(subnet, images, recipe, group, teacher=teacher, progress=progress)
    return subnets.calibrated(subnet, images), seconds, loss


def train_alone(
    subnet: Subnet,
    images: Images,
    recipe: FineTuning,
    group: Processes,
    *,
    teacher: torch.nn.Module | None = None,
    progress: Progress = NO_PROGRESS,
) -> tuple[tuple[float, ...], float]:
    """Train a network in place by the recipe, with the outputs of `teacher` as a second target; both are on
    the device of the group meanwhile.

    Returns the seconds of each epoch and the loss of the last.
    """
    clock = time.process_time if group.device.type == "cpu" else time.perf_counter
    with ExitStack() as stack:
        for module in filter(None, (subnet.module, teacher)):
            stack.enter_context(subnets.placed(module, group.device))
        optimiser = sgd(subnet.module, recipe.rate, recipe.momentum, recipe.weight_decay)
        seconds, loss = _resumed(subnet, recipe, optimiser, progress.checkpoint)
        saved = time.monotonic()
        for epoch in range(len(seconds), recipe.epochs):
            started = clock()
            loss = _train_epoch(subnet, images, recipe, optimiser, epoch, teacher)
            seconds.append(clock() - started)
            if progress.checkpoint is not None and time.monotonic() - saved >= progress.seconds:
                facts = {"of": _training(subnet, recipe), "seconds": seconds, "loss": loss}
                _save(subnet.module, optimiser, progress.checkpoint, facts)
                saved = time.monotonic()
            if progress.watch is not None:
                progress.watch(epoch + 1, loss)
    if progress.checkpoint is not None:
        progress.checkpoint.unlink(missing_ok=True)
    return tuple(seconds), loss


def _training(subnet: Subnet, recipe: FineTuning) -> dict[str, Any]:
    """What a checkpoint must be of to go on from."""
    return {"architecture": subnet.architecture, "supernet": subnet.facts.get("supernet"), **asdict(recipe)}


def _save(module: Any, optimiser: torch.optim.Optimizer, path: Path, facts: Mapping[str, Any]) -> None:
    parts = {"model": module.state_dict(), "momentum": momentum(module, optimiser)}
    tensors = {f"{part}.{name}": tensor for part, held in parts.items() for name, tensor in held.items()}
    network.save(path, tensors, CHECKPOINT_KIND, facts)


def _resumed(
    subnet: Subnet, recipe: FineTuning, optimiser: torch.optim.Optimizer, path: Path | None
) -> tuple[list[float], float]:
    """The seconds of the epochs that a checkpoint holds, whose state the subnet and the optimiser take over,
    and the loss of the last; none without a checkpoint."""
    if path is None or not path.is_file():
        return [], float("nan")
    tensors, facts = network.read(path, CHECKPOINT_KIND)
    if facts["of"] != _training(subnet, recipe):
        raise ValueError(f"{path} is of another training; left as it is, choose another out=")
    parts: dict[str, dict[str, torch.Tensor]] = {"model": {}, "momentum": {}}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        parts[part][rest] = tensor
    network.fill(subnet.module, parts["model"], path)
    restore_momentum(subnet.module, optimiser, parts["momentum"])
    return list(facts["seconds"]), float(facts["loss"])


def _train_epoch(
    subnet: Subnet,
    images: Images,
    recipe: FineTuning,
    optimiser: torch.optim.Optimizer,
    epoch: int,
    teacher: torch.nn.Module | None,
) -> float:
    """Train for one epoch where the network is; returns the mean loss."""
    loader = training_batches(images, Epoch(recipe.seed, epoch, recipe.batch, recipe.batch, (subnet.side,)))
    if not len(loader):
        raise ValueError(f"batch={recipe.batch} is more than the {len(images.parts['train'])} images")
    device = next(subnet.module.parameters()).device
    total = 0.0
    subnet.module.train()
    for step, (pictures, labels) in enumerate(loader):
        pictures, labels = pictures.to(device), labels.to(device)
        rate = recipe.rate * rate_at(epoch * len(loader) + step, recipe.epochs * len(loader))
        begin(optimiser, rate)
        with SmallMaps():
            logits = subnet.module(pictures)
        loss = cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
        if teacher is not None:
            with torch.no_grad():
                soft = softmax(teacher(pictures), dim=1)
            loss = loss + cross_entropy(logits, soft)
        if not torch.isfinite(loss):
            raise DivergedError(
                f"the loss became NaN or infinite in step {step + 1} of epoch {epoch + 1} at a rate "
                f"of {rate:.3g}; nothing was written. Start again with a lower rate="
            )
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        total += float(loss.detach())
    return total / len(loader)
