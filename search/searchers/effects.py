"""What one gene does to the costs of networks whose neighbourhood was searched.

Letters: k explored networks, d genes, v values of all genes together, c columns (costs and violation).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from supernet.arrays import Floats, Genomes, Ints
from supernet.space import SearchSpace

MOST = 16384  # explored networks that are remembered (30 MB with two objectives); the oldest give way
FIRST = 1024  # rows to begin with; they double when they are full


class Effects:
    """Of each explored network and each value of each gene: the change of every column when the gene takes
    that value. NaN where that is not known, 0 for the network's own values."""

    def __init__(self, space: SearchSpace, columns: int) -> None:
        self.first: Ints = space.one_hot_offsets[:-1]  # (d,) place of each gene's level 1
        self.gene: Ints = np.repeat(np.arange(space.d), space.levels)  # (v,)
        self.level = (np.arange(len(self.gene)) - self.first[self.gene] + 1).astype(np.int8)  # (v,)
        self.usable = np.zeros(len(self.gene), bool)  # (v,) values that sampling and mutation use
        for start, levels in zip(self.first, space.choices, strict=True):
            self.usable[start + np.array(levels) - 1] = True
        self._genomes = np.zeros((FIRST, space.d), np.int8)
        self._changes = np.full((FIRST, len(self.gene), columns), np.nan, np.float32)
        self._added = 0

    def movable(self, genomes: Genomes) -> NDArray[np.bool_]:
        """(k, v) values that these genomes can take by changing one gene that is switched on."""
        mine = genomes[:, self.gene]
        return (mine > 0) & (mine != self.level) & self.usable

    def add(self, genomes: Genomes) -> Ints:
        """(k,) the rows of networks that are explored from now on.

        Each takes over what is known of its nearest explored network (Hamming distance), related to its own
        values: the change from its value a to b is that network's change to b less its change to a.
        """
        known = min(self._added, MOST)
        rows = (self._added + np.arange(len(genomes))) % MOST
        changes = np.full((len(genomes), *self._changes.shape[1:]), np.nan, np.float32)
        if known:
            distance = (self._genomes[:known][None] != genomes[:, None]).sum(axis=2)
            changes = self._changes[distance.argmin(axis=1)]
            own = np.maximum(self.first + genomes - 1, 0)[:, self.gene]
            changes = changes - np.take_along_axis(changes, own[:, :, None], axis=1)
        mine = genomes[:, self.gene]
        changes[mine == 0] = np.nan
        changes[mine == self.level] = 0
        self._make_room(known + len(genomes))
        self._genomes[rows], self._changes[rows] = genomes, changes
        self._added += len(genomes)
        return rows

    def _make_room(self, count: int) -> None:
        while len(self._genomes) < min(count, MOST):
            self._genomes = np.concatenate([self._genomes, np.zeros_like(self._genomes)])
            self._changes = np.concatenate([self._changes, np.full_like(self._changes, np.nan)])

    def of(self, rows: Ints) -> tuple[Genomes, Floats]:
        """(k, d) the networks and (k, v, c) their changes."""
        return self._genomes[rows], self._changes[rows].astype(np.float64)

    def learn(self, rows: Ints, values: Ints, changes: Floats) -> None:
        """Changes (n, c) that were seen when networks (n,) took values (n,)."""
        self._changes[rows, values] = changes

    def state(self) -> dict[str, NDArray[Any]]:
        known = min(self._added, MOST)
        return {
            "genomes": self._genomes[:known],
            "changes": self._changes[:known],
            "added": np.array(self._added),
        }

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        known = len(state["genomes"])
        self._make_room(known)
        self._genomes[:known], self._changes[:known] = state["genomes"], state["changes"]
        self._added = int(state["added"])
