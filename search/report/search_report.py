"""One self-contained HTML file per run: works from file://, needs no network."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from latency.predictors.by_precision import ByPrecision
from latency.predictors.interface import LatencyModel
from search.archive import Archive
from search.front import FrontTable
from search.problem import Problem

TEMPLATE = Path(__file__).with_name("search_template.html")
CLOUD = 3000  # evaluated architectures drawn behind the front


def render(
    problem: Problem,
    archive: Archive,
    table: FrontTable,
    history: Sequence[Mapping[str, float]],
    summary: Mapping[str, Any],
    config: Mapping[str, Any],
    environment: Mapping[str, Any],
) -> str:
    """The report of a finished run as HTML text. Everything from outside is escaped."""
    from plotly.offline import get_plotlyjs

    data = {
        "columns": list(table.columns),
        "rows": [list(row.values()) for row in table.rows()],
        "knee": table.knee,
        "plots": _plots(problem, archive, table),
        "history": _history(history),
    }
    where = problem.models.latency.target if problem.models.latency is not None else None
    parts = {
        "TITLE": html.escape(f"{problem.space.name} on {where.name}" if where else problem.space.name),
        "SUBTITLE": html.escape(str(where) if where else "no target: no latency was asked for"),
        "CARDS": _cards(summary, table),
        "LIMITS": _limits(table),
        "VERIFICATION": _verification(summary),
        "MODELS": _models(problem),
        "FACTS": definitions({**flat(config), **flat(environment)}),
        "REFERENCE": html.escape(
            ", ".join(f"{k} {v:.4g}" for k, v in summary["hypervolume_reference"].items())
        ),
        "DATA": json.dumps(data, separators=(",", ":")).replace("</", "<\\/"),
        "PLOTLY": get_plotlyjs(),
    }
    page = TEMPLATE.read_text()
    return re.sub(r"@@(\w+)@@", lambda found: parts[found[1]], page)  # one pass: values are never searched


def _plots(problem: Problem, archive: Archive, table: FrontTable) -> list[dict[str, Any]]:
    """One scatter per pair of objectives: what was evaluated in grey, the front coloured by a third
    objective."""
    costs = archive.costs
    drawn = np.random.default_rng(0).permutation(len(costs))[:CLOUD]
    objectives = {objective.name: objective for objective in problem.evaluator.objectives}
    names = list(objectives)
    plots = []
    for first, second in list(combinations(names, 2)) or [(names[0], names[0])]:
        colour = next((name for name in names if name not in (first, second)), second)
        x, y = (second, first) if objectives[first].maximize else (first, second)
        cloud = {
            axis: objectives[name].cost(costs[drawn, names.index(name)])
            for axis, name in (("x", x), ("y", y))
        }
        plots.append(
            {
                "x": x,
                "y": y,
                "colour": colour,
                "xlabel": objectives[x].label,
                "ylabel": objectives[y].label,
                "clabel": objectives[colour].label,
                "cloud": {axis: [float(f"{v:.5g}") for v in values] for axis, values in cloud.items()},
                "limits": {
                    axis: table.limits[name]["limit"]
                    for axis, name in (("x", x), ("y", y))
                    if name in table.limits
                },
            }
        )
    return plots


def _history(history: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    step = max(1, len(history) // 500)
    kept = [*history[:-1:step], history[-1]] if history else []
    return {
        key: [float(f"{row[key]:.6g}") for row in kept]
        for key in ("evaluations", "hypervolume", "front_size")
    }


def _cards(summary: Mapping[str, Any], table: FrontTable) -> str:
    cards = {
        "architectures on the front": f"{len(table):,}",
        "evaluated": f"{summary['evaluations']:,}",
        "hypervolume": f"{summary['hypervolume']:.4f}",
        "seconds of search": f"{summary['loop_seconds']:.1f}",
    }
    shown = "".join(
        f"<div class=card><b>{html.escape(v)}</b><span>{html.escape(k)}</span></div>"
        for k, v in cards.items()
    )
    knee = f"<code>{html.escape(str(summary['knee']))}</code><span>the knee of the front</span>"
    return f"{shown}<div class='card wide'>{knee}</div>"


def _limits(table: FrontTable) -> str:
    if not table.limits:
        return "<p>No limits were set.</p>"
    lines = []
    for name, limit in table.limits.items():
        sign, bound = ("&ge;", "lower") if limit["at_least"] else ("&le;", "upper")
        lines.append(
            f"<li><b>{html.escape(name)} {sign} {limit['limit']:g} {html.escape(limit['unit'])}</b>: holds "
            f"for {limit['holds']} of {limit['of']} on the front, tested on the {bound} bound at "
            f"{limit['confidence']:.0%} confidence of the predictor</li>"
        )
    return f"<ul>{''.join(lines)}</ul>"


def _verification(summary: Mapping[str, Any]) -> str:
    """What measuring the front showed, as HTML; the plot is drawn by the page."""
    if "verification_failed" in summary:
        return f"<p>The front could not be measured: {html.escape(summary['verification_failed'])}</p>"
    verified = summary.get("verification")
    if verified is None:
        return "<p>Not measured: latencies in this report, if any, are predictions.</p>"
    count = verified["networks"]
    lines = [
        f"{count} networks of the front were measured on the target in {verified['seconds']:.0f} s; "
        f"predictions were off by {verified['mape']:.1f}% on average (bias {verified['bias']:+.1f}%)",
        f"{verified['covered']} of {count} measurements lie inside the 90% interval of their prediction",
        f"{verified['verified_front']} members form the verified front (column on_verified_front)",
        "drift of the machine against the sitting that the predictor was adapted in, removed by the "
        f"anchors: {100 * (verified['drift'] - 1):+.1f}%",
    ]
    if "limit" in verified:
        held = f"the limit of {verified['limit']:g} ms holds for {verified['holds']} of {count} when measured"
        lines.insert(1, held)
    lines += [f"failed: {name}: {reason}" for name, reason in verified["failed"].items()]
    items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    return f"<ul>{items}</ul><div class='plot' id='verified'></div>"


def _models(problem: Problem) -> str:
    """Which predictors were used, where they are from, and how good they are."""
    sections = []
    models = problem.models
    for title, latency in _latencies(models.latency):
        target, spec = latency.target, latency.target.spec
        facts = {
            "target": f"{target.name}: {target}",
            "timed networks": f"{target.space}, resolutions {latency.resolutions[0]} to "
            f"{latency.resolutions[1]}",
            "data sheet": f"{spec.year or ''} {spec.kind}, {spec.bandwidth_gbs or '?'} GB/s, "
            f"{spec.fp32_tflops or '?'} TFLOPS fp32",
            "source": target.source,
            "licence": target.licence,
            "note": target.note,
            **latency.facts,
            "relative deviation": f"{100 * latency.relative_std:.2f}% of a single measurement",
        }
        sections.append((title, facts))
    if models.accuracy is not None:
        how = "fitted for" if models.accuracy.measured is None else "measured in the supernet"
        facts = {how: models.accuracy.space, **models.accuracy.facts}
        if problem.space.name != models.accuracy.space:
            facts["caution"] = (
                f"accuracy of the same subnets in the {models.accuracy.space} supernet, not "
                f"{problem.space.name}'s"
            )
        sections.append(("Accuracy", facts))
    if models.training is not None:
        cost = models.training
        facts = {
            "recipe": f"fine-tuning on {cost.images:,} images, batch {cost.batch}, on {cost.gpu}",
            "relative deviation": f"{100 * cost.relative_std(problem.space):.0f}%",
            "price": f"{cost.usd_per_hour} USD per GPU-hour; power overhead {cost.power_overhead}",
            "shared, not in the objective": f"supernet {cost.supernet_gpu_hours:g} V100-hours once, "
            f"{cost.shared()['v100_hours_per_deployment']:g} per deployment over {cost.deployments}",
        }
        sections.append(("Training cost", facts))
    return "".join(f"<h3>{name}</h3>{definitions(flat(facts))}" for name, facts in sections) or "<p>None.</p>"


def _latencies(latency: LatencyModel | None) -> list[tuple[str, LatencyModel]]:
    """Titles and predictors of the sections on latency."""
    if isinstance(latency, ByPrecision):
        return [("Latency in fp32", latency.fp32), ("Latency in int8", latency.int8)]
    return [] if latency is None else [("Latency", latency)]


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys; empty values are left out."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        elif value not in ("", None):
            found[f"{prefix}{key}"] = f"{value:.4g}" if isinstance(value, float) else value
    return found


def definitions(facts: Mapping[str, Any]) -> str:
    """An HTML table of names and values, escaped."""
    rows = "".join(
        f"<tr><th>{html.escape(str(k))}</th><td>{html.escape(str(v))}</td></tr>" for k, v in facts.items()
    )
    return f"<table class=facts>{rows}</table>"
