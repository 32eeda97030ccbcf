"""LINAS: a predictor in the loop, for small budgets of real evaluations.

Letters: n architectures, d genes, m objectives, p candidates, b batch.

After Cummings et al. (2022, arXiv 2205.10358): what was evaluated so far trains a predictor, an
evolutionary search on its predictions proposes the next batch, and so on. Ours differs in the predictor
(a Gaussian process over genes and sizes in place of a grid search over regressors), in predicting only
what has to be measured, and in how the batch is chosen: each member is what would add most hypervolume if
one function drawn from the posterior were the truth (Thompson sampling), given the members before it.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from search import pareto
from search.archive import Archive
from search.objective import Evaluator, Objective
from search.searchers import gaussian_process
from search.searchers.gaussian_process import GaussianProcess
from search.searchers.nsga2 import NSGA2, constrained_ranks
from search.searchers.searcher import Stateless
from supernet import footprint
from supernet.arrays import Floats, Genomes, Ints, Rng
from supernet.options import CONFIG, AtLeastTwo, PositiveInt
from supernet.prediction import Prediction
from supernet.space import SearchSpace

MOST_KNOWN = 600  # rows that predictors are fitted on: the front and what lies next to it
DRAWN_PER_FIRST = 50  # networks that the first batch is chosen from, per member
ROUNDS = 20  # random draws that fill up a batch before the space counts as exhausted
MARGIN = 0.1  # of the range of the costs, from the worst one known to the reference point


@dataclass(config=CONFIG)
class LINAS(Stateless):
    """`first` architectures from the smallest to the largest, then `batch` at a time.

    Each batch comes from `generations` of NSGA-II with `population` on the predictions; the `pool` best
    of all that it saw are its candidates. Objectives that are predicted anyway are taken as they are,
    measured ones are predicted from the archive (all of them when the searcher was not told which are
    which, or none is measured).

    Hypervolume after 50 and 200 evaluations (benchmarks/linas.py --validation, 6 seeds): .763, .869 (NSGA-II
    has .617, .695), with standard errors of .004 to .011. Other batches and generations end lower.
    """

    batch: PositiveInt = 10  # proposed between two fits of the predictors
    # from the smallest to the largest network, before there is anything to predict from
    first: AtLeastTwo = 20
    population: Annotated[int, Field(ge=4)] = 100  # of the NSGA-II on the predictions
    generations: PositiveInt = 50
    pool: PositiveInt = 300  # candidates that a batch is chosen from

    def __post_init__(self) -> None:
        self._evaluator: Evaluator | None = None

    def inform(self, evaluator: Evaluator) -> None:
        """What is asked of architectures: its predicted part may be asked at will."""
        self._evaluator = evaluator

    def ask(self, space: SearchSpace, archive: Archive, rng: Rng) -> Genomes:
        if len(archive) < self.first:
            batch = spread(space, self.first, rng)
            batch = batch[archive.unseen(batch)][: self.first - len(archive)]
        else:
            batch = self._proposed(space, archive, rng)
        for _ in range(ROUNDS):  # small spaces run out of proposals before they are exhausted
            if len(batch):
                break
            drawn = space.sample(self.batch, rng)
            batch = drawn[archive.unseen(drawn)]
        return batch

    def _proposed(self, space: SearchSpace, archive: Archive, rng: Rng) -> Genomes:
        """(b, d) at most `batch` architectures that the archive does not hold."""
        genomes, costs, violation = _nearest(archive)
        expected, processes = self._model(space, archive.objectives, genomes, costs, violation)
        inner, seen = NSGA2(population=self.population), Archive(space, archive.objectives, archive.reference)
        inner.tell(genomes, costs, violation)
        seen.add(archive.genomes, archive.costs, archive.violation)
        for _ in range(self.generations):
            children = inner.ask(space, seen, rng)
            if not len(children):
                break
            told = expected(children)
            inner.tell(children, *told)
            seen.add(children, *told)
        new = slice(len(archive), None)
        if len(seen) == len(archive):
            return genomes[:0]
        candidates, costs_there, violation_there = seen.genomes[new], seen.costs[new], seen.violation[new]
        rank = constrained_ranks(costs_there, violation_there)
        best = np.lexsort((-pareto.crowding(costs_there, rank), rank))[: self.pool]
        if (violation_there[best] <= 0).any():
            best = best[violation_there[best] <= 0]
        count = min(self.batch, len(best))
        draws = np.repeat(costs_there[best][None], count, axis=0)
        for j, process in processes.items():
            draws[:, :, j] = process.draws(candidates[best], rng.standard_normal((count, len(best))))
        feasible = costs[violation <= 0]
        reference = costs.max(axis=0) + MARGIN * np.ptp(costs, axis=0)
        return candidates[best[choose(draws, feasible, reference)]]

    def _model(
        self, space: SearchSpace, names: tuple[str, ...], genomes: Genomes, costs: Floats, violation: Floats
    ) -> tuple[Evaluator, dict[int, GaussianProcess]]:
        """The evaluator with processes in place of what is measured; those of the objectives, by column."""
        if self._evaluator is None:
            limits = (_limit_of_violations(space, genomes, violation),) if (violation > 0).any() else ()
            asked = Evaluator(tuple(Objective(name, "", _unknown) for name in names), limits)
        else:
            asked = self._evaluator
        processes = {
            j: gaussian_process.fit(space, genomes, costs[:, j])
            for j, objective in enumerate(asked.objectives)
            if objective.measured is not None or not asked.measures
        }
        objectives, constraints = list(asked.objectives), list(asked.constraints)
        for j, process in processes.items():
            objectives[j] = replace(objectives[j], of=_expectation(objectives[j], process))
        for j, constraint in enumerate(constraints):
            if constraint.measured is not None:
                values = constraint.cost(constraint.of(genomes).mean)  # measured before, and remembered
                process = gaussian_process.fit(space, genomes, values)
                constraints[j] = replace(constraint, of=_expectation(constraint, process))
        return Evaluator(tuple(objectives), tuple(constraints)), processes


def spread(space: SearchSpace, count: int, rng: Rng) -> Genomes:
    """(count, d) networks from the smallest to the largest, evenly over log MACs: genes are drawn high with a
    probability that differs from network to network. Fewer where the space has fewer."""
    places = rng.binomial(space.width - 1, rng.random((DRAWN_PER_FIRST * count, 1)))
    drawn = np.concatenate([space.extremes(), space.at(places)])
    _, first = np.unique(drawn, axis=0, return_index=True)
    drawn = drawn[np.sort(first)]
    size = np.log(1 + footprint.compute(space, drawn, "macs"))
    picked = list(range(min(2, len(drawn))))  # the extremes
    for goal in np.linspace(size.min(), size.max(), count)[1:-1]:
        distance = np.abs(size - goal)
        distance[picked] = np.inf
        if len(picked) < len(drawn):
            picked.append(int(np.argmin(distance)))
    return drawn[picked][:count]


def choose(draws: Floats, costs: Floats, reference: Floats) -> Ints:
    """(b,) different candidates, one for each of the draws (b, p, m) of their costs.

    In its draw the i-th adds most hypervolume below `reference` (m,) to the costs known and to the
    candidates chosen before; where none adds any, it is the first one left.
    """
    front = costs[pareto.is_front(costs)] if len(costs) else costs
    picked: list[int] = []
    for drawn in draws:
        there = np.concatenate([front, drawn[picked]])
        ahead = pareto.is_front(np.concatenate([there, drawn]))[len(there) :]  # no other one adds more
        ahead[picked] = False
        rows = np.flatnonzero(ahead)
        gains = [pareto.hypervolume(np.concatenate([there, drawn[[i]]]), reference) for i in rows]
        left = rows[np.argmax(gains)] if gains else np.setdiff1d(np.arange(len(drawn)), picked)[0]
        picked.append(int(left))
    return np.array(picked, np.int64)


def _nearest(archive: Archive) -> tuple[Genomes, Floats, Floats]:
    """Genomes, costs and violations of the MOST_KNOWN evaluations nearest to the front, in archive order."""
    costs, violation = archive.costs, archive.violation
    rows = np.arange(len(archive))
    if len(archive) > MOST_KNOWN:
        rows = np.sort(np.argsort(constrained_ranks(costs, violation), kind="stable")[:MOST_KNOWN])
    return archive.genomes[rows], costs[rows], violation[rows]


def _expectation(objective: Objective, process: GaussianProcess) -> Callable[[Genomes], Prediction]:
    """Values of an objective by the process of its costs; with their deviation where a limit asks for it."""

    def predict(genomes: Genomes) -> Prediction:
        if objective.limit is None:
            mean = process.mean(genomes)
            return Prediction(objective.cost(mean), np.zeros(len(mean)))
        predicted = process.predict(genomes)
        return Prediction(objective.cost(predicted.mean), predicted.std)

    return predict


def _limit_of_violations(space: SearchSpace, genomes: Genomes, violation: Floats) -> Objective:
    """A constraint that expects of a network the violation that others had."""
    process = gaussian_process.fit(space, genomes, violation)
    objective = Objective("violation", "", _unknown, confidence=0.5)
    return replace(objective, of=_expectation(objective, process), limit=0.0)


def _unknown(genomes: Genomes) -> Prediction:
    raise AssertionError("replaced by a process before it is asked")
