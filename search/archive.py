"""Archive: everything a search has evaluated, append-only and without duplicates.

Letters: n architectures, d genes, m objectives.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search import pareto
from search.objective import Evaluator
from supernet.arrays import Floats, Genomes, Ints
from supernet.files import artifact
from supernet.space import SearchSpace

KIND = "search archive"
RIVALS = 2000  # rows behind the front that may take its places
DRAWS = 400  # standard error of a probability at most .025


class Archive:
    """All evaluated architectures in the order of their evaluation; its front holds feasible ones only.

    >>> from supernet.space import get_space
    >>> space = get_space("ofa_small")
    >>> archive = Archive(space, ["macs", "params"], np.array([1e9, 1e9]))
    >>> archive.add(space.extremes(), np.array([[1.0, 2.0], [2.0, 3.0]]), np.zeros(2))
    2
    >>> archive.front()
    array([0])
    """

    def __init__(self, space: SearchSpace, objectives: Sequence[str], reference: Floats) -> None:
        """`objectives` name the cost columns.

        `reference` (m,) is the reference point of the hypervolume, as costs.
        """
        self.space = space
        self.objectives = tuple(objectives)
        self.reference = np.asarray(reference, np.float64)
        self._genomes: list[Genomes] = []
        self._costs: list[Floats] = []
        self._violation: list[Floats] = []
        self._known: set[bytes] = set()
        self._front_rows = np.empty(0, np.int64)
        self._front_costs = np.empty((0, len(self.objectives)))

    def __len__(self) -> int:
        return len(self._known)

    @property
    def genomes(self) -> Genomes:
        """(n, d)"""
        return np.concatenate([np.empty((0, self.space.d), np.int8), *self._genomes])

    @property
    def costs(self) -> Floats:
        """(n, m)"""
        return np.concatenate([np.empty((0, len(self.objectives))), *self._costs])

    @property
    def violation(self) -> Floats:
        """(n,)"""
        return np.concatenate([np.empty(0), *self._violation])

    def unseen(self, genomes: Genomes) -> NDArray[np.bool_]:
        """(n,) genomes that are neither in the archive nor earlier in the batch."""
        keys = _keys(genomes)
        first = {key: i for i, key in zip(range(len(keys) - 1, -1, -1), reversed(keys), strict=True)}
        fresh = np.zeros(len(genomes), bool)
        fresh[[first[key] for key in first.keys() - self._known]] = True
        return fresh

    def add(self, genomes: Genomes, costs: Floats, violation: Floats) -> int:
        """Append what is new; returns how many rows that were. ValueError for costs that are not finite."""
        if not np.isfinite(costs).all():
            row = int(np.argmin(np.isfinite(costs).all(axis=1)))
            raise ValueError(
                f"costs {costs[row]} of {self.space.format(genomes[row : row + 1])[0]} are not finite"
            )
        fresh = self.unseen(genomes)
        start = len(self)
        genomes, costs, violation = genomes[fresh], costs[fresh], violation[fresh]
        self._known.update(_keys(genomes))
        self._genomes.append(genomes)
        self._costs.append(costs)
        self._violation.append(violation)
        feasible = np.flatnonzero(violation <= 0)
        rows = np.concatenate([self._front_rows, start + feasible])
        candidates = np.concatenate([self._front_costs, costs[feasible]])
        if len(rows):
            keep = pareto.is_front(candidates)
            self._front_rows, self._front_costs = rows[keep], candidates[keep]
        return int(fresh.sum())

    def front(self) -> Ints:
        """Rows of the feasible non-dominated architectures, sorted by their costs.

        Equal costs are all listed.
        """
        order = np.lexsort(self._front_costs.T[::-1])
        return self._front_rows[order]

    @property
    def front_size(self) -> int:
        return len(self._front_rows)

    def hypervolume(self) -> float:
        """Volume that the front dominates below `reference`, in the product of the objectives' units."""
        return pareto.hypervolume(self._front_costs, self.reference)

    def best(self) -> Floats:
        """(m,) best cost per objective on the front; NaN while there is none."""
        return self._front_costs.min(axis=0) if self.front_size else np.full(len(self.objectives), np.nan)

    def knee(self) -> int:
        """The row of the front nearest to its ideal point, objectives scaled to [0, 1]."""
        if not self.front_size:
            raise ValueError("the archive has no feasible architecture, so no knee")
        rows = self.front()
        return int(rows[pareto.knee(self.costs[rows])])

    def efficiency(
        self, evaluator: Evaluator, rows: Ints | None = None, *, draws: int = DRAWS, seed: int = 0
    ) -> Floats:
        """(f,) probability of each member of `front()`, or of these rows, to be efficient, given the
        predictors' uncertainty.

        The rivals are the front and the RIVALS feasible rows next to it in dominance depth: what lies further
        back hardly comes forward, and leaving it out can only raise a probability.
        """
        rows = self.front() if rows is None else rows
        feasible = np.flatnonzero(self.violation <= 0)
        behind = feasible[~np.isin(feasible, rows)]
        depth = pareto.ranks(self.costs[behind]) if len(behind) else behind
        rivals = behind[np.argsort(depth, kind="stable")[:RIVALS]]
        genomes = self.genomes[np.concatenate([rows, rivals])]
        return evaluator.efficiency(self.space, genomes, draws=draws, seed=seed)[: len(rows)]

    def seeds(self, space: SearchSpace, evaluator: Evaluator, count: int) -> Genomes:
        """(n, d) up to `count` genomes for another search to begin with: the nearest to the front of all that
        was evaluated, whatever its limits were.

        Left out are those outside the (restricted) space and those whose known costs exceed a limit of the
        evaluator. They are to be evaluated anew.
        """
        costs = self.costs
        fits = space.contains(self.genomes)
        for objective in evaluator.limited:
            if objective.name in self.objectives:
                known = costs[:, self.objectives.index(objective.name)]
                fits &= known <= objective.cost(np.array(objective.limit))
        rows = np.flatnonzero(fits)
        if len(rows) > count:
            rows = rows[np.argsort(pareto.ranks(costs[rows]), kind="stable")[:count]]
        return self.genomes[rows]

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {
            "genomes": self.genomes,
            "costs": self.costs,
            "violation": self.violation,
            "reference": self.reference,
        }

    def facts(self) -> dict[str, Any]:
        return {"space": self.space.name, "objectives": list(self.objectives)}

    def save(self, path: Path) -> None:
        """One `.npz`; the same content gives the same bytes."""
        artifact.save(path, KIND, self.arrays(), self.facts())

    @classmethod
    def restore(
        cls, space: SearchSpace, arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]
    ) -> "Archive":
        if facts["space"] != space.name:
            raise ValueError(f"this archive is of {facts['space']}, not of {space.name}")
        genomes, names = arrays["genomes"], [str(name) for name in facts["objectives"]]
        space.check(genomes)
        shapes = {
            "costs": (len(genomes), len(names)),
            "violation": genomes.shape[:1],
            "reference": (len(names),),
        }
        for name, shape in shapes.items():
            if arrays[name].shape != shape or not np.isfinite(arrays[name]).all():
                raise ValueError(f"{name} must be {shape} finite numbers")
        archive = cls(space, names, arrays["reference"])
        archive.add(genomes, arrays["costs"], arrays["violation"])
        return archive

    @classmethod
    def load(cls, path: Path, space: SearchSpace) -> "Archive":
        """A saved archive; ValueError that names the file when it is damaged, something else or of another
        space."""
        arrays, facts = artifact.load(path, KIND)
        with artifact.usable(path, KIND):
            return cls.restore(space, arrays, facts)


def _keys(genomes: Genomes) -> list[bytes]:
    """One bytes object per row; a set of them is faster than any array method up to millions of rows."""
    rows = np.ascontiguousarray(genomes)
    keys: list[bytes] = rows.view(f"V{rows.shape[1]}").ravel().tolist() if len(rows) else []
    return keys
