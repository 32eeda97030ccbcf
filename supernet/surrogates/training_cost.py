"""Training cost: GPU-hours, energy and price to bring a subnet to deployment by a recipe of fine-tuning
epochs.

hours = epochs x images x seconds per image / 3600, seconds per image of a training step (forward, backward,
update):

    ms per image = a x activations + b x MACs + c x parameters / batch + d        (a, b, c, d >= 0; ours)

fitted per family on measured training speeds (timm's results, RTX 3090, AMP, channels_last): memory traffic,
arithmetic, weight update and a floor. For mobile networks the fit gives b = 0: on this GPU their training
time is memory traffic, so kernel sizes do not change it. With a teacher, whose forward pass takes about a
third of its own training step, that third of its activations and MACs is added to those of the network.
Recalibrating batch norm (a forward pass over about
2,000 images, under a minute) is not counted, so zero epochs cost nothing. The supernet's own training is
shared by all deployments and reported apart.
"""

import json
import re
from dataclasses import asdict, dataclass, replace
from functools import cache, lru_cache
from pathlib import Path

import numpy as np

from supernet import device, footprint, slot_table
from supernet.arrays import Floats, Genomes, Ints
from supernet.device import Device
from supernet.files import artifact
from supernet.files.tables import Columns, select
from supernet.fits import folds
from supernet.layers import LayerKind
from supernet.options import NonNegativeFloat, PositiveFloat, PositiveInt, options
from supernet.prediction import QUANTILE, Prediction
from supernet.slot_table import SlotTable
from supernet.space import SearchSpace, get_space

FITTED = Path(__file__).parent / "fitted" / "training_cost.json"
FITTED_ON = "rtx_3090"
METRICS = ("activations", "macs", "params")
PULL = 0.03  # of the base in `fit`
FORWARD = 1 / 3  # of the work of a training step is its forward pass: backward takes two such passes
IMAGENET, IMAGENET_BATCH = 1_281_167, 256  # training images, and images of a step
SCALED_STD = 0.25  # added in quadrature (relative) when scaled to another GPU; see `speed_ratio`

FAMILIES = {
    "mobile": r"^(tf_)?(mobilenet|mnasnet|semnasnet|efficientnet_(b|es|em|el|lite)"
    r"|fbnet|hardcorenas|tinynet|lcnet|spnasnet)",
    "resnet": r"^(resnet\d|ecaresnet|seresnet\d|wide_resnet|resnext|resnetrs|legacy_seresn|resnetaa"
    r"|resnetblur)",
    "transformer": r"^(vit|deit3?|flexivit|beit|cait|eva)_",
}


def family_of(architecture: str) -> str:
    """The family of a timm architecture name: mobile, resnet, transformer or other."""
    return next((name for name, pattern in FAMILIES.items() if re.match(pattern, architecture)), "other")


@lru_cache(maxsize=256)
def family_of_space(space: SearchSpace) -> str:
    """The family whose step time a space has, by the layers of its largest network: a transformer has
    attention, a mobile network depthwise convolutions."""
    table = space.layers(space.extremes()[1:])
    if (table.kind == LayerKind.ATTENTION).any():
        return "transformer"
    depthwise = (table.kind == LayerKind.CONV) & (table.groups > 1) & (table.groups == table.cin)
    return "mobile" if depthwise.any() else "resnet"


@dataclass(frozen=True, eq=False)
class Steps:
    """Training steps by what they do for one image; all (n,)."""

    activations: Floats  # elements
    macs: Floats
    params: Floats
    batch: Floats

    @classmethod
    def from_genomes(
        cls, space: SearchSpace, genomes: Genomes, batch: int, *, teacher: float = 0.0
    ) -> "Steps":
        """The steps of these subnets, with this share of the work of a step of the largest network at the
        same input side."""
        counts = {name: footprint.compute(space, genomes, name) for name in METRICS}
        if teacher:
            largest = _largest(space, genomes)
            for name in ("activations", "macs"):
                counts[name] = counts[name] + teacher * footprint.compute(space.owner, largest, name)
        return cls(**counts, batch=np.full(len(genomes), float(batch)))

    def take(self, rows: Ints) -> "Steps":
        return Steps(self.activations[rows], self.macs[rows], self.params[rows], self.batch[rows])

    def features(self) -> Floats:
        """(n, 4) what the coefficients of a `StepTime` multiply."""
        one = np.ones(len(self.batch))
        return np.stack(
            [self.activations / 1e6, self.macs / 1e9, self.params / 1e6 / self.batch, one], axis=1
        )


