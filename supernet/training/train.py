"""Training a supernet: one process or many under `torchrun`, resumable bit by bit on a CPU.

Letters: b images of a forward pass, c classes, w processes.

Everything random follows from (seed, epoch, step): which images, how they are augmented, which subnets. So a
resume needs the weights, the optimiser and the number of epochs done, and every process of a distributed
training knows the subnets of a step without asking. A step's batch is cut into forward passes of
`forward_batch` images, which share the statistics of batch norm; processes take them in turn, and their
gradients are averaged. The loss curve is therefore the same for 1 and for w processes, up to rounding.

A run folder holds config.yaml, env.json, events.jsonl, and when it is finished supernet.safetensors and
summary.json. Until then checkpoint.safetensors lets the training go on after the last finished epoch.
"""

from __future__ import annotations

import copy
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as checked_dataclass
from torch.nn.functional import cross_entropy, softmax
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from supernet.arrays import Genomes
from supernet.files import artifact
from supernet.files.run_folder import EVENTS, RunFolder
from supernet.files.sinks import Jsonl, Row, Sink
from supernet.space import SearchSpace
from supernet.training.depthwise import SmallMaps
from supernet.training.recipes import Phase, Recipe, epochs_of
from supernet.weights import network
from supernet.weights import subnet as subnets
from supernet.weights.images import Epoch, Images, training_batches
from supernet.weights.network import Trained

CHECKPOINT_KIND = "supernet checkpoint"
CHECKPOINT, FINISHED, SUMMARY = "checkpoint.safetensors", "supernet.safetensors", "summary.json"
REPORTING = frozenset({"wandb", "out", "threads", "validate_every"})  # they do not change the weights
SMOOTH_START = 0.04  # share of a cosine's steps in which the learning rate rises to its value


class DivergedError(ValueError):
    """The loss is no number any more."""


@checked_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Optimisation:
    """SGD with Nesterov momentum; the rate rises linearly, then falls as a cosine to 0."""

    epochs: Annotated[int, Field(ge=1)] = 40
    batch: Annotated[int, Field(ge=2)] = 128  # images of a step, over all processes
    forward_batch: Annotated[int, Field(ge=2)] = 64  # images that share the statistics of batch norm
    rate: Annotated[float, Field(gt=0)] = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4  # not of biases and batch norms
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None  # decay per step of averaged weights
    amp: Literal["auto", "off"] = "auto"  # auto: bf16 (else fp16) on a GPU, full precision on a CPU

    def __post_init__(self) -> None:
        if self.batch % self.forward_batch:
            raise ValueError(
                f"forward_batch={self.forward_batch} must divide batch={self.batch}: a step is cut into "
                "equal forward passes"
            )


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


def train(
    space: SearchSpace,
    images: Images,
    recipe: Recipe,
    optimisation: Optimisation,
    *,
    seed: int,
    out: Path,
    config: Mapping[str, Any],
    sinks: Sequence[Sink] = (),
    validate_every: int = 5,
    group: Processes | None = None,
) -> Trained:
    """Train the supernet of `space` on `images` in the run folder `out`; goes on where an unfinished run
    stopped.

    DivergedError when the loss becomes NaN or infinite: the checkpoint of the last finished epoch stays.
    """
    if group is None:
        with processes() as found:
            return train(
                space, images, recipe, optimisation, seed=seed, out=out, config=config, sinks=sinks,
                validate_every=validate_every, group=found,
            )  # fmt: skip
    _check(space, images, optimisation, group)
    folder = RunFolder(out, FINISHED, REPORTING)
    first = group.rank == 0
    held: AbstractContextManager[dict[str, Any]] = folder.hold(config) if first else nullcontext({})
    with held as environment:
        if group.world > 1:
            torch.distributed.barrier()
        run = _Run(space, images, recipe, optimisation, seed, out, group)
        everyone = [Jsonl(out / EVENTS, "epoch"), *sinks] if group.rank == 0 else []
        try:
            for sink in everyone:
                sink.start({"seed": seed, "processes": group.world, "environment": environment}, run.history)
            run.go(everyone, validate_every)
            summary = run.summary()
            for sink in everyone:
                sink.finish(summary)
        finally:
            for sink in everyone:
                sink.close()
        if group.rank == 0:
            artifact.write_json(out / SUMMARY, summary)
            network.save(out / FINISHED, run.weights(), network.KIND, run.facts())
            (out / CHECKPOINT).unlink(missing_ok=True)
        if group.world > 1:
            torch.distributed.barrier()
    return network.load(out)


