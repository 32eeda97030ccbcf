"""One step of a supernet's training: processes, optimiser, and the losses and gradients of its subnets.

Letters: b images of a forward pass, k subnets of a step.
"""

import copy
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.nn.functional import cross_entropy, softmax
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from supernet.arrays import Genomes
from supernet.files import artifact
from supernet.options import (
    AtLeastTwo,
    FractionBelowOne,
    NonNegativeFloat,
    OpenFraction,
    PositiveFloat,
    PositiveInt,
    options,
)
from supernet.space import SearchSpace
from supernet.training.depthwise import SmallMaps
from supernet.training.recipes import WARM_UP, Phase
from supernet.weights import family, network

Amp = Literal["auto", "off"]
MOMENTUM = "momentum_buffer"  # as torch calls it


class DivergedError(ValueError):
    """The loss is no number any more."""


@options
class Optimisation:
    """SGD with Nesterov momentum, or AdamW (Loshchilov and Hutter, 2019, arXiv 1711.05101). The rate rises
    linearly, then falls as a cosine to 0.

    Transformers need AdamW, with a `rate` of about .001 and a `weight_decay` of about .05.
    """

    epochs: PositiveInt = 40
    batch: AtLeastTwo = 128  # images of a step, over all processes
    forward_batch: AtLeastTwo = 64  # images that share the statistics of batch norm
    rate: PositiveFloat = 0.1
    reference_batch: PositiveInt | None = None  # the rate is for so many images and grows with batch
    momentum: FractionBelowOne = 0.9  # of the gradients' mean in AdamW
    weight_decay: NonNegativeFloat = 1e-4  # not of biases and norms
    optimiser: Literal["sgd", "adamw"] = "sgd"
    label_smoothing: FractionBelowOne = 0.1
    dropout: FractionBelowOne = 0.0  # share of the classifier's inputs that are set to 0
    ema: OpenFraction | None = None  # decay per step of averaged weights
    amp: Amp = "auto"  # auto: bf16 (else fp16) on a GPU, full precision on a CPU

    def __post_init__(self) -> None:
        if self.batch % self.forward_batch:
            raise ValueError(
                f"forward_batch={self.forward_batch} must divide batch={self.batch}: a step is cut into "
                "equal forward passes"
            )

    def rate_at(self, step: int, steps: int, warm_up: float = WARM_UP) -> float:
        """The learning rate at a step of a cosine of `steps`: in proportion to the batch (Goyal et al., arXiv
        1706.02677), and rising from that of the reference batch where there is one."""
        scale = self.batch / (self.reference_batch or self.batch)
        low = min(1.0, 1 / scale) if self.reference_batch else 0.0
        return self.rate * scale * rate_at(step, steps, warm_up, low)


def precision(amp: Amp, device: torch.device) -> torch.dtype | None:
    """The type of numbers in forward passes on a device; None: the full precision of the weights."""
    if amp == "off" or device.type != "cuda":
        return None
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


@dataclass(frozen=True)
class Processes:
    """The processes that train together, and the device of this one."""

    rank: int
    world: int
    device: torch.device

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """The mean over all processes."""
        if self.world == 1:
            return values
        shared = values.to(self.device)
        torch.distributed.all_reduce(shared)
        return shared.cpu() / self.world

    def share_gradients(self, module: torch.nn.Module) -> None:
        """Replace the gradients of a network by their means over all processes, which have them for the same
        parameters. Done once a step; `DistributedDataParallel` would do it for each subnet and pass."""
        if self.world == 1:
            return
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        shared = torch.cat([gradient.flatten() for gradient in gradients])
        torch.distributed.all_reduce(shared)
        shared /= self.world
        means = torch.split(shared, [gradient.numel() for gradient in gradients])
        for gradient, mean in zip(gradients, means, strict=True):
            gradient.copy_(mean.view(gradient.shape))

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, by rank."""
        if self.world == 1:
            return [value]
        values = [None] * self.world
        torch.distributed.all_gather_object(values, value)
        return values

    def alike(self, module: torch.nn.Module) -> None:
        """Give the parameters and buffers of a network the values that they have in the first process."""
        if self.world > 1:
            for tensor in module.state_dict().values():
                shared = tensor.contiguous()  # a map that is channels last cannot be sent as it lies
                torch.distributed.broadcast(shared, src=0)
                tensor.copy_(shared)

    def wait(self) -> None:
        """Go on when all processes have come here."""
        if self.world > 1:
            torch.distributed.barrier()


def alone() -> Processes:
    """This process by itself, whatever group it is in."""
    return Processes(0, 1, network.best_device())


@contextmanager
def processes(*, seconds: float = 1800) -> Iterator[Processes]:
    """This process alone, or the group that `torchrun` started it in (NCCL on GPUs, Gloo on CPUs)."""
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    device = network.best_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if world == 1:
        yield Processes(rank, world, device)
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    torch.distributed.init_process_group(backend, timeout=timedelta(seconds=seconds))
    try:
        yield Processes(rank, world, device)
    finally:
        torch.distributed.destroy_process_group()


def draw(phase: Phase, space: SearchSpace, *, seed: int, epoch: int, step: int) -> Genomes:
    """(k, d) the subnets of a step, the same in every process. `space` is restricted to the phase."""
    rng = np.random.default_rng([seed, epoch, step, 1])
    drawn = space.network(space.sample(len(phase.subnets), rng))
    fixed = {"largest": network.largest(space)[0], "smallest": network.smallest(space)[0]}
    return np.stack([fixed.get(name, row) for name, row in zip(phase.subnets, drawn, strict=True)])


def rate_at(step: int, steps: int, warm_up: float = WARM_UP, low: float = 0.0) -> float:
    """Factor of the learning rate at a step of a cosine of `steps`: in a share `warm_up` of them it rises
    linearly from `low` to 1."""
    start = max(1, round(warm_up * steps)) if warm_up else 0
    if step < start:
        return low + (1 - low) * (step + 1) / start
    return 0.5 * (1 + float(np.cos(np.pi * (step - start) / max(1, steps - start))))


def sgd(module: torch.nn.Module, rate: float, momentum: float, weight_decay: float) -> torch.optim.SGD:
    """Nesterov SGD; biases and norms do not decay."""
    groups = _decaying(module, weight_decay)
    return torch.optim.SGD(groups, lr=rate, momentum=momentum, nesterov=momentum > 0)


def adamw(module: torch.nn.Module, rate: float, momentum: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW; biases and norms do not decay."""
    return torch.optim.AdamW(_decaying(module, weight_decay), lr=rate, betas=(momentum, 0.999))


