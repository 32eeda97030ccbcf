"""Objectives and limits: what is asked of an architecture, and the evaluator that answers for batches.

Letters: n architectures, m objectives.

Inside a search every objective is a cost (lower is better). The sign flips here and in reports, nowhere else.

An objective is either predicted, and may be asked for thousands of architectures, or measured: asking takes
seconds per architecture, so only what a search proposes is asked, and two networks that fix the scale.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np

from search.noisy_axis import NoisyAxis, Normal, Shared, front_probability
from supernet.arrays import Floats, Genomes, Ints, Rng
from supernet.files.tables import rounded
from supernet.prediction import Prediction
from supernet.space import SearchSpace

DRAWN_AT_ONCE = 200_000  # values of one objective
SHARED_DIGITS = 4  # significant ones, of stored loadings


class InfeasibleError(ValueError):
    """No network of the space satisfies the limits."""


@dataclass(frozen=True)
class Objective:
    """A quantity with its unit and direction and, perhaps, a limit: all that a search, its archive and its
    report need to know about it. Your own may stand beside the named ones of `problem.build`.

    The limit is tested on the calibrated bound at `confidence`, so that it holds when measured: the upper
    bound of what is minimised, the lower bound of what is maximised. `measured` is None where `of` is a
    prediction; otherwise it names everything that a measured value depends on besides the genome. `scale`
    says in words what the values may be compared with, where the unit does not: on which images top-1 is.

    >>> def depth(genomes):
    ...     return exact(sum(space.column(genomes, f"d{stage}") for stage in range(5)).astype(float))
    >>> Objective("depth", "layers", depth)
    """

    name: str
    unit: str
    of: Callable[[Genomes], Prediction]
    maximize: bool = False
    limit: float | None = None
    confidence: float = 0.90
    measured: str | None = None
    scale: str | None = None

    def __post_init__(self) -> None:
        if not 0.5 <= self.confidence < 1:
            raise ValueError(
                f"confidence={self.confidence} of {self.name} must lie in [0.5, 1); 0.5 tests the mean"
            )
        if self.limit is not None and not (np.isfinite(self.limit) and self.limit >= 0):
            raise ValueError(f"the limit {self.limit} of {self.name} must be a number of {self.unit}")
        if self.unit == "fraction" and self.limit is not None and self.limit > 1:
            raise ValueError(
                f"the limit {self.limit:g} of {self.name} is a fraction from 0 to 1: give "
                f"limits.{self.name}={self.limit / 100:g} for {self.limit:g}%"
            )

    @property
    def facts(self) -> dict[str, Any]:
        """What the values mean, as JSON: the unit and the direction."""
        return {"unit": self.unit, "maximize": self.maximize}

    def described(self, genomes: Genomes, names: Sequence[str]) -> dict[str, Any]:
        """The facts, the scale where there is one, and where networks share errors `shared_errors`: the
        loadings of each by its name."""
        facts = self.facts if self.scale is None else {**self.facts, "scale": self.scale}
        shared = self.of(genomes).shared
        if shared is None:
            return facts
        rows = (rounded(row, SHARED_DIGITS) for row in shared)
        return {**facts, "shared_errors": dict(zip(names, rows, strict=True))}

    @property
    def images(self) -> str:
        """On which images an accuracy is, in short: the beginning of `scale`."""
        return re.split("[,;]", self.scale or "")[0]

    @property
    def label(self) -> str:
        """The name, with its unit where the name does not say it."""
        said = self.unit.lower() in ("", *self.name.lower().split("_"))
        return self.name if said else f"{self.name} ({self.unit})"

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
        for j, objective in enumerate(self.asked):
            predicted = objective.of(genomes)
            violation += objective.violation(predicted)
            if j < len(self.objectives):
                costs[:, j] = objective.cost(predicted.mean)
        return costs, violation

    def efficiency(self, space: SearchSpace, genomes: Genomes, *, draws: int, seed: int) -> Floats:
        """(n,) probability that none of the others dominates a genome, by the predictors' uncertainty."""
        owner = networks(space, genomes)
        axes = [axis(o.name, o.of(genomes), owner, **o.facts) for o in self.objectives]
        blocks = np.array_split(np.arange(draws), -(-draws * len(genomes) // DRAWN_AT_ONCE))
        shares = [
            len(block) * front_probability(np.stack([one.draw(seed, i, len(block)) for one in axes], axis=2))
            for i, block in enumerate(blocks)
        ]
        return np.sum(shares, axis=0) / draws

    def fingerprint(self, space: SearchSpace) -> str:
        """SHA-256 that identifies the models; a resumed run must match it. It covers the names, what is
        measured, and the predicted costs and violations of 64 fixed subnets."""
        costs, violation = self.predicted(space.sample(64, np.random.default_rng(0)))
        words = ",".join(one.name for one in self.asked) + "".join(
            f"{one.measured} {one.limit} {one.confidence}" for one in self.asked if one.measured is not None
        )
        return sha256(words.encode() + costs.tobytes() + violation.tobytes()).hexdigest()

    @property
    def asked(self) -> tuple[Objective, ...]:
        """Objectives and constraints."""
        return (*self.objectives, *self.constraints)

    @property
    def predicted(self) -> "Evaluator":
        """Without what is measured: may be asked at will."""
        groups = (self.objectives, self.constraints)
        return Evaluator(*(tuple(one for one in group if one.measured is None) for group in groups))

    @property
    def measures(self) -> bool:
        """Whether an evaluation takes a measurement."""
        return any(objective.measured is not None for objective in self.asked)

    @property
    def limited(self) -> tuple[Objective, ...]:
        """Objectives and constraints that have a limit."""
        return tuple(objective for objective in self.asked if objective.limit is not None)

    def reference(self, space: SearchSpace) -> tuple[Floats, Floats]:
        """(m,), (m,) worst and best cost: the same for all runs with the same objectives.

        Of 1,000 random subnets; for what is measured, the ends of the 95% intervals of the smallest and the
        largest network, which may differ by less than their measurements are uncertain.
        """
        drawn, ends = space.sample(1000, np.random.default_rng(0)), space.extremes()
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


def axis(name: str, predicted: Prediction, owner: Ints, *, unit: str, maximize: bool) -> NoisyAxis:
    """Predictions of n architectures as an axis with the uncertainty of the predictor; `owner` (n,) says
    which of them are the same network, the rest are `Objective.facts`.

    The shared errors of the prediction are drawn once for all networks. The rest of the error is one for the
    recipes of a network and independent between networks: on test rows of the accuracy surrogate residuals
    are uncorrelated (|r| <= .01) unless more than 95% of the genes agree (r .11; benchmarks/efficiency.py).
    """
    noise: tuple[Normal | Shared, ...] = (Normal(predicted.own, owner),)
    if predicted.shared is not None:
        noise += (Shared(predicted.shared),)
    return NoisyAxis(name, maximize, "linear", predicted.mean, noise, unit)


def networks(space: SearchSpace, genomes: Genomes) -> Ints:
    """(n,) which genomes are the same network: recipes of fine-tuning differ, the network does not."""
    return np.unique(space.network(genomes), axis=0, return_inverse=True)[1].ravel()


def extreme(objective: Objective, space: SearchSpace, rng: Rng) -> tuple[Genomes, float]:
    """The (1, d) genome with the best bound of one objective, and that bound: coordinate descents from the
    best 8 of 2,000 random genomes.

    Exact for costs that are sums over slots; for others the best local optimum of the starts.
    """
    genomes = space.sample(2000, rng)
    scores = objective.cost(objective.bound(objective.of(genomes)))
    ends = [_descend(objective, space, genomes[[row]]) for row in np.argsort(scores)[:8]]
    best, score = min(ends, key=lambda end: end[1])
    return best, float(objective.cost(np.array(score)))


def _descend(objective: Objective, space: SearchSpace, genome: Genomes) -> tuple[Genomes, float]:
    """The best neighbour of the best neighbour of ..., and its cost."""
    score = np.inf
    for _ in range(500):
        around = np.concatenate([genome, space.neighbours(genome)])
        scores = objective.cost(objective.bound(objective.of(around)))
        if scores.min() >= score:
            break
        genome, score = around[[np.argmin(scores)]], float(scores.min())
    return genome, score
