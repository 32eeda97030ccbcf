"""Neural latency predictors of S1 (arXiv 2101.00732): an MLP per device, fine-tuned from a base device.

Letters: n measurements, p inputs, c context inputs (what is known of the device).

S1, as published: 128 inputs (20 x one-hot kernel, 20 x one-hot expansion, zeros where a block is absent, 8 x
one-hot resolution 112, 128, ..., 224), three hidden layers of 400 with ReLU, milliseconds as they are, root
mean squared error of each batch, SGD with batches of 32 for 100 epochs; to another device by a new last layer
with the others frozen. `configs/learner/s1.yaml` is that. The default is ours: the logarithm of the latency,
standardised, AdamW with a cosine schedule, the epoch that is best on validation rows, any resolution and any
space; to another device by a line between the logarithms and then all layers, as far as left-out samples say
that it helps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from dataclasses import dataclass as plain_dataclass
from dataclasses import field as plain_field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from latency.conformal import relative_std
from latency.data import LatencyData
from latency.predictors import mlp
from latency.predictors.interface import space_of
from latency.predictors.mlp import Mlp, Training
from latency.target import Target
from supernet.arrays import Floats, Genomes, Ints
from supernet.files import artifact
from supernet.prediction import Prediction
from supernet.space import SearchSpace, get_space

KIND = "neural latency predictor"
S1_FIRST, S1_STEP, S1_SIDES = 112, 16, 8
KNOTS = np.arange(128, 225, 16)  # pixels
VALIDATION_SHARE = 0.15  # S1's 70/15/15
FOLDS = 5
MIN_ROWS = 20
PRIOR_SAMPLES = 2.0  # worth of the belief that latencies of two devices are proportional
MIN_TUNED = 20  # samples; with fewer, layers are not trained: two left-out samples cannot say when to stop
TINY_MS = 1e-6  # networks in milliseconds, not in their logarithm, may say less than nothing

Encoding = Literal["one_hot", "s1"]


def encode(space: SearchSpace, genomes: Genomes, encoding: Encoding) -> NDArray[np.float32]:
    """(n, p) network inputs.

    "one_hot": every gene of the network one-hot, absent ones zero; the resolution as piecewise-linear
    functions with a knot every 16 pixels, one-hot at the knots (the side and its square in place of them:
    twice the error, since libraries switch algorithms with the resolution). "s1": S1's 128; ValueError
    between its steps of 16.
    """
    hot = space.one_hot(genomes, np.float32)
    offsets = space.one_hot_offsets
    if encoding == "s1":
        kernels = np.arange(offsets[space.index["ks0"]], offsets[space.index["ks19"] + 1])
        widths = np.arange(offsets[space.index["e0"]], offsets[space.index["e19"] + 1])
        place, rest = np.divmod(space.column(genomes, "r") - S1_FIRST, S1_STEP)
        if rest.any() or (place < 0).any() or (place >= S1_SIDES).any():
            raise ValueError(
                "encoding=s1 knows the resolutions 112, 128, ..., 224 only; take encoding=one_hot"
            )
        side = np.eye(S1_SIDES, dtype=np.float32)[place]
        return np.concatenate([hot[:, kernels], hot[:, widths], side], axis=1)
    kept = [
        np.arange(offsets[j], offsets[j + 1])
        for j, axis in enumerate(space.axes)
        if not axis.deploy and axis.name != "r"
    ]
    parts = [hot[:, np.concatenate(kept)]]
    if "r" in space.index:
        parts.append(
            np.stack(
                [np.interp(space.column(genomes, "r"), KNOTS, hat) for hat in np.eye(len(KNOTS))], axis=1
            ).astype(np.float32)
        )
    return np.concatenate(parts, axis=1)


@plain_dataclass(frozen=True, eq=False)
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
    context: Floats = plain_field(default_factory=lambda: np.empty(0))
    facts: Mapping[str, Any] = plain_field(default_factory=dict)

    def predict(self, genomes: Genomes, target: Target) -> Prediction:
        """(n,) ms of canonical genomes of `target.space`.

        ValueError for another target or unknown resolutions.
        """
        space_of(self, genomes, target)
        mean = self.ms(genomes)
        return Prediction(mean, self.relative_std * mean)

    def ms(self, genomes: Genomes) -> Floats:
        """(n,) milliseconds."""
        value = self.scale * self.network(self.inputs(genomes)) + self.offset
        return np.exp(value) if self.log else np.maximum(value, TINY_MS)

    def inputs(self, genomes: Genomes) -> NDArray[np.float32]:
        """(n, p + c) what the network sees."""
        x = encode(get_space(self.target.space), genomes, self.encoding)
        known = np.broadcast_to(self.context.astype(np.float32), (len(x), len(self.context)))
        return np.concatenate([x, known], axis=1)

    def wished(self, ms: Floats) -> Floats:
        """(n,) what the network should say for these latencies."""
        return ((np.log(ms) if self.log else ms) - self.offset) / self.scale

    def adapt(self, data: LatencyData) -> NeuralLatency:
        """This predictor fine-tuned to another target of the same space; `FineTune` has the options."""
        return FineTune().tune(self, data)

    def save(self, path: str | Path) -> None:
        """One `.safetensors` file: the weights, and everything else as JSON in its header."""
        facts = dict(
            target=asdict(self.target),
            encoding=self.encoding,
            log=self.log,
            scale=self.scale,
            offset=self.offset,
            relative_std=self.relative_std,
            resolutions=list(self.resolutions),
            facts=dict(self.facts),
        )
        arrays = self.network.arrays() | {"context": self.context.astype(np.float32)}
        artifact.save(Path(path), KIND, arrays, facts)


def load(path: Path) -> NeuralLatency:
    """A saved predictor; ValueError that names the file when it is damaged or something else."""
    arrays, facts = artifact.load(path, KIND)
    try:
        context = arrays.pop("context").astype(np.float64)
        low, high = facts["resolutions"]
        loaded = NeuralLatency(
            target=Target(**facts["target"]),
            network=Mlp.of(arrays),
            context=context,
            resolutions=(low, high),
            **{key: facts[key] for key in ("encoding", "log", "scale", "offset", "relative_std", "facts")},
        )
        space = get_space(loaded.target.space)
        probe = space.restrict("r", low, low) if "r" in space.index else space
        inputs = loaded.inputs(probe.sample(1, np.random.default_rng(0)))
        if inputs.shape[1] != len(loaded.network.layers[0][0]):
            raise ValueError(f"its network has another number of inputs than {space.name}")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no usable {KIND} ({error}); left as it is") from error
    return loaded


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Neural:
    """The learner: `fit` on a few hundred measurements or more of one target.

    `validation` rows (first, past the last) choose the epoch and give the intervals; None: a random 15%.
    """

    encoding: Encoding = "one_hot"
    hidden: tuple[Annotated[int, Field(ge=1)], ...] = (400, 400, 400)
    log: bool = True
    standardise: bool = True
    training: Training = Training()
    validation: tuple[int, int] | None = None
    seed: int = 0

    def fit(self, data: LatencyData) -> NeuralLatency:
        """The fitted predictor; its `relative_std` and `left_out_mape` are those of the validation rows."""
        return self.fit_many([data], [np.empty(0)])

    def fit_many(self, known: Sequence[LatencyData], contexts: Sequence[Floats]) -> NeuralLatency:
        """One network for several targets, told apart by their contexts (c,); for the target of the first.

        `replace` its target and context for another one. `validation` rows are of each.
        """
        rng = np.random.default_rng(self.seed)
        if sum(len(data) for data in known) < MIN_ROWS:
            raise ValueError(
                f"{sum(len(data) for data in known)} measurements are too few to train a network; give at "
                f"least {MIN_ROWS}, or adapt a predictor (learner=transfer)"
            )
        held = [self._held_out(len(data), rng) for data in known]
        everything = [np.log(data.ms) if self.log else data.ms for data in known]
        fitted = np.concatenate([v[~out] for v, out in zip(everything, held, strict=True)])
        scale, offset = (float(fitted.std()), float(fitted.mean())) if self.standardise else (1.0, 0.0)
        sides = [_sides(data) for data in known]
        blank = NeuralLatency(
            target=known[0].target,
            network=Mlp(()),
            encoding=self.encoding,
            log=self.log,
            scale=scale or 1.0,
            offset=offset,
            relative_std=0.0,
            resolutions=(min(low for low, _ in sides), max(high for _, high in sides)),
            context=contexts[0],
        )
        inputs = [
            replace(blank, target=data.target, context=context).inputs(data.genomes)
            for data, context in zip(known, contexts, strict=True)
        ]
        x, y = np.concatenate(inputs), np.concatenate([blank.wished(data.ms) for data in known])
        out = np.concatenate(held)
        network = mlp.train(
            mlp.start((x.shape[1], *self.hidden, 1), rng),
            x[~out],
            y[~out],
            training=self.training,
            rng=rng,
            validation=(x[out], y[out]),
        )
        found = replace(blank, network=network)
        residual = np.concatenate(
            [
                replace(found, target=data.target, context=context).ms(data.genomes[mask]) / data.ms[mask] - 1
                for data, context, mask in zip(known, contexts, held, strict=True)
            ]
        )
        facts = {
            "method": "neural",
            "rows": len(y),
            "encoding": self.encoding,
            "left_out_mape": float(100 * np.abs(residual).mean()),
        }
        return replace(found, relative_std=relative_std(residual), facts=facts)

    def _held_out(self, n: int, rng: np.random.Generator) -> NDArray[np.bool_]:
        held = np.zeros(n, bool)
        if self.validation is None:
            held[rng.permutation(n)[: max(int(VALIDATION_SHARE * n), 2)]] = True
        else:
            held[slice(*self.validation)] = True
        if not held.any() or held.all():
            raise ValueError(
                f"validation rows {self.validation} of {n} leave nothing to fit or nothing to judge"
            )
        return held


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class FineTune:
    """A trained network moved to another device of the same space.

    `base` is a saved one (.safetensors). `layers` "head": S1's way, a new last layer, the others frozen.
    "all" (ours): first a line between the logarithms, then all layers, each of five folds as long as its
    left-out part gains; the weights of the five are averaged. Below MIN_TUNED samples the line is all.
    """

    base: str = ""
    layers: Literal["head", "all"] = "all"
    training: Training = Training(
        epochs=60, batch=32, learning_rate=3e-4, weight_decay=0.0, loss="mse", patience=15
    )
    seed: int = 0

    def fit(self, data: LatencyData) -> NeuralLatency:
        """The predictor of the target of these samples."""
        if not self.base:
            raise ValueError("please give base=FILE.safetensors, a network fitted with learner=neural")
        return self.tune(load(Path(self.base)), data)

    def tune(self, base: NeuralLatency, data: LatencyData) -> NeuralLatency:
        """`base` moved to the target of `data`; ValueError for another space or fewer than 3 samples."""
        if data.target.space != base.target.space:
            raise ValueError(f"samples of {data.target.space} cannot tune a network of {base.target.space}")
        if len(data) < 3:
            raise ValueError(f"{len(data)} sample(s) are too few to tune: measure at least 3 subnets")
        rng = np.random.default_rng(self.seed)
        start = self._start(base, data, rng)
        x = start.inputs(data.genomes)
        fold = rng.permutation(len(data)) % min(FOLDS, len(data))
        networks, left_out = [], np.empty(len(data))
        for k in range(int(fold.max()) + 1):
            kept, out = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
            mine = self._start(base, data.take(kept), rng) if self.layers == "all" else start
            network = mine.network
            if self.layers == "head" or len(data) >= MIN_TUNED:
                network = mlp.train(
                    network,
                    x[kept],
                    mine.wished(data.ms[kept]),
                    training=self.training,
                    rng=rng,
                    validation=(x[out], mine.wished(data.ms[out])),
                    only_head=self.layers == "head",
                )
            left_out[out] = replace(mine, network=network).ms(data.genomes[out]) / data.ms[out] - 1
            networks.append(network)
        facts = {
            "method": f"fine-tuned ({self.layers})",
            "base": base.target.name,
            "samples": len(data),
            "left_out_mape": float(100 * np.abs(left_out).mean()),
        }
        return replace(start, network=_mean(networks), relative_std=relative_std(left_out), facts=facts)

    def _start(self, base: NeuralLatency, data: LatencyData, rng: np.random.Generator) -> NeuralLatency:
        """The network before training: with a new head, or mapped to the samples by a line."""
        if self.layers == "head":
            width = len(base.network.layers[-1][0])
            head = mlp.start((width, 1), rng).layers
            network = Mlp((*base.network.layers[:-1], *head))
            return replace(base, target=data.target, network=network, relative_std=0.0)
        said = base.network(base.inputs(data.genomes))
        y = np.log(data.ms) if base.log else data.ms
        slope, offset = _line(said, y, base.scale)
        return replace(base, target=data.target, scale=slope, offset=offset, relative_std=0.0)


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
        mad = 1.4826 * float(np.median(np.abs(residual)))
        trust = 1 / (1 + (residual / (2 * max(mad, 1e-4))) ** 2)
    return slope, level - slope * middle


def _mean(networks: Sequence[Mlp]) -> Mlp:
    """The mean of the weights: networks tuned from one start stay close enough for it."""
    return Mlp(
        tuple(
            (
                np.mean([net.layers[i][0] for net in networks], axis=0, dtype=np.float32),
                np.mean([net.layers[i][1] for net in networks], axis=0, dtype=np.float32),
            )
            for i in range(len(networks[0].layers))
        )
    )


def _sides(data: LatencyData) -> tuple[int, int]:
    space = get_space(data.target.space)
    r: Ints = space.column(data.genomes, "r") if "r" in space.index else np.zeros(1, np.int64)
    return int(r.min()), int(r.max())