def _check(space: SearchSpace, images: Images, optimisation: Optimisation, group: Processes) -> None:
    if optimisation.batch // optimisation.forward_batch % group.world:
        raise ValueError(
            f"batch={optimisation.batch} in forward passes of {optimisation.forward_batch} cannot be shared "
            f"by {group.world} processes: choose forward_batch <= {optimisation.batch // group.world}"
        )
    if optimisation.batch > len(images.parts["train"]):
        raise ValueError(
            f"batch={optimisation.batch} is more than the {len(images.parts['train'])} training images"
        )
    sides(space, images)


def sides(space: SearchSpace, images: Images) -> tuple[int, ...]:
    """The input sides of the space within `data.resolution`."""
    low, high = images.settings.resolution
    values = space.axis("r").values
    found = tuple(side for side in values if low <= side <= high)
    if not found or found[0] != low or found[-1] != high:
        raise ValueError(
            f"data.resolution=[{low},{high}] must start and end at input sides of {space.name}: "
            f"{', '.join(map(str, values))}"
        )
    return found


def draw(phase: Phase, space: SearchSpace, *, seed: int, epoch: int, step: int) -> Genomes:
    """(k, d) the subnets of a step, the same in every process. `space` is restricted to the phase."""
    rng = np.random.default_rng([seed, epoch, step, 1])
    drawn = space.network(space.sample(len(phase.subnets), rng))
    fixed = {"largest": network.largest(space)[0], "smallest": network.smallest(space)[0]}
    return np.stack([fixed.get(name, row) for name, row in zip(phase.subnets, drawn, strict=True)])


def rate_at(step: int, steps: int) -> float:
    """Factor of the learning rate at a step of a cosine of `steps` with a linear start."""
    start = max(1, round(SMOOTH_START * steps))
    if step < start:
        return (step + 1) / start
    return 0.5 * (1 + float(np.cos(np.pi * (step - start) / max(1, steps - start))))


