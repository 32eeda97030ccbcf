"""MAPLE, MAPLE-Edge, MAPLE-X: one regression over many devices, told apart by a hardware descriptor.

Letters: D known devices, n architectures, p architecture features, q numbers of a descriptor, k samples.

arXiv 2111.15106, 2204.12950, 2205.12660: a regression net takes an architecture and the descriptor of a
device, learns from all known devices and adapts to a new one with 3 to 10 samples. MAPLE-X adds two things;
the papers' formulas are not public, so these are **ours**:

- *Virtual examples.* Architectures of similar latency share labels: the `neighbours` architectures of the
  known devices' rows whose latencies were closest to a sample's on the known devices (root mean square of
  the log ratio, weighted by importance) take the sample's latency as theirs, trusted according to that ratio.
- *Importance.* Rows of a known device weigh exp(-(distance / width)^2 / 2), where the distance is the root
  mean square difference of the standardised descriptors and the unit of `width` is the median distance
  between known devices; 1e-3 at least, and 1 for the most similar device.

A descriptor is whatever tells devices apart: operators timed on the target (`measuring.operators`), or the
log latencies of reference architectures (`references`; here the samples themselves, which count as such),
with data-sheet figures (`specification`).

Two forms of the regression. `form=network` is the papers': an MLP on architecture and descriptor, the samples
among its training rows. `form=gp`, the default (ours), is a Gaussian process with the covariance

    k((x, t), (x', t')) = K(x, x') (common + similar S(t, t') + own [t = t']) + level [t = t'],

K linear plus RBF in the architecture features and S an RBF in the descriptor: what all devices share, what
similar ones share and what is the target's own. Strengths are those of largest marginal likelihood on the
known devices. Its mean is a sum over distinct architectures, so that predicting needs neither descriptors
nor PyTorch. Both regress log latencies without the device's mean and slope in log MACs.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, field, replace
from dataclasses import dataclass as plain_dataclass
from functools import cached_property, partial
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
from supernet import slot_table
from supernet.arrays import Floats, Genomes
from supernet.device import Device
from supernet.files import artifact
from supernet.layers import Kind, LayerTable
from supernet.prediction import Prediction
from supernet.slot_table import SlotTable
from supernet.space import SearchSpace, get_space

KIND = "maple predictor"
LEAST_IMPORTANCE = 1e-3
SIZES = (7, 14, 28)  # output sides at which pointwise convolutions are told apart
PHYSICAL = 1 + 3 + (len(SIZES) + 1) + 2 + 3  # features that are not genes
LINE_NOISE = 0.05  # of log latencies about a line in log MACs
SMOOTHING, SMOOTHING_ROUNDS = 1e-2, 5  # ridge of the known devices' own fits, and their re-weighting
STRENGTH_ROWS, STRENGTH_REFERENCES = 320, 10  # of the known devices, for the marginal likelihood
DOUBT = 2.0  # a virtual label is trusted within this many times the log ratio on known devices
SWEEPS = 2
NOISES = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16)  # of the samples, log latency
TRUST_ROUNDS = 3


@plain_dataclass(frozen=True)
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
    "own": (0.005, 0.01, 0.02, 0.04, 0.08, 0.16),
    "noise": (0.005, 0.01, 0.02, 0.04, 0.08, 0.16),
    "bend": (0.0, 0.1, 0.3, 0.6),
    "reach": (0.3, 1.0, 3.0, 10.0),
}


# ---------------------------------------------------------------------- architectures and descriptors
def features(space: SearchSpace, genomes: Genomes) -> Floats:
    """(n, p) log MACs; per MAC the MACs of each class of layer, parameters, activations and layers; one-hot
    genes."""
    amounts = _amounts(space, genomes)
    total = np.maximum(amounts[:, 0], 1.0)
    parts = [np.log(total)] + [part / total for part in amounts[:, 1:-3].T]
    parts += [np.log(np.maximum(part, 1.0) / total) for part in amounts[:, -3:].T]
    return np.concatenate([np.stack(parts, axis=1), space.one_hot(genomes)], axis=1)


def _costs() -> list[Callable[[LayerTable], NDArray[Any]]]:
    """(n, L) MACs; MACs of each class of layer; parameters, activations and layers."""

    def of(mask: Callable[[LayerTable], NDArray[np.bool_]]) -> Callable[[LayerTable], NDArray[Any]]:
        return lambda t: t.layer_macs() * mask(t)

    def depthwise(kernel: int) -> Callable[[LayerTable], NDArray[np.bool_]]:
        return lambda t: (t.groups > 1) & (t.kernel == kernel)

    def pointwise(step: int) -> Callable[[LayerTable], NDArray[np.bool_]]:
        return lambda t: (
            (t.kind == Kind.CONV)
            & (t.kernel == 1)
            & (t.groups <= 1)
            & (np.digitize(t.out_size, SIZES) == step)
        )

    classes = [*map(depthwise, (3, 5, 7)), *map(pointwise, range(len(SIZES) + 1))]
    classes += [lambda t: (t.kind == Kind.CONV) & (t.kernel > 1) & (t.groups <= 1)]
    classes += [lambda t: t.kind == Kind.LINEAR]
    whole = [LayerTable.layer_params, LayerTable.layer_activations, lambda t: t.live * 1]
    return [LayerTable.layer_macs, *map(of, classes), *whole]


_tables: dict[Hashable, list[SlotTable | None]] = {}


def _amounts(space: SearchSpace, genomes: Genomes) -> Floats:
    """(n, .) sums over the layers of `_costs`, from slot tables that are made once per layout of a space."""
    costs = _costs()
    if space.layout not in _tables:
        _tables[space.layout] = [slot_table.tabulate(space, cost) for cost in costs]
    tables = _tables[space.layout]
    if None in tables:
        layers = space.layers(genomes)
        return np.stack([cost(layers).sum(axis=1).astype(np.float64) for cost in costs], axis=1)
    return np.stack([table.of(space, genomes) for table in tables if table is not None], axis=1)


def specification(device: Device) -> Floats:
    """(q,) log data-sheet figures; NaN where the sheet is silent."""
    figures = (device.cores, device.ram_gb, device.bandwidth_gbs, device.fp32_tflops, device.tdp_w)
    return np.array([np.log(figure) if figure else np.nan for figure in figures])


def references(known: Sequence[Known], genomes: Genomes) -> Floats:
    """(D, k) log latencies of these architectures on known devices, each without its mean over them: from
    the device's own fit, which is less noisy than its rows."""
    found = np.stack([one.smooth(genomes) for one in known])
    return found - found.mean(axis=1, keepdims=True)


