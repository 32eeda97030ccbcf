"""Training a supernet: one process or many under `torchrun`, resumable bit by bit on a CPU.

Everything random follows from (seed, epoch, step): which images, how they are augmented, which subnets. So a
resume needs the weights, the optimiser and the number of epochs done, and every process of a distributed
training knows the subnets of a step without asking. A step's batch is cut into forward passes of
`forward_batch` images, which share the statistics of batch norm; processes take them in turn, and their
gradients are averaged. The loss curve is therefore the same for 1 and for w processes, up to rounding.

A run folder holds config.yaml, env.json, events.jsonl, and when it is finished supernet.safetensors and
summary.json. Until then checkpoint.safetensors lets the training go on after the last finished epoch.
"""

import json
import time
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch

from supernet.files import artifact, disk
from supernet.files.run_folder import EVENTS, LOGGING, RunFolder
from supernet.files.sinks import Jsonl, Row, Sink
from supernet.space import SearchSpace
from supernet.training.recipes import Phase, Recipe, epochs_of
from supernet.training.step import DivergedError, Learner, Optimisation, Processes, draw
from supernet.weights import family, network
from supernet.weights import subnet as subnets
from supernet.weights.augmentation import USUAL, Augmentation
from supernet.weights.images import Epoch, Images, training_batches
from supernet.weights.network import Trained

CHECKPOINT_KIND = "supernet checkpoint"
CHECKPOINT, FINISHED, SUMMARY = "checkpoint.safetensors", network.FILE, "summary.json"
REPORTING = frozenset({*LOGGING, "out", "validate_every"})  # they do not change the weights


@dataclass(frozen=True)
class Plan:
    """What a training does: the weights follow from it."""

    space: SearchSpace
    images: Images
    recipe: Recipe
    optimisation: Optimisation
    seed: int = 0
    augmentation: Augmentation = USUAL

    def __post_init__(self) -> None:
        batch, images = self.optimisation.batch, len(self.images.parts["train"])
        if batch > images:
            raise ValueError(f"batch={batch} is more than the {images} training images")
        low, high = self.images.settings.resolution
        if not self.sides or self.sides[0] != low or self.sides[-1] != high:
            raise ValueError(
                f"data.resolution=[{low},{high}] must start and end at input sides of {self.space.name}: "
                f"{', '.join(map(str, self.space.axis('r').values))}"
            )
        if any(phase.sort_channels for phase in self.phases):
            family.sorting(self.space)
        _ = self.starts  # ValueError for fewer epochs than phases, before anything is written

    @cached_property
    def sides(self) -> tuple[int, ...]:
        """The input sides of the space within `data.resolution`."""
        low, high = self.images.settings.resolution
        return tuple(side for side in self.space.axis("r").values if low <= side <= high)

    @cached_property
    def phases(self) -> tuple[Phase, ...]:
        return self.recipe.phases(self.space)

    @cached_property
    def starts(self) -> list[int]:
        """The first epoch of each phase, and the number of all epochs."""
        return [0, *accumulate(epochs_of(self.phases, self.optimisation.epochs))]

    def rate(self, epoch: int, step: int, steps: int) -> float:
        """The learning rate at a step of an epoch of so many steps."""
        begins = dict(zip(self.starts, self.phases, strict=False))
        cuts = [start for start, phase in begins.items() if phase.restart or not start] + self.starts[-1:]
        place = bisect_right(cuts, epoch)
        first, length = cuts[place - 1], cuts[place] - cuts[place - 1]  # epochs of this cosine
        done, phase = (epoch - first) * steps + step, self.phases[bisect_right(self.starts, epoch) - 1]
        return phase.rate * self.optimisation.rate_at(done, length * steps, begins[first].warm_up)

    def facts(self) -> dict[str, Any]:
        """What is known of the weights that follow."""
        images, lengths = self.images, np.diff(self.starts).tolist()
        return {
            "space": self.space.name,
            "classes": len(images.classes),
            "resolution": list(images.settings.resolution),
            "mean": list(images.mean),
            "std": list(images.std),
            "data": images.facts(),
            "seed": self.seed,
            "augmentation": asdict(self.augmentation),
            "phases": [
                [p.name, n, p.distil, p.rate, p.warm_up, p.summed]
                for p, n in zip(self.phases, lengths, strict=True)
            ],
        }