def _largest(space: SearchSpace, genomes: Genomes) -> Genomes:
    """(n, d) the largest network of the whole space at the input side of each of these."""
    owner = get_space(space.owner.name)
    largest = np.repeat(owner.extremes()[1:], len(genomes), axis=0)
    if "r" in owner.index:
        largest[:, owner.index["r"]] = space.embed(genomes, owner.name)[:, owner.index["r"]]
    return largest


@dataclass(frozen=True)
class StepTime:
    """Milliseconds per image of a training step, for one family of networks on one machine. `teacher` is the
    share of a step of the largest network that is computed beside: 0 without distillation."""

    per_mega_activation: float
    per_giga_mac: float
    per_mega_param_over_batch: float
    floor: float
    relative_std: float  # of a prediction for a family member of another lineage
    teacher: float = 0.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < np.inf:
                raise ValueError(f"{name}={value!r} must be a finite number that is not negative")

    def coefficients(self) -> Floats:
        """(4,) in the order of `Steps.features`."""
        return np.array(
            [self.per_mega_activation, self.per_giga_mac, self.per_mega_param_over_batch, self.floor]
        )

    def ms(self, steps: Steps) -> Floats:
        """(n,) ms per image."""
        return steps.features() @ self.coefficients()


def fit(steps: Steps, ms: Floats, base: StepTime | None = None) -> StepTime:
    """Non-negative least squares of the relative error of measured ms per image (n,).

    With `base`, the step time of another machine, two steps are enough: a term per coefficient holds it near
    the scaled base, where a deviation of as much as the whole step weighs like an error of `PULL`.
    `relative_std` is that of the fit; cross-validate outside.
    """
    from scipy.optimize import nnls

    features = steps.features() / ms[:, None]
    rows, aims = features, np.ones(len(ms))
    if base is not None:
        scaled = base.coefficients() * float(np.median(1 / (features @ base.coefficients())))
        pull = PULL * np.diag(features.mean(axis=0))
        rows, aims = np.concatenate([rows, pull]), np.concatenate([aims, pull @ scaled])
    weights, _ = nnls(rows, aims)
    residual = features @ weights - 1
    activation, mac, param, floor = (float(weight) for weight in weights)
    return StepTime(activation, mac, param, floor, relative_std=float(np.sqrt(np.mean(residual**2))))


def fit_families(rows: Columns) -> tuple[dict[str, StepTime], dict[str, dict[str, float]]]:
    """The step time of each family on timm's table of ImageNet models, and its scores.

    Both the scores and `relative_std` are of whole lineages of architectures (resnet, efficientnet, ...) left
    out in turn.
    """
    rows = select(rows, (rows["train_img_size"] == rows["img_size"]) & np.isfinite(rows["train_ips_rtx3090"]))
    _, first = np.unique(rows["arch"], return_index=True)  # the others differ in their weights only
    rows = select(rows, first)
    family = np.array([family_of(arch) for arch in rows["arch"]])
    fitted, scores = {}, {}
    for name in FAMILIES:
        part = select(rows, family == name)
        steps = Steps(
            part["macts_m"] * 1e6, part["gmacs"] * 1e9, part["params_m"] * 1e6, part["train_bs_rtx3090"]
        )
        ms = 1000 / part["train_ips_rtx3090"]
        names = [arch.removeprefix("tf_").split("_")[0].rstrip("0123456789") for arch in part["arch"]]
        lineages, fold = np.unique(names, return_inverse=True)
        error = np.abs(left_out_error(steps, ms, fold))
        std = float(np.quantile(error, 0.9) / QUANTILE(0.95))
        fitted[name] = replace(fit(steps, ms), relative_std=std)
        scores[name] = {
            "networks": len(ms),
            "lineages": len(lineages),
            "mape": float(100 * error.mean()),
            "median_ape": float(100 * np.median(error)),
            "within_10": float(100 * (error <= 0.1).mean()),
        }
    return fitted, scores