@plain_dataclass(frozen=True, eq=False)
class _Scale:
    """Columns brought to mean 0 and deviation 1; NaN becomes the mean, a constant column 0."""

    middle: Floats
    spread: Floats

    @classmethod
    def of(cls, x: Floats) -> _Scale:
        known = np.isfinite(x)
        count = np.maximum(known.sum(axis=0), 1)
        middle = np.where(known, x, 0).sum(axis=0) / count
        spread = np.sqrt((np.where(known, x - middle, 0) ** 2).sum(axis=0) / count)
        return cls(middle, np.where(spread > 1e-9, spread, np.inf))

    def __call__(self, x: Floats) -> Floats:
        return np.asarray(np.where(np.isfinite(x), (x - self.middle) / self.spread, 0.0))


def _scale_of(x: Floats) -> _Scale:
    """The scale of architecture features: the one-hot genes together weigh as much as the others together."""
    scale = _Scale.of(x)
    wide = x.shape[1] - PHYSICAL
    return replace(
        scale, spread=np.append(scale.spread[:PHYSICAL], scale.spread[PHYSICAL:] * (wide / PHYSICAL) ** 0.5)
    )


def _squared_distance(a: Floats, b: Floats) -> Floats:
    """(n, m) mean squared differences of the rows."""
    found = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T
    return np.maximum(found, 0) / max(a.shape[1], 1)


def _architecture_kernel(a: Floats, b: Floats, bend: float) -> Floats:
    """(n, m) K of scaled features: about 1 on the diagonal."""
    straight = (1 - bend) * a @ b.T / a.shape[1]
    return straight + bend * np.exp(-0.5 * _squared_distance(a, b)) if bend else straight


