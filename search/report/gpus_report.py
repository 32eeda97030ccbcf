"""The page that says which GPU serves a front at which price."""

import html
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from search.ranking.gpus import BEST, ONLY, SLOW, TIE, UNKNOWN, WORSE, Served
from search.ranking.runs import NOT
from search.report import page
from search.report.page import Members
from supernet.files.tables import Table

UNITS = {True: "USD per million images", False: "ms per image"}  # by whether prices are known
ABOUT = (
    "A tie: the intervals of two GPUs overlap, so this comparison does not tell which one is better. The "
    "chance to be the best takes the errors of the GPUs to be independent; software that is slow on all of "
    "them makes no difference to it. A price is that of the hours of a GPU which is always busy. Lines: for "
    "each accuracy the fastest network on each GPU, of the members of all fronts; ringed: at the accuracies "
    "of the table."
)


def summary(served: Served) -> Table:
    """The table for the terminal: intervals in one cell, no architectures."""
    columns = served.table.columns
    shown: dict[str, Sequence[Any]] = {
        "accuracy": [f"{accuracy:.1%}" for accuracy in columns["accuracy"]],
        "gpu": columns["gpu"],
        "ms a batch": _ranges(columns, "latency_ms"),
        "images/s": columns["images_per_second"],
    }
    if served.priced:
        shown |= {"USD/h": columns["usd_per_hour"], UNITS[True]: _ranges(columns, "usd_per_million")}
    shown |= {
        "verdict": columns["verdict"],
        "chance": columns["p_cheapest" if served.priced else "p_fastest"],
    }
    return Table(shown | ({"worth USD/h": columns["worth_usd_per_hour"]} if served.priced else {}))


def word(served: Served) -> str:
    """What the best GPU is."""
    return "cheapest" if served.priced else "fastest"


def _ranges(columns: Mapping[str, Sequence[Any]], name: str) -> list[str]:
    values = zip(columns[name], columns[f"{name}_low"], columns[f"{name}_high"], strict=True)
    return [NOT if one is None else f"{one:.3g} ({low:.3g}-{high:.3g})" for one, low, high in values]


def answers(served: Served) -> list[tuple[str, str]]:
    """For each accuracy the GPU that is best there, or those that tie, and what it costs in words."""
    said = []
    for level in range(len(served.levels)):
        mean = served.costs[0, level]
        order = sorted(_which(served, level, (BEST, TIE, ONLY)), key=lambda gpu: mean[gpu])
        if not order:
            said.append(("-", "no GPU that has a price is within the limit"))
            continue
        cost = f"{mean[order[0]]:.3g} {UNITS[served.priced]}"
        names = " or ".join(served.names[gpu] for gpu in order)
        best = "the only one with a price" if served.verdicts[level, order[0]] == ONLY else word(served)
        told = f"{best}, {cost}" if len(order) == 1 else f"a tie, from {cost}"
        said.append((names, told))
    return said


def decisions(served: Served) -> list[str]:
    """The answers as lines, and what they leave out."""
    lines = [
        f"{accuracy:.1%}: {names}: {told}"
        for accuracy, (names, told) in zip(served.levels, answers(served), strict=True)
    ]
    return [*lines, *missing(served)]


def missing(served: Served) -> list[str]:
    """What was not compared, and why."""
    unpriced = [name for name, price in zip(served.names, served.prices, strict=True) if not price > 0]
    slow = {level: _which(served, level, (SLOW,)) for level in range(len(served.levels))}
    lines = [
        f"{', '.join(served.names[gpu] for gpu in gpus)}: no network of {served.levels[level]:.1%} within "
        f"{served.limit_ms:g} ms a batch with {served.confidence:.0%}"
        for level, gpus in slow.items()
        if gpus
    ]
    if unpriced:
        options = " ".join(f"usd_per_hour.{name}=..." for name in unpriced)
        what = "not compared" if served.priced else "speeds are compared"
        lines.append(
            f"no price of {', '.join(unpriced)}, {what}: give {options}, or usd_per_hour in its YAML"
        )
    return lines


def _which(served: Served, level: int, verdicts: Sequence[str]) -> list[int]:
    return [gpu for gpu, verdict in enumerate(served.verdicts[level].tolist()) if verdict in verdicts]


