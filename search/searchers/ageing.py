"""Ageing evolution (Real et al., 2019, arXiv 1802.01548), the search that once-for-all papers start from
(arXiv 2101.00732): a baseline.

Letters: n architectures, p population, m objectives.
"""

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from search.archive import Archive
from supernet.arrays import Floats, Genomes, Rng
from supernet.options import CONFIG, PositiveFraction, PositiveInt
from supernet.space import SearchSpace

ROUNDS = 20  # of variation before random draws fill up a batch, and again before the space is exhausted


@dataclass(config=CONFIG)
class Ageing:
    """Children of the winners of tournaments among `sample` members replace the oldest members.

    The winner violates the limits least, then costs least. With several objectives a tournament weighs them
    at random (uniform on the simplex), each scaled by its range in the population; the method itself has one.
    `batch` children are made at a time, each by redrawing genes with probability `mutation`.
    """

    population: Annotated[int, Field(ge=4)] = 100
    sample: PositiveInt = 25
    batch: PositiveInt = 50
    mutation: PositiveFraction = 0.1

    def __post_init__(self) -> None:
        self._genomes: Genomes = np.empty((0, 0), np.int8)  # the oldest first
        self._costs: Floats = np.empty((0, 0))
        self._violation: Floats = np.empty(0)

    def ask(self, space: SearchSpace, archive: Archive, rng: Rng) -> Genomes:
        for attempt in range(2 * ROUNDS):
            if len(self._genomes) < self.population:
                batch = space.sample(self.population - len(self._genomes), rng)
            elif attempt >= ROUNDS:
                batch = space.sample(self.batch, rng)
            else:
                batch = space.mutate(self._winners(rng), rng, self.mutation)
            if (new := archive.unseen(batch)).any():
                return batch[new]
        return batch[:0]

    def _winners(self, rng: Rng) -> Genomes:
        """(batch, d) the winners of as many tournaments."""
        drawn = rng.integers(0, len(self._genomes), (self.batch, self.sample))
        width = np.ptp(self._costs, axis=0)
        scaled = (self._costs - self._costs.min(axis=0)) / np.where(width > 0, width, 1)
        weights = rng.dirichlet(np.ones(self._costs.shape[1]), self.batch)
        score = (scaled[drawn] * weights[:, None]).sum(axis=2)
        best = np.lexsort((score, self._violation[drawn]))[:, 0]
        return self._genomes[drawn[np.arange(self.batch), best]]

    def tell(self, genomes: Genomes, costs: Floats, violation: Floats) -> None:
        if len(self._genomes):
            genomes = np.concatenate([self._genomes, genomes])
            costs = np.concatenate([self._costs, costs])
            violation = np.concatenate([self._violation, violation])
        kept = slice(-self.population, None)
        self._genomes, self._costs, self._violation = genomes[kept], costs[kept], violation[kept]

    def state(self) -> dict[str, NDArray[Any]]:
        return {"genomes": self._genomes, "costs": self._costs, "violation": self._violation}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        self._genomes, self._costs = state["genomes"], state["costs"]
        self._violation = state["violation"]
