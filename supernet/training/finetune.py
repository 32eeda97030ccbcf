"""Train one subnet further, or from scratch, by one process or many, and measure what that costs.

The subnet is extracted, so it no longer shares weights; with a teacher it learns the labels and the teacher's
outputs. The measured cost is set against what `training_cost` predicts.

Everything random follows from (seed, epoch, step), and a checkpoint holds the place in the epoch, so a
training that was killed at any step ends in the same weights, bit by bit on a CPU. A step's batch is cut into
forward passes, which the processes of `torchrun` take in turn; with frozen norms neither changes anything but
the rounding.
"""

import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator

from supernet.arrays import Genomes
from supernet.files import artifact, disk
from supernet.options import (
    AtLeastTwo,
    FractionBelowOne,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    options,
)
from supernet.training.step import OPTIMISERS, Amp, DivergedError, Processes, begin, precision, rate_at
from supernet.training.student import Norms, Student
from supernet.weights import network
from supernet.weights import subnet as subnets
from supernet.weights.augmentation import USUAL, Augmentation
from supernet.weights.images import Epoch, Images, training_batches
from supernet.weights.network import Trained
from supernet.weights.quality import Quality
from supernet.weights.subnet import Subnet

CHECKPOINT_KIND = "fine-tuning checkpoint"
Watch = Callable[[float, float], None]  # epochs done, with the share of the one that runs, and its mean loss
# Who teaches: nobody, the supernet's largest subnet (also: false, true), or the subnet in a folder.
Distil = Annotated[
    Literal["none", "largest"] | Path,
    BeforeValidator(lambda value: ("none", "largest")[value] if isinstance(value, bool) else value),
]


