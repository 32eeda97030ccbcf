"""Searchers: one file here and one YAML in `configs/searcher`."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from search.archive import Archive
from search.objective import Evaluator
from supernet.arrays import Floats, Genomes, Rng
from supernet.space import SearchSpace


class Searcher(Protocol):
    """Proposes architectures and learns from their costs. All its state is in `state()`."""

    def ask(self, space: SearchSpace, archive: Archive, rng: Rng) -> Genomes:
        """(n, d) architectures that the archive does not hold, without duplicates.

        None when it has run out of them.
        """
        ...

    def tell(self, genomes: Genomes, costs: Floats, violation: Floats) -> None: ...
    def state(self) -> dict[str, NDArray[Any]]: ...
    def restore(self, state: Mapping[str, NDArray[Any]]) -> None: ...


class Stateless:
    """A searcher that remembers nothing: all that it goes by is in the archive."""

    def tell(self, genomes: Genomes, costs: Floats, violation: Floats) -> None:
        """Nothing to learn: the archive holds it."""

    def state(self) -> dict[str, NDArray[Any]]:
        return {"empty": np.empty(0)}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Nothing to restore."""


@runtime_checkable
class InformedSearcher(Searcher, Protocol):
    """A searcher that may ask what is predicted by itself, to spend evaluations on what is measured."""

    def inform(self, evaluator: Evaluator) -> None:
        """Called before the first `ask`, also of a resumed search."""
        ...