def train(
    plan: Plan,
    out: Path,
    config: Mapping[str, Any],
    group: Processes,
    *,
    sinks: Sequence[Sink] = (),
    validate_every: int = 5,
) -> Trained:
    """Train a supernet in the run folder `out`, or go on where an unfinished run stopped.

    When the loss becomes NaN or infinite, a DivergedError is raised and the checkpoint of the last finished
    epoch stays.

    >>> plan = Plan(get_space("ofa_small"), ImageSet("digits", (16, 16)).load(), Sandwich(), Optimisation())
    >>> with processes() as group:
    ...     supernet = train(plan, Path("runs/mine"), {}, group)
    """
    optimisation, first = plan.optimisation, group.rank == 0
    if optimisation.batch // optimisation.forward_batch % group.world:
        raise ValueError(
            f"batch={optimisation.batch} in forward passes of {optimisation.forward_batch} cannot be shared "
            f"by {group.world} processes: choose forward_batch <= {optimisation.batch // group.world}"
        )
    folder = RunFolder(out, FINISHED, REPORTING, frozenset({CHECKPOINT}))
    with folder.hold_by_first(config, group.rank) as environment:
        group.wait()
        run = _Run(plan, out, group, sinks)
        try:
            about = {"seed": plan.seed, "processes": group.world, "environment": environment}
            for sink in run.sinks:
                sink.start(about, run.history)
            run.go(validate_every)
            if first:
                run.finish()
        finally:
            for sink in run.sinks:
                sink.close()
        group.wait()
    return network.load(out)