@plain_dataclass(frozen=True, eq=False)
class Known:
    """A device to learn from: its latencies and its (q,) descriptor."""

    data: LatencyData
    descriptor: Floats

    def smooth(self, genomes: Genomes) -> Floats:
        """(n,) log latencies by a robust ridge on the features: of rows with noise and outliers the better
        half."""
        scale, weights, middle = self._fit
        return np.asarray(middle + scale(features(get_space(self.data.target.space), genomes)) @ weights)

    @cached_property
    def _fit(self) -> tuple[_Scale, Floats, float]:
        raw = features(get_space(self.data.target.space), self.data.genomes)
        scale = _scale_of(raw)
        x, y = scale(raw), np.log(self.data.ms)
        trust, middle = np.ones(len(y)), float(np.median(y))
        for _ in range(SMOOTHING_ROUNDS):
            weighted = x * trust[:, None]
            gram = x.T @ weighted + SMOOTHING * trust.sum() * np.eye(x.shape[1])
            weights = np.linalg.solve(gram, weighted.T @ (y - middle))
            residual = y - middle - x @ weights
            middle += float((trust * residual).sum() / trust.sum())
            spread = 1.4826 * float(np.median(np.abs(residual - np.median(residual))))
            trust = 1 / (1 + (residual / (2 * max(spread, 1e-6))) ** 2)
        return scale, weights, middle


# ---------------------------------------------------------------------- rows of many devices
@plain_dataclass(frozen=True, eq=False)
class _Rows:
    """All rows of the known devices, samples and virtual examples last; device D is the target."""

    genomes: Genomes
    x: Floats  # (rows, p) scaled
    device: NDArray[np.int64]
    y: Floats  # log latency without the device's line in log MACs
    extra: Floats  # (rows,) variance beyond the noise: of virtual examples
    importance: Floats  # (rows,)


