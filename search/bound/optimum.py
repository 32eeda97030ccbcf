"""The most accurate network within limits, with a proof of how much better any other one can be."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from latency.predictors.interface import LatencyModel
from search.bound.program import Limit, Program
from search.bound.solver import Solver
from search.models import Models
from search.objective import InfeasibleError, Objective
from search.problem import Problem
from supernet.arrays import Floats, Genomes
from supernet.prediction import Prediction
from supernet.space import SearchSpace, get_space
from supernet.surrogates.accuracy import POINT, AccuracySurrogate

SECONDS = 60.0  # enough for the spaces and tables that ship
STARTS = 10  # networks that a proof begins with: the most accurate of those that it is handed


@dataclass(frozen=True, eq=False)
class Optimum:
    """The best network that was found and a proven upper bound on the accuracy of all that meet the limits.

    `accuracy` and `upper` are top-1 accuracies (fractions) as the surrogate predicts them: what it does not
    know is not part of the gap. `nodes` counts the subproblems that were solved.
    """

    space: SearchSpace
    genome: Genomes  # (1, d)
    accuracy: float
    upper: float
    seconds: float
    nodes: int

    @property
    def gap(self) -> float:
        """By how much a better network can be more accurate, at most (a fraction)."""
        return self.upper - self.accuracy

    @property
    def proven(self) -> bool:
        """Whether no network within the limits is more accurate, by more than a ten-millionth."""
        return self.gap <= 0

    @property
    def architecture(self) -> str:
        """The one-line name of the network."""
        return self.space.format(self.genome)[0]

    def line(self) -> str:
        """Accuracy, bound and gap, for the terminal."""
        how = "proven optimum" if self.proven else f"gap {self.gap / POINT:.3f} points"
        return (
            f"accuracy {self.accuracy:.5f}, upper bound {self.upper:.5f}: {how} "
            f"({self.seconds:.1f} s, {self.nodes} subproblems)"
        )


def best_within(
    accuracy: AccuracySurrogate,
    latency: LatencyModel,
    limit_ms: float,
    *,
    space: SearchSpace | None = None,
    confidence: float = 0.90,
    seconds: float = SECONDS,
) -> Optimum:
    """The most accurate network whose latency is at most `limit_ms`, proven or as far as `seconds` go.

    The space is that of the latency's target, or one that you have restricted; all resolutions that both
    models know and all recipes that it has are open. The limit is tested on the bound that holds with
    `confidence`, as in a search; .5 tests the mean. Some five seconds pass before there is a first bound.
    ValueError for models that give no sum over blocks or no quadratic form, `InfeasibleError` where no
    network meets the limit.

    >>> best = best_within(accuracy.load("ofa_mbv3_w1.2"), catalogue.predictor("note10_lut"), 20)
    >>> best.architecture, best.upper, best.proven
    """
    models = Models(space or get_space(latency.target.space), accuracy, latency)
    if "r" in models.space.index:
        models = replace(models, space=models.space.restrict("r", *models.resolutions))
    limit = models.objective("latency_ms", limit_ms, confidence)
    return _solve(models, [limit], seconds)


def most_accurate(problem: Problem, seconds: float = SECONDS, start: Genomes | None = None) -> Optimum:
    """The most accurate network within the limits of a problem, whatever its other objectives are.

    `start` (n, d) are networks that meet the limits, the front of a search, say: there is nothing worse to
    find. A limit on accuracy itself leaves the most accurate network as it is. ValueError for limits that are
    no sums over blocks, such as `peak_bytes`.
    """
    limited = [one for one in problem.evaluator.limited if one.name != "accuracy"]
    return _solve(problem.models, limited, seconds, start)


@dataclass(frozen=True, eq=False)
class SearchGap:
    """How far the most accurate network of a search within its limits is from the best there can be."""

    accuracy: float  # of the search's network, a fraction
    optimum: Optimum

    @property
    def points(self) -> float:
        """By how many points of accuracy the search can be beaten, at most."""
        return max(0.0, self.optimum.upper - self.accuracy) / POINT

    def facts(self) -> dict[str, Any]:
        """The figures as JSON."""
        best = self.optimum
        return {
            "search_accuracy": self.accuracy,
            "best_accuracy": best.accuracy,
            "upper_bound": best.upper,
            "gap_points": round(self.points, 5),
            "proven": best.proven,
            "seconds": round(best.seconds, 2),
            "architecture": best.architecture,
        }

    def line(self) -> str:
        """The gap of the search, for the terminal and the report."""
        return (
            f"most accurate within the limits: {self.accuracy:.5f}, at most {self.points:.3f} points below "
            f"the best there can be (upper bound {self.optimum.upper:.5f}, in {self.optimum.seconds:.1f} s)"
        )


def search_gap(problem: Problem, genomes: Genomes, seconds: float = SECONDS) -> SearchGap:
    """The gap of the networks (n, d) that a search evaluated, at the limits of its problem.

    ValueError where none of them meets the limits, and as `most_accurate`.
    """
    within = genomes[problem.evaluator.predicted(genomes)[1] <= 0]
    if not len(within):
        raise ValueError("none of the networks of the search meets the limits")
    optimum = most_accurate(problem, seconds, within)
    return SearchGap(float(problem.models.predict_accuracy(within).mean.max()), optimum)


def _solve(
    models: Models, limited: Sequence[Objective], seconds: float, start: Genomes | None = None
) -> Optimum:
    if not isinstance(models.accuracy, AccuracySurrogate):
        raise ValueError(
            "an optimum can be proven where an accuracy surrogate predicts, not where it is measured"
        )
    if seconds <= 0:
        raise ValueError(f"seconds={seconds:g} must be positive")
    deadline = (begun := time.perf_counter()) + seconds
    with threadpool_limits(1):
        program = _program(models, limited, start)
        solver = Solver(program, deadline)
        if start is not None:
            for genome in start[np.argsort(-program.accuracy(start), kind="stable")[:STARTS]]:
                number, states = program.locate(genome)
                solver.incumbent.offer(program.setting(number), states)
        solver.run()
    best, passed = solver.incumbent, time.perf_counter() - begun
    if best.setting is None:
        limits = ", ".join(f"{one.name} {one.limit:g} {one.unit}" for one in limited)
        if np.isneginf(solver.upper):
            raise InfeasibleError(f"no {models.space.name} network meets the limits ({limits}): proven")
        raise ValueError(
            f"no network within the limits ({limits}) was found in {passed:.0f} s: give more seconds"
        )
    genome = program.genomes(best.setting, np.array([best.states]))
    return Optimum(models.space, genome, best.value, solver.upper, passed, solver.nodes)


def _program(models: Models, limited: Sequence[Objective], start: Genomes | None) -> Program:
    """The program, with limits of shared errors written as sums about a good network."""
    assert isinstance(models.accuracy, AccuracySurrogate)

    def accuracy(genomes: Genomes) -> Floats:
        return models.predict_accuracy(genomes).mean

    def scale(genome: Genomes) -> Callable[[Floats], Floats]:
        own = get_space(surrogate.space)
        network = models.space.embed(genome, surrogate.space)

        def accuracies(values: Floats) -> Floats:
            predicted = Prediction(np.minimum(values, surrogate.ceiling), np.zeros(len(values)))
            if surrogate.calibration is not None:
                recipe = network[:, own.index["finetune_epochs"]].astype(np.int64) - 1
                sides = own.column(network, "r") if "r" in own.index else np.zeros(1, np.int64)
                rows = np.zeros(len(values), np.int64)
                predicted = surrogate.calibration.apply(predicted, recipe[rows], sides[rows])
            return models.int8.apply(predicted).mean if models.in_int8(genome)[0] else predicted.mean

        return accuracies

    def about(genome: Genomes) -> Program:
        return Program(
            models.space, surrogate, accuracy, scale, [Limit(one).about(genome) for one in limited]
        )

    surrogate = models.accuracy
    if start is not None and len(start):
        return about(start[[int(np.argmax(accuracy(start)))]])
    program = about(models.space.sample(1, np.random.default_rng(0)))
    if any(limit.direction is not None for limit in program.limits):
        solver = Solver(program, 0.0)
        solver.start()
        if solver.incumbent.setting is not None:
            return about(program.genomes(solver.incumbent.setting, np.array([solver.incumbent.states])))
    return program