class _Run:
    """The state of a training, and what advances it epoch by epoch."""

    def __init__(self, plan: Plan, out: Path, group: Processes, sinks: Sequence[Sink]) -> None:
        self.plan, self.out, self.group = plan, out, group
        self.history: list[Row] = []
        self.cpu_seconds = self.seconds = 0.0
        self.learner = Learner(plan.space, len(plan.images.classes), plan.optimisation, group, plan.seed)
        if (out / CHECKPOINT).is_file():
            self._resume(out / CHECKPOINT)
        self.sinks = [Jsonl(out / EVENTS, "epoch"), *sinks] if group.rank == 0 else []

    def go(self, validate_every: int) -> None:
        """Train until the last epoch."""
        with self._spare() as self.spare:
            self._go(validate_every)

    def _spare(self) -> AbstractContextManager[disk.Spare | None]:
        """Room on the disk for a checkpoint: a finished training is not lost to a full disk."""
        size = 3 * sum(tensor.nbytes for tensor in self.learner.tensors().values())  # with two momenta
        return nullcontext() if self.group.rank else disk.Spare(self.out / CHECKPOINT, size)

    def _go(self, validate_every: int) -> None:
        starts = self.plan.starts
        for epoch in range(len(self.history), starts[-1]):
            phase = self.plan.phases[bisect_right(starts, epoch) - 1]
            if epoch in starts:
                self.learner.enter(phase)
            wall, cpu = time.perf_counter(), time.process_time()
            row = self._epoch(epoch, phase)
            if self.group.rank == 0 and (epoch + 1 in starts or (epoch + 1) % validate_every == 0):
                row |= self._validate(phase)
            self.seconds += time.perf_counter() - wall
            self.cpu_seconds += time.process_time() - cpu
            row |= {"seconds": round(self.seconds, 3), "cpu_seconds": round(self.cpu_seconds, 3)}
            self.history.append(row)
            if self.spare is not None:
                self.spare.write(self._checkpoint)
                for sink in self.sinks:
                    sink.log(row)

    def _epoch(self, epoch: int, phase: Phase) -> dict[str, Any]:
        plan, learner, seed = self.plan.optimisation, self.learner, self.plan.seed
        order = Epoch(seed, epoch, plan.batch, plan.forward_batch, self.plan.sides, self.plan.augmentation)
        loader = training_batches(self.plan.images, order, rank=self.group.rank, world=self.group.world)
        passes = plan.batch // plan.forward_batch // self.group.world  # of this process, per step
        steps = len(loader) // passes
        space = phase.restricted(self.plan.space)
        learner.module.train()
        total, batches = torch.zeros(len(phase.subnets), dtype=torch.float64), iter(loader)
        for step in range(steps):
            genomes = draw(phase, space, seed=seed, epoch=epoch, step=step)
            rate = self.plan.rate(epoch, step, steps)
            learner.begin(rate, epoch=epoch, step=step)
            losses = torch.zeros_like(total)
            for _ in range(passes):
                losses += learner.add_gradients(phase, genomes, *next(batches), passes)
            losses = self.group.mean(losses)
            if not torch.isfinite(losses).all():
                raise self._diverged(epoch, step, rate)
            learner.finish_step()
            total += losses
            for sink in self.sinks:
                sink.step(step + 1, steps, float(losses.mean()))
        if not learner.is_finite():
            raise self._diverged(epoch, steps - 1, rate)  # in the last step: the checkpoint must not take it
        means = (total / steps).tolist()
        row = {"epoch": epoch, "phase": phase.name, "loss": float(np.mean(means)), "losses": means}
        return {**row, "rate": rate, "steps": steps}

    def _diverged(self, epoch: int, step: int, rate: float) -> DivergedError:
        kept = f"the checkpoint of epoch {epoch} is kept in {self.out}" if epoch else "nothing is trained yet"
        return DivergedError(
            f"the loss became NaN or infinite in step {step + 1} of epoch {epoch + 1} at a learning rate of "
            f"{rate:.3g}; {kept}. Start again with a lower rate= (it was {self.plan.optimisation.rate:g})"
        )

    def _validate(self, phase: Phase) -> dict[str, float]:
        """Accuracy of the largest and the smallest subnet of a phase on the validation images, calibrated."""
        side = self.plan.sides[-1]
        space = phase.restricted(self.plan.space).restrict("r", side, side)
        trained = Trained(self.plan.space, self.learner.result, self.plan.facts(), "")
        accuracy = {}
        for name, genome in (("largest", network.largest(space)), ("smallest", network.smallest(space))):
            subnet = subnets.from_supernet(trained, self.plan.images, space.format(genome)[0])
            accuracy[f"val_{name}"] = subnets.judge(subnet, self.plan.images, "val").top1
        return accuracy

    def finish(self) -> None:
        """The result, the weights last of what makes the run finished; then the loggers, which take them."""
        record, *loggers = self.sinks
        summary = self._summary()
        artifact.write_json(self.out / SUMMARY, summary)
        record.finish(summary)
        network.save(self.out / FINISHED, self.learner.result.state_dict(), network.KIND, self.plan.facts())
        for sink in loggers:
            sink.finish(summary)

    def _summary(self) -> dict[str, Any]:
        """What the training took and reached."""
        reached = ("seconds", "cpu_seconds", "loss", "val_largest", "val_smallest")
        took = {key: self.history[-1][key] for key in reached if key in self.history[-1]}
        return {"epochs": len(self.history), "processes": self.group.world, **took}

    def _checkpoint(self) -> None:
        facts = {"history": self.history, "scaler": self.learner.scaler.state_dict(), "of": self.plan.facts()}
        network.save(self.out / CHECKPOINT, self.learner.tensors(), CHECKPOINT_KIND, facts)

    def _resume(self, path: Path) -> None:
        tensors, facts = network.read(path, CHECKPOINT_KIND)
        if facts.get("of") != json.loads(json.dumps(self.plan.facts())):
            raise ValueError(f"{path} is of another training (images, space or recipe): choose another out=")
        self.learner.restore(tensors, path)
        with artifact.usable(path, CHECKPOINT_KIND, "left as it is, choose another out="):
            self.learner.scaler.load_state_dict(facts["scaler"])
            self.history = [dict(epoch) for epoch in facts["history"]]
            self.seconds, self.cpu_seconds = (
                float(self.history[-1][key]) for key in ("seconds", "cpu_seconds")
            )
