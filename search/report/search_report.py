"""The report of a search."""

import html
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from latency.predictors.by_precision import ByPrecision
from latency.predictors.interface import LatencyModel
from search.models import Models
from search.report import devices, page
from search.result import Result
from supernet.files.tables import rounded

CLOUD = 3000  # evaluated architectures drawn behind the front
POINTS = 500  # of the curve of progress


def render(result: Result, config: Mapping[str, Any], environment: Mapping[str, Any]) -> str:
    """The report of a finished run as HTML text. Everything from outside is escaped."""
    table, summary, models = result.front, result.summary, result.problem.models
    fronts = devices.compare(result)
    data = {
        "columns": list(table.columns),
        "rows": [list(row.values()) for row in table.rows()],
        "name": 0,
        "file": "front",
        "knee": table.knee,
        "plots": _plots(result),
        "devices": devices.plots(fronts, result),
        "history": _history(result.history),
        "measured": result.verified.measured.rows() if result.verified is not None else [],
    }
    figures = {
        "architectures on the front": f"{len(table):,}",
        "evaluated": f"{summary['evaluations']:,}",
        "hypervolume": f"{summary['hypervolume']:.4f}",
        "seconds of search": f"{summary['loop_seconds']:.1f}",
    }
    if result.verified is not None:
        figures["of them measured"] = str(result.verified.summary["verified_front"])
    knee = f"<code>{html.escape(str(summary['knee']))}</code><span>the knee of the front</span>"
    where = models.latency.target if models.latency is not None else None
    title = f"{models.space.name} on {' and '.join(models.devices)}" if models.devices else models.space.name
    about = [f"{one.target.name}: {one.target}" for one in models.devices.values()]
    reference = (f"{name} {value:.4g}" for name, value in summary["hypervolume_reference"].items())
    parts = {
        "TITLE": html.escape(f"{models.space.name} on {where.name}" if where else title),
        "SUBTITLE": html.escape(
            str(where) if where else "; ".join(about) or "no target: no latency was asked for"
        ),
        "CARDS": f"{page.cards(figures)}<div class='card wide'>{knee}</div>",
        "LIMITS": page.items(table.limit_lines() + result.bound_lines())
        if table.limits
        else "<p>No limits were set.</p>",
        "VERIFICATION": _verification(result),
        "DEVICES": devices.section(fronts),
        "MODELS": _models(models),
        "FACTS": page.definitions({**config, **environment}),
        "REFERENCE": html.escape(", ".join(reference)),
    }
    return page.render("search.html", parts, data)


def _plots(result: Result) -> list[dict[str, Any]]:
    """One scatter per pair of objectives: what was evaluated in grey, the front coloured by a third
    objective."""
    costs, limits = result.archive.costs, result.front.limits
    drawn = np.random.default_rng(0).permutation(len(costs))[:CLOUD]
    objectives = {objective.name: objective for objective in result.problem.evaluator.objectives}
    names = list(objectives)
    plots = []
    for first, second in list(combinations(names, 2)) or [(names[0], names[0])]:
        colour = next((name for name in names if name not in (first, second)), second)
        x, y = (second, first) if objectives[first].maximize else (first, second)
        axes = {"x": x, "y": y}
        cloud = {axis: objectives[name].cost(costs[drawn, names.index(name)]) for axis, name in axes.items()}
        plots.append(
            {
                **axes,
                "colour": colour,
                "xlabel": objectives[x].label,
                "ylabel": objectives[y].label,
                "clabel": objectives[colour].label,
                "cloud": {axis: rounded(values) for axis, values in cloud.items()},
                "limits": {axis: limits[name]["limit"] for axis, name in axes.items() if name in limits},
            }
        )
    return plots


def _history(history: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    step = max(1, len(history) // POINTS)
    kept = [*history[:-1:step], history[-1]] if history else []
    return {key: rounded([row[key] for row in kept], 6) for key in ("evaluations", "hypervolume")}


def _verification(result: Result) -> str:
    """What measuring the front showed; the plot is drawn by the page."""
    if result.verified is not None:
        return f"{page.items(result.verified.lines())}<div class='plot' id='verified'></div>"
    if "verification_failed" in result.summary:
        return f"<p>The front could not be measured: {html.escape(result.summary['verification_failed'])}</p>"
    return "<p>Not measured: latencies in this report, if any, are predictions.</p>"


def _models(models: Models) -> str:
    """Which predictors were used, where they are from, and how good they are."""
    latency: Any = models.latency
    parts = {"Latency": latency} if latency is not None else {}
    if isinstance(latency, ByPrecision):
        parts = {"Latency in fp32": latency.fp32, "Latency in int8": latency.int8}
    parts |= {f"Latency on {name}": one for name, one in models.devices.items()}
    sections = {title: _latency_facts(part) for title, part in parts.items()}
    if models.accuracy is not None:
        how = "fitted for" if models.accuracy.measured is None else "measured in the supernet"
        sections["Accuracy"] = {how: models.accuracy.space, **models.accuracy.facts}
        if models.space.name != models.accuracy.space:
            sections["Accuracy"]["caution"] = (
                f"accuracy of the same subnets in the {models.accuracy.space} supernet, not "
                f"{models.space.name}'s"
            )
    if models.training is not None:
        sections["Training cost"] = models.training.describe(models.space)
    shown = (f"<h3>{title}</h3>{page.definitions(facts)}" for title, facts in sections.items())
    return "".join(shown) or "<p>None.</p>"


def _latency_facts(latency: LatencyModel) -> dict[str, Any]:
    target, spec = latency.target, latency.target.spec
    low, high = latency.resolutions
    return {
        "target": f"{target.name}: {target}",
        "timed networks": f"{target.space}, resolutions {low} to {high}",
        "data sheet": f"{spec.year or ''} {spec.kind}, {spec.bandwidth_gbs or '?'} GB/s, "
        f"{spec.fp32_tflops or '?'} TFLOPS fp32",
        "source": target.source,
        "licence": target.licence,
        "note": target.note,
        **latency.facts,
        "relative deviation": f"{100 * latency.relative_std:.2f}% of a single measurement",
    }