OPTIMISERS: dict[str, Callable[[torch.nn.Module, float, float, float], torch.optim.Optimizer]] = {
    "sgd": sgd,
    "adamw": adamw,
}


def _decaying(module: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    decayed = [p for p in module.parameters() if p.ndim > 1]
    plain = [p for p in module.parameters() if p.ndim == 1]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]


def momentum(module: torch.nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """What the optimiser remembers of each parameter: SGD's momentum by the name of the parameter, what AdamW
    remembers by its own name, a colon and that of the parameter."""
    return {
        name if what == MOMENTUM else f"{what}:{name}": buffer
        for name, parameter in module.named_parameters()
        for what, buffer in optimiser.state.get(parameter, {}).items()
        if buffer is not None
    }


def restore_momentum(
    module: torch.nn.Module, optimiser: torch.optim.Optimizer, buffers: Mapping[str, torch.Tensor]
) -> None:
    """Give the optimiser what `momentum` told, on the device of the parameters."""
    parameters = dict(module.named_parameters())
    for key, buffer in buffers.items():
        what, _, name = key.rpartition(":")
        shape = parameters[name].shape if what != "step" else torch.Size()
        if buffer.shape != shape or not buffer.is_floating_point():
            raise ValueError(f"what the optimiser keeps of {name} is of another shape or type")
        layout = torch.channels_last if buffer.ndim == 4 else torch.contiguous_format
        device = parameters[name].device if what != "step" else "cpu"  # torch counts steps there
        placed = buffer.to(device).contiguous(memory_format=layout)
        optimiser.state[parameters[name]][what or MOMENTUM] = placed


def joined(parts: Mapping[str, Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The tensors of several parts by one name each, as a checkpoint holds them."""
    return {f"{part}.{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}


def parted(tensors: Mapping[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    """The parts that `joined` joined; a part without tensors is left out."""
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        parts.setdefault(part, {})[rest] = tensor
    return parts


def begin(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Begin a step at a learning rate, without gradients."""
    for settings in optimiser.param_groups:
        settings["lr"] = rate
    optimiser.zero_grad(set_to_none=True)


@contextmanager
def dropping(module: Any, share: float, seed: Sequence[int]) -> Iterator[None]:
    """Inside the block a share of the inputs of `module.classifier` are set to 0, and the others enlarged so
    that their mean stays (Srivastava et al., 2014). Which ones follows from the seed alone."""
    if not share:
        yield
        return
    number = int(np.random.default_rng(seed).integers(2**62))

    def drop(layer: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        features = inputs[0]
        generator = torch.Generator(features.device).manual_seed(number)
        kept = torch.rand(features.shape, generator=generator, device=features.device) >= share
        return (features * kept / (1 - share), *inputs[1:])

    handle = module.classifier.register_forward_pre_hook(drop)
    try:
        yield
    finally:
        handle.remove()


class Learner:
    """A supernet that is trained: its weights, their optimiser and moving average, and its teacher.

    Weights follow from the seed.
    """

    def __init__(
        self, space: SearchSpace, classes: int, optimisation: Optimisation, group: Processes, seed: int
    ) -> None:
        self.space, self.optimisation, self.group, self.seed = space, optimisation, group, seed
        self._place, self._passes = (
            (0, 0),
            0,
        )  # epoch and step, and its forward passes so far: for the dropout
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.module = network.supernet(space, classes)
        if optimisation.dropout and not hasattr(self.module, "classifier"):
            raise ValueError(
                f"dropout={optimisation.dropout} acts on the input of a layer that is called classifier, and "
                f"{type(self.module).__name__} has none: give dropout=0"
            )
        self.module.to(device=group.device, memory_format=torch.channels_last)
        self.teacher: Any = None
        self.average: Any = None
        if optimisation.ema is not None:
            averaging = get_ema_multi_avg_fn(optimisation.ema)  # type: ignore[no-untyped-call]
            self.average = AveragedModel(self.module, multi_avg_fn=averaging)
        self.precision = precision(optimisation.amp, group.device)
        self.scaler = torch.amp.GradScaler(group.device.type, enabled=self.precision == torch.float16)
        self._new_optimiser()

    def _new_optimiser(self) -> None:
        plan = self.optimisation
        start = OPTIMISERS[plan.optimiser]
        self.optimiser = start(self.module, plan.rate, plan.momentum, plan.weight_decay)

    @property
    def result(self) -> Any:
        """The network that a finished training leaves: with averaged weights where they are asked for."""
        return self.module if self.average is None else self.average.module

    def enter(self, phase: Phase) -> None:
        """What a phase begins with: a teacher, sorted channels, an optimiser without momentum."""
        if phase.distil == "teacher" and self.teacher is None:
            self._copy_teacher()
        if phase.sort_channels:
            family.sorting(self.space).sort_channels(self.module, phase.open["e"])
            self.module.to(memory_format=torch.channels_last)  # as after a resume: rounding depends on it
        if phase.restart:
            self._new_optimiser()

    def _copy_teacher(self) -> None:
        network.set_active(self.module, self.space, network.largest(self.space))
        self.teacher = copy.deepcopy(self.module).requires_grad_(False)

    def begin(self, rate: float, *, epoch: int, step: int) -> None:
        """Begin a step at a learning rate, without gradients."""
        begin(self.optimiser, rate)
        self._place, self._passes = (epoch, step), 0

    def add_gradients(
        self, phase: Phase, genomes: Genomes, pictures: torch.Tensor, labels: torch.Tensor, passes: int
    ) -> torch.Tensor:
        """Losses (k,) of the subnets on the (b, ...) images of a forward pass, over the passes of a step;
        adds their gradients. `labels` are (b,) numbers or (b, c) shares of the classes."""
        device, smoothing = self.group.device, self.optimisation.label_smoothing
        pictures, labels = pictures.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        autocast = (
            nullcontext() if self.precision is None else torch.autocast(device.type, dtype=self.precision)
        )
        place = (self.seed, *self._place, self._passes * self.group.world + self.group.rank)
        self._passes += 1
        losses = []
        soft: torch.Tensor | None = None
        if phase.distil == "teacher":
            with torch.no_grad(), autocast:
                soft = softmax(self.teacher.train()(pictures).float(), dim=1)
        for k in range(len(genomes)):
            network.set_active(self.module, self.space, genomes[k : k + 1])
            with SmallMaps(), autocast, dropping(self.module, self.optimisation.dropout, (*place, k)):
                logits = self.module(pictures).float()
            if phase.distil == "in_place" and soft is not None:
                loss = cross_entropy(logits, soft)
            else:
                loss = cross_entropy(logits, labels, label_smoothing=smoothing)
                if phase.distil == "teacher":
                    loss = loss + cross_entropy(logits, soft)  # type: ignore[arg-type]
            if phase.distil == "in_place" and soft is None:
                soft = softmax(logits.detach(), dim=1)
            share = loss / (passes if phase.summed else len(genomes) * passes)
            self.scaler.scale(share).backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        return torch.stack(losses).cpu().double() / passes

    def finish_step(self) -> None:
        """Move the weights, and their average, by the gradients of all processes."""
        self.group.share_gradients(self.module)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        if self.average is not None:
            self.average.update_parameters(self.module)

    def is_finite(self) -> bool:
        """Whether all weights are numbers."""
        return all(bool(torch.isfinite(parameter).all()) for parameter in self.module.parameters())

    def tensors(self) -> dict[str, torch.Tensor]:
        """What `restore` needs, beside the state of the scaler, to go on bit by bit."""
        parts = {"model": self.module.state_dict(), "momentum": momentum(self.module, self.optimiser)}
        for part, owner in (("teacher", self.teacher), ("average", self.average)):
            parts[part] = {} if owner is None else owner.state_dict()
        return joined(parts)

    def restore(self, tensors: Mapping[str, torch.Tensor], path: Path) -> None:
        """Take the state of `tensors` over; `path` is where they are from."""
        with artifact.usable(path, "checkpoint", "left as it is, choose another out="):
            parts = parted({name: tensor.to(self.group.device) for name, tensor in tensors.items()})
            network.fill(self.module, parts["model"], path)
            restore_momentum(self.module, self.optimiser, parts.get("momentum", {}))
            if "teacher" in parts:
                self._copy_teacher()
                network.fill(self.teacher, parts["teacher"], path)
            if self.average is not None:
                self.average.load_state_dict(parts["average"])
