"""NSGA-II for costs that carry noise, a method of ours: costs are freed of noise first, and survivors are
chosen by what the random frontier says of them.

Letters: n architectures, d genes, m objectives, h evaluations so far, D one-hot columns.
"""

from typing import Annotated, Literal

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from search import pareto
from search.archive import Archive
from search.noisy_axis import front_probability
from search.searchers.nsga2 import NSGA2, constrained_ranks
from supernet.arrays import Floats, Genomes, Ints, Rng
from supernet.fits import robust
from supernet.options import CONFIG, NonNegativeFloat
from supernet.space import SearchSpace

HISTORY = 5000  # latest evaluations that the additive model is fitted on
RIDGE = 1.0
ROUNDS = 3  # of Cauchy weights
EXACT = 1e-9  # misfit of a cost that the genes explain without rest


@dataclass(config=CONFIG)
class NoisyNSGA2(NSGA2):
    """`spread` is the relative standard deviation of an observed cost, one for all or one per objective.

    Without `denoise` observed costs are taken as they are. With it a cost is the posterior mean of the true
    one, given the observation and an additive model of the genes with its own misfit: a lucky measurement is
    pulled to what its genes let expect. `select`: `depth` ranks by the dominance depth
    expected over `draws` of the remaining noise, then by crowding; `probability` by the dominance depth, then
    by the probability of being efficient in place of crowding. Measured in benchmarks/efficiency.py.
    """

    # relative standard deviation of an observed cost, one for all or one per objective
    spread: NonNegativeFloat | tuple[NonNegativeFloat, ...] = 0.03
    # expected dominance depth, then crowding; probability: of being efficient, in place of crowding
    select: Literal["depth", "probability"] = "depth"
    denoise: bool = True  # pull costs to an additive model of the genes, as far as the noise asks for it
    draws: Annotated[int, Field(ge=10)] = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        self._archive: Archive | None = None  # until the first `ask`

    def ask(self, space: SearchSpace, archive: Archive, rng: Rng) -> Genomes:
        self._archive = archive
        return super().ask(space, archive, rng)

    def _fitness(self, genomes: Genomes, costs: Floats, violation: Floats) -> tuple[Ints, Floats]:
        if not isinstance(self.spread, float) and len(self.spread) != costs.shape[1]:
            raise ValueError(
                f"searcher.spread={list(self.spread)} has {len(self.spread)} numbers for {costs.shape[1]} "
                "objectives: give one per objective, or one for all"
            )
        noise = np.abs(costs) * np.array(self.spread)
        if self.denoise and self._archive is not None:
            costs, noise = self._freed(self._archive, genomes, costs, noise)
        drawn_before = 0 if self._archive is None else len(self._archive)
        rng = np.random.default_rng(drawn_before)  # a resumed search draws the same
        drawn = costs + noise * rng.standard_normal((self.draws, *costs.shape))
        if self.select == "probability":
            return constrained_ranks(costs, violation), front_probability(drawn)
        depth = np.mean([constrained_ranks(one, violation) for one in drawn], axis=0)
        rank = depth.round().astype(np.int64)
        return rank, pareto.crowding(costs, rank)

    def _freed(
        self, archive: Archive, genomes: Genomes, costs: Floats, noise: Floats
    ) -> tuple[Floats, Floats]:
        """(n, m), (n, m) posterior means and standard deviations of the true costs.

        Normal prior about an additive model c = sum over genes + misfit; the misfit's variance is what the
        residuals show beyond the noise (robustly: from their median size).
        """
        new = archive.unseen(genomes)  # told, and not yet added
        evaluated = np.concatenate([archive.genomes, genomes[new]])[-HISTORY:]
        seen = np.concatenate([archive.costs, costs[new]])[-HISTORY:]
        hot, middle = archive.space.one_hot(evaluated), np.median(seen, axis=0)
        mine = archive.space.one_hot(genomes)
        freed, left = costs.copy(), noise.copy()
        for j in np.flatnonzero(noise.any(axis=0)):
            weight = np.ones(len(seen))
            for _ in range(ROUNDS):
                scaled = hot * weight[:, None]
                gram = scaled.T @ hot + RIDGE * np.eye(hot.shape[1])
                effects = np.linalg.solve(gram, scaled.T @ (seen[:, j] - middle[j]))
                rest = seen[:, j] - middle[j] - hot @ effects
                size = robust.spread(rest, EXACT)
                weight = robust.cauchy_weights(rest, size)
            expected = middle[j] + mine @ effects
            misfit = max(size**2 - np.median(noise[:, j]) ** 2, 1e-3 * size**2)
            off = costs[:, j] - expected
            trust = misfit / (misfit + noise[:, j] ** 2 / robust.cauchy_weights(off, size))
            freed[:, j], left[:, j] = expected + trust * off, np.sqrt(trust) * noise[:, j]
        return freed, left
