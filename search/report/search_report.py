"""The report of a search."""

import html
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from latency.predictors.by_precision import ByPrecision
from latency.predictors.interface import LatencyModel
from search import pareto
from search.models import Models
from search.report import decision, devices, landmarks, page, words
from search.report.page import Members
from search.result import Result
from supernet.arrays import Ints
from supernet.files.tables import rounded

CLOUD = 1500  # evaluated architectures drawn behind the front
DRAWN = 1200  # members of the front that a plot shows besides those that matter in it
POINTS = 500  # of the curve of progress
HYPERVOLUME = (
    "Hypervolume: the share of the box between the worst and the best values of 1,000 random networks that "
    "the front dominates; larger is better, and above 1 the front lies beyond that box."
)


def render(
    result: Result, config: Mapping[str, Any], environment: Mapping[str, Any], out: Path = Path("RUN")
) -> str:
    """The report of a run that is finished in the folder `out`, as HTML text. Everything from outside is
    escaped."""
    front, models = result.front, result.problem.models
    fronts, first = devices.compare(result), decision.first_rows(result)
    asked = result.problem.evaluator.asked
    titles = dict(words.COLUMNS) | {k: v for one in asked for k, v in words.about(one, models).items()}
    shares = [name for name in front.columns if name.removesuffix("_bound") in words.SHARES]
    members = Members(front.columns, "architecture", "front", first, front.chosen, front.knee, shares, titles)
    data = {
        "plots": _plots(result),
        "limits": decision.boxes(result),
        "quality": {"name": decision.quality(result).name, "maximize": decision.quality(result).maximize},
        "figures": [one.name for one in asked] + ["p_efficient", "macs", "params"],
        "maximized": [one.name for one in asked if one.maximize],
        "confidence": f"{asked[0].confidence:.0%}",
        "axes": {one.name: words.axis(one, models) for one in asked},
        "commands": decision.commands(result, config, out, first),
        "landmarks": landmarks.of(result),
        "devices": devices.plots(fronts, result),
        "history": _history(result.history),
        "measured": result.verified.measured.rows() if result.verified is not None else [],
    }
    return page.render("search.html", _parts(result, config, environment, fronts), members, data)


def _parts(
    result: Result,
    config: Mapping[str, Any],
    environment: Mapping[str, Any],
    fronts: devices.DeviceFronts | None,
) -> dict[str, str]:
    """The parts of the page that are text."""
    front, summary, models = result.front, result.summary, result.problem.models
    where = models.latency.target if models.latency is not None else None
    title = f"{models.space.name} on {' and '.join(models.devices)}" if models.devices else models.space.name
    about = [f"{one.target.name}: {one.target}" for one in models.devices.values()]
    figures = {
        "networks on the front": f"{len(front):,}",
        "evaluated": f"{summary['evaluations']:,}",
        "seconds of search": f"{summary['loop_seconds']:.1f}",
        "hypervolume": f"{summary['hypervolume']:.4f}",
    }
    if result.verified is not None:
        figures["of the front measured"] = str(result.verified.summary["verified_front"])
    limits = front.limit_lines() + result.bound_lines() if front.limits else []
    reference = ", ".join(f"{name} {value:.4g}" for name, value in summary["hypervolume_reference"].items())
    return {
        "TITLE": html.escape(f"{models.space.name} on {where.name}" if where else title),
        "SUBTITLE": html.escape(str(where) if where else "; ".join(about) or "no latency was asked for"),
        "CARDS": page.cards(figures),
        "DECIDE": f"{decision.limit_bar(result)}<div class='decide'><div class='plot' id='main'></div>"
        f"<div class='pane'>{decision.short_table(result)}</div></div>",
        "LIMITS": page.section("Limits", page.items(limits) if limits else ""),
        "VERIFICATION": page.section("Verification", _verification(result)),
        "DEVICES": devices.section(fronts),
        "MODELS": page.folded("Predictors", _models(models)),
        "FACTS": page.folded("Run", page.definitions({**config, **environment})),
        "HYPERVOLUME": html.escape(f"{HYPERVOLUME} Reference point: {reference}."),
    }


def _plots(result: Result) -> list[dict[str, Any]]:
    """A scatter per pair of objectives, first that of quality and what is limited: what was evaluated in
    grey, the front coloured by a third objective."""
    costs, limits = result.archive.costs, result.front.limits
    cloud = np.random.default_rng(0).permutation(len(costs))[:CLOUD]
    objectives = {objective.name: objective for objective in result.problem.evaluator.objectives}
    names = list(objectives)
    wanted = {decision.quality(result).name, *(one.name for one in decision.limited(result)[:1])}
    pairs = sorted(combinations(names, 2), key=lambda pair: set(pair) != wanted) or [(names[0], names[0])]
    plots = []
    for first, second in pairs:
        x, y = (second, first) if objectives[first].maximize else (first, second)
        colour = next((name for name in names if name not in (first, second)), None)
        axes = {"x": x, "y": y}
        behind = {axis: objectives[name].cost(costs[cloud, names.index(name)]) for axis, name in axes.items()}
        plots.append(
            {
                **axes,
                "colour": colour,
                "rows": _drawn(result, [names.index(name) for name in (x, y)]).tolist(),
                "cloud": {axis: rounded(values, 4) for axis, values in behind.items()},
                "limits": {axis: limits[name]["limit"] for axis, name in axes.items() if name in limits},
            }
        )
    return plots


def _drawn(result: Result, pair: list[int]) -> Ints:
    """The rows of the front that a plot of two objectives shows: those that matter first and those efficient
    in the two, which no limit on one of them leaves out, and a sample of the rest."""
    costs = result.archive.costs[result.rows]
    sample = np.random.default_rng(0).permutation(len(costs))[:DRAWN]
    efficient = np.flatnonzero(pareto.is_front(costs[:, pair])) if len(costs) else sample
    return np.unique(np.concatenate([sample, efficient, decision.first_rows(result)]).astype(np.int64))


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
    return ""


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
    return "".join(shown)


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
