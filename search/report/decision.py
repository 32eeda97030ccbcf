"""What a report shows first: the shortlist with its numbers, and limits to try.

Letters: f members of the front, m objectives.
"""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from search import pareto, shortlist
from search.objective import Objective
from search.report import words
from search.result import Result, weights_and_images


def quality(result: Result) -> Objective:
    """What a limit box makes as good as it can: accuracy, or the first objective without one."""
    objectives = result.problem.evaluator.objectives
    return next((one for one in objectives if one.name == "accuracy"), objectives[0])


def limited(result: Result) -> list[Objective]:
    """What the limit boxes are about: the latency on each device, or the first objective beside quality."""
    asked = [one for one in result.problem.evaluator.asked if one.name != quality(result).name]
    latencies = [one for one in asked if one.name.partition("@")[0] == "latency_ms"]
    return latencies or asked[:1]


def boxes(result: Result) -> list[dict[str, Any]]:
    """The limit boxes, for the script: which column is compared with the number, and how."""
    columns = result.front.columns
    return [
        {
            "name": one.name,
            "column": f"{one.name}_bound" if f"{one.name}_bound" in columns else one.name,
            "maximize": one.maximize,
            "limit": one.limit,
        }
        for one in limited(result)
    ]


def limit_bar(result: Result) -> str:
    """The limit boxes as HTML, and where their answer appears."""
    if not (wanted := limited(result)):
        return ""
    inputs = []
    for i, one in enumerate(wanted):
        what = f"{one.name} at {'least' if one.maximize else 'most'}"
        unit = words.axis(one, result.problem.models)
        inputs.append(
            f"<label class='limit'>{html.escape(what)} <input type='number' id='limit{i}' min='0' step='any' "
            f"placeholder='20'> <span class='note'>{html.escape(unit)}</span></label>"
        )
    best = "most accurate" if quality(result).name == "accuracy" else f"best in {quality(result).name}"
    confidence = f"{wanted[0].confidence:.0%}"
    about = f"selects the {best} whose bound at {confidence} confidence holds"
    return (
        f"<div class='bar'>{''.join(inputs)}<span class='note'>{html.escape(about)}</span> "
        "<b id='answer' role='status'></b></div>"
    )


def reasons(result: Result) -> dict[int, str]:
    """Why each row of the shortlist is on it, in the order of `FrontTable.shortlist`."""
    front = result.front
    rows, costs, reference = front.shortlist(), result.archive.costs[result.rows], result.archive.reference
    whole = pareto.hypervolume(costs[rows], reference)
    named: dict[int, list[str]] = {row: [] for row in rows}
    if front.limits and front.best in named:
        named[front.best].append(f"best {quality(result).name} within the limits")
    if front.knee in named:
        named[front.knee].append("knee: best balance")
    for row in rows:
        others = [other for other in rows if other != row]
        adds = shortlist.additions(costs[[row]], costs[others], reference)[0]
        if not named[row] and whole > 0:
            named[row].append(f"+{adds / whole:.1%} hypervolume")
    return {row: "; ".join(why) for row, why in named.items()}


def short_table(result: Result) -> str:
    """The shortlist as HTML: a row per member, with its reason."""
    front, models = result.front, result.problem.models
    shown = [one for one in result.problem.evaluator.asked if one.name in front.columns]
    heads = "".join(
        f"<th scope='col' title='{html.escape(words.axis(one, models))}'>{words.head(one)}</th>"
        for one in shown
    )
    lines = []
    for row, why in reasons(result).items():
        cells = "".join(f"<td>{_with_bound(one, front.columns, row)}</td>" for one in shown)
        cells += f"<td>{front.columns['p_efficient'][row]:.2f}</td>"
        mark = f"<span class='mark'>{front.mark(row)}</span> " if row == front.knee else ""
        name = html.escape(str(front.columns["architecture"][row]))
        lines.append(
            f"<tr data-row='{row}' tabindex='0' title='{name}'><td class='why'>{mark}{html.escape(why)}</td>"
            f"{cells}</tr>"
        )
    p = f"<th scope='col' title='{words.COLUMNS['p_efficient']}'>p<wbr>_efficient</th>"
    why = "<th scope='col' title='what it adds to the others'>shortlist</th>"
    return (
        f"<table class='short'><thead><tr>{why}{heads}{p}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    )


def _with_bound(one: Objective, columns: dict[str, list[Any]], row: int) -> str:
    """A value and, of a latency, the bound that limits are compared with."""
    text = words.value(one, columns[one.name][row]).removesuffix(f" {one.unit}")
    bound = columns.get(f"{one.name}_bound")
    if bound is None or one.maximize or not one.name.startswith("latency_ms"):
        return text
    return f"{text} <span class='note'>&le;&nbsp;{bound[row]:.4g}</span>"


def first_rows(result: Result) -> list[int]:
    """The rows that the table shows first: shortlist, knee, best, extremes and what was measured."""
    front = result.front
    costs = result.archive.costs[result.rows]
    measured = np.flatnonzero(front.columns.get("on_verified_front", ())).tolist()
    extremes = np.argmin(costs, axis=0).tolist() if len(costs) else []
    return list(
        dict.fromkeys([*front.shortlist(), front.chosen, front.knee, front.best, *extremes, *measured])
    )


def commands(result: Result, config: Mapping[str, Any], out: Path, rows: Sequence[int]) -> dict[int, str]:
    """What exports each of these rows; nothing for a space without networks to export."""
    weights, images = weights_and_images(config)
    said = {row: result.export_command(weights, out / "export", images, row) for row in rows}
    return {row: text for row, text in said.items() if text is not None}
