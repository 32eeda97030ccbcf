"""Shrinking one subnet of a supernet trained here: steps that prune, train, grow or quantise it, and recipes.

A step takes a subnet and gives one. After each of them the model that would be deployed is written, in the
precision reached so far (`supernet.deploy.model`), and its footprint and quality are measured on that file.
A run folder keeps every step, so an interrupted recipe goes on after the last finished one; the same config
and seed give the same weights.
"""

from __future__ import annotations

import copy
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

import numpy as np
import yaml
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as checked_dataclass

from supernet import footprint
from supernet.deploy import export, fake_quant, pruning
from supernet.deploy import model as deployed_model
from supernet.deploy.model import Model
from supernet.files import artifact
from supernet.training.finetune import FineTuning, energy_kwh, train_alone
from supernet.training.train import Processes
from supernet.weights import network, quality
from supernet.weights import subnet as subnets
from supernet.weights.images import Images, Part
from supernet.weights.network import Trained
from supernet.weights.subnet import Subnet

if TYPE_CHECKING:
    import torch

CARD = "card.json"
Watch = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Bench:
    """What the steps work with. `narrow`: int8 weights of 7 bits, for the processor that will run them.
    `engine`: of int8 models, onnxruntime or openvino."""

    trained: Trained
    images: Images
    group: Processes
    narrow: bool
    engine: str = "onnxruntime"
    seed: int = 0
    watts: float = 65.0  # of the device that trains: nothing measures it
    part: Part = "test"  # the images that quality is measured on
    watch: Watch = lambda now: None

    def in_int8(self, subnet: Subnet, images: int) -> Subnet:
        """The subnet, to be deployed in int8 with ranges from so many calibration images."""
        return subnet.with_facts(precision="int8", int8_engine=self.engine, calibration_images=images)

    @cached_property
    def _teachers(self) -> dict[int, torch.nn.Module]:
        return {}

    def teacher(self, side: int) -> torch.nn.Module:
        """The supernet's largest subnet, calibrated at this side."""
        if side not in self._teachers:
            biggest = network.largest(self.trained.space.restrict("r", side, side))
            name = self.trained.space.format(biggest)[0]
            self._teachers[side] = subnets.of_supernet(self.trained, self.images, name).module
        return self._teachers[side]


class Step(Protocol):
    def apply(self, subnet: Subnet, bench: Bench) -> Subnet: ...


# ---------------------------------------------------------------------- steps
@checked_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class PruneChannels:
    """Keep the most important middle channels of every block; norms are calibrated anew."""

    keep: Annotated[float, Field(gt=0, le=1)] = 0.5

    def apply(self, subnet: Subnet, bench: Bench) -> Subnet:
        return subnets.calibrated(pruning.prune_channels(subnet, self.keep), bench.images)


@checked_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class PruneWeights:
    """Set the smallest weights to zero: only the compressed file gets smaller."""

    keep: Annotated[float, Field(gt=0, le=1)] = 0.5

    def apply(self, subnet: Subnet, bench: Bench) -> Subnet:
        return subnets.calibrated(pruning.prune_weights(subnet, self.keep), bench.images)


@checked_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Grow:
    """The subnet of the supernet that is one level deeper and wider in every stage and block, with the
    supernet's weights."""

    levels: Annotated[int, Field(ge=1)] = 1
    letters: tuple[str, ...] = ("d", "e", "w")

    def apply(self, subnet: Subnet, bench: Bench) -> Subnet:
        space = bench.trained.space
        if "pruned" in subnet.facts:
            raise ValueError("Grow needs a subnet of the supernet, this one is pruned: put Grow first")
        genome = space.parse([subnet.architecture])
        grows = np.array([axis.letter in self.letters for axis in space.axes])
        larger = np.where(grows & (genome > 0), np.minimum(genome + self.levels, space.levels), genome)
        name = space.format(space.canonical(larger.astype(np.int8)))[0]
        return subnets.of_supernet(bench.trained, bench.images, name)


