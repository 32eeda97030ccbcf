"""Random search: the baseline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from search.archive import Archive
from supernet.arrays import Floats, Genomes, Rng
from supernet.space import SearchSpace

ROUNDS = 20  # draws of a batch before the space counts as exhausted


@dataclass(config=ConfigDict(extra="forbid"))
class RandomSearch:
    """`batch` random architectures at a time, as the space samples them."""

    batch: Annotated[int, Field(ge=1)] = 1000

    def ask(self, space: SearchSpace, archive: Archive, rng: Rng) -> Genomes:
        for _ in range(ROUNDS):
            genomes = space.sample(self.batch, rng)
            if (fresh := archive.unseen(genomes)).any():
                return genomes[fresh]
        return genomes[:0]

    def tell(self, genomes: Genomes, costs: Floats, violation: Floats) -> None:
        """Nothing to learn."""

    def state(self) -> dict[str, NDArray[Any]]:
        return {"empty": np.empty(0)}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Nothing to restore."""