@plain_dataclass(frozen=True, eq=False)
class _Line:
    """log ms = middle + slope (log MACs - log MACs at the middle)."""

    middle: float
    slope: float
    at: float

    @classmethod
    def of(cls, log_macs: Floats, log_ms: Floats, slope: float = 0.0, doubt: float = 1e3) -> _Line:
        """The line through rows; its slope was thought to be `slope` +- `doubt` before they were seen."""
        at = float(log_macs.mean())
        away, trust = (log_macs - at) / LINE_NOISE**2, doubt**-2
        slope = float((away @ log_ms + trust * slope) / (away @ (log_macs - at) + trust))
        return cls(float(log_ms.mean()), slope, at)

    def __call__(self, log_macs: Floats) -> Floats:
        return self.middle + self.slope * (log_macs - self.at)


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Maple:
    """`virtual` and `importance` are what MAPLE-X adds; without both it is MAPLE.

    `rows` of each known device are learned from, at most. `references` adds the samples' latencies to the
    descriptor; `smooth` learns from the known devices' own fits in place of their rows.
    """

    form: Literal["gp", "network"] = "gp"
    virtual: bool = True
    importance: bool = True
    references: bool = True
    smooth: bool = False
    neighbours: Annotated[int, Field(ge=1)] = 1
    width: Annotated[float, Field(gt=0)] = 1.0
    rows: Annotated[int, Field(ge=10)] = 150
    operators: bool = False  # time operators on this machine and learn from the devices measured by us
    hidden: tuple[int, ...] = (128, 128)
    training: Training = field(default_factory=lambda: Training(epochs=60, batch=64, learning_rate=3e-3))
    seed: int = 0

    def fit(self, data: LatencyData) -> MaplePredictor:
        """The predictor of the target of these samples, 2 or more.

        Learns from the shipped predictors of the space, by reference latencies and specifications; with
        `operators` from our measurements of many devices, by operator latencies.
        """
        from latency.zoo import devices

        if self.operators:
            known, descriptor = devices.by_operators(data.target)
        else:
            known, descriptor = devices.by_specification(data.target, np.random.default_rng(self.seed))
        return self.fit_from(known, data, descriptor)

    def fit_from(
        self,
        known: Sequence[Known],
        data: LatencyData,
        descriptor: Floats,
        strengths: Strengths | None = None,
    ) -> MaplePredictor:
        """The same from these known devices of the space and the (q,) descriptor of the target."""
        if len(known) < 2 or len(data) < 2:
            raise ValueError(
                f"{len(known)} known device(s) and {len(data)} sample(s) are too few: MAPLE learns from at "
                "least 2 devices and adapts with at least 2 samples"
            )
        space = get_space(data.target.space)
        scaled = self._described(known, data, descriptor)
        rows, line, scale = self._rows(space, known, data, scaled)
        function: _Kernel | _Network
        if self.form == "gp":
            strengths = strengths or likeliest(known, smooth=self.smooth, with_references=self.references)
            function, left_out = _gp(rows, scaled, strengths, len(data))
        else:
            function, left_out = self._network(rows, scaled, len(data))
        deviation = relative_std(np.expm1(left_out))
        sides = np.concatenate([one.data.genomes for one in known])
        r = space.column(sides, "r") if "r" in space.index else np.zeros(1, np.int64)
        return MaplePredictor(
            target=data.target,
            function=function,
            scale=scale,
            line=line,
            relative_std=deviation,
            resolutions=(int(r.min()), int(r.max())),
            facts={
                "method": "maple-x" if self.virtual and self.importance else "maple",
                "samples": len(data),
                "left_out_mape": float(100 * np.abs(np.expm1(left_out)).mean()),
                "devices": [one.data.target.name for one in known],
                "options": {k: v for k, v in asdict(self).items() if k != "training"},
            },
        )

    def _described(self, known: Sequence[Known], data: LatencyData, descriptor: Floats) -> Floats:
        """(D + 1, q) scaled descriptors, the target's last; given ones and references weigh alike."""
        blocks = [np.stack([*(one.descriptor for one in known), descriptor])]
        if self.references:
            seen = references(known, data.genomes)
            own = np.log(data.ms)
            blocks.append(np.concatenate([seen, (own - own.mean())[None]]))
        return _scaled(blocks)

    def _rows(
        self, space: SearchSpace, known: Sequence[Known], data: LatencyData, scaled: Floats
    ) -> tuple[_Rows, _Line, _Scale]:
        picks = [
            np.random.default_rng((self.seed, i)).permutation(len(one.data))[: self.rows]
            if len(one.data) > self.rows
            else np.arange(len(one.data))
            for i, one in enumerate(known)
        ]
        taken = [one.data.take(pick) for one, pick in zip(known, picks, strict=True)]
        if self.smooth:
            taken = [
                replace(part, ms=np.exp(one.smooth(part.genomes)))
                for one, part in zip(known, taken, strict=True)
            ]
        importance = _importance(scaled, self.width) if self.importance else np.ones(len(known))
        sets = [*taken, data]
        raw = [features(space, part.genomes) for part in sets]
        lines = [_Line.of(x[:, 0], np.log(part.ms)) for x, part in zip(raw[:-1], taken, strict=True)]
        slopes = np.array([line.slope for line in lines])
        usual = float(np.average(slopes, weights=importance))
        doubt = float(np.sqrt(np.average((slopes - usual) ** 2, weights=importance))) + 0.01
        lines.append(_Line.of(raw[-1][:, 0], np.log(data.ms), usual, doubt))
        y = [np.log(part.ms) - line(x[:, 0]) for x, part, line in zip(raw, sets, lines, strict=True)]
        genomes, device = [part.genomes for part in sets], [np.full(len(p), i) for i, p in enumerate(sets)]
        weight = [np.full(len(p), w) for p, w in zip(sets, [*importance, 1.0], strict=True)]
        extra = [np.zeros(len(part)) for part in sets]
        if self.virtual:
            pool = np.unique(np.concatenate([part.genomes for part in taken]), axis=0)
            near, of, apart = _virtual(known, data.genomes, pool, importance, self.neighbours)
            x = features(space, near)
            raw.append(x)
            genomes.append(near)
            y.append(np.log(data.ms[of]) - lines[-1](x[:, 0]))
            device.append(np.full(len(near), len(known)))
            weight.append(np.ones(len(near)))
            extra.append((DOUBT * apart) ** 2)
        scale = _scale_of(np.concatenate(raw[: len(known)]))
        rows = _Rows(
            np.concatenate(genomes),
            scale(np.concatenate(raw)),
            np.concatenate(device),
            np.concatenate(y),
            np.concatenate(extra),
            np.concatenate(weight),
        )
        return rows, lines[-1], scale

    def _network(self, rows: _Rows, scaled: Floats, k: int) -> tuple[_Network, Floats]:
        """The papers' form. Residuals are those of the net before it saw the samples."""
        rng = np.random.default_rng(self.seed)
        inputs = np.concatenate([rows.x, scaled[rows.device]], axis=1)
        own, target = rows.device == len(scaled) - 1, scaled[-1]
        unit = float(rows.y.std()) or 1.0
        start = mlp.start((inputs.shape[1], *self.hidden, 1), rng)
        train = partial(mlp.train, training=self.training, rng=rng)
        known = train(start, inputs[~own], rows.y[~own] / unit, sample_weight=rows.importance[~own])
        samples = np.flatnonzero(own)[:k]
        before = rows.y[samples] - unit * known(inputs[samples])
        noise = float(before.std()) + 1e-3
        trust = np.where(own, (~own).sum() / own.sum() / 4, 1.0) * rows.importance
        trust = trust * noise**2 / (noise**2 + rows.extra)
        both = train(known, inputs, rows.y / unit, sample_weight=trust)
        return _Network(both, target, unit), before - before.mean()