def left_out_error(steps: Steps, ms: Floats, fold: Ints) -> Floats:
    """(n,) relative errors of predictions for steps of folds (n,) left out of the fit."""

    def predict(kept: Ints, out: Ints) -> Floats:
        return fit(steps.take(kept), ms[kept]).ms(steps.take(out))

    return folds.left_out(fold, predict) / ms - 1


@cache
def fitted() -> dict[str, StepTime]:
    """The step times that ship, by family; made by `scripts/fit_training_cost.py`."""
    return {name: StepTime(**node) for name, node in json.loads(FITTED.read_text())["families"].items()}


@cache
def load_step(path: Path) -> StepTime:
    """The step time in a file of `save_step`; ValueError that names the file when it is something else."""
    try:
        return StepTime(**artifact.read_json(path))
    except (OSError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"training.step_file={path} holds no measured training step ({error}): "
            "give the training_step.json of make adapt target.engine=torch_training"
        ) from error


def save_step(path: Path, step: StepTime) -> None:
    """Write a step time as JSON."""
    artifact.write_json(path, asdict(step))


def step_ms(steps: Steps, family: str, gpu: Device) -> Prediction:
    """(n,) ms of training steps of networks of a family of `FAMILIES` on a GPU, under AMP."""
    step = fitted()[family]
    mean = step.ms(steps) * steps.batch / speed_ratio(gpu)
    return Prediction(mean, relative_std(step, gpu) * mean)


def relative_std(step: StepTime, gpu: Device) -> float:
    """Relative standard deviation of a step time that was fitted on an RTX 3090, on a GPU."""
    return float(np.hypot(step.relative_std, SCALED_STD if gpu.name != FITTED_ON else 0.0))


def speed_ratio(this: Device) -> float:
    """How many times faster than an RTX 3090 a GPU trains, from its data sheet: bandwidth^.85 x fp32^.15
    (ours).

    The exponents describe timm's inference speeds of the RTX 4090, 5090 and PRO 6000 against the 3090 (194
    convolutional networks below 2 GMACs: medians 1.34 / 1.97 / 1.80, this rule 1.21 / 2.04 / 2.06; sd of the
    logarithm .21-.23 per network). Training speeds of other GPUs are not public in this form, so the
    uncertainty is stated, not measured. Command: `python -m benchmarks.claims`.
    """
    base = device.get(FITTED_ON)
    if this.kind != "gpu" or not this.bandwidth_gbs or not this.fp32_tflops:
        raise ValueError(
            f"no training speed for {this.name}: choose a GPU with known bandwidth and fp32 rate"
        )
    assert base.bandwidth_gbs is not None
    assert base.fp32_tflops is not None
    return float(
        (this.bandwidth_gbs / base.bandwidth_gbs) ** 0.85 * (this.fp32_tflops / base.fp32_tflops) ** 0.15
    )


