"""A ranking as one self-contained HTML file, and as a PNG for papers."""

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from search.noisy_axis import NoisyAxis
from search.ranking.rank import LEVELS, LIKELY, Band, Ranking, tau
from search.report import page
from supernet.arrays import Floats, Ints
from supernet.files.tables import rounded

CORNERS = 300  # drawn of a level
RANKED = 40  # models in the plot of ranks
MOVERS = 8  # models listed per view
NOTABLE = 0.05  # change of a probability


def render(ranking: Ranking, title: str, note: str, config: Mapping[str, Any]) -> str:
    """The report as HTML text. Everything from outside is escaped."""
    main, columns, names = ranking.main, ranking.table().columns, ranking.models.names
    top, painted = main.order[:RANKED], main.order[::-1]  # the best are painted last
    data = {
        "columns": list(columns),
        "rows": [list(row) for row in zip(*columns.values(), strict=True)],
        "name": list(columns).index("model"),
        "file": "ranking",
        "ranks": {
            "model": [names[row] for row in top],
            "rank": rounded(main.rank[top]),
            "low": main.rank_low[top].tolist(),
            "high": main.rank_high[top].tolist(),
            "p": rounded(main.probability[top]),
        },
        "bands": [_band(band, painted) for band in ranking.bands],
        "names": [names[row] for row in painted],
        "p": rounded(main.probability[painted]),
        "views": {
            name: {"axes": ", ".join(view.axes), "p": rounded(view.probability[painted])}
            for name, view in list(ranking.views.items())[1:]
        },
        "mainview": ", ".join(main.axes),
        "devices": {"names": list(ranking.devices.of), "tau": ranking.devices.agreement.round(3).tolist()}
        if ranking.devices
        else None,
    }
    figures = {
        "models": f"{len(ranking.models):,}",
        "on the frontier without noise": f"{int(main.on_front.sum())}",
        "probably on it (P > 0.5)": f"{int((main.probability > LIKELY).sum())}",
        "draws": f"{main.draws:,}",
        "largest Monte-Carlo error": f"{main.relative_error.max():.4f}",
    }
    parts = {
        "TITLE": html.escape(title or "Ranking"),
        "SUBTITLE": html.escape(note),
        "CARDS": page.cards(figures),
        "FINDINGS": page.items(ranking.findings()),
        "VIEWS": _views(ranking),
        "DEVICES": _devices(ranking),
        "FACTS": page.definitions(config),
    }
    return page.render("rank.html", parts, data)


def _band(band: Band, order: Ints) -> dict[str, Any]:
    """The first axis is drawn upwards, the second to the right."""
    y, x = band.axes
    lines = {f"{level:g}": _thinned(corners) for level, corners in band.levels.items()}
    return {
        "x": label(x),
        "y": label(y),
        "log": [x.scale == "log", y.scale == "log"],
        "points": [rounded(x.values[order]), rounded(y.values[order])],
        "lines": {name: [rounded(c[:, 1]), rounded(c[:, 0])] for name, c in lines.items()},
        "expected": [rounded(c) for c in _thinned(band.expected)[:, ::-1].T],
        "note": f"Vorob'ev deviation {band.deviation:.1%}",
    }


def label(axis: NoisyAxis) -> str:
    return f"{axis.name} ({axis.unit})" if axis.unit else axis.name


def _thinned(corners: Floats) -> Floats:
    return corners[np.unique(np.linspace(0, len(corners) - 1, CORNERS).round().astype(int))]


def _views(ranking: Ranking) -> str:
    """A row per view: agreement with the main one, and which models gain and lose most in it."""
    main, names = ranking.main, ranking.models.names
    rows = []
    for name, view in list(ranking.views.items())[1:]:
        change = view.probability - main.probability
        moved = np.argsort(change, kind="stable")
        gained, lost = (
            "<br>".join(
                f"{html.escape(names[row])} {main.probability[row]:.2f} &rarr; {view.probability[row]:.2f}"
                for row in movers
                if abs(change[row]) > NOTABLE
            )
            for movers in (moved[::-1][:MOVERS], moved[:MOVERS])
        )
        left_out = ", ".join(axis for axis in main.axes if axis not in view.axes) or "nothing"
        about = f"<b>{html.escape(name)}</b><br>without {html.escape(left_out)}"
        likely = int((view.probability > LIKELY).sum())
        rows.append((about, f"{tau(main, view):.2f}", str(likely), gained, lost))
    heads = ("view", "Kendall tau", "P > 0.5", "more efficient than in the main view", "less efficient")
    return page.table(heads, rows) if rows else "<p>One view.</p>"


def _devices(ranking: Ranking) -> str:
    if ranking.devices is None:
        return "<p>The table declares no devices.</p>"
    rows = []
    for name, efficiency in ranking.devices.of.items():
        best = ", ".join(ranking.models.names[row] for row in efficiency.order[:5])
        likely = int((efficiency.probability > LIKELY).sum())
        rows.append([html.escape(cell) for cell in (name, ", ".join(efficiency.axes), str(likely), best)])
    table = page.table(("device", "axes", "P > 0.5", "first five"), rows)
    return f"{table}<div class='plot' id='devices'></div>"


def draw(ranking: Ranking, title: str, path: Path) -> None:
    """The bands of the main view's pairs of axes as PNG, models coloured by their probability."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    bands = list(ranking.bands)[:6]
    if not bands:
        return
    wide = min(3, len(bands))
    tall = -(-len(bands) // wide)
    size = (4.6 * wide, 3.8 * tall)
    figure, grid = plt.subplots(tall, wide, figsize=size, layout="constrained", squeeze=False)
    order = np.argsort(ranking.main.probability)
    points = None
    for place, band in zip(grid.flat, bands, strict=False):
        y, x = band.axes
        for level, corners in band.levels.items():
            style = {"linewidth": 1.4} if level == LEVELS[1] else {"linewidth": 0.7, "linestyle": "--"}
            reached = f"reached in {level:g}% of draws"
            place.step(corners[:, 1], corners[:, 0], where="pre", color="#0b6e8f", label=reached, **style)
        colours = {"c": ranking.main.probability[order], "cmap": "viridis", "vmin": 0, "vmax": 1}
        points = place.scatter(x.values[order], y.values[order], s=9, **colours)
        scales = ["log" if axis.scale == "log" else "linear" for axis in (x, y)]
        place.set(xlabel=label(x), ylabel=label(y), xscale=scales[0], yscale=scales[1])
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
