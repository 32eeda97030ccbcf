"""Objectives and limits: what is asked of an architecture, and the evaluator that answers for batches.

Letters: n architectures, m objectives.

Inside a search every objective is a cost (lower is better). The sign flips here and in reports, nowhere else.

An objective is either predicted, and may be asked for thousands of architectures, or measured: asking takes
seconds per architecture, so only what a search proposes is asked, and two networks that fix the scale.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from latency.predictors.interface import LatencyPredictor
from search.ranking.efficiency import Axis, Normal, front_probability
from supernet import footprint
from supernet.arrays import Floats, Genomes, Ints, Rng
from supernet.layers import BYTES_FP32
from supernet.prediction import Prediction, exact
from supernet.registry import unknown_name
from supernet.space import SearchSpace
from supernet.surrogates.int8_change import Int8Change
from supernet.surrogates.training_cost import TrainingCost

REFERENCE_SAMPLE = 1000  # random subnets that fix the reference point of the hypervolume
DESCENT_SAMPLE = 2000
DESCENT_STARTS = 8
MAX_DESCENT_STEPS = 500
DRAWN_AT_ONCE = 200_000  # values of one objective
COMMON_ERROR = frozenset({"training_hours", "training_kwh", "training_usd"})  # one factor is off for all


class InfeasibleError(ValueError):
    """No network of the space satisfies the limits."""


@dataclass(frozen=True)
class Objective:
    """A quantity with its direction and, perhaps, a limit.

    The limit is tested on the calibrated bound at `confidence`, so that it holds when measured: the upper
    bound of what is minimised, the lower bound of what is maximised. `measured` is None where `of` is a
    prediction; else it names everything that a measured value depends on besides the genome.
    """

    name: str
    unit: str
    of: Callable[[Genomes], Prediction]
    maximize: bool = False
    limit: float | None = None
    confidence: float = 0.90
    measured: str | None = None

    def __post_init__(self) -> None:
        if not 0.5 <= self.confidence < 1:
            raise ValueError(
                f"confidence={self.confidence} of {self.name} must lie in [0.5, 1); 0.5 tests the mean"
            )
        if self.limit is not None and not (np.isfinite(self.limit) and self.limit >= 0):
            raise ValueError(f"the limit {self.limit} of {self.name} must be a number of {self.unit}")

    def cost(self, value: Floats) -> Floats:
        return -value if self.maximize else value

    def bound(self, predicted: Prediction) -> Floats:
        """(n,) the value that is compared with the limit."""
        return predicted.upper(1 - self.confidence if self.maximize else self.confidence)

    def violation(self, predicted: Prediction) -> Floats:
        """(n,) relative excess over the limit; 0 where it holds or there is none."""
        if self.limit is None:
            return np.zeros(len(predicted.mean))
        excess = self.cost(self.bound(predicted)) - self.cost(np.array(self.limit))
        return np.maximum(excess, 0) / (self.limit or 1.0)


@dataclass(frozen=True)
class Evaluator:
    """`objectives` become the costs, `constraints` only limit."""

    objectives: tuple[Objective, ...]
    constraints: tuple[Objective, ...] = ()

    def __call__(self, genomes: Genomes) -> tuple[Floats, Floats]:
        """Costs (n, m) and total violation (n,) of canonical genomes."""
        costs = np.empty((len(genomes), len(self.objectives)))
        violation = np.zeros(len(genomes))
        for j, objective in enumerate(self.objectives):
            predicted = objective.of(genomes)
            costs[:, j] = objective.cost(predicted.mean)
            violation += objective.violation(predicted)
        for constraint in self.constraints:
            violation += constraint.violation(constraint.of(genomes))
        return costs, violation

    def efficiency(self, space: SearchSpace, genomes: Genomes, *, draws: int, seed: int) -> Floats:
        """(n,) probability that none of the others dominates a genome, by the predictors' uncertainty."""
        owner = networks(space, genomes)
        axes = [axis(objective.name, objective.of(genomes), owner) for objective in self.objectives]
        blocks = np.array_split(np.arange(draws), -(-draws * len(genomes) // DRAWN_AT_ONCE))
        shares = [
            len(block) * front_probability(np.stack([one.draw(seed, i, len(block)) for one in axes], axis=2))
            for i, block in enumerate(blocks)
        ]
        return np.sum(shares, axis=0) / draws

    def fingerprint(self, space: SearchSpace) -> str:
        """SHA-256 that another model changes: of the names, what is measured, and the costs and violations of
        64 fixed subnets by what is predicted."""
        everything = (*self.objectives, *self.constraints)
        costs, violation = self.predicted(space.sample(64, np.random.default_rng(0)))
        digest = sha256(",".join(objective.name for objective in everything).encode())
        for objective in everything:
            if objective.measured is not None:
                digest.update(f"{objective.measured} {objective.limit} {objective.confidence}".encode())
        digest.update(costs.tobytes() + violation.tobytes())
        return digest.hexdigest()

    @property
    def predicted(self) -> Evaluator:
        """Without what is measured: may be asked at will."""
        return Evaluator(
            tuple(objective for objective in self.objectives if objective.measured is None),
            tuple(constraint for constraint in self.constraints if constraint.measured is None),
        )

    @property
    def measures(self) -> bool:
        """Whether an evaluation takes a measurement."""
        return any(objective.measured is not None for objective in (*self.objectives, *self.constraints))

    @property
    def limited(self) -> tuple[Objective, ...]:
        """Objectives and constraints that have a limit."""
        return tuple(o for o in (*self.objectives, *self.constraints) if o.limit is not None)

    def reference(self, space: SearchSpace) -> tuple[Floats, Floats]:
        """(m,), (m,) worst and best cost: the same for all runs with the same objectives.

        Of 1,000 random subnets; for what is measured, the ends of the 95% intervals of the smallest and the
        largest network, which may differ by less than their measurements are uncertain.
        """
        drawn, ends = space.sample(REFERENCE_SAMPLE, np.random.default_rng(0)), space.extremes()
        worst, best = np.empty(len(self.objectives)), np.empty(len(self.objectives))
        for j, objective in enumerate(self.objectives):
            if objective.measured is None:
                cost = objective.cost(objective.of(drawn).mean)
            else:
                cost = objective.cost(np.array(objective.of(ends).interval(0.95)))
            worst[j], best[j] = cost.max(), cost.min()
        return worst, best

    def check_limits(self, space: SearchSpace) -> None:
        """InfeasibleError when a limit alone cannot be met by what is predicted.

        Names the best subnet found by coordinate descent.
        """
        for objective in self.predicted.limited:
            genome, value = extreme(objective, space, np.random.default_rng(0))
            if objective.cost(np.array(value)) > objective.cost(np.array(objective.limit)):
                word, side = ("highest", "lower") if objective.maximize else ("lowest", "upper")
                raise InfeasibleError(
                    f"no {space.name} subnet meets {objective.name} {'>=' if objective.maximize else '<='} "
                    f"{objective.limit:g} {objective.unit}: the {word} {side} bound at "
                    f"{objective.confidence:.0%} confidence is {value:.4g} {objective.unit}, of "
                    f"{space.format(genome)[0]}"
                )


def extreme(objective: Objective, space: SearchSpace, rng: Rng) -> tuple[Genomes, float]:
    """The (1, d) genome with the best bound of one objective, and that bound: coordinate descents from random
    starts.

    Exact for costs that are sums over slots; for others the best local optimum of the starts.
    """
    genomes = space.sample(DESCENT_SAMPLE, rng)
    scores = objective.cost(objective.bound(objective.of(genomes)))
    ends = [_descend(objective, space, genomes[[row]]) for row in np.argsort(scores)[:DESCENT_STARTS]]
    best, score = min(ends, key=lambda end: end[1])
    return best, float(objective.cost(np.array(score)))


def _descend(objective: Objective, space: SearchSpace, genome: Genomes) -> tuple[Genomes, float]:
    """The best neighbour of the best neighbour of ..., and its cost."""
    score = np.inf
    for _ in range(MAX_DESCENT_STEPS):
        around = np.concatenate([genome, space.neighbours(genome)])
        scores = objective.cost(objective.bound(objective.of(around)))
        if scores.min() >= score:
            break
        genome, score = around[[np.argmin(scores)]], float(scores.min())
    return genome, score


class AccuracyModel(Protocol):
    """What tells the accuracy of networks: a surrogate that predicts it, or a supernet that is evaluated."""

    @property
    def space(self) -> str: ...
    @property
    def resolutions(self) -> tuple[int, int]: ...
    @property
    def facts(self) -> Mapping[str, Any]: ...
    @property
    def measured(self) -> str | None: ...  # as Objective.measured
    def predict(self, genomes: Genomes, space: SearchSpace | None = None) -> Prediction: ...


@dataclass(frozen=True)
class Models:
    """What objectives are computed from. `accuracy`, `latency` and `training` may be absent.

    In a space with a precision gene `latency` is that of fp32, `latency_int8` that of int8, and `int8` says
    what int8 does to accuracy.
    """

    space: SearchSpace
    accuracy: AccuracyModel | None = None
    latency: LatencyPredictor | None = None
    training: TrainingCost | None = None
    latency_int8: LatencyPredictor | None = None
    int8: Int8Change = field(default_factory=Int8Change)

    def in_int8(self, genomes: Genomes) -> NDArray[np.bool_]:
        """(n,) which networks are deployed in int8: none where precision is no gene."""
        if "precision" not in self.space.index:
            return np.zeros(len(genomes), bool)
        return self.space.column(genomes, "precision") == 8

    def predict_accuracy(self, genomes: Genomes) -> Prediction:
        if self.accuracy is None:
            raise ValueError(
                f"no accuracy surrogate for {self.space.name}: leave accuracy out of objectives= and limits="
            )
        fp32 = self.accuracy.predict(genomes, self.space)
        return _either(self.in_int8(genomes), fp32, self.int8.apply(fp32))

    def predict_latency(self, genomes: Genomes) -> Prediction:
        if self.latency is None:
            raise ValueError(
                f"no target ships for {self.space.name}: target=here target.space={self.space.name} times "
                "this machine; or search without latency, for instance objectives=[accuracy,macs]"
            )
        fp32 = _latency(self.latency, self.space, genomes)
        if "precision" not in self.space.index:
            return fp32
        if self.latency_int8 is None:
            raise ValueError(
                f"{self.space.name} needs int8_predictor= beside the predictor of fp32: a file of make fit, "
                "or run:FOLDER of make adapt, for target.precision=int8; target=here measures both"
            )
        return _either(self.in_int8(genomes), fp32, _latency(self.latency_int8, self.space, genomes))

    def predict_training(self, genomes: Genomes, quantity: str) -> Prediction:
        if self.training is None or "finetune_epochs" not in self.space.index:
            raise ValueError(
                f"{self.space.name} has no training recipe: leave {quantity} out of objectives= and limits="
            )
        return {
            "training_hours": self.training.hours,
            "training_kwh": self.training.kwh,
            "training_usd": self.training.usd,
        }[quantity](self.space, genomes)

    def footprint(self, genomes: Genomes, metric: str) -> Prediction:
        return exact(footprint.of(self.space, genomes, metric))

    def bytes_of(self, genomes: Genomes, metric: str) -> Prediction:
        """Bytes of the values that a metric counts (`peak_bytes`: in fp32 bytes); an int8 value is one."""
        bytes_per_value = np.where(self.in_int8(genomes), 1, BYTES_FP32)
        unit = BYTES_FP32 if metric == "peak_bytes" else 1
        return exact(footprint.of(self.space, genomes, metric) / unit * bytes_per_value)


def _latency(predictor: LatencyPredictor, space: SearchSpace, genomes: Genomes) -> Prediction:
    return predictor.predict(space.embed(genomes, predictor.target.space), predictor.target)


def _either(int8: NDArray[np.bool_], fp32: Prediction, other: Prediction) -> Prediction:
    return Prediction(np.where(int8, other.mean, fp32.mean), np.where(int8, other.std, fp32.std))


@dataclass(frozen=True)
class Metric:
    """An entry of the registry: what `objectives=` and `limits=` may name."""

    unit: str
    of: Callable[[Models, Genomes], Prediction]
    maximize: bool = False


METRICS: Mapping[str, Metric] = {
    "accuracy": Metric("top-1", Models.predict_accuracy, maximize=True),  # 0 to 1
    "latency_ms": Metric("ms", Models.predict_latency),  # of one batch
    "training_hours": Metric("GPU-h", lambda m, g: m.predict_training(g, "training_hours")),
    "training_kwh": Metric("kWh", lambda m, g: m.predict_training(g, "training_kwh")),
    "training_usd": Metric("USD", lambda m, g: m.predict_training(g, "training_usd")),
    "macs": Metric("MACs", lambda m, g: m.footprint(g, "macs")),  # of one image, as all that follow
    "params": Metric("params", lambda m, g: m.footprint(g, "params")),
    "weight_bytes": Metric("B", lambda m, g: m.bytes_of(g, "params")),
    "activation_bytes": Metric("B", lambda m, g: m.bytes_of(g, "activations")),
    "peak_bytes": Metric("B", lambda m, g: m.bytes_of(g, "peak_bytes")),
}


def build(name: str, models: Models, *, limit: float | None = None, confidence: float = 0.90) -> Objective:
    """The objective `name` of these models.

    ValueError with the known names and the nearest spelling otherwise.
    """
    if name not in METRICS:
        raise unknown_name("objective", name, METRICS)
    metric = METRICS[name]
    measured = models.accuracy.measured if name == "accuracy" and models.accuracy is not None else None
    objective = Objective(
        name,
        metric.unit,
        lambda genomes: metric.of(models, genomes),
        metric.maximize,
        limit,
        confidence,
        measured,
    )
    probe = models.space.sample(1, np.random.default_rng(0))
    objective.of(probe if measured is None else probe[:0])  # fail now, not in the middle of a run
    return objective


def networks(space: SearchSpace, genomes: Genomes) -> Ints:
    """(n,) which genomes are the same network: recipes of fine-tuning differ, the network does not."""
    return np.unique(space.network(genomes), axis=0, return_inverse=True)[1].ravel()


def axis(name: str, predicted: Prediction, owner: Ints) -> Axis:
    """An objective of a search as an axis with the uncertainty of its predictor.

    The recipes of one network share the error. Errors of different networks are taken as independent: on test
    rows of the accuracy surrogate residuals are uncorrelated (|r| <= .01) unless more than 95% of the genes
    agree (r .11; benchmarks/efficiency.py). What training costs is off by one factor for all.
    """
    metric = METRICS[name]
    owner = np.zeros(len(owner), np.int64) if name in COMMON_ERROR else owner
    return Axis(name, metric.maximize, "linear", predicted.mean, (Normal(predicted.std, owner),), metric.unit)
