"""The page of a comparison of runs."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

from search.ranking.runs import NOT, Comparison
from search.report import page, words
from search.report.page import Members
from supernet.files.tables import Table

LINES = (
    "Lines: the front of each run. Ringed: what it chose, and what is selected. Dashed: the limits of the "
    "table. "
)
HYPERVOLUME = (
    "Hypervolume: the share of the box from the worst reference point of these runs to the best value of "
    "each objective that a front dominates; larger is better. It is the same box for all of them. "
)
REGRET = (
    "Regret: how much better, by the models of the run in the column, the best network that it evaluated is "
    "among those no slower than the choice of the run in the row. Chosen: the best within the limits of the "
    "search, or the knee."
)


def render(comparison: Comparison, config: Mapping[str, Any]) -> str:
    """The page as HTML text. Everything from outside is escaped."""
    runs, shared = comparison.runs, comparison.shared
    table, regrets = comparison.table, comparison.regrets
    columns, lines, chosen = comparison.members()
    first = runs[0]
    axes = {one.name: words.axis(one, first.problem.models) for one in first.problem.evaluator.objectives}
    members = Members(
        columns, "architecture", "members", chosen, chosen[0], shares=[n for n in shared if n in words.SHARES]
    )
    names = [run.name for run in runs]
    data = {
        "runs": names,
        "lines": lines,
        "ringed": [[row] for row in chosen],
        "x": comparison.limited or comparison.quality,
        "y": comparison.quality,
        "axes": axes,
        "limits": comparison.tried,
    }
    volume = dict(zip(names, comparison.hypervolumes, strict=True))
    parts = {
        "TITLE": html.escape(" and ".join(names)),
        "SUBTITLE": html.escape(f"compared by {', '.join(shared)}"),
        "CARDS": page.cards(
            {
                f"hypervolume of {name}": NOT if value is None else f"{value:.4f}"
                for name, value in volume.items()
            }
        ),
        "BESIDE": page.section("Runs", _html(table, comparison.quality))
        + page.section("Regret", _matrix(regrets, names, comparison.quality)),
        "SHOWN": "Shown first: what each run chose.",
        "NOTES": page.items(list(dict.fromkeys(comparison.notes))) if comparison.notes else "",
        "ABOUT": html.escape(LINES + HYPERVOLUME + REGRET),
        "FACTS": page.folded("Run", page.definitions(config)),
    }
    return page.render("compare.html", parts, members, data)


def _html(table: Table, quality: str) -> str:
    """The table of the runs, turned: a column per run, so that it fits a phone."""
    heads = ("", *(html.escape(str(name)) for name in table.columns["run"]))
    rows = [
        (
            f"<b>{html.escape(_told(name, quality))}</b>",
            *(html.escape(_cell(v, name, quality)) for v in values),
        )
        for name, values in table.columns.items()
        if name != "run"
    ]
    return page.table(heads, rows)


def _told(name: str, quality: str) -> str:
    """The head of a column: `accuracy@20latency_ms` is the best accuracy within 20 of latency_ms."""
    start, at, limit = name.partition("@")
    if start != quality or not at:
        return name
    number = limit.rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_")
    return f"best {quality} with {limit[len(number) :]} at most {number}"


def _cell(value: Any, name: str, quality: str) -> str:
    if isinstance(value, float) and name.partition("@")[0] == quality and quality in words.SHARES:
        return f"{100 * value:.2f}%"
    return (
        f"{value:,}" if isinstance(value, int) else f"{value:.4f}" if isinstance(value, float) else str(value)
    )


def _matrix(regrets: Table, runs: Sequence[str], quality: str) -> str:
    """The regrets as a matrix: chosen by the row, on the column."""
    cells = iter(regrets.columns["regret"])
    percent = quality in words.SHARES
    rows = []
    for name in runs:
        told = [next(cells) for _ in runs]
        values = [
            NOT if isinstance(one, str) else f"{100 * one:.2f} points" if percent else f"{one:.4g}"
            for one in told
        ]
        rows.append((f"<b>{html.escape(name)}</b>", *values))
    return page.table(("chosen by", *(f"on {html.escape(name)}" for name in runs)), rows)
