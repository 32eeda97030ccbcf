"""Train one subnet further, or from scratch, and measure what that costs.

The subnet is extracted, so it no longer shares weights; with distillation it learns the labels and the
outputs of the supernet's largest subnet. The measured cost is set against what `training_cost` predicts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as checked_dataclass

from supernet.arrays import Genomes
from supernet.training.train import DivergedError, Processes, evaluate, rate_at, sgd
from supernet.weights import network
from supernet.weights.images import Images, training_batches
from supernet.weights.network import Trained

if TYPE_CHECKING:
    import torch


@checked_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class FineTuning:
    """The recipe of one subnet. OFA's own: 25 or 75 epochs at a low learning rate, from the supernet."""

    epochs: Annotated[int, Field(ge=0)] = 25
    from_scratch: bool = False
    distil: bool = True
    batch: Annotated[int, Field(ge=2)] = 64
    rate: Annotated[float, Field(gt=0)] = 0.01
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    seed: int = 0


@dataclass(frozen=True, eq=False)
class FineTuned:
    """The trained subnet, calibrated, and what its training took. Accuracies are of the test images."""

    subnet: torch.nn.Module
    before: float  # top-1 as it comes out of the supernet, calibrated
    after: float
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
    watch: Callable[[int, float], None] | None = None,
) -> FineTuned:
    """Train the (1, d) genome's subnet by the recipe at its own resolution, on one process."""
    import torch

    side = network.resolution(trained.space, genome)
    device = str(group.device)
    last: Any = torch.channels_last
    subnet = trained.extract(genome).to(device=group.device, memory_format=last)  # type: ignore[call-overload]
    correct, total = evaluate(subnet, images, side, "test", group)
    before = correct / total
    if recipe.from_scratch:
        from ofa.utils.my_modules import init_models

        with torch.random.fork_rng():
            torch.manual_seed(recipe.seed)
            init_models(subnet, "he_fout")
    teacher = None
    if recipe.distil:
        biggest = network.largest(trained.space.restrict("r", side, side))
        teacher = trained.extract(biggest).to(device=group.device, memory_format=last)  # type: ignore[call-overload]
        batches = images.batches("calibration", side, 256)
        network.calibrate(teacher, batches, images.frequencies, device=device)
    seconds, loss = train_alone(subnet, images, side, recipe, group, teacher=teacher, watch=watch)
    correct, total = evaluate(subnet, images, side, "test", group)
    return FineTuned(subnet, before, correct / total, seconds, loss)


def train_alone(
    subnet: torch.nn.Module,
    images: Images,
    side: int,
    recipe: FineTuning,
    group: Processes,
    *,
    teacher: torch.nn.Module | None = None,
    watch: Callable[[int, float], None] | None = None,
) -> tuple[tuple[float, ...], float]:
    """Train a network in place by the recipe, with the outputs of `teacher` as a second target.

    Returns the seconds of each epoch and the loss of the last.
    """
    import torch
    from torch.nn.functional import cross_entropy, softmax

    from supernet.training.depthwise import SmallMaps

    optimiser = sgd(subnet, recipe.rate, recipe.momentum, recipe.weight_decay)
    clock = time.process_time if group.device.type == "cpu" else time.perf_counter
    seconds: list[float] = []
    loss_of_epoch = float("nan")
    for epoch in range(recipe.epochs):
        started = clock()
        plan: dict[str, Any] = dict(batch=recipe.batch, forward_batch=recipe.batch, sides=(side,))
        loader = training_batches(images, seed=recipe.seed, epoch=epoch, **plan)
        if not len(loader):
            raise ValueError(f"batch={recipe.batch} is more than the {len(images.parts['train'])} images")
        summed = 0.0
        subnet.train()
        for step, (pictures, labels) in enumerate(loader):
            pictures, labels = pictures.to(group.device), labels.to(group.device)
            rate = recipe.rate * rate_at(epoch * len(loader) + step, recipe.epochs * len(loader))
            for settings in optimiser.param_groups:
                settings["lr"] = rate
            with SmallMaps():
                logits = subnet(pictures)
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
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            summed += float(loss.detach())
        loss_of_epoch = summed / len(loader)
        seconds.append(clock() - started)
        if watch is not None:
            watch(epoch + 1, loss_of_epoch)
    return tuple(seconds), loss_of_epoch
