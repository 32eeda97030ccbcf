"""MAPLE, MAPLE-Edge, MAPLE-X: one regression over many devices, told apart by a hardware descriptor.

In arXiv 2111.15106, 2204.12950 and 2205.12660 a regression network takes an architecture and the descriptor
of a device (`latency.descriptors`), learns from all known devices and adapts to a new one with 3 to 10
samples. MAPLE-X adds two things. The formulas of the papers are not public, so these are ours:

- *Virtual examples.* Architectures of similar latency share labels: the `neighbours` architectures among the
  rows of the known devices whose latencies there are closest to a sample's (root mean square of the log
  ratio, weighted by importance) get the sample's latency, and are trusted according to that ratio.
- *Importance.* Rows of a known device weigh the more the more similar its descriptor is to the target's.

The regression has two forms. `form=network` is that of the papers: an MLP on architecture and descriptor,
with the samples among its training rows. `form=gp`, the default (ours), is a Gaussian process with the
covariance

    k((x, t), (x', t')) = K(x, x') (common + similar S(t, t') + own [t = t']) + level [t = t'],

where K is linear plus RBF in the architecture features and S an RBF in the descriptor: what all devices
share, what similar ones share and what is the target's own. Its strengths maximise the marginal likelihood of
the known devices. Its mean is a sum over distinct architectures, so that predicting needs neither descriptors
nor PyTorch. Both forms regress log latencies minus the device's line in log MACs.

Letters: D known devices, n architectures, p architecture features, q numbers of a descriptor, k samples.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field, replace
from typing import Annotated, Any, Literal, Protocol

import numpy as np
from pydantic import Field

from latency.conformal import mape, relative_std
from latency.data import LatencyData
from latency.descriptors import OPERATORS, REFERENCES, Descriptor, Descriptors, KnownDevice, references
from latency.features import Line, Scale, features, squared_distance
from latency.perceptron import Mlp, Training
from latency.predictors import interface
from latency.predictors.interface import History, space_of, with_history
from latency.target import Target
from supernet import registry
from supernet.arrays import Floats, Genomes, Ints
from supernet.files.artifact import Arrays
from supernet.fits import gaussian, robust
from supernet.options import NonNegativeInt, PositiveFloat, PositiveInt, options
from supernet.prediction import Prediction
from supernet.space import get_space

STRENGTH_ROWS, STRENGTH_REFERENCES = 320, 10  # of the known devices, for the marginal likelihood
DOUBT = 2.0  # a virtual label is trusted within this many times the log ratio on known devices
SWEEPS = 2
NOISES = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16)  # of the samples, log latency
TRUST_ROUNDS = 3
CHUNK = 8192  # architectures at a time


@dataclass(frozen=True)
class Strengths:
    """Standard deviations of the parts of the covariance, in units of log latency, and of the noise."""

    common: float = 0.05
    similar: float = 0.05
    own: float = 0.02
    level: float = 0.1
    noise: float = 0.02
    bend: float = 0.1  # share of the RBF in K
    reach: float = 1.0  # of S, in median distances between devices


GRID: dict[str, tuple[float, ...]] = {
    "common": (0.002, 0.005, 0.015, 0.05, 0.15),
    "similar": (0.015, 0.05, 0.15, 0.4, 1.0, 3.0),
    "own": NOISES,
    "noise": NOISES,
    "bend": (0.0, 0.1, 0.3, 0.6),
    "reach": (0.3, 1.0, 3.0, 10.0),
}


def virtual_examples(
    devices: Sequence[KnownDevice], samples: Genomes, pool: Genomes, importance: Floats, neighbours: int
) -> tuple[Genomes, Ints, Floats]:
    """Architectures of the pool, the sample whose label each shares, and their log ratio on known devices."""
    taken = {genome.tobytes() for genome in samples}
    pool = pool[[genome.tobytes() not in taken for genome in pool]]
    apart = np.zeros((len(samples), len(pool)))
    x = features(get_space(devices[0].data.target.space), np.concatenate([samples, pool]))
    for device, weight in zip(devices, importance / importance.sum(), strict=True):
        both = device.smooth_at(x)
        apart += weight * (both[: len(samples), None] - both[len(samples) :]) ** 2
    count = min(neighbours, len(pool))
    near = np.argsort(apart, axis=1, kind="stable")[:, :count]
    owner = np.repeat(np.arange(len(samples)), count)
    return pool[near.ravel()], owner, np.sqrt(apart[owner, near.ravel()])


@dataclass(frozen=True, eq=False)
class _Rows:
    """All rows of the known devices, then the samples, then virtual examples; device D is the target."""

    genomes: Genomes
    x: Floats  # (rows, p) scaled
    device: Ints
    y: Floats  # log latency without the device's line in log MACs
    extra: Floats  # (rows,) variance beyond the noise: of virtual examples
    importance: Floats  # (rows,)
    sample: Ints  # (own rows,) of the target: the sample that each row is, or whose label it shares

    @property
    def samples(self) -> int:
        """The number k of samples."""
        return int(self.sample.max()) + 1


@options
class Maple:
    """`latency.zoo.devices.ZooMaple` knows devices to learn from."""

    form: Literal["gp", "network"] = "gp"
    # what MAPLE-X adds to MAPLE; null: where it helped devices not reported on, which is where no operators
    # were timed on the target (`benchmarks/protocols/maplex.py`)
    virtual: bool | None = None
    importance: bool | None = None
    references: bool = True  # add the samples' latencies to the descriptor
    smooth: bool = False  # learn from the known devices' own fits in place of their rows
    neighbours: PositiveInt = 3
    width: PositiveFloat = 0.5
    rows: Annotated[int, Field(ge=10)] = 150  # at most, of each known device
    hidden: tuple[PositiveInt, ...] = (128, 128)
    training: Training = field(default_factory=lambda: Training(epochs=60, batch=64, learning_rate=3e-3))
    seed: NonNegativeInt = 0

    def fit_from(
        self,
        devices: Sequence[KnownDevice],
        data: LatencyData,
        descriptor: Descriptor,
        strengths: Strengths | None = None,
    ) -> "MaplePredictor":
        """The predictor of the target of 2 or more samples, from 2 or more known devices of its space.

        `descriptor` is that of the target; without `strengths` the most likely ones are taken.
        """
        if len(devices) < 2 or len(data) < 2:
            some = f"{len(devices)} device(s) and {len(data)} sample(s)"
            raise ValueError(f"{some} are too few: MAPLE takes at least 2 devices and at least 2 samples")
        how = self._decided(descriptor)
        parts = [*(device.descriptor for device in devices), descriptor]
        if self.references:
            own = np.log(data.ms)
            parts = _with_references(parts, [*references(devices, data.genomes), own - own.mean()])
        described = Descriptors.from_devices(parts)
        rows, line, scale = how._rows(devices, data, described)
        function: Regression
        if self.form == "gp":
            strengths = strengths or likeliest(devices, smooth=self.smooth, with_references=self.references)
            function, left_out = _gp(rows, described, strengths)
        else:
            function, left_out = self._network(rows, described.inputs())
        relative = np.expm1(left_out)
        genomes = np.concatenate([device.data.genomes for device in devices])
        return MaplePredictor(
            target=data.target,
            function=function,
            middle=scale.middle,
            spread=scale.spread,
            line=np.array(astuple(line)),
            relative_std=relative_std(relative),
            resolutions=get_space(data.target.space).resolution_range(genomes),
            facts={
                "method": "maple-x" if how.virtual and how.importance else "maple",
                "samples": len(data),
                "left_out_mape": mape(relative),
                "devices": [device.data.target.name for device in devices],
                "options": {k: v for k, v in asdict(self).items() if k != "training"},
            },
            history=History(data),
        )

    def _decided(self, descriptor: Descriptor) -> "Maple":
        """With both parts of MAPLE-X switched on or off, for a target with this descriptor."""
        helps = OPERATORS not in descriptor
        virtual = helps if self.virtual is None else self.virtual
        return replace(
            self, virtual=virtual, importance=helps if self.importance is None else self.importance
        )

    def _rows(
        self, devices: Sequence[KnownDevice], data: LatencyData, described: Descriptors
    ) -> tuple[_Rows, Line, Scale]:
        space = get_space(data.target.space)
        importance = described.importance(self.width) if self.importance else np.ones(len(devices))
        taken = [
            device.rows(self.rows, np.random.default_rng((self.seed, i)), smooth=self.smooth)
            for i, device in enumerate(devices)
        ]
        genomes, ms, extra = data.genomes, data.ms, np.zeros(len(data))
        sample = np.arange(len(data))
        if self.virtual:
            pool = np.unique(np.concatenate([part.genomes for part, _ in taken]), axis=0)
            near, owner, apart = virtual_examples(devices, genomes, pool, importance, self.neighbours)
            genomes, ms = np.concatenate([genomes, near]), np.concatenate([ms, ms[owner]])
            extra, sample = np.append(extra, (DOUBT * apart) ** 2), np.append(sample, owner)
        x, y, lines = _without_lines(taken)
        slopes = np.array([line.slope for line in lines])
        usual = float(np.average(slopes, weights=importance))
        doubt = float(np.sqrt(np.average((slopes - usual) ** 2, weights=importance))) + 0.01
        own = features(space, genomes)
        line = Line.from_rows(own[: len(data), 0], np.log(data.ms), usual, doubt)
        sizes = [*(len(part) for part, _ in taken), len(genomes)]
        scale = Scale.from_features(x)
        rows = _Rows(
            genomes=np.concatenate([*(part.genomes for part, _ in taken), genomes]),
            x=scale(np.concatenate([x, own])),
            device=np.repeat(np.arange(len(sizes)), sizes),
            y=np.concatenate([y, np.log(ms) - line(own[:, 0])]),
            extra=np.concatenate([np.zeros(len(y)), extra]),
            importance=np.repeat([*importance, 1.0], sizes),
            sample=sample,
        )
        return rows, line, scale

    def _network(self, rows: _Rows, scaled: Floats) -> tuple[Mlp, Floats]:
        """The form of the papers. Residuals are those of the network before it saw the samples."""
        from latency.predictors.mlp import Rows, train  # only this form of the regression needs torch

        rng = np.random.default_rng(self.seed)
        inputs = np.concatenate([rows.x, scaled[rows.device]], axis=1)
        own = rows.device == len(scaled) - 1
        unit = float(rows.y.std()) or 1.0
        start = Mlp.random((inputs.shape[1], *self.hidden, 1), rng)
        others = Rows(inputs[~own], rows.y[~own] / unit, rows.importance[~own])
        before = train(start, others, training=self.training, rng=rng)
        samples = np.flatnonzero(own)[: rows.samples]
        residual = rows.y[samples] - unit * before(inputs[samples])
        noise = float(residual.std()) + 1e-3
        trust = np.where(own, (~own).sum() / own.sum() / 4, 1.0) * rows.importance
        trust = trust * noise**2 / (noise**2 + rows.extra)
        after = train(before, Rows(inputs, rows.y / unit, trust), training=self.training, rng=rng)
        return after.fixed(scaled[-1]).scaled(unit), residual - residual.mean()


def _without_lines(parts: Sequence[tuple[LatencyData, Floats]]) -> tuple[Floats, Floats, list[Line]]:
    """(rows, p) features and (rows,) log latencies without the line of their device, for the rows and
    features of several; and these lines."""
    lines = [Line.from_rows(x[:, 0], np.log(part.ms)) for part, x in parts]
    y = [np.log(part.ms) - line(x[:, 0]) for (part, x), line in zip(parts, lines, strict=True)]
    return np.concatenate([x for _, x in parts]), np.concatenate(y), lines


def _covariance(x: Floats, device: Ints, similarity: Floats, s: Strengths) -> Floats:
    """(rows, rows) covariance of scaled features x (rows, p) on these devices."""
    kernel = (1 - s.bend) * x @ x.T / x.shape[1]
    if s.bend:
        kernel += s.bend * np.exp(-0.5 * squared_distance(x, x))
    same, across = np.eye(len(similarity)), np.ix_(device, device)
    mix = s.common**2 + s.similar**2 * similarity + s.own**2 * same
    return kernel * mix[across] + s.level**2 * same[across]


def _with_references(parts: Sequence[Descriptor], latencies: Iterable[Floats]) -> list[Descriptor]:
    """Descriptors with the log latencies of reference architectures as one more part."""
    return [{**part, REFERENCES: own} for part, own in zip(parts, latencies, strict=True)]


def _gp(rows: _Rows, described: Descriptors, s: Strengths) -> "tuple[KernelSum, Floats]":
    """The mean as a sum over distinct architectures, and the residuals of samples left out (closed form).

    The known devices are conditioned on first. The noise of the samples is then that of largest marginal
    likelihood, and Cauchy weights hold back outliers among them. A sample is left out together with the
    virtual examples that share its label.
    """
    similarity, k = described.similarity(s.reach), rows.samples
    target = len(similarity) - 1
    covariance = _covariance(rows.x, rows.device, similarity, s)
    others, own = np.flatnonzero(rows.device != target), np.flatnonzero(rows.device == target)
    noise = np.diag(s.noise**2 / rows.importance[others])
    before = gaussian.condition(covariance[np.ix_(others, others)] + noise, rows.y[others])
    cross = covariance[np.ix_(own, others)]
    whitened = before.whitened(cross)
    left = covariance[np.ix_(own, own)] - whitened.T @ whitened
    residual = rows.y[own] - before.mean(cross)

    def evidence(spread: float) -> float:
        return gaussian.condition(left[:k, :k] + spread**2 * np.eye(k), residual[:k]).log_evidence

    spread = max(NOISES, key=evidence)
    trust = np.ones(k)
    for _ in range(TRUST_ROUNDS):
        variance = spread**2 + rows.extra[own]
        variance[:k] /= trust
        after = gaussian.condition(left + np.diag(variance), residual)
        left_out = after.left_out_together(rows.sample)[:k]
        trust = robust.cauchy_weights(left_out, np.sqrt(spread**2 + np.median(left_out**2)), cutoff=3)
    pulls = np.empty(len(rows.y))
    pulls[own] = after.weights
    pulls[others] = before.weights - before.solve(cross.T @ after.weights)
    mix = s.common**2 + s.similar**2 * similarity[target] + s.own**2 * (np.arange(target + 1) == target)
    _, first, owner = np.unique(rows.genomes, axis=0, return_index=True, return_inverse=True)
    weights = np.bincount(owner.ravel(), pulls * mix[rows.device]).astype(np.float64)
    level = s.level**2 * float(after.weights.sum())
    return KernelSum(rows.x[first], weights, np.array([level, s.bend])), left_out


def likeliest(
    devices: Sequence[KnownDevice], *, smooth: bool = False, with_references: bool = True, seed: int = 0
) -> Strengths:
    """The strengths of largest marginal likelihood on some rows of the known devices, each in turn."""
    rng = np.random.default_rng(seed)
    each = max(STRENGTH_ROWS // len(devices), 5)
    parts = [device.rows(each, rng, smooth=smooth) for device in devices]
    x, target, _ = _without_lines(parts)
    x = Scale.from_features(x)(x)
    device = np.repeat(np.arange(len(parts)), [len(part) for part, _ in parts])
    descriptors = [one.descriptor for one in devices]
    if with_references:
        genomes = np.concatenate([part.genomes for part, _ in parts])
        some = rng.choice(len(genomes), STRENGTH_REFERENCES, replace=False)
        descriptors = _with_references(descriptors, references(devices, genomes[some]))
    described = Descriptors.from_devices(descriptors)

    def evidence(s: Strengths) -> float:
        covariance = _covariance(x, device, described.similarity(s.reach), s)
        return gaussian.condition(covariance + s.noise**2 * np.eye(len(x)), target).log_evidence

    best = Strengths()
    for _ in range(SWEEPS):
        for name, values in GRID.items():
            best = max((replace(best, **{name: value}) for value in values), key=evidence)
    return best


class Regression(Protocol):
    """What is left of log latencies by scaled features (n, p)."""

    @property
    def inputs(self) -> int:
        """The number p of features."""

    def __call__(self, x: Floats) -> Floats: ...

    def stored(self) -> tuple[Arrays, None]:
        """Named arrays, for a file."""

    @staticmethod
    def restored(arrays: Arrays, _: None = None) -> "Regression":
        """The one that arrays of a file hold."""
        if "of" in arrays:
            return KernelSum(arrays["of"], arrays["weights"], arrays["constants"])
        return Mlp.restored(arrays)


@dataclass(frozen=True, eq=False)
class KernelSum(Regression):
    """K(x, rows) @ weights + level; the linear part of K as one weight per feature."""

    rows: Floats  # (u, p)
    weights: Floats  # (u,)
    constants: Floats  # level, bend

    def __call__(self, x: Floats) -> Floats:
        level, bend = map(float, self.constants)
        value = x @ ((1 - bend) / x.shape[1] * (self.weights @ self.rows)) + level
        if bend:
            value += bend * np.exp(-0.5 * squared_distance(x, self.rows)) @ self.weights
        return np.asarray(value)

    @property
    def inputs(self) -> int:
        if self.weights.shape != self.rows.shape[:1]:
            raise ValueError(f"{len(self.weights)} weights of {len(self.rows)} architectures")
        return self.rows.shape[1]

    def stored(self) -> tuple[Arrays, None]:
        return {"of": self.rows, "weights": self.weights, "constants": self.constants}, None


@dataclass(frozen=True, eq=False)
class MaplePredictor:
    """Milliseconds of one batch on one target; `function` of scaled features is what the line leaves."""

    target: Target
    function: Regression
    middle: Floats  # (p,) of the scale of the features
    spread: Floats  # (p,)
    line: Floats  # (3,) of a `Line`
    relative_std: float  # of a single new measurement, from samples left out
    resolutions: tuple[int, int]
    facts: Mapping[str, Any] = field(default_factory=dict)
    history: History | None = None  # all samples; the devices of the zoo are the base

    def inputs(self, genomes: Genomes) -> tuple[Floats, Floats]:
        """(n,) what the line says of log latencies, and (n, p) scaled features."""
        x = features(get_space(self.target.space), genomes)
        return Line(*self.line)(x[:, 0]), Scale(self.middle, self.spread)(x)

    def predict(self, genomes: Genomes, target: Target) -> Prediction:
        """(n,) ms of canonical genomes of `target.space`; ValueError for another target or resolutions."""
        space_of(self, genomes, target)
        mean = np.empty(len(genomes))
        for first in range(0, len(genomes), CHUNK):
            line, x = self.inputs(genomes[first : first + CHUNK])
            mean[first : first + CHUNK] = np.exp(line + self.function(x))
        return Prediction(mean, self.relative_std * mean)

    @with_history
    def adapt(self, data: LatencyData) -> "MaplePredictor":
        """Fitted anew from the devices of the zoo, with the same options, for the target of these samples.

        Those that it was fitted on for the same target count, too.
        """
        return registry.get("learner", "maple", **self.facts["options"]).fit(data)

    def check(self) -> None:
        """ValueError unless the regression and its scale take the features of its space."""
        space = get_space(self.target.space)
        needed = features(space, space.sample(1, np.random.default_rng(0))).shape[1]
        if not self.function.inputs == needed == len(self.middle) == len(self.spread):
            raise ValueError(f"{space.name} has {needed} features, the file {self.function.inputs}")

    save = interface.save
