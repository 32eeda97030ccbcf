"""Several finished searches side by side: hypervolume, best within limits, regret of one's choice on another.

Letters: k runs, f members of a front, m objectives that may be compared.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from search import pareto
from search.archive import Archive
from search.front_table import BOUND
from search.models import ON_A_DEVICE
from search.objective import Objective
from search.problem import Problem
from supernet.arrays import Floats
from supernet.files.tables import Columns, Table, rounded

LIMITS = 5  # that are tried where none are given
NOT = "-"  # a cell that cannot be told; a note says why


@dataclass(frozen=True, eq=False)
class Run:
    """A finished search: its problem, everything it evaluated, its front.csv, and the row to deploy unless
    somebody decides otherwise."""

    name: str
    problem: Problem
    archive: Archive
    columns: Columns
    chosen: int

    @property
    def target(self) -> str:
        """The devices of its latencies; empty where none were asked for."""
        models = self.problem.models
        alone = [] if models.latency is None else [models.latency.target.name]
        return "+".join([*models.devices, *alone])

    def objective(self, name: str) -> Objective | None:
        """Of this name, if the search had it."""
        return next((one for one in self.problem.evaluator.objectives if one.name == name), None)

    def scale(self, name: str) -> str:
        """What the values of an objective may be compared with: the same on the same device, or images."""
        one, models = self.objective(name), self.problem.models
        assert one is not None
        if name.partition("@")[0] in ON_A_DEVICE:
            latency = models.devices.get(name.partition("@")[2], models.latency)
            return "" if latency is None else str(latency.target.name)
        return one.images

    def costs(self, names: Sequence[str]) -> Floats:
        """(f, m) of the members of front.csv."""
        objectives = [self.objective(name) for name in names]
        return np.stack([one.cost(self.columns[one.name]) for one in objectives if one is not None], axis=1)


@dataclass(frozen=True, eq=False)
class Comparison:
    """k runs, at least two. `limits` are those of the limited objective that are tried; None: a few between
    the ends of the fronts."""

    runs: Sequence[Run]
    limits: Sequence[float] | None = None
    notes: list[str] = field(default_factory=list)  # why something is not told

    def __post_init__(self) -> None:
        if len(self.runs) < 2:
            raise ValueError(f"a comparison needs two finished searches at least, not {len(self.runs)}")
        if not self.shared:
            asked = "; ".join(f"{one.name}: {', '.join(one.archive.objectives)}" for one in self.runs)
            raise ValueError(f"these searches have no objective in common that is on one scale ({asked})")

    @cached_property
    def shared(self) -> list[str]:
        """The objectives of all runs whose values are on one scale."""
        names = []
        for name in self.runs[0].archive.objectives:
            if any(run.objective(name) is None for run in self.runs):
                continue
            scales = {run.name: run.scale(name) for run in self.runs}
            if len(set(scales.values())) == 1:
                names.append(name)
            else:
                told = ", ".join(f"{scale or 'unknown'} in {run}" for run, scale in scales.items())
                self.notes.append(f"{name} is not compared: {told}")
        return names

    @property
    def quality(self) -> str:
        """Accuracy, or the first shared objective."""
        return "accuracy" if "accuracy" in self.shared else self.shared[0]

    @property
    def limited(self) -> str | None:
        """What limits are tried on: latency, or the next shared objective."""
        others = [name for name in self.shared if name != self.quality]
        latencies = [name for name in others if name.startswith("latency_ms")]
        return next(iter(latencies or others), None)

    @cached_property
    def hypervolumes(self) -> list[float | None]:
        """By run, in units of the box from the worst reference point of the runs to the best value of each
        shared objective in any front; None where only one objective is shared."""
        if len(self.shared) < 2:
            self.notes.append(f"hypervolume needs two objectives on one scale; there is {self.quality}")
            return [None] * len(self.runs)
        references = [
            run.archive.reference[[run.archive.objectives.index(name) for name in self.shared]]
            for run in self.runs
        ]
        fronts = [run.costs(self.shared) for run in self.runs]
        worst = np.max(references, axis=0)
        box = np.prod(worst - np.min([front.min(axis=0) for front in fronts], axis=0))
        return [pareto.hypervolume(front, worst) / float(box) for front in fronts]

    @cached_property
    def tried(self) -> list[float]:
        """The limits: those asked for, or two-digit numbers between the fronts' ends."""
        if self.limited is None:
            return []
        if self.limits is not None:
            return list(self.limits)
        ends = [(run.columns[self.limited].min(), run.columns[self.limited].max()) for run in self.runs]
        low, high = max(low for low, _ in ends), min(high for _, high in ends)
        between = np.linspace(low, high, LIMITS + 2)[1:-1]
        return list(dict.fromkeys(rounded(between, 2)))

    def best(self, run: Run, limit: float) -> int | None:
        """The row of a run's front that is best in quality while its bound holds the limit."""
        assert self.limited is not None
        one, quality = run.objective(self.limited), run.objective(self.quality)
        assert one is not None
        assert quality is not None
        bounds = run.columns.get(self.limited + BOUND, run.columns[self.limited])
        holds = one.cost(bounds) <= one.cost(np.array(limit))
        costs = np.where(holds, quality.cost(run.columns[self.quality]), np.inf)
        return int(np.argmin(costs)) if holds.any() else None

    @cached_property
    def table(self) -> Table:
        """A row per run."""
        columns: dict[str, list[Any]] = {
            "run": [run.name for run in self.runs],
            "space": [run.problem.space.owner.name for run in self.runs],
            "target": [run.target or NOT for run in self.runs],
            "evaluated": [len(run.archive) for run in self.runs],
            "front": [len(run.columns[self.quality]) for run in self.runs],
            "hypervolume": self._cells(lambda i: self.hypervolumes[i]),
        }
        for limit in self.tried:
            rows = [self.best(run, limit) for run in self.runs]
            columns[f"{self.quality}@{limit:g}{self.limited}"] = [
                NOT if row is None else float(run.columns[self.quality][row])
                for run, row in zip(self.runs, rows, strict=True)
            ]
        return Table(columns)

    def _cells(self, of: Callable[[int], float | None]) -> list[Any]:
        values = [of(i) for i in range(len(self.runs))]
        return [NOT if value is None else float(f"{value:.5g}") for value in values]

    @cached_property
    def regrets(self) -> Table:
        """A row per ordered pair of runs: how much better, by the other's models, its best network is that is
        no slower there than what this run chose."""
        columns: dict[str, list[Any]] = {name: [] for name in ("chosen_by", "on", "regret", "architecture")}
        for a in self.runs:
            for b in self.runs:
                told = self._regret(a, b)
                if isinstance(told, str):
                    self.notes.append(f"regret of {a.name} on {b.name}: {told}")
                row = (a.name, b.name, NOT if isinstance(told, str) else told, _name(a))
                for name, value in zip(columns, row, strict=True):
                    columns[name].append(value)
        return Table(columns)

    def _regret(self, a: Run, b: Run) -> float | str:
        """The regret of a's choice on b, or why it cannot be told."""
        mine, theirs = a.problem.space.owner.name, b.problem.space.owner.name
        if mine != theirs:
            return f"its networks are of {mine}, not of {theirs}"
        quality, others = (
            b.objective(self.quality),
            [one for one in b.archive.objectives if one != self.quality],
        )
        if quality is None or not others:
            return f"it has no objective beside {self.quality}"
        if quality.measured is not None:
            return f"its {self.quality} is measured, and is not measured again here"
        limited = b.objective(next((one for one in others if one.startswith("latency_ms")), others[0]))
        assert limited is not None
        genome = a.problem.space.owner.parse([_name(a)])
        if not b.problem.space.contains(genome).all():
            return "its space leaves the choice out"
        own = [float(one.cost(one.of(genome).mean)[0]) for one in (quality, limited)]
        feasible = b.archive.violation <= 0
        costs = b.archive.costs[feasible][:, [b.archive.objectives.index(o.name) for o in (quality, limited)]]
        within = costs[costs[:, 1] <= own[1], 0]
        return float(f"{max(own[0] - within.min(initial=own[0]), 0.0):.4g}")

    def members(self) -> tuple[dict[str, list[Any]], list[list[int]], list[int]]:
        """The rows that a page shows: columns, for each run its rows that are efficient in quality and what
        is limited, in order of the latter, and the rows that the runs chose."""
        pair = [self.quality, *([self.limited] if self.limited else [])]
        columns: dict[str, list[Any]] = {name: [] for name in ("run", "architecture", *self.shared, "chosen")}
        lines, chosen = [], []
        for run in self.runs:
            costs = run.costs(pair)
            efficient = np.flatnonzero(pareto.is_front(costs))
            rows = np.union1d(efficient, [run.chosen]).astype(np.int64)
            rows = rows[np.argsort(costs[rows, -1], kind="stable")]
            start = len(columns["run"])
            chosen.append(start + int(np.flatnonzero(rows == run.chosen)[0]))
            lines.append((start + np.flatnonzero(np.isin(rows, efficient))).tolist())
            columns["run"] += [run.name] * len(rows)
            columns["architecture"] += run.columns["architecture"][rows].tolist()
            columns["chosen"] += (rows == run.chosen).tolist()
            for name in self.shared:
                columns[name] += rounded(run.columns[name][rows], 7)
        return columns, lines, chosen

    def facts(self) -> Mapping[str, Any]:
        """What a page says of the runs."""
        return {run.name: {"target": run.target, "networks": len(run.archive)} for run in self.runs}


def _name(run: Run) -> str:
    return str(run.columns["architecture"][run.chosen])
