"""The front as a table: names, predictions with their spread, limits; to the terminal, CSV and JSON."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search import pareto, shortlist
from search.archive import Archive
from search.objective import Evaluator, InfeasibleError
from supernet import footprint
from supernet.arrays import Floats, Ints
from supernet.files import artifact
from supernet.files.run_folder import EVENTS
from supernet.files.tables import Columns, Table, column, numbers, read_columns, rounded
from supernet.measures import MEASURES
from supernet.registry import unknown_name
from supernet.spaces import net_config

SHORTLIST = 10  # members of a front that stand for all of it
DIGITS = 7  # more than any measurement has
FRONT, ABOUT = "front.csv", "objectives.json"  # of a run folder: the table, and what its objectives are
BOUND = "_bound"  # ends the column of what a limit on an objective is compared with
PARTS = (BOUND, "_std", "_iqr", "_predicted", "_measured", "_half_width")  # end columns that nothing limits
MEMBERS = ("knee", "best", "best@20ms", "best@5e6params")  # examples of how a member may be asked for


@dataclass(frozen=True, eq=False)
class FrontTable(Table):
    """A table of a front with a row per member, sorted by the first objective. The column `shortlist` marks
    the few members that stand for all of it; `NAME_bound` is what a limit of NAME is compared with.

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
        if predicted.std.any():
            columns[objective.name + BOUND] = rounded(objective.bound(predicted), DIGITS)
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


def architecture(word: str) -> str:
    """The one-line name that a word stands for: the name itself, the path of a `net.config`, or `RUN:MEMBER`,
    a member of the front of a finished search in the folder RUN.

    A member is the `knee`; the `best`, which is the most accurate one within the limits of the search, among
    those that were measured if any were; or the most accurate one within other limits, `best@20ms` or
    `best@20ms@6e6params`: a number and the column of front.csv that it limits, `ms` is short for `latency_ms`
    (on each of several devices). A limit holds when its bound does, at the confidence of the search.

    >>> architecture("runs/mine:best@20ms")  # doctest: +SKIP
    """
    folder, colon, member = word.rpartition(":")
    if not colon or Path(word).exists():
        return net_config.one_line_name(word)
    return _member(Path(folder), member)


def _member(folder: Path, member: str) -> str:
    """The one-line name of a member of the front of a finished search."""
    if not (folder / FRONT).is_file():
        raise ValueError(f"{folder} holds no finished search: there is no {folder / FRONT}")
    kind, *limits = member.split("@")
    if kind not in ("knee", "best") or (kind == "knee" and limits):
        raise unknown_name(f"member of the front in {folder}", member, MEMBERS)
    columns = read_columns(folder / FRONT)
    if kind == "knee":
        with artifact.usable(folder / EVENTS, "record of a finished search", "name best, not the knee"):
            return str(json.loads((folder / EVENTS).read_text().splitlines()[-1])["knee"])
    with artifact.usable(folder / ABOUT, f"description of {folder / FRONT}"):
        names = column(columns, "architecture", folder / FRONT).tolist()
        about = {
            str(name): bool(facts["maximize"]) for name, facts in artifact.read_json(folder / ABOUT).items()
        }
        objective = "accuracy" if "accuracy" in about else next(iter(about), "accuracy")
        values = numbers(columns, objective, folder / FRONT)
        cost = -values if about[objective] else values
    holds = np.ones(len(names), bool)
    for limit in limits:
        holds &= _within(columns, limit, about)
    if not holds.any():
        raise InfeasibleError(f"no member of the front in {folder} is within {', '.join(limits)}")
    if not limits and "on_verified_front" in columns:
        measured = columns["on_verified_front"] == "True"
        holds = measured if measured.any() else holds
    return str(names[int(np.argmin(np.where(holds, cost, np.inf)))])


def _within(columns: Columns, limit: str, maximized: Mapping[str, bool]) -> NDArray[np.bool_]:
    """(f,) whether the rows of front.csv are within a limit such as 20ms or 6e6params."""
    match = re.fullmatch(r"(\d+\.?\d*(?:e[+-]?\d+)?|\.\d+)([a-z]\w*)", limit)
    quantity = match[2] if match is not None and match[2] != "ms" else "latency_ms"
    numbers = [name for name, values in columns.items() if values.dtype.kind == "f"]
    limited = [name for name in numbers if name.partition("@")[0] == quantity]
    if match is None or not limited:
        raise unknown_name("limit", limit, [f"20{name}" for name in numbers if not name.endswith(PARTS)])
    bounds = np.array([columns.get(name + BOUND, columns[name]) for name in limited])
    at_least = maximized[limited[0]] if limited[0] in maximized else MEASURES[quantity].maximize
    return np.all(bounds >= float(match[1]) if at_least else bounds <= float(match[1]), axis=0)
