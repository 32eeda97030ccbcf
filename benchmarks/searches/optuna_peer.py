"""Optuna as a searcher: its TPE and NSGA-II on the places of genes, asked and told one network at a time."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.samplers import BaseSampler, NSGAIISampler, TPESampler
from optuna.trial import Trial

from search.archive import Archive
from search.searchers.linas import LINAS, spread
from supernet.arrays import Floats, Genomes, Rng
from supernet.space import SearchSpace

TRIES = 1000  # proposals in a row that are known already before the space counts as exhausted


def tpe(seed: int) -> BaseSampler:
    """Multi-objective TPE as it comes."""
    return TPESampler(seed=seed)


def nsga2(seed: int) -> BaseSampler:
    return NSGAIISampler(population_size=20, seed=seed)


@dataclass
class Optuna:
    """A sampler of Optuna, each gene an integer. Its first trials are LINAS's first batch.

    Known networks cost nothing: the sampler is told their costs again and asked for another.
    """

    sampler: Callable[[int], BaseSampler]

    def __post_init__(self) -> None:
        self._study: optuna.Study | None = None
        self._trial: Trial | None = None
        self._costs: dict[bytes, list[float]] = {}

    def ask(self, space: SearchSpace, archive: Archive, rng: Rng) -> Genomes:
        study = self._study or self._begin(space, len(archive.objectives), rng)
        for _ in range(TRIES):
            trial = self._trial = study.ask()
            genome = space.at(
                np.array(
                    [[trial.suggest_int(f"{j}", 0, int(width) - 1) for j, width in enumerate(space.width)]]
                )
            )
            if archive.unseen(genome)[0]:
                return genome
            study.tell(self._trial, self._costs[genome.tobytes()])
        return space.sample(0, rng)

    def _begin(self, space: SearchSpace, objectives: int, rng: Rng) -> optuna.Study:
        """A study that has the first batch enqueued."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        first = spread(space, LINAS().first, rng)
        sampler = self.sampler(int(rng.integers(2**31)))
        self._study = optuna.create_study(directions=["minimize"] * objectives, sampler=sampler)
        for genome in first:
            # a gene that is off has no level; its lowest stands for it
            places = [
                levels.index(level) if level else 0
                for level, levels in zip(genome, space.choices, strict=True)
            ]
            self._study.enqueue_trial({f"{j}": place for j, place in enumerate(places)})
        return self._study

    def tell(self, genomes: Genomes, costs: Floats, violation: Floats) -> None:
        """Costs of the one network that was asked for."""
        assert self._study is not None
        for genome, row in zip(genomes, costs, strict=True):
            self._costs[genome.tobytes()] = row.tolist()
            self._study.tell(self._trial, row.tolist())

    def state(self) -> dict[str, NDArray[Any]]:
        raise NotImplementedError("a benchmark is not resumed in the middle of a search")

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        raise NotImplementedError("a benchmark is not resumed in the middle of a search")