def _scaled(blocks: Sequence[Floats]) -> Floats:
    """(D, q) descriptors of several parts, each standardised; the parts weigh alike, whatever their width."""
    parts = [_Scale.of(block)(block) for block in blocks if block.shape[1]]
    width = sum(part.shape[1] for part in parts)
    shares = [(width / len(parts) / part.shape[1]) ** 0.5 for part in parts]
    return np.concatenate([part * share for part, share in zip(parts, shares, strict=True)], axis=1)


def _importance(scaled: Floats, width: float) -> Floats:
    """(D,) weights of the known devices for the target, the last row."""
    distance = np.sqrt(_squared_distance(scaled, scaled))
    known = distance[:-1, :-1]
    unit = float(np.median(known[np.triu_indices(len(known), 1)])) or 1.0
    weight = np.exp(-0.5 * (distance[-1, :-1] / (width * unit)) ** 2)
    return np.asarray(np.maximum(weight / max(float(weight.max()), 1e-300), LEAST_IMPORTANCE))


def _virtual(
    known: Sequence[Known],
    samples: Genomes,
    pool: Genomes,
    importance: Floats,
    neighbours: int,
) -> tuple[Genomes, NDArray[np.int64], Floats]:
    """Architectures of the pool, the sample whose label each shares, and their log ratio on known devices."""
    taken = {genome.tobytes() for genome in samples}
    pool = pool[[genome.tobytes() not in taken for genome in pool]]
    apart = np.zeros((len(samples), len(pool)))
    share = importance / importance.sum()
    for one, weight in zip(known, share, strict=True):
        both = one.smooth(np.concatenate([samples, pool]))
        apart += weight * (both[: len(samples), None] - both[len(samples) :]) ** 2
    count = min(neighbours, len(pool))
    near = np.argsort(apart, axis=1, kind="stable")[:, :count]
    of = np.repeat(np.arange(len(samples)), count)
    return pool[near.ravel()], of, np.sqrt(apart[of, near.ravel()])


# ---------------------------------------------------------------------- the Gaussian process
def _covariance(x: Floats, device: NDArray[np.int64], similarity: Floats, s: Strengths) -> Floats:
    mix = s.common**2 + s.similar**2 * similarity + s.own**2 * np.eye(len(similarity))
    across = np.ix_(device, device)
    return _architecture_kernel(x, x, s.bend) * mix[across] + s.level**2 * np.eye(len(similarity))[across]


def _similarity(scaled: Floats, reach: float) -> Floats:
    """(D, D) S of scaled descriptors."""
    distance = _squared_distance(scaled, scaled)
    unit = float(np.median(distance[np.triu_indices(len(distance), 1)])) or 1.0
    return np.asarray(np.exp(-0.5 * distance / (unit * reach**2)))


