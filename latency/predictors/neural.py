"""Neural latency predictors (arXiv 2101.00732): an MLP per device, fine-tuned from a base device.

The paper's network has 128 inputs (20 x one-hot kernel, 20 x one-hot expansion, zeros where a block is
absent, 8 x one-hot resolution 112, 128, ..., 224) and three hidden layers of 400 with ReLU. It says
milliseconds and is trained on the root mean squared error of each batch, by SGD with batches of 32 for 100
epochs; another device gets a new last layer while the others are frozen. `configs/learner/s1.yaml` is that.

The default is ours: the logarithm of the latency, standardised, AdamW with a cosine schedule, the epoch that
is best on validation rows, any resolution and any space. Another device gets a line between the logarithms,
and then all layers are trained as long as left-out samples say that it helps.

Letters: n measurements, p inputs, c context inputs (what is known of the device).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveInt

from latency.conformal import mape, relative_std
from latency.data import LatencyData, held_out
from latency.perceptron import Mlp, Training
from latency.predictors import interface, mlp
from latency.predictors.interface import History, check_samples, space_of, with_history
from latency.predictors.mlp import Rows
from latency.target import Target
from supernet.arrays import Floats, Genomes, Ints, Rng
from supernet.fits import folds, robust
from supernet.options import options
from supernet.prediction import Prediction
from supernet.space import SearchSpace, get_space

PAPER_SIDES = np.arange(112, 225, 16)  # pixels, of arXiv 2101.00732
KNOTS = np.arange(128, 225, 16)  # pixels
VALIDATION_SHARE = 0.15  # as in arXiv 2101.00732, 70/15/15
FOLDS = 5
MIN_ROWS = 20
PRIOR_SAMPLES = 2.0  # worth of the belief that latencies of two devices are proportional
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

    ms = scale * net + offset, of which the exponential with `log`. `context` (c,) are inputs that say which
    device it is.
    """

    target: Target
    network: Mlp
    encoding: Encoding
    log: bool
    scale: float
    offset: float
    relative_std: float  # of a single new measurement, from rows left out of the fit
    resolutions: tuple[int, int]
    context: Floats = field(default_factory=lambda: np.empty(0))
    facts: Mapping[str, Any] = field(default_factory=dict)
    history: History | None = None  # of `adapt`

    def predict(self, genomes: Genomes, target: Target) -> Prediction:
        """(n,) ms of canonical genomes; ValueError for another target or unknown resolutions."""
        space_of(self, genomes, target)
        mean = self.ms(genomes)
        return Prediction(mean, self.relative_std * mean)

    def ms(self, genomes: Genomes) -> Floats:
        """(n,) milliseconds of genomes."""
        return self.milliseconds(self.network(self.inputs(genomes)))

    def milliseconds(self, outputs: Floats) -> Floats:
        """(n,) milliseconds that outputs of the network stand for."""
        value = self.scale * outputs + self.offset
        return np.exp(value) if self.log else np.maximum(value, TINY_MS)

    def inputs(self, genomes: Genomes) -> NDArray[np.float32]:
        """(n, p + c) what the network sees."""
        x = encode(get_space(self.target.space), genomes, self.encoding)
        context = np.broadcast_to(self.context.astype(np.float32), (len(x), len(self.context)))
        return np.concatenate([x, context], axis=1)

    def aims(self, ms: Floats) -> Floats:
        """(n,) what the network should say for these latencies."""
        return ((np.log(ms) if self.log else ms) - self.offset) / self.scale

    @with_history
    def adapt(self, data: LatencyData) -> "NeuralLatency":
        """This predictor fine-tuned to another target of the same space; `FineTune` has the options."""
        return FineTune().tune(self, data)

    def check(self) -> None:
        """ValueError unless the network takes the inputs of its space."""
        space = get_space(self.target.space)
        probe = space.restrict("r", self.resolutions[0], self.resolutions[0]) if "r" in space.index else space
        inputs = self.inputs(probe.sample(1, np.random.default_rng(0)))
        if inputs.shape[1] != self.network.inputs:
            raise ValueError(f"its network has another number of inputs than {space.name}")

    save = interface.save