@options
class FineTuning:
    """The recipe of one subnet. OFA's own: 25 or 75 epochs at a low learning rate, from the supernet.

    Frozen norms keep the statistics that were calibrated when the subnet was extracted; with live ones the
    norms are calibrated anew after the training (`python -m benchmarks.supernet finetune` compares them).
    """

    epochs: NonNegativeInt = 25
    from_scratch: bool = False  # without the weights of the supernet
    distil: Distil = (
        "largest"  # learn the outputs of the largest subnet, of none, or of the subnet in a folder
    )
    norms: Norms | None = None  # frozen or live; None: frozen, but live from scratch
    batch: AtLeastTwo = 64  # images of a step, over all processes
    forward_batch: AtLeastTwo | None = None  # images of a forward pass; None: all those of a process
    rate: PositiveFloat = 0.01
    momentum: FractionBelowOne = 0.9  # of the gradients' mean in AdamW
    weight_decay: NonNegativeFloat = 1e-4  # not of biases and norms
    optimiser: Literal["sgd", "adamw"] = "sgd"
    label_smoothing: FractionBelowOne = 0.1
    augmentation: Augmentation = USUAL
    amp: Amp = "auto"  # auto: bf16 (else fp16) on a GPU, full precision on a CPU
    seed: NonNegativeInt = 0

    def __post_init__(self) -> None:
        if self.from_scratch and self.norms == "frozen":
            raise ValueError("norms=frozen keeps statistics, from_scratch=true has none yet: norms=live")

    @property
    def in_training(self) -> Norms:
        """The mode of the norms."""
        return self.norms or ("live" if self.from_scratch else "frozen")

    def passes(self, group: Processes, images: int) -> tuple[int, int]:
        """(images of a forward pass, forward passes of a step in each process).

        ValueError where a step cannot be shared equally, and where the number of processes would decide which
        images are mixed, or how many the statistics of live norms are of.
        """
        if self.batch > images:
            raise ValueError(f"batch={self.batch} is more than the {images} images")
        together = "norms=live" if self.in_training == "live" else "this augmentation"
        if (
            self.forward_batch is None
            and group.world > 1
            and (self.in_training == "live" or self.augmentation.by_pass)
        ):
            raise ValueError(
                f"{together} sees the images of a forward pass together: give {group.world} processes "
                f"forward_batch=, at most {self.batch // group.world}; one process does the same with it"
            )
        forward_batch = self.forward_batch or max(1, self.batch // group.world)
        if self.batch % (forward_batch * group.world):
            raise ValueError(
                f"batch={self.batch} in forward passes of {forward_batch} cannot be shared equally by "
                f"{group.world} process(es): forward_batch times processes must divide batch"
            )
        return forward_batch, self.batch // forward_batch // group.world


@dataclass(frozen=True)
class Progress:
    """Who is told after each step, and the file that lets an interrupted training go on after the last step
    that it saved. It is written when the last is older than `seconds`, and at the end: a caller that has
    written the results removes it."""

    watch: Watch | None = None
    checkpoint: Path | None = None
    seconds: float = 30.0

    def remove(self) -> None:
        """The results are written: no checkpoint is needed any more."""
        if self.checkpoint is not None:
            disk.remove(self.checkpoint)


NO_PROGRESS = Progress()


@dataclass(frozen=True, eq=False)
class FineTuned:
    """The trained subnet, calibrated, and what its training took. Qualities are of the test images."""

    subnet: Subnet
    before: Quality  # as it comes out of the supernet, calibrated
    after: Quality
    epoch_seconds: tuple[float, ...]  # of all processes together; CPU time on a CPU, wall time on a GPU
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
    """Train the subnet of a (1, d) genome by the recipe, at its own resolution.

    It starts from the supernet's weights unless the recipe says `from_scratch`.

    >>> genome = trained.space.parse(["ofa_small r16 d1-1-1 k3-3-3 e2-2-2 ft0"])
    >>> with processes() as group:
    ...     after = fine_tune(trained, images, genome, FineTuning(epochs=5), group).after
    """
    recipe.passes(group, len(images.parts["train"]))  # refused before anything is computed
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
    """Train a calibrated subnet of the supernet by the recipe, in place unless from scratch; live norms are
    calibrated anew.

    Returns the subnet, the seconds of each epoch and the loss of the last.
    """
    if recipe.from_scratch:
        new = subnets.untrained(subnet.architecture, subnet.config, recipe.seed)
        subnet = replace(subnet, module=new)
    taught_by = teacher(recipe.distil, trained, images, subnet.side)
    seconds, loss = train_alone(subnet, images, recipe, group, teacher=taught_by, progress=progress)
    if recipe.in_training == "live":
        subnet = subnets.calibrated(subnet, images)
    return subnet, seconds, loss


def teacher(distil: Distil, trained: Trained, images: Images, side: int) -> torch.nn.Module | None:
    """The network that teaches at an input side: None, the supernet's largest subnet, calibrated, or the
    subnet in a folder, which must tell the same classes from images that are normalised alike."""
    if distil == "none":
        return None
    subnet = subnets.largest(trained, images, side) if distil == "largest" else subnets.load(Path(distil))
    facts = trained.facts
    expected = {"classes": facts["classes"], "mean": list(facts["mean"]), "std": list(facts["std"])}
    if wrong := [key for key, value in expected.items() if subnet.facts.get(key) != value]:
        raise ValueError(
            f"distil={distil} cannot teach here, its {wrong[0]} is {subnet.facts.get(wrong[0])}, not "
            f"{expected[wrong[0]]}: name a subnet of the same images, or distil=largest"
        )
    taught_by: torch.nn.Module = subnet.module
    return taught_by


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

    Returns the seconds of each epoch, of all processes together, and the loss of the last.
    """
    with ExitStack() as stack:
        for module in filter(None, (subnet.module, teacher)):
            stack.enter_context(subnets.placed(module, group.device))
        start = OPTIMISERS[recipe.optimiser]
        optimiser = start(subnet.module, recipe.rate, recipe.momentum, recipe.weight_decay)
        student = Student(
            subnet.module,
            teacher,
            optimiser,
            group,
            recipe.in_training,
            recipe.label_smoothing,
            precision(recipe.amp, group.device),
            keeps_zeros="weights_kept" in subnet.facts and not recipe.from_scratch,
        )
        training = _Training(subnet, images, recipe, student, progress)
        training.go()
        subnet.module.eval()
    seconds = group.world * group.mean(torch.tensor(training.seconds, dtype=torch.float64))
    return tuple(seconds.tolist()), training.loss


class _Training:
    """The state of a training, and what advances it step by step."""

    def __init__(
        self, subnet: Subnet, images: Images, recipe: FineTuning, student: Student, progress: Progress
    ) -> None:
        self.subnet, self.images, self.recipe = subnet, images, recipe
        self.student, self.progress, self.group = student, progress, student.group
        self.forward_batch, self.passes = recipe.passes(self.group, len(images.parts["train"]))
        self.clock = time.process_time if self.group.device.type == "cpu" else time.perf_counter
        self.seconds: list[float] = []  # of this process, for each epoch that is done
        self.loss = float("nan")  # mean of the last of them
        self.step, self.total, self.spent = 0, 0.0, 0.0  # steps, sum of losses and seconds of the next epoch

    def go(self) -> None:
        """Train until the last epoch, from where a checkpoint ends."""
        self._resume()
        self.group.wait()  # all have read the checkpoint before it is written again
        self.student.begin()
        self.saved = time.monotonic()
        with self._spare() as self.spare:
            for epoch in range(len(self.seconds), self.recipe.epochs):
                self._epoch(epoch)
            self._save()

    def _spare(self) -> AbstractContextManager[disk.Spare | None]:
        """Room on the disk for a checkpoint: a finished training is not lost to a full disk."""
        if self.progress.checkpoint is None or self.group.rank:
            return nullcontext()
        size = 3 * sum(tensor.nbytes for tensor in self.student.tensors().values())  # with two momenta
        return disk.Spare(self.progress.checkpoint, size)

    def _epoch(self, epoch: int) -> None:
        recipe, group = self.recipe, self.group
        began = self.clock() - self.spent
        sides = (self.subnet.side,)
        order = Epoch(recipe.seed, epoch, recipe.batch, self.forward_batch, sides, recipe.augmentation)
        loader = training_batches(self.images, order, rank=group.rank, world=group.world)
        steps = len(loader) // self.passes
        batches = iter(replace(loader, plan=loader.plan[self.step * self.passes :]))
        while self.step < steps:
            rate = recipe.rate * rate_at(epoch * steps + self.step, recipe.epochs * steps)
            begin(self.student.optimiser, rate)
            share = 1 / self.passes
            losses = [self.student.add_gradients(*next(batches), share) for _ in range(self.passes)]
            loss = group.mean(torch.stack(losses).cpu().double().mean())
            if not torch.isfinite(loss):
                raise self._diverged(epoch, rate)
            self.student.move()
            self.step, self.total = self.step + 1, self.total + float(loss)
            if self.step < steps:
                self._told(epoch + self.step / steps, self.total / self.step, self.clock() - began)
        if not all(bool(torch.isfinite(weight).all()) for weight in self.subnet.module.parameters()):
            raise self._diverged(epoch, recipe.rate)  # in the last step
        self.seconds.append(self.clock() - began)
        self.loss = self.total / steps
        self.step, self.total = 0, 0.0
        self._told(epoch + 1, self.loss, 0.0)

    def _diverged(self, epoch: int, rate: float) -> DivergedError:
        return DivergedError(
            f"the loss became NaN or infinite in step {self.step + 1} of epoch {epoch + 1} at a rate of "
            f"{rate:.3g}; no subnet was written. Start again with a lower rate=, or with norms=live"
        )

    def _told(self, done: float, loss: float, spent: float) -> None:
        """Save what is done when that is due, then tell it."""
        self.spent = spent
        if time.monotonic() - self.saved >= self.progress.seconds:
            self._save()
        if self.progress.watch is not None:
            self.progress.watch(done, loss)

    @property
    def _of(self) -> dict[str, Any]:
        """What a checkpoint must be of to go on from."""
        facts = {name: self.subnet.facts.get(name) for name in ("supernet", "pruned", "weights_kept")}
        of = {"architecture": self.subnet.architecture, "images": self.images.facts(), **facts}
        return dict(json.loads(json.dumps(of | asdict(self.recipe), default=str)))

    def _save(self) -> None:
        path = self.progress.checkpoint
        if path is None or self.spare is None:
            return
        place = {"step": self.step, "total": self.total, "spent": self.spent}
        done = {"seconds": self.seconds, "loss": self.loss, "scaler": self.student.scaler.state_dict()}
        facts = {"of": self._of, **place, **done}
        tensors = self.student.tensors()
        self.spare.write(lambda: network.save(path, tensors, CHECKPOINT_KIND, facts))
        self.saved = time.monotonic()

    def _resume(self) -> None:
        path = self.progress.checkpoint
        if path is None or not path.is_file():
            return
        tensors, facts = network.read(path, CHECKPOINT_KIND)
        if facts.get("of") != self._of:
            raise ValueError(f"{path} is of another training; left as it is, choose another out=")
        self.student.restore(tensors, path)
        with artifact.usable(path, CHECKPOINT_KIND, "left as it is, choose another out="):
            self.student.scaler.load_state_dict(facts["scaler"])
            self.seconds, self.loss = [float(one) for one in facts["seconds"]], float(facts["loss"])
            self.step, self.total = int(facts["step"]), float(facts["total"])
            self.spent = float(facts["spent"])