def _gp(rows: _Rows, scaled: Floats, s: Strengths, k: int) -> tuple[_Kernel, Floats]:
    """The mean as a sum over distinct architectures, and the residuals of samples left out (closed form).

    The known devices are conditioned on first. The noise of the samples is then that of largest marginal
    likelihood, and Cauchy weights hold back outliers among them.
    """
    from scipy.linalg import cho_factor, cho_solve, solve_triangular

    similarity, target = _similarity(scaled, s.reach), len(scaled) - 1
    covariance = _covariance(rows.x, rows.device, similarity, s)
    known, own = np.flatnonzero(rows.device != target), np.flatnonzero(rows.device == target)
    noise = np.diag(s.noise**2 / rows.importance[known])
    factor = np.linalg.cholesky(covariance[np.ix_(known, known)] + noise)
    both = np.concatenate([covariance[np.ix_(known, own)], rows.y[known, None]], axis=1)
    half = solve_triangular(factor, both, lower=True, check_finite=False)
    across, half_y = half[:, :-1], half[:, -1]
    left = covariance[np.ix_(own, own)] - across.T @ across
    residual = rows.y[own] - across.T @ half_y

    def evidence(spread: float) -> float:
        inner = np.linalg.cholesky(left[:k, :k] + spread**2 * np.eye(k))
        white = solve_triangular(inner, residual[:k], lower=True)
        return float(-0.5 * white @ white - np.log(np.diag(inner)).sum())

    spread = max(NOISES, key=evidence)
    trust = np.ones(k)
    for _ in range(TRUST_ROUNDS):
        variance = spread**2 + rows.extra[own]
        variance[:k] /= trust
        inverse = cho_solve(cho_factor(left + np.diag(variance)), np.eye(len(own)))
        pull = inverse @ residual
        left_out = pull[:k] / np.diag(inverse)[:k]
        trust = 1 / (1 + (left_out / (3 * np.sqrt(spread**2 + np.median(left_out**2)))) ** 2)
    pulls = np.empty(len(rows.y))
    pulls[own] = pull
    pulls[known] = solve_triangular(factor.T, half_y - across @ pull, lower=False, check_finite=False)
    mix = s.common**2 + s.similar**2 * similarity[target] + s.own**2 * (np.arange(len(scaled)) == target)
    _, first, owner = np.unique(rows.genomes, axis=0, return_index=True, return_inverse=True)
    weights = np.zeros(len(first))
    np.add.at(weights, owner.ravel(), pulls * mix[rows.device])
    level = s.level**2 * float(pull.sum())
    return _Kernel(rows.x[first], weights, np.array([level, s.bend])), left_out


