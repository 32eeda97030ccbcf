"""A ranking as one self-contained HTML file, and as a PNG for papers."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from search.noisy_axis import NoisyAxis
from search.ranking.rank import LEVELS, LIKELY, Band, Ranking, tau
from search.report import search_report
from supernet.arrays import Floats, Ints

TEMPLATE = Path(__file__).with_name("rank_template.html")
CORNERS = 300  # drawn of a level
RANKED = 40  # models in the plot of ranks
MOVERS = 8  # models listed per view


def render(found: Ranking, title: str, note: str, config: Mapping[str, Any]) -> str:
    """The report as HTML text. Everything from outside is escaped."""
    from plotly.offline import get_plotlyjs

    main, columns = found.main, found.columns()
    top, painted = main.order[:RANKED], main.order[::-1]  # the best are painted last
    data = {
        "columns": list(columns),
        "rows": [list(row) for row in zip(*columns.values(), strict=True)],
        "ranks": {
            "model": [found.models.names[row] for row in top],
            "rank": _short(main.rank[top]),
            "low": main.rank_low[top].tolist(),
            "high": main.rank_high[top].tolist(),
            "p": _short(main.probability[top]),
        },
        "bands": [_band(band, painted) for band in found.bands],
        "names": [found.models.names[row] for row in painted],
        "p": _short(main.probability[painted]),
        "views": {
            name: {"axes": ", ".join(view.axes), "p": _short(view.probability[painted])}
            for name, view in list(found.views.items())[1:]
        },
        "mainview": ", ".join(main.axes),
        "devices": {"names": list(found.devices.of), "tau": found.devices.agreement.round(3).tolist()}
        if found.devices
        else None,
    }
    style = re.search(r"<style>.*?</style>", search_report.TEMPLATE.read_text(), re.DOTALL)
    assert style is not None
    cards = {
        "models": f"{len(found.models):,}",
        "on the frontier without noise": f"{int(main.on_front.sum())}",
        "probably on it (P > 0.5)": f"{int((main.probability > LIKELY).sum())}",
        "draws": f"{main.draws:,}",
        "largest Monte-Carlo error": f"{main.relative_error.max():.4f}",
    }
    parts = {
        "TITLE": html.escape(title or "Ranking"),
        "NOTE": html.escape(note),
        "STYLE": style[0],
        "CARDS": "".join(
            f"<div class=card><b>{value}</b><span>{html.escape(name)}</span></div>"
            for name, value in cards.items()
        ),
        "FINDINGS": "".join(f"<li>{html.escape(line)}</li>" for line in found.findings()),
        "VIEWS": _views(found),
        "DEVICES": _devices(found),
        "FACTS": search_report.definitions(search_report.flat(config)),
        "DATA": json.dumps(data, separators=(",", ":")).replace("</", "<\\/"),
        "PLOTLY": get_plotlyjs(),
    }
    return re.sub(
        r"@@(\w+)@@", lambda mark: parts[mark[1]], TEMPLATE.read_text()
    )  # values are never searched


def _band(band: Band, order: Ints) -> dict[str, Any]:
    """The first axis is drawn upwards, the second to the right."""
    y, x = band.axes
    lines = {f"{level:g}": _thinned(corners) for level, corners in band.levels.items()}
    return {
        "x": label(x),
        "y": label(y),
        "log": [x.scale == "log", y.scale == "log"],
        "points": [_short(x.values[order]), _short(y.values[order])],
        "lines": {name: [_short(c[:, 1]), _short(c[:, 0])] for name, c in lines.items()},
        "expected": [_short(c) for c in _thinned(band.expected)[:, ::-1].T],
        "note": f"Vorob'ev deviation {band.deviation:.1%}",
    }


def label(axis: NoisyAxis) -> str:
    return f"{axis.name} ({axis.unit})" if axis.unit else axis.name


def _thinned(corners: Floats) -> Floats:
    return corners[np.unique(np.linspace(0, len(corners) - 1, CORNERS).round().astype(int))]


def _short(values: Floats) -> list[float]:
    return [float(f"{value:.5g}") for value in values]


def _views(found: Ranking) -> str:
    """A row per view: agreement with the main one, and which models gain and lose most in it."""
    main, names = found.main, found.models.names
    lines = []
    for name, view in list(found.views.items())[1:]:
        change = view.probability - main.probability
        moved = np.argsort(change, kind="stable")

        def listed(rows: Any, change: Floats = change, view: Any = view) -> str:
            return "<br>".join(
                f"{html.escape(names[row])} {main.probability[row]:.2f} &rarr; {view.probability[row]:.2f}"
                for row in rows
                if abs(change[row]) > 0.05
            )

        left_out = ", ".join(axis for axis in main.axes if axis not in view.axes) or "nothing"
        cells = (
            f"<b>{html.escape(name)}</b><br>without {html.escape(left_out)}",
            f"{tau(main, view):.2f}",
            f"{int((view.probability > LIKELY).sum())}",
            listed(moved[::-1][:MOVERS]),
            listed(moved[:MOVERS]),
        )
        lines.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    heads = (
        "view",
        "Kendall tau",
        "P > 0.5",
        "more efficient here than in the main view",
        "less efficient here",
    )
    head = "".join(f"<th>{one}</th>" for one in heads)
    return (
        f"<table class='facts views'><tr>{head}</tr>{''.join(lines)}</table>" if lines else "<p>One view.</p>"
    )


def _devices(found: Ranking) -> str:
    if found.devices is None:
        return "<p>The table declares no devices.</p>"
    lines = []
    for name, each in found.devices.of.items():
        best = ", ".join(found.models.names[row] for row in each.order[:5])
        likely = int((each.probability > LIKELY).sum())
        cells = (name, ", ".join(each.axes), str(likely), best)
        lines.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>")
    head = "".join(f"<th>{one}</th>" for one in ("device", "axes", "P > 0.5", "first five"))
    table = f"<table class='facts views'><tr>{head}</tr>{''.join(lines)}</table>"
    return table + "<div class='plot' id='devices'></div>"


def draw(found: Ranking, title: str, path: Path) -> None:
    """The bands of the main view's pairs of axes as PNG, models coloured by their probability."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    bands = list(found.bands)[:6]
    if not bands:
        return
    wide = min(3, len(bands))
    tall = -(-len(bands) // wide)
    figure, grid = plt.subplots(
        tall, wide, figsize=(4.6 * wide, 3.8 * tall), layout="constrained", squeeze=False
    )
    order = np.argsort(found.main.probability)
    points = None
    for place, band in zip(grid.flat, bands, strict=False):
        y, x = band.axes
        for level in LEVELS:
            corners = band.levels[level]
            place.step(
                corners[:, 1],
                corners[:, 0],
                where="pre",
                color="#0b6e8f",
                linewidth=1.4 if level == LEVELS[1] else 0.7,
                linestyle="-" if level == LEVELS[1] else "--",
                label=f"reached in {level:g}% of draws",
            )
        points = place.scatter(
            x.values[order],
            y.values[order],
            c=found.main.probability[order],
            s=9,
            cmap="viridis",
            vmin=0,
            vmax=1,
        )
        place.set(xlabel=label(x), ylabel=label(y))
        place.set_xscale("log" if x.scale == "log" else "linear")
        place.set_yscale("log" if y.scale == "log" else "linear")
        place.grid(alpha=0.25)
    for place in list(grid.flat)[len(bands) :]:
        place.remove()
    assert points is not None
    grid.flat[0].legend(fontsize=7, loc="lower right")
    figure.colorbar(points, ax=[place for place in grid.flat if place.figure], label="P(on the frontier)")
    figure.suptitle(title)
    aside = path.with_name(path.name + ".part")
    figure.savefig(aside, dpi=150, format="png")
    plt.close(figure)
    aside.replace(path)