def render(served: Served, notes: Sequence[Sequence[str]], config: Mapping[str, Any]) -> str:
    """The page as HTML text; `notes` are what the search of each GPU assumed. Everything from outside is
    escaped."""
    columns, lines, ringed = served.fronts()
    x = "usd_per_million" if served.priced else "ms_per_image"
    axes = {
        x: f"{UNITS[served.priced]} (predicted)",
        "accuracy": "predicted top-1 accuracy (%)",
        "latency_ms": "ms of a batch (predicted)",
    }
    first = [row for rows in ringed for row in rows]
    best = max(first, key=lambda row: (columns["accuracy"][row] >= served.levels[-1], -columns[x][row]))
    members = Members(columns, "architecture", "gpus", first, best, shares=["accuracy"])
    data = {
        "runs": served.names,
        "lines": lines,
        "ringed": ringed,
        "interval": [f"{x}_low", f"{x}_high"],
        "x": x,
        "y": "accuracy",
        "axes": axes,
        "limits": [],
    }
    cards = {
        f"at {accuracy:.1%}: {told}": names
        for accuracy, (names, told) in zip(served.levels, answers(served), strict=True)
    }
    parts = {
        "TITLE": html.escape(f"Which GPU? {', '.join(served.names)}"),
        "SUBTITLE": html.escape(_conditions(served)),
        "CARDS": page.cards(cards),
        "BESIDE": page.section(UNITS[served.priced], _matrix(served, _cost)) + _worth(served),
        "NOTES": page.items([*missing(served), *_said(served.names, notes)]),
        "ABOUT": html.escape(ABOUT),
        "SHOWN": "Shown first: the networks of the table.",
        "FACTS": page.folded("Run", page.definitions(config)),
    }
    return page.render("compare.html", parts, members, data)


def _conditions(served: Served) -> str:
    targets = [run.problem.models.latency.target for run in served.runs if run.problem.models.latency]
    batches = "/".join(dict.fromkeys(f"{target.batch} in {target.precision}" for target in targets))
    limit = f"; at most {served.limit_ms:g} ms a batch" if served.limit_ms else ""
    space = served.runs[0].problem.space.owner.name
    return f"{space}, batches of {batches}; {served.confidence:.0%} intervals{limit}"


Cell = Callable[[Served, int, int], tuple[str, str]]


def _matrix(served: Served, cell: Cell) -> str:
    """A row per accuracy, a column per GPU; a cell is text and the class of its style."""
    prices = [f"{price:g} USD/h" if price > 0 else "" for price in served.prices]
    heads = zip(map(html.escape, served.names), prices, strict=True)
    rows = ["<th></th>" + "".join(f"<th>{name}<br>{price}</th>" for name, price in heads)]
    for level, accuracy in enumerate(served.levels):
        cells = [cell(served, level, gpu) for gpu in range(len(served.names))]
        told = "".join(f"<td class='{style}'>{text}</td>" for text, style in cells)
        rows.append(f"<th>{accuracy:.1%}</th>{told}")
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f"<div class='scroll'><table class='short matrix'>{body}</table></div>"


def _cost(served: Served, level: int, gpu: int) -> tuple[str, str]:
    verdict = str(served.verdicts[level, gpu])
    if verdict in (UNKNOWN, SLOW):
        return verdict, "soft"
    mean, low, high = served.costs[:, level, gpu]
    chance = served.chances[level, gpu]
    told = f"<br>{word(served) if verdict == BEST else verdict}" + (f", {chance:.0%}" if chance >= 0 else "")
    range = f"<span class='note'>{low:.3g}-{high:.3g}{'' if verdict == WORSE else told}</span>"
    return f"<b>{mean:.3g}</b><br>{range}", verdict


def _worth(served: Served) -> str:
    """Prices at which the verdicts would change; nothing without prices."""
    if not served.priced:
        return ""

    def cell(served: Served, level: int, gpu: int) -> tuple[str, str]:
        return _number(served.worth[level, gpu]), ""

    note = "<p class='note'>USD per hour; for less, a GPU is cheaper than all others.</p>"
    return page.section("Price to beat", _matrix(served, cell) + note)


def _number(value: float) -> str:
    return f"{value:.3g}" if value > 0 else NOT


def _said(names: Sequence[str], notes: Sequence[Sequence[str]]) -> list[str]:
    """What the searches assumed, once for all GPUs of which the same was said."""
    of: dict[str, list[str]] = {}
    for name, lines in zip(names, notes, strict=True):
        for line in lines:
            of.setdefault(line.partition(": ")[2] or line, []).append(name)
    return [f"latency of {', '.join(gpus)}: {line}" for line, gpus in of.items()]