@checked_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class FineTune:
    """Train further, or from scratch.

    On the labels, with `distil` also on the outputs of the supernet's largest subnet. `augment` and `flip`
    are those of the images unless given.
    """

    epochs: Annotated[int, Field(ge=1)] = 10
    rate: Annotated[float, Field(gt=0)] = 0.01
    distil: bool = True
    from_scratch: bool = False
    augment: Literal["none", "shift", "crop"] | None = None
    flip: bool | None = None
    batch: Annotated[int, Field(ge=2)] = 64

    def apply(self, subnet: Subnet, bench: Bench) -> Subnet:
        import torch

        module = copy.deepcopy(subnet.module)
        if self.from_scratch:
            from ofa.utils.my_modules import init_models

            with torch.random.fork_rng():
                torch.manual_seed(bench.seed)
                init_models(module, "he_fout")
        trained = replace(subnet, module=module)
        hours = _train(trained, bench, self)
        return subnets.calibrated(_spent(trained, bench, hours), bench.images)


@checked_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Int8:
    """Post-training int8, ranges from so many calibration images."""

    images: Annotated[int, Field(ge=1)] = 256

    def apply(self, subnet: Subnet, bench: Bench) -> Subnet:
        return bench.in_int8(subnet, self.images)


@checked_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Int8Aware:
    """Fine-tune with the rounding of int8 in the forward pass, then quantise as `Int8` does.

    Weights adapt to the grid; ranges of activations are those before the training.
    """

    epochs: Annotated[int, Field(ge=1)] = 3
    rate: Annotated[float, Field(gt=0)] = 0.002
    distil: bool = True
    images: Annotated[int, Field(ge=1)] = 256
    batch: Annotated[int, Field(ge=2)] = 64
    augment: Literal["none", "shift", "crop"] | None = None
    flip: bool | None = None

    def apply(self, subnet: Subnet, bench: Bench) -> Subnet:
        import torch

        trained = replace(subnet, module=copy.deepcopy(subnet.module))
        batches = deployed_model.calibration(subnet, bench.images, self.images)
        ranges = fake_quant.input_ranges(trained.module, map(torch.from_numpy, batches))
        with fake_quant.fake_quantised(trained.module, ranges, narrow=bench.narrow):
            hours = _train(trained, bench, self)
        trained.module.eval()
        return bench.in_int8(_spent(trained, bench, hours), self.images)


def _train(subnet: Subnet, bench: Bench, step: FineTune | Int8Aware) -> float:
    """Train the subnet's module in place; returns device-hours."""
    usual = bench.images.settings
    flip = usual.flip if step.flip is None else step.flip
    settings = replace(usual, augment=step.augment or usual.augment, flip=flip)
    images = replace(bench.images, settings=settings)
    shared = {field.name for field in fields(step)} & {field.name for field in fields(FineTuning)}
    options = {name: getattr(step, name) for name in shared - {"from_scratch"}}
    recipe = FineTuning(**options, seed=bench.seed)
    teacher = bench.teacher(subnet.side) if step.distil else None

    def watch(done: int, loss: float) -> None:
        bench.watch(f"epoch {done} of {recipe.epochs}, loss {loss:.3f}")

    seconds, _ = train_alone(
        subnet.module, images, subnet.side, recipe, bench.group, teacher=teacher, watch=watch
    )
    return sum(seconds) / 3600


def _spent(subnet: Subnet, bench: Bench, hours: float) -> Subnet:
    total = float(subnet.facts.get("training_hours", 0.0)) + hours
    return subnet.with_facts(training_hours=total, training_kwh=energy_kwh(total, bench.watts))


# ---------------------------------------------------------------------- what would be deployed
def card(subnet: Subnet, model: Model, images: Images, part: Part) -> dict[str, Any]:
    """Footprint and quality of the model; quality on a part of the images, by the engine that runs it."""
    counted = footprint.of_subnet(subnet)
    batches = images.batches(part, subnet.side, subnets.BATCH)
    found = quality.evaluate(model.run, batches)
    precision = subnet.facts.get("precision", "fp32")
    return {
        "architecture": subnet.architecture,
        "pruned": subnet.facts.get("pruned", 1.0),
        "precision": precision,
        "params": counted["params"],
        "macs": counted["macs"],
        "weight_bytes": model.weight_bytes,
        "peak_bytes": counted["peak_bytes"] / (4 if precision == "int8" else 1),  # a byte per value
        **{key: subnet.facts[key] for key in ("training_hours", "training_kwh") if key in subnet.facts},
        **asdict(found),
    }


