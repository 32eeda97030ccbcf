"""NSGA-II (Deb et al., 2002) on batches of integer genomes, with constrained dominance.

Letters: n architectures, d genes, m objectives.
"""

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from search import pareto
from search.archive import Archive
from supernet.arrays import Floats, Genomes, Ints, Rng
from supernet.options import CONFIG, Fraction, PositiveFraction
from supernet.space import SearchSpace

ROUNDS = 10  # of variation before random draws fill up a batch, and again before the space is exhausted


@dataclass(config=CONFIG)
class NSGA2:
    """Binary tournaments, uniform crossover, per-gene mutation; offspring that are known already are drawn
    anew.

    `mutation` is the probability to redraw a gene; .02 beat .05 at equal budget. Tried without gain:
    stage-wise crossover, a mutation rate per child, an initial population spread from small to large
    networks.
    """

    population: Annotated[int, Field(ge=4)] = 200
    crossover: Fraction = 0.9
    mutation: PositiveFraction = 0.02

    def __post_init__(self) -> None:
        self._genomes: Genomes | None = None
        self._costs: Floats = np.empty((0, 0))
        self._violation: Floats = np.empty(0)
        self._rank: Ints = np.empty(0, np.int64)
        self._crowding: Floats = np.empty(0)

    def ask(self, space: SearchSpace, archive: Archive, rng: Rng) -> Genomes:
        batch = np.empty((0, space.d), np.int8)
        for attempt in range(2 * ROUNDS):
            missing = (self.population - len(batch)) * 5 // 4 + 4  # a fifth of the offspring is known already
            if self._genomes is None or attempt >= ROUNDS:
                drawn = space.sample(missing, rng)
            else:
                drawn = self._offspring(space, missing, rng)
            batch = np.concatenate([batch, drawn])
            batch = batch[archive.unseen(batch)]
            if len(batch) >= self.population:
                break
        return batch[: self.population]

    def _offspring(self, space: SearchSpace, n: int, rng: Rng) -> Genomes:
        assert self._genomes is not None
        mother, father = self._tournament(n, rng), self._tournament(n, rng)
        crossed = space.crossover(self._genomes[mother], self._genomes[father], rng)
        children = np.where(rng.random((n, 1)) < self.crossover, crossed, self._genomes[mother])
        return space.mutate(children, rng, self.mutation)

    def _tournament(self, n: int, rng: Rng) -> Ints:
        """(n,) winners of pairs: lower rank (feasible ones rank before all others), then less crowded."""
        pairs = rng.integers(0, len(self._rank), size=(2, n))
        rank, room = self._rank[pairs], self._crowding[pairs]
        second = (rank[1] < rank[0]) | ((rank[1] == rank[0]) & (room[1] > room[0]))
        return np.where(second, pairs[1], pairs[0])

    def tell(self, genomes: Genomes, costs: Floats, violation: Floats) -> None:
        if self._genomes is not None:
            genomes = np.concatenate([self._genomes, genomes])
            costs = np.concatenate([self._costs, costs])
            violation = np.concatenate([self._violation, violation])
        rank, room = self._fitness(genomes, costs, violation)
        keep = np.lexsort((-room, rank))[: self.population]
        self._genomes, self._costs, self._violation = genomes[keep], costs[keep], violation[keep]
        self._rank, self._crowding = rank[keep], room[keep]

    def _fitness(self, genomes: Genomes, costs: Floats, violation: Floats) -> tuple[Ints, Floats]:
        """(n,) rank, lower first, and (n,) what decides within a rank, higher first."""
        rank = constrained_ranks(costs, violation)
        return rank, pareto.crowding(costs, rank)

    def state(self) -> dict[str, NDArray[Any]]:
        if self._genomes is None:
            return {}
        return {
            "genomes": self._genomes,
            "costs": self._costs,
            "violation": self._violation,
            "rank": self._rank,
            "crowding": self._crowding,
        }

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        if state:
            self._genomes = state["genomes"]
            self._costs, self._violation = state["costs"], state["violation"]
            self._rank, self._crowding = state["rank"], state["crowding"]


def constrained_ranks(costs: Floats, violation: Floats) -> Ints:
    """(n,) dominance depth of the feasible points, then the infeasible ones by how much they violate."""
    feasible = violation <= 0
    rank = np.empty(len(costs), np.int64)
    rank[feasible] = pareto.ranks(costs[feasible]) if feasible.any() else 0
    worst = int(rank[feasible].max()) + 1 if feasible.any() else 0
    _, order = np.unique(violation[~feasible], return_inverse=True)
    rank[~feasible] = worst + order
    return rank
