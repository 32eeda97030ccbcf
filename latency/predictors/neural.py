"""Neural latency predictors (arXiv 2101.00732): an MLP per device, fine-tuned from a base device.

The paper's network has 128 inputs (20 x one-hot kernel, 20 x one-hot expansion, zeros where a block is
absent, 8 x one-hot resolution 112, 128, ..., 224) and three hidden layers of 400 with ReLU. It says
milliseconds and is trained on the root mean squared error of each batch, by SGD with batches of 32 for 100
epochs; another device gets a new last layer while the others are frozen. `configs/learner/s1.yaml` is that.

The default is ours: the logarithm of the latency, standardised, AdamW with a cosine schedule, the epoch that
is best on validation rows, any resolution and any space. Another device gets a line between the logarithms,
and then all layers are trained as long as left-out samples say that it helps.

One network may serve several GPUs, and others by their parameters. In the paper these are three further
inputs, numbers as they are (`configs/learner/s1_gpus.yaml`). Ours are their logarithms, or none: the network
then says how many times as long as the roofline a GPU takes (`latency.descriptors.roofline_ms`).

Letters: n measurements, p inputs of the architecture, c inputs of the device.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from latency.conformal import mape, relative_std
from latency.data import LatencyData, held_out
from latency.descriptors import DeviceInputs, device_inputs, roofline_ms
from latency.perceptron import Mlp, Training
from latency.predictors import interface, mlp
from latency.predictors.interface import History, check_samples, space_of, with_history
from latency.predictors.mlp import Rows
from latency.target import NOT_STATED, Target
from supernet.arrays import Floats, Genomes, Ints, Rng
from supernet.fits import folds, robust
from supernet.options import NonNegativeInt, PositiveInt, options
from supernet.prediction import QUANTILE, Prediction
from supernet.space import SearchSpace, get_space

PAPER_SIDES = np.arange(112, 225, 16)  # pixels, of arXiv 2101.00732
KNOTS = np.arange(128, 225, 16)  # pixels
VALIDATION_SHARE = 0.15  # as in arXiv 2101.00732, 70/15/15
FOLDS = 5
MIN_ROWS = 20
PRIOR_SAMPLES = 2.0  # worth of the belief that latencies of two devices are proportional
# How far off a GPU is that is not in the fit (log), as far as others do not tell: like so many more of them.
UNSEEN, UNSEEN_WEIGHT = 0.4, 2
ROWS_LEFT_OUT = 500  # of each GPU, in fits that leave one out
MIN_TUNED = 20  # samples; with fewer, layers are not trained: two left-out samples cannot say when to stop
ALL = Training(epochs=60, batch=32, learning_rate=3e-4, weight_decay=0.0, loss="mse", patience=15)
HEAD = Training(  # latency_finetune.py in the repository of arXiv 2101.00732, OFANAS_PerformanceEstimation
    epochs=100, batch=32, learning_rate=0.1, weight_decay=1e-3, momentum=0.9,
    loss="rmse", optimiser="sgd", schedule="constant",
)  # fmt: skip
OF_ORDER_ONE = 0.1  # of the rate of HEAD, whose outputs are tens of milliseconds, for standardised outputs
TINY_MS = 1e-6  # networks in milliseconds, not in their logarithm, may say less than nothing

Encoding = Literal["one_hot", "s1"]


def encode(space: SearchSpace, genomes: Genomes, encoding: Encoding) -> NDArray[np.float32]:
    """(n, p) network inputs.

    "one_hot": every gene of the network one-hot, absent ones zero; the resolution as piecewise-linear
    functions with a knot every 16 pixels, one-hot at the knots, as libraries switch algorithms with it.
    "s1": the 128 inputs of arXiv 2101.00732; ValueError between its steps of 16 pixels.
    """
    hot = space.one_hot(genomes, np.float32)
    offsets = space.one_hot_offsets
    if encoding == "s1":
        kernels = np.arange(offsets[space.index["ks0"]], offsets[space.index["ks19"] + 1])
        widths = np.arange(offsets[space.index["e0"]], offsets[space.index["e19"] + 1])
        side = space.column(genomes, "r")[:, None] == PAPER_SIDES
        if not side.any(axis=1).all():
            raise ValueError("encoding=s1 knows only resolutions 112, 128, ..., 224: take encoding=one_hot")
        return np.concatenate([hot[:, kernels], hot[:, widths], side], axis=1, dtype=np.float32)
    kept = [j for j, axis in enumerate(space.axes) if not axis.deploy and axis.name != "r"]
    parts = [hot[:, offsets[j] : offsets[j + 1]] for j in kept]
    if "r" in space.index:
        r = space.column(genomes, "r")
        parts.append(np.stack([np.interp(r, KNOTS, hat) for hat in np.eye(len(KNOTS))], axis=1))
    return np.concatenate(parts, axis=1, dtype=np.float32)


@dataclass(frozen=True, eq=False)
class NeuralLatency:
    """Milliseconds of one batch on one target, about 50,000 subnets/s on one core.

    ms = unit * (scale * net + offset), of the sum the exponential with `log`. A network of several GPUs has
    `device`, how their parameters enter it, and `known`, the targets that it was fitted to; `at` applies it
    to another one.
    """

    target: Target
    network: Mlp
    encoding: Encoding
    log: bool
    scale: float
    offset: float
    relative_std: float  # of a single new measurement, from rows left out of the fit
    resolutions: tuple[int, int]
    device: DeviceInputs | None = None
    has_batch: bool = False  # among the inputs
    factor: float = 1.0  # of the roofline; a GPU's own where its rows were fitted
    known: tuple[Target, ...] = ()
    factors: tuple[float, ...] = ()  # of each known target
    # relative; on a known target, on an unknown GPU, and what all networks share of the latter
    stds: tuple[float, float, float] = (0.0, 0.0, 0.0)
    shared_std: float = 0.0  # of relative_std
    facts: Mapping[str, Any] = field(default_factory=dict)
    history: History | None = None  # of `adapt`

    def predict(self, genomes: Genomes, target: Target) -> Prediction:
        """(n,) ms of canonical genomes; ValueError for another target or unknown resolutions."""
        space_of(self, genomes, target)
        mean = self.ms(genomes)
        shared = (self.shared_std * mean)[:, None] if self.shared_std else None
        return Prediction(mean, self.relative_std * mean, shared)

    def at(self, target: Target) -> "NeuralLatency":
        """The predictor of another GPU by its parameters; ValueError unless the network is one of several
        GPUs, for another space, and for conditions that it has not seen."""
        mine = self.target
        if target.key == mine.key:
            return self
        if not self.known:
            raise ValueError(f"the predictor was fitted for {mine.name}; leave target={target.name} out")
        batches = [one.batch for one in self.known]
        engine = NOT_STATED if mine.engine == NOT_STATED else target.engine
        alike = replace(target, device=mine.device, batch=mine.batch, engine=engine)
        if alike.key != mine.key:
            raise ValueError(f"the predictor was fitted for {mine.differences(alike)} (target={target.name})")
        if not min(batches) <= target.batch <= max(batches):
            sizes = ", ".join(map(str, sorted(set(batches))))
            raise ValueError(f"the predictor has seen batches of {sizes}, not of {target.batch}")
        known, away, shared = self.stds
        moved = replace(self, target=target, relative_std=away, shared_std=shared, factor=1.0)
        for one, factor in zip(self.known, self.factors, strict=True):
            if replace(one, engine=target.engine).key == target.key:
                moved = replace(moved, relative_std=known, shared_std=0.0, factor=factor)
        moved.check()
        return moved

    def ms(self, genomes: Genomes) -> Floats:
        """(n,) milliseconds of genomes."""
        return self.unit(genomes) * self.times(self.network(self.inputs(genomes)))

    def unit(self, genomes: Genomes) -> Floats | float:
        """(n,) milliseconds that the network counts in: one, or with physical inputs the roofline, times what
        a known GPU takes of it."""
        return self.factor * roofline_ms(self.target, genomes) if self.device == "physical" else 1.0

    def times(self, outputs: Floats) -> Floats:
        """(n,) how many units outputs of the network stand for."""
        value = self.scale * outputs + self.offset
        return np.exp(value) if self.log else np.maximum(value, TINY_MS)

    def inputs(self, genomes: Genomes) -> NDArray[np.float32]:
        """(n, p + c) what the network sees."""
        x = encode(get_space(self.target.space), genomes, self.encoding)
        if self.device is None:
            return x
        mine = device_inputs(self.target, self.device, batch=self.has_batch).astype(np.float32)
        return np.concatenate([x, np.broadcast_to(mine, (len(x), len(mine)))], axis=1)

    def aims(self, times: Floats) -> Floats:
        """(n,) what the network should say for so many units."""
        return ((np.log(times) if self.log else times) - self.offset) / self.scale

    @with_history
    def adapt(self, data: LatencyData) -> "NeuralLatency":
        """This predictor fine-tuned to another target of the same space; `FineTune` has the options."""
        return FineTune().tune(self, data)

    def check(self) -> None:
        """ValueError unless the network takes the inputs of its space and device."""
        space = get_space(self.target.space)
        probe = space.restrict("r", self.resolutions[0], self.resolutions[0]) if "r" in space.index else space
        genomes = probe.sample(1, np.random.default_rng(0))
        inputs, _ = self.inputs(genomes), self.unit(genomes)
        if inputs.shape[1] != self.network.inputs:
            raise ValueError(f"its network has another number of inputs than {space.name}")

    save = interface.save


@options
class Neural:
    """The learner: `fit` on a few hundred measurements or more of one target, or of several GPUs.

    `validation` rows (first, past the last) choose the epoch and give the intervals; None: a random 15%.
    """

    encoding: Encoding = "one_hot"
    hidden: tuple[PositiveInt, ...] = (400, 400, 400)
    log: bool = True  # learn the logarithm of the latency
    standardise: bool = True
    training: Training = Training()
    # [first,past] rows that choose the epoch and give the intervals; None: a random 15%
    validation: tuple[NonNegativeInt, NonNegativeInt] | None = None
    inputs: DeviceInputs = "physical"  # with devices=: raw (arXiv 2101.00732), logarithms or physical
    seed: NonNegativeInt = 0

    def fit(self, data: LatencyData) -> NeuralLatency:
        """The fitted predictor; its `relative_std` and `left_out_mape` are those of the validation rows."""
        return self._network([data], None)

    def fit_many(self, sets: Sequence[LatencyData]) -> NeuralLatency:
        """One network of several GPUs, their parameters among its inputs; for the target of the first.

        `at` gives it for another GPU, whose intervals are those of leaving each of these out of a fit of
        `ROWS_LEFT_OUT` rows of each of the others. `validation` rows are of each. ValueError unless there are
        two GPUs at least, all of one space and under the same conditions but for the batch.
        """
        first, gpus = sets[0].target, list(dict.fromkeys(data.target.spec.name for data in sets))
        targets = tuple(data.target for data in sets)
        if len(gpus) < 2:
            raise ValueError(f"{', '.join(gpus)} alone: give the measurements of two GPUs at least")
        for target in targets:
            same = replace(target, device=first.device, batch=first.batch)
            if same.key != first.key:
                raise ValueError(
                    f"GPUs of one network share all but device and batch: {target.name} has "
                    f"{same.differences(first)}"
                )
        fitted = self._network(sets, self.inputs)
        offsets, spreads = zip(*(self._left_out(sets, gpu) for gpu in gpus), strict=True)
        shared, own = _unseen_std(np.array(offsets)), float(np.median(spreads))
        errors = {gpu: round(100 * abs(math.expm1(off)), 1) for gpu, off in zip(gpus, offsets, strict=True)}
        return replace(
            fitted,
            known=targets,
            factors=tuple(_factors(sets)) if self.inputs == "physical" else (1.0,) * len(sets),
            stds=(fitted.relative_std, math.hypot(shared, own), shared),
            facts={**fitted.facts, "gpus": gpus, "inputs": self.inputs, "gpus_left_out": errors},
        )

    def _left_out(self, sets: Sequence[LatencyData], gpu: str) -> tuple[float, float]:
        """By how much a GPU is off when the others predict it, in the mean and around it; logarithms."""
        some = [
            data.take(np.unique(np.linspace(0, len(data) - 1, ROWS_LEFT_OUT).astype(int))) for data in sets
        ]
        rest = [data for data in some if data.target.spec.name != gpu]
        network = replace(self, validation=None)._network(rest, self.inputs)
        off = np.concatenate(
            [
                np.log(replace(network, target=data.target).ms(data.genomes) / data.ms)
                for data in some
                if data.target.spec.name == gpu
            ]
        )
        return float(off.mean()), float(off.std())

    def _network(self, sets: Sequence[LatencyData], device: DeviceInputs | None) -> NeuralLatency:
        """A network of these targets, for the first of them."""
        rng = np.random.default_rng(self.seed)
        if (count := sum(map(len, sets))) < MIN_ROWS:
            raise ValueError(
                f"{count} measurements are too few: give at least {MIN_ROWS}, or take learner=transfer"
            )
        out = np.concatenate([held_out(n, self._judging(n, rng)) for n in map(len, sets)])
        ranges = [get_space(data.target.space).resolution_range(data.genomes) for data in sets]
        blank = NeuralLatency(
            target=sets[0].target,
            network=Mlp(()),
            encoding=self.encoding,
            log=self.log,
            scale=1.0,
            offset=0.0,
            relative_std=0.0,
            resolutions=(min(low for low, _ in ranges), max(high for _, high in ranges)),
            device=device,
            has_batch=len({data.target.batch for data in sets}) > 1,
        )
        factors = _factors(sets) if device == "physical" else [1.0] * len(sets)
        own = [
            (replace(blank, target=data.target, factor=factor), data)
            for data, factor in zip(sets, factors, strict=True)
        ]
        times = np.concatenate([data.ms / each.unit(data.genomes) for each, data in own])
        if self.standardise:
            y = (np.log(times) if self.log else times)[~out]
            blank = replace(blank, scale=float(y.std()) or 1.0, offset=float(y.mean()))
        x = np.concatenate([each.inputs(data.genomes) for each, data in own])
        aims = blank.aims(times)
        network = mlp.train(
            Mlp.random((x.shape[1], *self.hidden, 1), rng),
            Rows(x[~out], aims[~out]),
            training=self.training,
            rng=rng,
            validation=Rows(x[out], aims[out]),
        )
        fitted = replace(blank, network=network, factor=factors[0])
        residual = fitted.times(network(x[out])) / times[out] - 1
        facts = {"method": "neural", "rows": count, "encoding": self.encoding}
        facts["left_out_mape"] = mape(residual)
        return replace(fitted, relative_std=relative_std(residual), facts=facts)

    def _judging(self, n: int, rng: Rng) -> slice | Ints:
        if self.validation is not None:
            return slice(*self.validation)
        return rng.permutation(n)[: max(int(VALIDATION_SHARE * n), 2)]


def _factors(sets: Sequence[LatencyData]) -> list[float]:
    """Of each target, what its GPU takes of the roofline beside the others, whose median is 1: one GPU of an
    old generation, which takes twice as much, says little of a new one."""
    logs: dict[str, list[float]] = {}
    for data in sets:
        off = np.log(data.ms / roofline_ms(data.target, data.genomes))
        logs.setdefault(data.target.spec.name, []).append(float(off.mean()))
    own = {gpu: float(np.mean(means)) for gpu, means in logs.items()}
    usual = float(np.median(list(own.values())))
    return [math.exp(own[data.target.spec.name] - usual) for data in sets]


def _unseen_std(offsets: Floats) -> float:
    """The standard deviation whose normal 90% interval is as wide as Student's for one more GPU, from (k,)
    logarithms by which known ones are off when they are left out; UNSEEN counts like UNSEEN_WEIGHT more."""
    from scipy.special import stdtrit

    k = len(offsets) + UNSEEN_WEIGHT
    spread = math.sqrt((float(offsets @ offsets) + UNSEEN_WEIGHT * UNSEEN**2) / k)
    return float(stdtrit(k - 1, 0.95) / QUANTILE(0.95) * spread)


@options
class FineTune:
    """A trained network moved to another device of the same space.

    `base` is a saved one (.safetensors). With `layers` "head", the way of arXiv 2101.00732, a new last layer
    is trained, as `head` says, while the others are frozen. With "all" (ours) there is a line between the
    logarithms, then all layers are trained, as `training` says; below MIN_TUNED samples the line is all.
    Either is done in five folds, each of which keeps the epoch that is best on its left-out part, and the
    weights of the five are averaged. The last epoch of the published head, which is trained at a constant
    rate, was 1.4 to 19 times as far off (rows 6000-6999 of the paper's two GPUs, 10 to 700 samples).
    """

    base: str = ""  # .safetensors of make fit ARGS="learner=neural ..."
    layers: Literal["head", "all"] = "all"  # all, or head: a new last layer (arXiv 2101.00732)
    training: Training = ALL  # with layers=all
    head: Training = HEAD  # with layers=head; a base that is not in milliseconds gets a tenth of the rate
    seed: NonNegativeInt = 0

    def __post_init__(self) -> None:
        unused, default = ("training", ALL) if self.layers == "head" else ("head", HEAD)
        if getattr(self, unused) != default:
            used = "head" if self.layers == "head" else "training"
            raise ValueError(f"layers={self.layers} is trained as {used}.* says: leave {unused}.* out")

    def fit(self, data: LatencyData) -> NeuralLatency:
        """The predictor of the target of these samples."""
        if not self.base:
            raise ValueError("please give base=FILE.safetensors, a network fitted with learner=neural")
        return self.tune(interface.load_as(NeuralLatency, Path(self.base)), data)

    def tune(self, base: NeuralLatency, data: LatencyData) -> NeuralLatency:
        """`base` moved to the target of `data`; ValueError for another space or fewer than 3 samples."""
        check_samples(data, base.target, 3)
        rng = np.random.default_rng(self.seed)
        origin = replace(base, history=None)
        base = replace(origin, target=data.target, relative_std=0.0, shared_std=0.0, known=())
        head = self.layers == "head"
        training = self.head if head else self.training
        if head and (base.log or base.scale != 1):
            training = replace(training, learning_rate=OF_ORDER_ONE * training.learning_rate)
        x, times = base.inputs(data.genomes), data.ms / base.unit(data.genomes)
        start = _with_new_head(base, rng) if head else _with_line(base, x, times)
        networks: list[Mlp] = []

        def relative_error(kept: Ints, out: Ints) -> Floats:
            tuned = start if head else _with_line(base, x[kept], times[kept])
            if head or len(data) >= MIN_TUNED:
                aims = tuned.aims(times)
                network = mlp.train(
                    tuned.network,
                    Rows(x[kept], aims[kept]),
                    training=training,
                    rng=rng,
                    validation=Rows(x[out], aims[out]),
                    only_head=head,
                )
                tuned = replace(tuned, network=network)
            networks.append(tuned.network)
            return tuned.times(tuned.network(x[out])) / times[out] - 1

        left_out = folds.left_out(folds.random_folds(len(data), FOLDS, rng=rng), relative_error)
        facts = {"method": f"fine-tuned ({self.layers})", "base": origin.target.name, "samples": len(data)}
        facts["left_out_mape"] = mape(left_out)
        return replace(
            start,
            network=Mlp.mean(networks),
            relative_std=relative_std(left_out),
            facts=facts,
            history=History(data, origin),
        )


def _with_new_head(base: NeuralLatency, rng: Rng) -> NeuralLatency:
    """The network with a last layer drawn anew."""
    *hidden, (weights, _) = base.network.layers
    return replace(base, network=Mlp((*hidden, *Mlp.random((len(weights), 1), rng).layers)))


def _with_line(base: NeuralLatency, x: NDArray[np.float32], times: Floats) -> NeuralLatency:
    """The network whose outputs a robust line maps to the samples: inputs (n, p + c), and (n,) units."""
    slope, offset = _line(base.network(x), np.log(times) if base.log else times, base.scale)
    return replace(base, scale=slope, offset=offset)


def _line(x: Floats, y: Floats, usual: float) -> tuple[float, float]:
    """Slope and offset of y on x, robust (Cauchy weights); two samples' worth pull the slope to `usual`."""
    trust = np.ones(len(x))
    for _ in range(8):
        weight = trust / trust.sum()
        middle, level = float(weight @ x), float(weight @ y)
        spread = float(weight @ (x - middle) ** 2)
        hold = PRIOR_SAMPLES / len(x) * max(spread, 1e-12)
        slope = (float(weight @ ((x - middle) * (y - level))) + hold * usual) / (spread + hold)
        residual = y - level - slope * (x - middle)
        trust = robust.cauchy_weights(residual, robust.spread(residual, floor=1e-4))
    return slope, level - slope * middle
