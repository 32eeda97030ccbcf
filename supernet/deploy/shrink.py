"""Shrinking one subnet of a supernet trained here: steps that prune, train, grow or quantise it, and recipes.

A step takes a subnet and gives one. After each of them the model that would be deployed is written, in the
precision reached so far (`supernet.deploy.model`), and its footprint and quality are measured on that file.
A run folder keeps every step, so an interrupted recipe goes on after the last finished one; the same config
and seed give the same weights.
"""

import copy
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from supernet.deploy import export, fake_quant, pruning
from supernet.deploy import model as deployed_model
from supernet.files import artifact, disk
from supernet.files.run_folder import RunFolder
from supernet.files.tables import Table
from supernet.measures import MEASURES
from supernet.options import (
    AtLeastTwo,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveFraction,
    PositiveInt,
    options,
)
from supernet.space import SearchSpace
from supernet.training import finetune
from supernet.training.finetune import Distil, FineTuning, Progress, energy_kwh, train_alone
from supernet.training.step import Amp, Processes
from supernet.training.student import Norms
from supernet.weights import live_memory, quality
from supernet.weights import subnet as subnets
from supernet.weights.augmentation import USUAL, Augmentation
from supernet.weights.images import Images, Part
from supernet.weights.network import Trained
from supernet.weights.subnet import Subnet

CARD = "card.json"
TRAINING = "training.safetensors"  # in the folder of a step that trains, until its card is written


@dataclass(frozen=True, eq=False)
class Bench:
    """What the steps work with.

    Training happens on the device of `group`, in all its processes; between the steps a subnet lies on the
    CPU. `narrow` keeps int8 weights to 7 bits, for processors that need it, and `engine` is that of int8
    models. `checkpoint` is the file that lets the training of a step go on.
    """

    trained: Trained
    images: Images
    group: Processes
    narrow: bool
    engine: str = "onnxruntime"
    seed: NonNegativeInt = 0
    watts: NonNegativeFloat = 65.0  # of the device that trains: nothing measures it
    part: Part = "test"  # the images that quality is measured on
    watch: Callable[[str], None] = lambda now: None
    checkpoint: Path | None = None
    checkpoint_seconds: float = 30.0  # between two checkpoints
    teachers: dict[tuple[Distil, int], Any] = field(default_factory=dict, repr=False)  # those of before

    def in_int8(self, subnet: Subnet, images: int) -> Subnet:
        """The subnet, to be deployed in int8 with ranges from so many calibration images."""
        return subnet.with_facts(precision="int8", int8_engine=self.engine, calibration_images=images)

    def teacher(self, distil: Distil, side: int) -> torch.nn.Module | None:
        """The network that teaches at this side, as `finetune.teacher` gives it."""
        if (distil, side) not in self.teachers:
            teacher = finetune.teacher(distil, self.trained, self.images, side)
            self.teachers[distil, side] = teacher
        taught_by: torch.nn.Module | None = self.teachers[distil, side]
        return taught_by


class Step(Protocol):
    """Takes a subnet and gives one; the subnet it takes stays as it is.

    A step that does not serve the networks of all families also has `check(space)`, a ValueError for a space
    that it does not serve.
    """

    def apply(self, subnet: Subnet, bench: Bench) -> Subnet: ...


@options
class PruneChannels:
    """Keep the most important middle channels of every block; norms are calibrated anew."""

    keep: PositiveFraction = 0.5

    def check(self, space: SearchSpace) -> None:
        pruning.check(space)

    def apply(self, subnet: Subnet, bench: Bench) -> Subnet:
        return subnets.calibrated(pruning.prune_channels(subnet, self.keep), bench.images)


@options
class PruneWeights:
    """Set the smallest weights to zero: only the compressed file gets smaller."""

    keep: PositiveFraction = 0.5

    def apply(self, subnet: Subnet, bench: Bench) -> Subnet:
        return subnets.calibrated(pruning.prune_weights(subnet, self.keep), bench.images)


@options
class Grow:
    """The subnet of the supernet, with its weights, that is one level deeper and wider everywhere."""

    levels: PositiveInt = 1
    letters: tuple[str, ...] = ("d", "e", "w")

    def apply(self, subnet: Subnet, bench: Bench) -> Subnet:
        space = bench.trained.space
        if "pruned" in subnet.facts:
            raise ValueError("Grow needs a subnet of the supernet, this one is pruned: put Grow first")
        genome = space.parse([subnet.architecture])
        grows = np.array([axis.letter in self.letters for axis in space.axes])
        larger = np.where(grows & (genome > 0), np.minimum(genome + self.levels, space.levels), genome)
        name = space.format(space.canonical(larger.astype(np.int8)))[0]
        return subnets.from_supernet(bench.trained, bench.images, name)