@options
class Neural:
    """The learner: `fit` on a few hundred measurements or more of one target.

    `validation` rows (first, past the last) choose the epoch and give the intervals; None: a random 15%.
    """

    encoding: Encoding = "one_hot"
    hidden: tuple[PositiveInt, ...] = (400, 400, 400)
    log: bool = True  # learn the logarithm of the latency
    standardise: bool = True
    training: Training = Training()
    # [first,past] rows that choose the epoch and give the intervals; None: a random 15%
    validation: tuple[int, int] | None = None
    seed: int = 0

    def fit(self, data: LatencyData) -> NeuralLatency:
        """The fitted predictor; its `relative_std` and `left_out_mape` are those of the validation rows."""
        return self.fit_many([data], [np.empty(0)])

    def fit_many(self, sets: Sequence[LatencyData], contexts: Sequence[Floats]) -> NeuralLatency:
        """One network for several targets, told apart by their contexts (c,); for the target of the first.

        `replace` its target and context for another one. `validation` rows are of each.
        """
        rng = np.random.default_rng(self.seed)
        if (count := sum(map(len, sets))) < MIN_ROWS:
            raise ValueError(
                f"{count} measurements are too few: give at least {MIN_ROWS}, or take learner=transfer"
            )
        out = np.concatenate([held_out(n, self._judging(n, rng)) for n in map(len, sets)])
        ms = np.concatenate([data.ms for data in sets])
        y = (np.log(ms) if self.log else ms)[~out]
        ranges = [get_space(data.target.space).resolution_range(data.genomes) for data in sets]
        blank = NeuralLatency(
            target=sets[0].target,
            network=Mlp(()),
            encoding=self.encoding,
            log=self.log,
            scale=(float(y.std()) or 1.0) if self.standardise else 1.0,
            offset=float(y.mean()) if self.standardise else 0.0,
            relative_std=0.0,
            resolutions=(min(low for low, _ in ranges), max(high for _, high in ranges)),
            context=contexts[0],
        )
        x = np.concatenate(
            [
                replace(blank, target=data.target, context=context).inputs(data.genomes)
                for data, context in zip(sets, contexts, strict=True)
            ]
        )
        aims = blank.aims(ms)
        network = mlp.train(
            Mlp.random((x.shape[1], *self.hidden, 1), rng),
            Rows(x[~out], aims[~out]),
            training=self.training,
            rng=rng,
            validation=Rows(x[out], aims[out]),
        )
        fitted = replace(blank, network=network)
        residual = fitted.milliseconds(network(x[out])) / ms[out] - 1
        facts = {"method": "neural", "rows": count, "encoding": self.encoding}
        facts["left_out_mape"] = mape(residual)
        return replace(fitted, relative_std=relative_std(residual), facts=facts)

    def _judging(self, n: int, rng: Rng) -> slice | Ints:
        if self.validation is not None:
            return slice(*self.validation)
        return rng.permutation(n)[: max(int(VALIDATION_SHARE * n), 2)]


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
    seed: int = 0

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
        base = replace(origin, target=data.target, relative_std=0.0)
        head = self.layers == "head"
        start = _with_new_head(base, rng) if head else _with_line(base, data)
        training = self.head if head else self.training
        if head and (base.log or base.scale != 1):
            training = replace(training, learning_rate=OF_ORDER_ONE * training.learning_rate)
        x, networks = start.inputs(data.genomes), []

        def relative_error(kept: Ints, out: Ints) -> Floats:
            tuned = start if head else _with_line(base, data.take(kept))
            if head or len(data) >= MIN_TUNED:
                aims = tuned.aims(data.ms)
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
            return tuned.milliseconds(tuned.network(x[out])) / data.ms[out] - 1

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


def _with_line(base: NeuralLatency, data: LatencyData) -> NeuralLatency:
    """The network whose outputs a robust line maps to the samples."""
    y = np.log(data.ms) if base.log else data.ms
    slope, offset = _line(base.network(base.inputs(data.genomes)), y, base.scale)
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
