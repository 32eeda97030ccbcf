"""The front as a table: names, predictions with their spread, limits; to the terminal, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search.archive import Archive
from search.objective import Evaluator
from supernet import footprint
from supernet.arrays import Ints

SHOWN = 12  # rows in the terminal


@dataclass(frozen=True, eq=False)
class FrontTable:
    """Columns of equal length, in the order of the front (sorted by the first objective)."""

    columns: dict[str, list[Any]]
    objectives: tuple[str, ...]
    knee: int  # row nearest to the ideal point
    limits: dict[str, dict[str, Any]]  # per limit: value, confidence, how many hold

    def __len__(self) -> int:
        return len(self.columns["architecture"])

    def rows(self) -> list[dict[str, Any]]:
        return [dict(zip(self.columns, row, strict=True)) for row in zip(*self.columns.values(), strict=True)]

    def csv(self) -> str:
        """Header and one line per architecture."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows(zip(*self.columns.values(), strict=True))
        return text.getvalue()

    def json(self) -> str:
        return json.dumps(self.rows(), indent=1) + "\n"

    def show(self) -> None:
        """Print up to a dozen rows, spread along the front; the knee is marked with *."""
        from rich.console import Console
        from rich.table import Table

        grid = Table(box=None, pad_edge=False, header_style="bold")
        shown = [*self.objectives, *(["p_efficient"] if "p_efficient" in self.columns else [])]
        for name in ("", *shown, "architecture"):
            grid.add_column(name, justify="left" if name == "architecture" else "right", no_wrap=True)
        for row in self.spread_out():
            numbers = [f"{self.columns[name][row]:.4g}" for name in shown]
            grid.add_row("*" if row == self.knee else "", *numbers, self.columns["architecture"][row])
        # One line per architecture, however narrow the window.
        Console(width=200, highlight=False).print(grid)

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


def table(archive: Archive, evaluator: Evaluator) -> FrontTable:
    """The front of an archive with means, standard deviations, limits and footprint of its members."""
    rows: Ints = archive.front()
    genomes = archive.genomes[rows]
    space = archive.space
    columns: dict[str, list[Any]] = {"architecture": space.format(genomes)}
    limits: dict[str, dict[str, Any]] = {}
    for objective in (*evaluator.objectives, *evaluator.constraints):
        predicted = objective.of(genomes)
        columns[objective.name] = _plain(predicted.mean)
        columns[f"{objective.name}_std"] = _plain(predicted.std)
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
    columns["p_efficient"] = _plain(archive.efficiency(evaluator)) if len(rows) else []
    for metric in ("macs", "params"):
        if metric not in columns:
            columns[metric] = [int(v) for v in footprint.of(space, genomes, metric)]
    row_of_knee = int(np.flatnonzero(rows == archive.knee())[0]) if len(rows) else 0
    return FrontTable(columns, archive.objectives, row_of_knee, limits)


def _plain(values: NDArray[np.float64]) -> list[float]:
    """Seven significant digits: more than any measurement has, and short to read."""
    return [float(f"{value:.7g}") for value in values]