@options
class TrainingCost:
    """The recipe and the rates. Epochs come from the gene `finetune_epochs` of each genome.

    With `step_file`, training steps measured on the machine itself (`make adapt ARGS="target.engine=
    torch_training ..."`), hours are of that machine, and `gpu` only stands for its power. A search in a
    supernet of one's own fills in what is null: its images, the batch of its fine-tuning and, without `gpu`,
    steps timed on this machine.
    """

    gpu: str | None = None  # whose hours; null: an RTX 3090
    # training_step.json of make adapt ARGS="target.engine=torch_training target.batch=16": this machine
    step_file: Path | None = None
    images: PositiveInt | None = None  # training images; null: those of ImageNet
    batch: PositiveInt | None = None  # images of a step; null: 256
    distil: bool = False  # the supernet's largest network answers beside; a step_file says so itself
    usd_per_hour: NonNegativeFloat = 0.5
    power_overhead: NonNegativeFloat = 1.5  # wall power over the GPU's data-sheet power: host, cooling
    watts: PositiveFloat | None = None  # wall power; null: of the GPU's data sheet, times the overhead
    supernet_gpu_hours: NonNegativeFloat = 1200.0  # OFA's own training, in V100-hours (Cai et al., 2020)
    deployments: PositiveInt = 40  # over how many deployments the supernet is amortised

    def __post_init__(self) -> None:
        speed_ratio(device.get(self._gpu))
        if self.step_file is not None:
            load_step(self.step_file)

    @property
    def _gpu(self) -> str:
        return self.gpu or FITTED_ON

    def hours_per_epoch(self, space: SearchSpace, genomes: Genomes) -> Floats:
        """(n,) GPU-hours of an epoch, whatever recipes the genomes name."""
        step = self._step(space)
        tables = [table for metric in METRICS if (table := footprint.table(space, metric)) is not None]
        batch = self.batch or IMAGENET_BATCH
        if len(tables) < len(METRICS) or step.teacher or space.reaches_beyond(genomes).any():
            steps = Steps.from_genomes(space, genomes, batch, teacher=step.teacher)
            return self._hours(step.ms(steps))
        *per_unit, floor = step.coefficients()
        weights = np.array(per_unit) / (1e6, 1e9, 1e6) / (1, 1, batch)
        ms = slot_table.combine(zip(weights, tables, strict=True))
        return SlotTable(self._hours(ms.cells), self._hours(ms.base + floor)).evaluate(space, genomes)

    def _hours(self, ms: Floats) -> Floats:
        ratio = 1.0 if self.step_file else speed_ratio(device.get(self._gpu))
        return ms * (self.images or IMAGENET) / 3.6e6 / ratio

    def _step(self, space: SearchSpace) -> StepTime:
        if self.step_file is not None:
            return load_step(self.step_file)
        return replace(fitted()[family_of_space(space)], teacher=FORWARD if self.distil else 0.0)

    def hours(self, space: SearchSpace, genomes: Genomes) -> Prediction:
        """(n,) GPU-hours to fine-tune these subnets by their recipe; 0 for zero epochs."""
        mean = self.hours_per_epoch(space, genomes) * space.column(genomes, "finetune_epochs")
        std = self.relative_std(space) * mean
        return Prediction(mean, std, shared=std[:, None])  # one factor is off for all networks

    def relative_std(self, space: SearchSpace) -> float:
        """Relative standard deviation of the hours: of the fit on lineages left out, and of scaling to
        another GPU."""
        step = self._step(space)
        return step.relative_std if self.step_file else relative_std(step, device.get(self._gpu))

    def kwh(self, space: SearchSpace, genomes: Genomes) -> Prediction:
        """(n,) energy in kWh at an assumed power: a model, nothing is measured."""
        return self.hours(space, genomes).scaled(self._watts() / 1000)

    def _watts(self) -> float:
        sheet = device.get(self._gpu).tdp_w
        if self.watts is None and sheet is None:
            raise ValueError(f"no data-sheet power for {self._gpu}: give training.watts=")
        return self.watts or (sheet or 0.0) * self.power_overhead

    def usd(self, space: SearchSpace, genomes: Genomes) -> Prediction:
        """(n,) price in USD at `usd_per_hour`."""
        return self.hours(space, genomes).scaled(self.usd_per_hour)

    def describe(self, space: SearchSpace) -> dict[str, str]:
        """What the hours are of, for people."""
        share = self.supernet_gpu_hours / self.deployments
        where = f"this machine (steps timed: {self.step_file})" if self.step_file else self._gpu
        facts = {
            "recipe": f"fine-tuning on {self.images or IMAGENET:,} images, batch "
            f"{self.batch or IMAGENET_BATCH}, on {where}",
            "relative deviation": f"{100 * self.relative_std(space):.0f}%",
            "price": f"{self.usd_per_hour} USD/h; power overhead {self.power_overhead}",
        }
        if self.step_file is None:
            facts["shared, not in the objective"] = (
                f"supernet {self.supernet_gpu_hours:g} h of a V100 once, {share:g} h per deployment over "
                f"{self.deployments}"
            )
        return facts
