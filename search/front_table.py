"""The front as a table: names, predictions with their spread, limits; to the terminal, CSV and JSON."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from search.archive import Archive
from search.objective import Evaluator
from supernet import footprint
from supernet.arrays import Ints
from supernet.files.tables import Table, rounded

SHOWN = 12  # rows in the terminal
DIGITS = 7  # more than any measurement has


@dataclass(frozen=True, eq=False)
class FrontTable(Table):
    """A table of a front with a row per member, sorted by the first objective.

    >>> columns = {"macs": [1, 2], "params": [4, 2]}
    >>> front = FrontTable(columns, objectives=("macs", "params"), knee=0, limits={})
    >>> front.spread_out()
    [0, 1]
    """

    columns: dict[str, list[Any]]
    objectives: tuple[str, ...]
    knee: int  # row nearest to the ideal point
    limits: dict[str, dict[str, Any]]  # per limit: value, confidence, how many hold

    def show(self) -> None:
        """Print up to a dozen rows, spread along the front; the knee is marked with *."""
        rows = self.spread_out()
        shown = [name for name in (*self.objectives, "p_efficient", "architecture") if name in self.columns]
        cells = {name: [self.columns[name][row] for row in rows] for name in shown}
        Table({"": ["*" if row == self.knee else "" for row in rows], **cells}).show()

    def spread_out(self, count: int = SHOWN) -> list[int]:
        """Rows to show a person: the extremes, the knee, evenly spaced ones along the second objective."""
        costs = np.array([self.columns[name] for name in self.objectives]).T
        if len(self) <= count:
            return list(range(len(self)))
        picks = {self.knee, int(np.argmax(costs[:, 0])), *np.argmin(costs, axis=0).tolist()}
        axis = costs[:, min(1, costs.shape[1] - 1)]
        for value in np.linspace(axis.min(), axis.max(), count):
            if len(picks) == count:
                break
            picks.add(int(np.argmin(np.abs(axis - value))))
        return sorted(picks, key=lambda row: float(axis[row]))

    def limit_lines(self) -> list[str]:
        """How many members hold each limit."""
        return [
            f"{name} {'>=' if limit['at_least'] else '<='} {limit['limit']:g} {limit['unit']}: holds for "
            f"{limit['holds']} of {limit['of']} at {limit['confidence']:.0%} confidence of the predictor"
            for name, limit in self.limits.items()
        ]


def table(archive: Archive, evaluator: Evaluator) -> FrontTable:
    """The front of an archive with means, standard deviations, limits and footprint of its members."""
    rows: Ints = archive.front()
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
    columns["p_efficient"] = rounded(archive.efficiency(evaluator), DIGITS) if len(rows) else []
    for metric in ("macs", "params"):
        if metric not in columns:
            columns[metric] = [int(v) for v in footprint.compute(space, genomes, metric)]
    row_of_knee = int(np.flatnonzero(rows == archive.knee())[0]) if len(rows) else 0
    return FrontTable(columns, archive.objectives, row_of_knee, limits)