# ---------------------------------------------------------------------- recipes
@checked_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Recipe:
    """Steps in their order."""

    steps: tuple[Any, ...]

    def __post_init__(self) -> None:
        wrong = [type(step).__name__ for step in self.steps if not hasattr(step, "apply")]
        if wrong or not self.steps:
            raise ValueError(f"steps={wrong or '[]'}: a recipe is a list of steps of supernet.deploy.shrink")

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
    """The subnet as it comes out of the supernet, then after each step; goes on where `out` stopped."""
    if recipe.quantises:
        deployed_model.check_engine(bench.engine)
    _check_folder(out, config)
    subnet: Subnet | None = None
    stages: list[Stage] = []
    for i, step in enumerate([None, *recipe.steps]):
        name = "plain" if step is None else type(step).__name__
        folder = out / f"{i}-{name}"
        if not (folder / CARD).is_file():
            bench.watch(name)
            if step is None or subnet is None:
                subnet = subnets.of_supernet(bench.trained, bench.images, architecture)
            else:
                subnet = step.apply(subnet, bench)
            keep(subnet, bench, folder)
        subnet = subnets.load(folder)  # also when it was made now: the next step must not know the difference
        stages.append(Stage(name, subnet, json.loads((folder / CARD).read_text()), folder))
    return stages


def run_plain(architecture: str, bench: Bench, folder: Path) -> Stage:
    """Another subnet as it comes out of the supernet, kept like a step; made anew where the folder holds
    another one."""
    kept = folder / CARD
    if not kept.is_file() or json.loads(kept.read_text())["architecture"] != architecture:
        kept.unlink(missing_ok=True)  # the card comes last: an interruption must not leave that of another
        keep(subnets.of_supernet(bench.trained, bench.images, architecture), bench, folder)
    return Stage("plain", subnets.load(folder), json.loads(kept.read_text()), folder)


def keep(subnet: Subnet, bench: Bench, folder: Path) -> dict[str, Any]:
    """Write the subnet, its model and, last, its card into a folder; returns the card."""
    model = deployed_model.of(subnet, bench.images, narrow=bench.narrow)
    found = card(subnet, model, bench.images, bench.part)
    told = {key: found[key] for key in ("top1", "top5", "loss", "ece", "images")}
    subnet = subnet.with_facts(accuracy={**told, "part": bench.part})
    subnet.save(folder / subnets.FILE)
    files = model.files(export.facts_of(subnet))
    for name, content in files.items():
        artifact.write_bytes(folder / name, content)
    packed = sum(len(zlib.compress(content, 9)) for content in files.values())
    found |= {"file_bytes": sum(map(len, files.values())), "packed_bytes": packed}
    artifact.write_json(folder / CARD, found)
    return found


def _check_folder(out: Path, config: Mapping[str, Any]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    plain = json.loads(json.dumps(dict(config), default=str))
    kept = out / "config.yaml"
    if not kept.exists():
        artifact.write_text(kept, yaml.safe_dump(plain, sort_keys=False))
        return
    before = yaml.safe_load(kept.read_text())
    if new := sorted(plain.keys() - before.keys()):
        raise ValueError(
            f"{out} was made by an earlier version, which knew no {', '.join(new)}: choose another out="
        )
    if differ := sorted(key for key in {*before, *plain} if before.get(key) != plain.get(key)):
        raise ValueError(
            f"{out} was made with other settings ({_changes(before, plain, differ)}): repeat its command, or "
            "choose another out="
        )


def _changes(before: Mapping[str, Any], now: Mapping[str, Any], keys: Sequence[str]) -> str:
    return ", ".join(
        key if isinstance(before.get(key), dict) else f"{key}={before.get(key)}, now {now.get(key)}"
        for key in keys
    )


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """A Markdown table of cards, a row each; columns in the order of the registry, where any has a value."""
    shown = [name for name in footprint.MEASURES if any(name in card for card in rows.values())]
    heads = [f"{name} [{footprint.MEASURES[name].shown}]" for name in shown]
    lines = ["| | precision | " + " | ".join(heads) + " |", "|---|---|" + "---:|" * len(shown)]
    for title, values in rows.items():
        cells = [
            f"{values[name] / footprint.MEASURES[name].scale:.4g}" if name in values else "" for name in shown
        ]
        lines.append(f"| {title} | {values['precision']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