def likeliest(
    known: Sequence[Known], *, smooth: bool = False, with_references: bool = True, seed: int = 0
) -> Strengths:
    """The strengths of largest marginal likelihood on some rows of the known devices, each in turn."""
    space = get_space(known[0].data.target.space)
    each = max(STRENGTH_ROWS // len(known), 5)
    rng = np.random.default_rng(seed)
    parts = [one.data.take(rng.permutation(len(one.data))[:each]) for one in known]
    if smooth:
        parts = [replace(p, ms=np.exp(one.smooth(p.genomes))) for one, p in zip(known, parts, strict=True)]
    raw = [features(space, part.genomes) for part in parts]
    y = []
    for x, part in zip(raw, parts, strict=True):
        log_ms = np.log(part.ms)
        y.append(log_ms - _Line.of(x[:, 0], log_ms)(x[:, 0]))
    x, target = _scale_of(np.concatenate(raw))(np.concatenate(raw)), np.concatenate(y)
    device = np.concatenate([np.full(len(part), i) for i, part in enumerate(parts)])
    blocks = [np.stack([one.descriptor for one in known])]
    if with_references:
        some = np.concatenate([part.genomes for part in parts])
        blocks.append(references(known, some[rng.choice(len(some), STRENGTH_REFERENCES, replace=False)]))
    scaled = _scaled(blocks)
    found = Strengths()

    def evidence(s: Strengths) -> float:
        factor = np.linalg.cholesky(
            _covariance(x, device, _similarity(scaled, s.reach), s) + s.noise**2 * np.eye(len(x))
        )
        half = np.linalg.solve(factor, target)
        return float(-0.5 * half @ half - np.log(np.diag(factor)).sum())

    for _ in range(SWEEPS):
        for name, values in GRID.items():
            found = max((replace(found, **{name: value}) for value in values), key=evidence)
    return found


# ---------------------------------------------------------------------- what is fitted
@plain_dataclass(frozen=True, eq=False)
class _Kernel:
    """x (n, p) scaled -> K(x, of) @ weights + level; the linear part of K as one weight per feature."""

    of: Floats  # (u, p)
    weights: Floats  # (u,)
    constants: Floats  # level, bend

    def __call__(self, x: Floats) -> Floats:
        level, bend = map(float, self.constants)
        found = x @ ((1 - bend) / x.shape[1] * (self.weights @ self.of)) + level
        if bend:
            found += bend * np.exp(-0.5 * _squared_distance(x, self.of)) @ self.weights
        return np.asarray(found)

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {"of": self.of, "weights": self.weights, "constants": self.constants}


@plain_dataclass(frozen=True, eq=False)
class _Network:
    """x (n, p) scaled -> the net's output for the target's descriptor."""

    net: Mlp
    descriptor: Floats
    unit: float

    def __call__(self, x: Floats) -> Floats:
        described = np.broadcast_to(self.descriptor, (len(x), len(self.descriptor)))
        return self.unit * self.net(np.concatenate([x, described], axis=1))

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {**self.net.arrays(), "descriptor": self.descriptor, "unit": np.array([self.unit])}


CHUNK = 8192  # architectures at a time


@plain_dataclass(frozen=True, eq=False)
class MaplePredictor:
    """Milliseconds of one batch on one target; `function` of scaled features is what the line leaves."""

    target: Target
    function: _Kernel | _Network
    scale: _Scale
    line: _Line
    relative_std: float  # of a single new measurement, from samples left out
    resolutions: tuple[int, int]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def predict(self, genomes: Genomes, target: Target) -> Prediction:
        """(n,) ms of canonical genomes of `target.space`; ValueError for another target or resolutions."""
        space = space_of(self, genomes, target)
        log_ms = np.empty(len(genomes))
        for first in range(0, len(genomes), CHUNK):
            x = features(space, genomes[first : first + CHUNK])
            log_ms[first : first + CHUNK] = self.line(x[:, 0]) + self.function(self.scale(x))
        mean = np.exp(log_ms)
        return Prediction(mean, self.relative_std * mean)

    def adapt(self, data: LatencyData) -> MaplePredictor:
        """Fitted anew, with the same options, for the target of these samples."""
        return Maple(**self.facts["options"]).fit(data)

    def save(self, path: str | Path) -> None:
        arrays = {
            **self.function.arrays(),
            "middle": self.scale.middle,
            "spread": self.scale.spread,
            "line": np.array([self.line.middle, self.line.slope, self.line.at]),
        }
        facts = dict(
            target=asdict(self.target),
            relative_std=self.relative_std,
            resolutions=list(self.resolutions),
            facts=dict(self.facts),
        )
        artifact.save(Path(path), KIND, arrays, facts)


def load(path: Path) -> MaplePredictor:
    """A saved predictor; ValueError that names the file when it is damaged or something else."""
    arrays, facts = artifact.load(path, KIND)
    try:
        function: _Kernel | _Network
        if "of" in arrays:
            function = _Kernel(arrays["of"], arrays["weights"], arrays["constants"])
            width = function.of.shape[1]
            if function.weights.shape != function.of.shape[:1]:
                raise ValueError(f"{len(function.weights)} weights of {len(function.of)} architectures")
        else:
            function = _Network(Mlp.of(arrays), arrays["descriptor"], float(arrays["unit"][0]))
            width = function.net.layers[0][0].shape[0] - len(function.descriptor)
        space = get_space(facts["target"]["space"])
        needed = features(space, space.sample(1, np.random.default_rng(0))).shape[1]
        if not width == needed == len(arrays["middle"]) == len(arrays["spread"]):
            raise ValueError(f"{space.name} has {needed} features, the file {width}")
        low, high = facts["resolutions"]
        return MaplePredictor(
            target=Target(**facts["target"]),
            function=function,
            scale=_Scale(arrays["middle"], arrays["spread"]),
            line=_Line(*map(float, arrays["line"])),
            relative_std=float(facts["relative_std"]),
            resolutions=(low, high),
            facts=facts["facts"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no usable maple predictor ({error}); left as it is") from error