@options
class TrainingStep:
    """What the steps that train have in common.

    They learn the labels, and the outputs of the teacher that `distil` names. The options are those of
    `finetune.FineTuning`.
    """

    epochs: PositiveInt = 10
    rate: PositiveFloat = 0.01
    distil: Distil = "largest"
    augmentation: Augmentation = USUAL
    batch: AtLeastTwo = 64
    forward_batch: AtLeastTwo | None = None
    amp: Amp = "auto"

    def recipe(self, bench: Bench) -> FineTuning:
        """How this step trains."""
        own = {item.name: getattr(self, item.name) for item in fields(self)}
        names = {item.name for item in fields(FineTuning)}
        return FineTuning(**{name: value for name, value in own.items() if name in names}, seed=bench.seed)

    def train(self, subnet: Subnet, bench: Bench) -> Subnet:
        """The subnet, its module trained in place and back on the CPU, and what its training took so far."""

        def watch(done: float, loss: float) -> None:
            bench.watch(f"epoch {done:.2f} of {self.epochs}, loss {loss:.3f}")

        seconds, _ = train_alone(
            subnet,
            bench.images,
            self.recipe(bench),
            bench.group,
            teacher=bench.teacher(self.distil, subnet.side),
            progress=Progress(watch, bench.checkpoint, bench.checkpoint_seconds),
        )
        hours = float(subnet.facts.get("training_hours", 0.0)) + sum(seconds) / 3600
        return subnet.with_facts(training_hours=hours, training_kwh=energy_kwh(hours, bench.watts))


@options
class FineTune(TrainingStep):
    """Train further, or from scratch; live norms are calibrated anew. Weights that `PruneWeights` set to zero
    stay zero."""

    from_scratch: bool = False
    norms: Norms | None = None

    def apply(self, subnet: Subnet, bench: Bench) -> Subnet:
        if self.from_scratch:
            new = subnets.untrained(subnet.architecture, subnet.config, bench.seed)
            subnet = replace(subnet, module=new)
        else:
            subnet = replace(subnet, module=copy.deepcopy(subnet.module))
        tuned = self.train(subnet, bench)
        live = self.recipe(bench).in_training == "live"
        return subnets.calibrated(tuned, bench.images) if live else tuned


@options
class Int8:
    """Post-training int8, ranges from so many calibration images."""

    images: PositiveInt = 256

    def apply(self, subnet: Subnet, bench: Bench) -> Subnet:
        return bench.in_int8(subnet, self.images)


@options
class Int8Aware(TrainingStep):
    """Fine-tune with the rounding of int8 in the forward pass, then quantise as `Int8` does.

    Weights adapt to the grid; ranges of activations are those before the training.
    """

    epochs: PositiveInt = 3
    rate: PositiveFloat = 0.002
    images: PositiveInt = 256

    def apply(self, subnet: Subnet, bench: Bench) -> Subnet:
        subnet = replace(subnet, module=copy.deepcopy(subnet.module))
        batches = deployed_model.calibration(subnet, bench.images, self.images)
        with subnets.placed(subnet.module, bench.group.device):
            ranges = fake_quant.input_ranges(subnet.module, map(torch.from_numpy, batches))
        with fake_quant.fake_quantised(subnet.module, ranges, narrow=bench.narrow):
            tuned = self.train(subnet, bench)
        tuned.module.eval()
        return bench.in_int8(tuned, self.images)


@options
class Recipe:
    """Steps in their order."""

    steps: tuple[Any, ...]

    def __post_init__(self) -> None:
        wrong = [type(step).__name__ for step in self.steps if not hasattr(step, "apply")]
        if wrong or not self.steps:
            raise ValueError(f"steps={wrong or '[]'}: a recipe is a list of steps of supernet.deploy.shrink")

    def check(self, space: SearchSpace) -> None:
        """ValueError for a space whose networks a step does not serve."""
        for step in self.steps:
            if hasattr(step, "check"):
                step.check(space)

    @property
    def quantises(self) -> bool:
        """Whether it ends in int8."""
        return any(isinstance(step, Int8 | Int8Aware) for step in self.steps)


@dataclass(frozen=True, eq=False)
class Stage:
    """A subnet after a step, its card and its folder."""

    name: str
    subnet: Subnet
    card: Mapping[str, Any]
    folder: Path


