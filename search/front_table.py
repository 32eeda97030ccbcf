"""The front as a table: names, predictions with their spread, limits; to the terminal, CSV and JSON."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from search import pareto, shortlist
from search.archive import Archive
from search.objective import Evaluator
from supernet import footprint
from supernet.arrays import Floats, Ints
from supernet.files.tables import Table, rounded

SHORTLIST = 10  # members of a front that stand for all of it
DIGITS = 7  # more than any measurement has


@dataclass(frozen=True, eq=False)
class FrontTable(Table):
    """A table of a front with a row per member, sorted by the first objective. The column `shortlist` marks
    the few members that stand for all of it.

    >>> columns = {"macs": [1, 2, 3], "params": [4, 2, 1], "shortlist": [True, False, True]}
    >>> front = FrontTable(columns, objectives=("macs", "params"), knee=0, limits={})
    >>> front.shortlist()
    [2, 0]
    """

    columns: dict[str, list[Any]]
    objectives: tuple[str, ...]
    knee: int  # row nearest to the ideal point
    limits: dict[str, dict[str, Any]]  # per limit: value, confidence, how many hold
    best: int = 0  # the most accurate row; that of the best first objective where accuracy is none

    @property
    def chosen(self) -> int:
        """The row to deploy unless somebody decides otherwise: the most accurate within the limits, or the
        knee where there are none."""
        return self.best if self.limits else self.knee

    def shortlist(self) -> list[int]:
        """The rows of the shortlist in ascending order of the second objective."""
        axis = self.columns[self.objectives[min(1, len(self.objectives) - 1)]]
        return sorted(np.flatnonzero(self.columns["shortlist"]).tolist(), key=lambda row: float(axis[row]))

    def show(self) -> None:
        """Print the shortlist; the knee is marked with *, the most accurate member with +."""
        rows = self.shortlist()
        wanted = [own for name in self.objectives for own in (name, f"{name}_predicted")]
        shown = [name for name in (*wanted, "p_efficient", "architecture") if name in self.columns]
        cells = {name: [self.columns[name][row] for row in rows] for name in shown}
        Table({"": [self.mark(row) for row in rows], **cells}).show()

    def mark(self, row: int) -> str:
        """* for the knee, + for the most accurate member."""
        return "*" * (row == self.knee) + "+" * (row == self.best)

    def limit_lines(self) -> list[str]:
        """How many members hold each limit."""
        measured = {name for name in self.limits if f"{name}_measured" in self.columns}
        return [
            f"{name} {'>=' if limit['at_least'] else '<='} {limit['limit']:g} {limit['unit']}: holds for "
            f"{limit['holds']} of {limit['of']} at {limit['confidence']:.0%} confidence "
            + ("in a later sitting" if name in measured else "of the predictor")
            for name, limit in self.limits.items()
        ]


def table(
    archive: Archive, evaluator: Evaluator, size: int = SHORTLIST, rows: Ints | None = None
) -> FrontTable:
    """The front of an archive, or these rows of it, with means, standard deviations, limits and footprint of
    its members, `size` of them on the shortlist."""
    rows = archive.front() if rows is None else rows
    genomes = archive.genomes[rows]
    space = archive.space
    columns: dict[str, list[Any]] = {"architecture": space.format(genomes)}
    limits: dict[str, dict[str, Any]] = {}
    for objective in evaluator.asked:
        predicted = objective.of(genomes)
        columns[objective.name] = rounded(predicted.mean, DIGITS)
        columns[f"{objective.name}_std"] = rounded(predicted.std, DIGITS)
        if objective.limit is not None:
            holds = objective.violation(predicted) <= 0
            columns[f"{objective.name}_limit_holds"] = holds.tolist()
            limits[objective.name] = {
                "limit": objective.limit,
                "unit": objective.unit,
                "at_least": objective.maximize,
                "confidence": objective.confidence,
                "holds": int(holds.sum()),
                "of": len(holds),
            }
    columns["p_efficient"] = rounded(archive.efficiency(evaluator, rows), DIGITS) if len(rows) else []
    for metric in ("macs", "params"):
        if metric not in columns:
            columns[metric] = [int(v) for v in footprint.compute(space, genomes, metric)]
    costs = archive.costs[rows]
    knee, best = landmarks(costs, archive.objectives)
    columns["shortlist"] = marks(costs, archive.reference, size, (knee, best) if limits else (knee,))
    return FrontTable(columns, archive.objectives, knee, limits, best)


def landmarks(costs: Floats, objectives: Sequence[str]) -> tuple[int, int]:
    """The rows of the knee and of the most accurate member of a front with the costs (f, m)."""
    if not len(costs):
        return 0, 0
    column = objectives.index("accuracy") if "accuracy" in objectives else 0
    return pareto.knee(costs), int(np.lexsort((*costs.T[::-1], costs[:, column]))[0])


def marks(costs: Floats, reference: Floats, size: int, must: Sequence[int]) -> list[bool]:
    """(f,) which members of a front with the costs (f, m) are on its shortlist."""
    on_it = np.zeros(len(costs), bool)
    if len(costs):
        on_it[shortlist.choose(costs, reference, size, must)] = True
    return on_it.tolist()
