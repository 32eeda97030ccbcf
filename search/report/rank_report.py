"""A ranking as one self-contained HTML file, and as a PNG for papers."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from search.noisy_axis import NoisyAxis
from search.ranking.rank import LEVELS, LIKELY, Band, Ranking, tau
from search.report import page
from supernet.arrays import Floats
from supernet.files import disk
from supernet.files.tables import rounded

CORNERS = 300  # drawn of a level
RANKED = 40  # models in the plot of ranks
NAMED = 8  # models named in a picture
SHORT = 10  # models beside the first plot
FIRST = 100  # rows of the table until all are asked for
MOVERS = 8  # models listed per view
NOTABLE = 0.05  # change of a probability


def render(ranking: Ranking, title: str, note: str, config: Mapping[str, Any]) -> str:
    """The report as HTML text. Everything from outside is escaped."""
    main, columns = ranking.main, ranking.table().columns
    best = list(range(min(SHORT, len(ranking.models))))  # rows of the table, which is sorted
    data = {
        "ranked": min(RANKED, len(ranking.models)),
        "rank": rounded(main.rank[main.order]),
        "likely": [row for row in best if columns["p_efficient"][row] > LIKELY],
        "bands": [_band(band) for band in ranking.bands],
        "views": {name: ", ".join(view.axes) for name, view in list(ranking.views.items())[1:]},
        "mainview": ", ".join(main.axes),
    }
    figures = {
        "models": f"{len(ranking.models):,}",
        "on the frontier without noise": f"{int(main.on_front.sum())}",
        "probably on it (P > 0.5)": f"{int((main.probability > LIKELY).sum())}",
        "draws": f"{main.draws:,}",
        "largest Monte-Carlo error": f"{main.relative_error.max():.4f}",
    }
    views, devices = _views(ranking), _devices(ranking)
    parts = {
        "TITLE": html.escape(title or "Ranking"),
        "SUBTITLE": html.escape(note),
        "CARDS": page.cards(figures),
        "BEST": _best(ranking, best),
        "FRONTIER": html.escape(f"Frontier of {len(ranking.models):,} models by {', '.join(main.axes)}."),
        "FINDINGS": page.section("Findings", page.items(ranking.findings())),
        "VIEWS": page.section(
            "What each axis changes", views and f"{views}<div class='plots' id='views'></div>"
        ),
        "DEVICES": page.section("Devices", devices),
        "FACTS": page.folded("Run", page.definitions(config)),
    }
    first = list(range(min(FIRST, len(ranking.models))))
    return page.render("rank.html", parts, page.Members(columns, "model", "ranking", first, 0), data)


def _best(ranking: Ranking, rows: Sequence[int]) -> str:
    """The most probable models as a table."""
    columns, axes = ranking.table().columns, ranking.models.by(ranking.main.axes).axes
    heads = "".join(
        f"<th scope='col'>{html.escape(head).replace('_', '<wbr>_')}</th>"
        for head in ("model", "P", "rank, 90%", *map(label, axes))
    )
    lines = []
    for row in rows:
        values = [f"{columns[axis.name][row]:.4g}" for axis in axes]
        cells = "".join(f"<td>{value}</td>" for value in values)
        ranks = f"{columns['rank_low'][row]}&ndash;{columns['rank_high'][row]}"
        name = html.escape(str(columns["model"][row]))
        lines.append(
            f"<tr data-row='{row}' tabindex='0'><td class='why'>{name}</td>"
            f"<td>{columns['p_efficient'][row]:.3f}</td><td>{ranks}</td>{cells}</tr>"
        )
    return f"<table class='short'><thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _band(band: Band) -> dict[str, Any]:
    """The first axis is drawn upwards, the second to the right."""
    y, x = band.axes
    lines = {f"{level:g}": _thinned(corners) for level, corners in band.levels.items()}
    return {
        "x": {"name": x.name, "label": label(x), "log": x.scale == "log"},
        "y": {"name": y.name, "label": label(y), "log": y.scale == "log"},
        "lines": {name: [rounded(c[:, 1]), rounded(c[:, 0])] for name, c in lines.items()},
        "expected": [rounded(c) for c in _thinned(band.expected)[:, ::-1].T],
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
    return page.table(heads, rows) if rows else ""


def _devices(ranking: Ranking) -> str:
    if ranking.devices is None:
        return ""
    devices, rows = ranking.devices, []
    for name, efficiency in devices.of.items():
        best = ", ".join(ranking.models.names[row] for row in efficiency.order[:5])
        likely = int((efficiency.probability > LIKELY).sum())
        rows.append([html.escape(cell) for cell in (name, ", ".join(efficiency.axes), str(likely), best)])
    listed = page.table(("device", "axes", "P &gt; 0.5", "first five"), rows)
    names = [html.escape(name) for name in devices.of]
    agreement = [
        (f"<b>{name}</b>", *(f"{tau:.2f}" for tau in row))
        for name, row in zip(names, devices.agreement, strict=True)
    ]
    return f"{listed}<h3>Kendall tau of the expected ranks</h3>{page.table(('', *names), agreement)}"


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
        names = ranking.models.names
        for row in [row for row in ranking.main.order[:NAMED] if len(names[row]) <= 24]:
            at = (x.values[row], y.values[row])
            place.annotate(names[row], at, (3, -8), textcoords="offset points", fontsize=5)
        place.set_title(f"frontier of {y.name} and {x.name}", fontsize=9)
        place.set(xlabel=label(x), ylabel=label(y), xscale=scales[0], yscale=scales[1])
        place.grid(alpha=0.25)
    for place in list(grid.flat)[len(bands) :]:
        place.remove()
    assert points is not None
    grid.flat[0].legend(fontsize=7, loc="lower right")
    figure.colorbar(points, ax=[place for place in grid.flat if place.figure], label="P(on the frontier)")
    figure.suptitle(title)
    with disk.replacing(path) as file:
        figure.savefig(file, dpi=150, format="png")
    plt.close(figure)