def run(recipe: Recipe, architecture: str, bench: Bench, out: Path, config: Mapping[str, Any]) -> list[Stage]:
    """Apply the steps of a recipe to a subnet; returns the subnet before the first step and after each.

    Every stage is kept in a folder of `out`, so a run that was stopped goes on after its last finished step,
    and where that step trains, inside its training. Only the first process writes.

    >>> recipe = Recipe((PruneChannels(0.6), FineTune(epochs=12), Int8()))
    >>> stages = run(recipe, "ofa_small r16 d1-1-1 k3-3-3 e2-2-2 ft0", bench, Path("runs/small"), {})
    >>> stages[-1].card["file_bytes"]
    """
    check(recipe, bench)
    with RunFolder(out, finished=None).hold_by_first(config, bench.group.rank):
        bench.group.wait()
        return apply(recipe, architecture, bench, out)


def check(recipe: Recipe, bench: Bench) -> None:
    """ValueError for a recipe that cannot be applied with this bench, before any work."""
    recipe.check(bench.trained.space)
    if recipe.quantises:
        deployed_model.check_engine(bench.engine)
    for step in recipe.steps:
        if isinstance(step, TrainingStep):
            step.recipe(bench).passes(bench.group, len(bench.images.parts["train"]))


def apply(recipe: Recipe, architecture: str, bench: Bench, out: Path) -> list[Stage]:
    """What `run` does, in a run folder that is held and with a recipe that was checked."""
    stages: list[Stage] = []
    for i, step in enumerate([None, *recipe.steps]):
        name = "plain" if step is None else type(step).__name__
        folder = out / f"{i}-{name}"
        finished = (folder / CARD).is_file()
        bench.group.wait()  # all have looked before the first writes
        if not finished:
            bench.watch(name)
            if step is None:
                subnet = subnets.from_supernet(bench.trained, bench.images, architecture)
            else:
                place = replace(bench, checkpoint=folder / TRAINING)
                subnet = step.apply(stages[-1].subnet, place)
            if not bench.group.rank:
                keep(subnet, bench, folder)
        bench.group.wait()
        if not bench.group.rank:
            disk.remove(folder / TRAINING)
        stages.append(_load(name, folder))  # also a new one: the next step must not know the difference
    return stages


def _load(name: str, folder: Path) -> Stage:
    return Stage(name, subnets.load(folder), artifact.read_json(folder / CARD), folder)


def run_plain(architecture: str, bench: Bench, folder: Path) -> Stage:
    """Another subnet as it comes out of the supernet, kept like a step; made anew where the folder holds
    another one."""
    kept = folder / CARD
    if not kept.is_file() or artifact.read_json(kept)["architecture"] != architecture:
        disk.remove(kept)  # the card comes last: an interruption must not leave that of another
        keep(subnets.from_supernet(bench.trained, bench.images, architecture), bench, folder)
    return _load("plain", folder)


def keep(subnet: Subnet, bench: Bench, folder: Path) -> dict[str, Any]:
    """Write the subnet, its model and, last, its card into a folder; returns the card.

    The card holds footprint and quality of the model; quality by the engine that runs it.
    """
    model = deployed_model.from_subnet(subnet, bench.images, narrow=bench.narrow)
    measured = quality.evaluate(model.run, bench.images.batches(bench.part, subnet.side, subnets.BATCH))
    subnet = subnet.with_quality(measured, bench.part)
    subnet.save(folder / subnets.FILE)
    files = model.files(export.facts_of(subnet))
    for name, content in files.items():
        artifact.write_bytes(folder / name, content)
    precision = subnet.facts.get("precision", "fp32")
    counted = live_memory.footprint(subnet.module, subnet.side)
    if precision == "int8":
        counted["peak_bytes"] /= 4  # a byte per value
    card = {
        "architecture": subnet.architecture,
        "pruned": subnet.facts.get("pruned", 1.0),
        "precision": precision,
        **counted,
        "weight_bytes": model.weight_bytes,
        **{key: subnet.facts[key] for key in ("training_hours", "training_kwh") if key in subnet.facts},
        **asdict(measured),
        "file_bytes": sum(map(len, files.values())),
        "packed_bytes": sum(len(zlib.compress(content, 9)) for content in files.values()),
    }
    artifact.write_json(folder / CARD, card)
    return card


def table(cards: Mapping[str, Mapping[str, Any]], names: Iterable[str] = MEASURES) -> Table:
    """A row for each card; of the named measures those that any card has, in the units that people read."""
    columns: dict[str, list[Any]] = {"": list(cards), "precision": [c["precision"] for c in cards.values()]}
    for name in names:
        scale = MEASURES[name].scale
        values = [float(card[name] / scale) if name in card else None for card in cards.values()]
        if any(value is not None for value in values):
            columns[f"{name} [{MEASURES[name].shown}]"] = values
    return Table(columns)
