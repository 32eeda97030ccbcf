"""Random search: the baseline."""

from pydantic.dataclasses import dataclass

from search.archive import Archive
from search.searchers.searcher import Stateless
from supernet.arrays import Genomes, Rng
from supernet.options import CONFIG, PositiveInt
from supernet.space import SearchSpace

ROUNDS = 20  # draws of a batch before the space counts as exhausted


@dataclass(config=CONFIG)
class RandomSearch(Stateless):
    """`batch` random architectures at a time, as the space samples them."""

    batch: PositiveInt = 1000

    def ask(self, space: SearchSpace, archive: Archive, rng: Rng) -> Genomes:
        for _ in range(ROUNDS):
            genomes = space.sample(self.batch, rng)
            if (fresh := archive.unseen(genomes)).any():
                return genomes[fresh]
        return genomes[:0]
