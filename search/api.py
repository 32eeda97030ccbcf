"""What a search gives in Python: the front, to be asked, shown and taken on.

Letters: f members of the front.
"""

import html
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search.front_table import FrontTable
from search.objective import InfeasibleError, Objective
from search.result import Result

REPR = 480  # characters at most
SHOWN_DIGITS = 4


@dataclass(frozen=True, eq=False, repr=False)
class Front:
    """The front that `search.search` returns. `result` has everything that was evaluated, `out` is the run
    folder, None where none was asked for.

    >>> from search import search
    >>> front = search(target="v100_b64", objectives=["accuracy", "latency_ms"], budget=2000)
    >>> front.best(latency_ms=12)["latency_ms"] < 12
    True
    >>> len(front.shortlist())
    10
    """

    result: Result
    out: Path | None = None

    @property
    def table(self) -> FrontTable:
        """The columns of front.csv."""
        return self.result.front

    def __len__(self) -> int:
        return len(self.table)

    def rows(self) -> list[dict[str, Any]]:
        """A dict per member, as front.json has them."""
        return self.table.rows()

    def shortlist(self) -> list[dict[str, Any]]:
        """The few members that keep most of the front's hypervolume, the knee among them."""
        rows = self.rows()
        return [rows[row] for row in self.table.shortlist()]

    def best(self, **limits: float) -> dict[str, Any]:
        """The most accurate member within these limits: `best(latency_ms=12, params=6e6)`.

        A limit holds when its bound does, at the confidence of the search: that of the prediction or, where a
        member was measured, of the measurement. Where accuracy is no objective, the first one decides.
        InfeasibleError, a ValueError, when no member holds them.
        """
        table = self.table
        holds = np.ones(len(table), bool)
        for name, limit in limits.items():
            holds &= self._holds(name, limit)
        if not holds.any():
            asked = ", ".join(f"{name}={limit:g}" for name, limit in limits.items())
            raise InfeasibleError(f"no member of this front holds {asked}: {self!r}")
        name = "accuracy" if "accuracy" in table.objectives else table.objectives[0]
        cost = self._objective(name).cost(np.array(table.columns[name], np.float64))
        return self.rows()[int(np.argmin(np.where(holds, cost, np.inf)))]

    def _objective(self, name: str) -> Objective:
        problem = self.result.problem
        for objective in problem.evaluator.asked:
            if objective.name == name:
                return objective
        return problem.models.objective(name)

    def _holds(self, name: str, limit: float) -> NDArray[np.bool_]:
        """(f,) which members hold a limit."""
        limited = replace(self._objective(name), limit=float(limit))
        genomes = self.result.problem.space.parse(self.table.columns["architecture"])
        return limited.violation(limited.of(genomes)) <= 0

    def to_pandas(self) -> Any:
        """The table as a `pandas.DataFrame`. ImportError where pandas is not installed."""
        try:
            import pandas
        except ImportError as error:
            raise ImportError("to_pandas() needs pandas: pip install pandas") from error
        return pandas.DataFrame(self.table.columns)

    def export_command(self, weights: str = "random", out: str | Path = "export") -> str | None:
        """The `make export` command of the chosen member; see `Result.export_command`."""
        return self.result.export_command(weights, Path(out))

    def __repr__(self) -> str:
        """The size of the front, the range of each objective and the chosen member."""
        table, space = self.table, self.result.problem.space
        if not len(table):
            return f"<empty front of {space.name}>"
        ranges = ", ".join(
            f"{name} {min(table.columns[name]):.{SHOWN_DIGITS}g} to "
            f"{max(table.columns[name]):.{SHOWN_DIGITS}g}"
            for name in table.objectives
        )
        which = "most accurate within the limits" if table.limits else "knee"
        text = f"<front of {len(table):,} networks: {ranges}; {which}: {self._name(table.chosen)!r}>"
        return text if len(text) <= REPR else f"{text[: REPR - 4]}...>"

    def _name(self, row: int) -> str:
        return str(self.table.columns["architecture"][row])

    def _repr_html_(self) -> str:
        """The shortlist as a table, for notebooks."""
        table = self.table
        shown = [n for n in (*table.objectives, "p_efficient", "architecture") if n in table.columns]
        heads = "".join(f"<th>{html.escape(name)}</th>" for name in ("", *shown))
        lines = []
        for row in table.shortlist():
            cells = [table.mark(row), *(_text(table.columns[name][row]) for name in shown)]
            lines.append(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in cells)}</tr>")
        about = f"{len(lines)} of {len(table):,} members of the front; * knee, + most accurate"
        return f"<table><caption>{about}</caption><tr>{heads}</tr>{''.join(lines)}</table>"


def _text(value: Any) -> str:
    return f"{value:.{SHOWN_DIGITS}g}" if isinstance(value, float) else str(value)