def sgd(module: torch.nn.Module, rate: float, momentum: float, weight_decay: float) -> torch.optim.SGD:
    """Nesterov SGD; biases and batch norms do not decay."""
    decayed = [p for p in module.parameters() if p.ndim > 1]
    plain = [p for p in module.parameters() if p.ndim == 1]
    return torch.optim.SGD(
        [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=rate,
        momentum=momentum,
        nesterov=momentum > 0,
    )


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all parameters."""
    for settings in optimiser.param_groups:
        settings["lr"] = rate


class _Run:
    """The state of a training and what advances it."""

    def __init__(
        self,
        space: SearchSpace,
        images: Images,
        recipe: Recipe,
        optimisation: Optimisation,
        seed: int,
        out: Path,
        group: Processes,
    ) -> None:
        self.space, self.images, self.optimisation = space, images, optimisation
        self.seed, self.out, self.group = seed, out, group
        self.phases = recipe.phases(space)
        self.lengths = epochs_of(self.phases, optimisation.epochs)
        self.history: list[Row] = []
        self.cpu_seconds = self.seconds = 0.0
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.module = network.supernet(space, len(images.classes))
            network.initialise(self.module)
        network.with_native_activations(self.module)
        self.module.to(device=group.device, memory_format=torch.channels_last)
        self.teacher: Any = None
        self.average: Any = None
        self._new_optimiser()
        if optimisation.ema is not None:
            averaging = get_ema_multi_avg_fn(optimisation.ema)  # type: ignore[no-untyped-call]
            self.average = AveragedModel(self.module, multi_avg_fn=averaging)
        fp16 = self._amp_type() == torch.float16
        self.scaler = torch.amp.GradScaler(group.device.type, enabled=fp16)
        if (out / CHECKPOINT).is_file():
            self._resume(out / CHECKPOINT)
        self.forward: Any = self.module
        if group.world > 1:
            # A subnet leaves most parameters without gradient, and which ones changes from step to step.
            self.forward = torch.nn.parallel.DistributedDataParallel(
                self.module, find_unused_parameters=True, broadcast_buffers=False
            )

    def _new_optimiser(self) -> None:

        plan = self.optimisation
        self.optimiser = sgd(self.module, plan.rate, plan.momentum, plan.weight_decay)

    def _amp_type(self) -> torch.dtype | None:
        if self.optimisation.amp == "off" or self.group.device.type != "cuda":
            return None
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16

    # ------------------------------------------------------------------ the loop
    def go(self, sinks: Sequence[Sink], validate_every: int) -> None:
        ends = np.cumsum(self.lengths)
        for epoch in range(len(self.history), self.optimisation.epochs):
            place = int(np.searchsorted(ends, epoch, side="right"))
            if epoch == ends[place] - self.lengths[place]:
                self._enter(place)
            wall, cpu = time.perf_counter(), time.process_time()
            row = self._epoch(epoch, place, sinks)
            last = epoch + 1 in ends
            if self.group.rank == 0 and (last or (epoch + 1) % validate_every == 0):
                row |= self.validate(self.phases[place])
            self.seconds += time.perf_counter() - wall
            self.cpu_seconds += time.process_time() - cpu
            row |= {"seconds": round(self.seconds, 3), "cpu_seconds": round(self.cpu_seconds, 3)}
            self.history.append(row)
            if self.group.rank == 0:
                self._checkpoint()
                for sink in sinks:
                    sink.log(row)

    def _enter(self, place: int) -> None:
        """What a phase begins with: a teacher, sorted channels, an optimiser without momentum."""
        phase = self.phases[place]
        if phase.distil == "teacher" and self.teacher is None:
            network.set_active(self.module, self.space, network.largest(self.space))
            self.teacher = copy.deepcopy(self.module).requires_grad_(False)
        if phase.sort_channels:
            self.module.re_organize_middle_weights(expand_ratio_stage=phase.open["e"] - 2)
            self.module.to(memory_format=torch.channels_last)  # as after a resume: rounding depends on it
        if phase.restart:
            self._new_optimiser()

    def _cosine(self, epoch: int) -> tuple[int, int]:
        """(first epoch, epochs) of the cosine that an epoch belongs to."""
        starts = [0, *np.cumsum(self.lengths).tolist()]
        cuts = [
            start for start, phase in zip(starts, self.phases, strict=False) if phase.restart or not start
        ]
        first = max(cut for cut in cuts if cut <= epoch)
        following = min([cut for cut in cuts if cut > epoch], default=self.optimisation.epochs)
        return first, following - first

    def _epoch(self, epoch: int, place: int, sinks: Sequence[Sink]) -> dict[str, Any]:
        plan, group, phase = self.optimisation, self.group, self.phases[place]
        loader = training_batches(
            self.images,
            Epoch(self.seed, epoch, plan.batch, plan.forward_batch, sides(self.space, self.images)),
            rank=group.rank,
            world=group.world,
        )
        passes = plan.batch // plan.forward_batch // group.world  # of this process, per step
        steps = len(loader) // passes
        first, length = self._cosine(epoch)
        space = phase.restricted(self.space)
        self.module.train()
        total, step = torch.zeros(len(phase.subnets), dtype=torch.float64), 0
        for i, (pictures, labels) in enumerate(loader):
            if i % passes == 0:
                genomes = draw(phase, space, seed=self.seed, epoch=epoch, step=step)
                rate = plan.rate * phase.rate * rate_at((epoch - first) * steps + step, length * steps)
                set_rate(self.optimiser, rate)
                self.optimiser.zero_grad(set_to_none=True)
                now = torch.zeros(len(phase.subnets), dtype=torch.float64)
            now += self._pass(phase, genomes, pictures.to(group.device), labels.to(group.device), passes)
            if (i + 1) % passes == 0:
                now = group.mean(now)
                if not torch.isfinite(now).all():
                    raise self._diverged(epoch, step, rate)
                self.scaler.step(self.optimiser)
                self.scaler.update()
                if self.average is not None:
                    self.average.update_parameters(self.module)
                total += now
                step += 1
                for sink in sinks:
                    sink.step(step, steps, float(now.mean()))
        if not all(bool(torch.isfinite(p).all()) for p in self.module.parameters()):
            raise self._diverged(epoch, steps - 1, rate)  # in the last step: the checkpoint must not take it
        losses = (total / steps).tolist()
        return {
            "epoch": epoch,
            "phase": phase.name,
            "loss": float(np.mean(losses)),
            "losses": losses,
            "rate": rate,
            "steps": steps,
        }

    def _pass(
        self, phase: Phase, genomes: Genomes, pictures: torch.Tensor, labels: torch.Tensor, passes: int
    ) -> torch.Tensor:
        """Losses (k,) of the subnets on the images of a forward pass, over the passes of a step; adds their
        gradients."""
        amp, kind = self._amp_type(), self.group.device.type
        autocast = nullcontext() if amp is None else torch.autocast(kind, dtype=amp)
        smoothing = self.optimisation.label_smoothing
        found = torch.zeros(len(genomes), dtype=torch.float64)
        soft: torch.Tensor | None = None
        if phase.distil == "teacher":
            with torch.no_grad(), autocast:
                soft = softmax(self.teacher.train()(pictures).float(), dim=1)
        for k in range(len(genomes)):
            network.set_active(self.module, self.space, genomes[k : k + 1])
            with SmallMaps(), autocast:
                logits = self.forward(pictures).float()
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
            found[k] = loss.detach().cpu().double() / passes
        return found

    def _diverged(self, epoch: int, step: int, rate: float) -> DivergedError:
        kept = (
            f"the checkpoint of epoch {epoch} is kept in {self.out}" if epoch else "nothing was trained yet"
        )
        return DivergedError(
            f"the loss became NaN or infinite in step {step + 1} of epoch {epoch + 1} at a learning rate of "
            f"{rate:.3g}; {kept}. Start again with a lower rate= (it was {self.optimisation.rate:g})"
        )

    def validate(self, phase: Phase) -> dict[str, float]:
        """Accuracy of the largest and the smallest subnet of a phase on the validation images, calibrated."""
        space, side = phase.restricted(self.space), self.images.settings.resolution[1]
        space = space.restrict("r", side, side)
        module = self.module if self.average is None else self.average.module
        trained = Trained(self.space, module, self.facts(), "")
        accuracy = {}
        for name, genome in (("largest", network.largest(space)), ("smallest", network.smallest(space))):
            subnet = subnets.from_supernet(trained, self.images, space.format(genome)[0])
            accuracy[f"val_{name}"] = subnets.judge(subnet, self.images, "val").top1
        return accuracy

    # ------------------------------------------------------------------ files
    def weights(self) -> dict[str, torch.Tensor]:
        """The weights that a finished training leaves: averaged ones where they are asked for."""
        module = self.module if self.average is None else self.average.module
        return dict(module.state_dict())

    def facts(self) -> dict[str, Any]:
        """What is known of these weights."""
        images = self.images
        return {
            "space": self.space.name,
            "classes": len(images.classes),
            "resolution": list(images.settings.resolution),
            "mean": list(images.mean),
            "std": list(images.std),
            "data": images.facts(),
            "seed": self.seed,
            "phases": [
                [p.name, n, p.distil, p.rate, p.summed]
                for p, n in zip(self.phases, self.lengths, strict=True)
            ],
        }

    def summary(self) -> dict[str, Any]:
        """What the training took and reached."""
        last = self.history[-1]
        return {
            "epochs": len(self.history),
            "seconds": last["seconds"],
            "cpu_seconds": last["cpu_seconds"],
            "processes": self.group.world,
            **{key: last[key] for key in ("loss", "val_largest", "val_smallest") if key in last},
        }

    def _checkpoint(self) -> None:
        tensors = {f"model.{name}": tensor for name, tensor in self.module.state_dict().items()}
        names = {id(p): name for name, p in self.module.named_parameters()}
        for parameter, state in self.optimiser.state.items():
            if state.get("momentum_buffer") is not None:
                tensors[f"momentum.{names[id(parameter)]}"] = state["momentum_buffer"]
        if self.teacher is not None:
            tensors |= {f"teacher.{name}": tensor for name, tensor in self.teacher.state_dict().items()}
        if self.average is not None:
            tensors |= {f"average.{name}": tensor for name, tensor in self.average.state_dict().items()}
        facts = {"history": self.history, "scaler": self.scaler.state_dict(), "of": self.facts()}
        network.save(self.out / CHECKPOINT, tensors, CHECKPOINT_KIND, facts)

    def _resume(self, path: Path) -> None:
        tensors, facts = network.read(path, CHECKPOINT_KIND)
        if facts["of"] != json.loads(json.dumps(self.facts())):
            raise ValueError(
                f"{path} is of another training (other images, space or recipe): choose another out="
            )
        by_part: dict[str, dict[str, torch.Tensor]] = {}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            by_part.setdefault(part, {})[rest] = tensor.to(self.group.device)
        network.fill(self.module, by_part["model"], path)
        named = dict(self.module.named_parameters())
        for name, buffer in by_part.get("momentum", {}).items():
            self.optimiser.state[named[name]]["momentum_buffer"] = buffer.contiguous(
                memory_format=_memory_format(buffer)
            )
        if "teacher" in by_part:
            network.set_active(self.module, self.space, network.largest(self.space))
            self.teacher = copy.deepcopy(self.module).requires_grad_(False)
            network.fill(self.teacher, by_part["teacher"], path)
        if self.average is not None:
            self.average.load_state_dict(by_part["average"])
        self.scaler.load_state_dict(facts["scaler"])
        self.history = list(facts["history"])
        self.seconds, self.cpu_seconds = self.history[-1]["seconds"], self.history[-1]["cpu_seconds"]


def _memory_format(tensor: torch.Tensor) -> torch.memory_format:
    return torch.channels_last if tensor.ndim == 4 else torch.contiguous_format
