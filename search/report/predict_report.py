"""The page of a prediction: how long networks take, and in which of their layers."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

from search.report import page
from search.report.page import Members
from supernet.files.tables import Table

SHOWN = 30
ABOUT = (
    "A layer is a module of the predictor: a convolution with its norm and activation, or a whole block. Its "
    "time is its share of the prediction; only the sum of a network has an interval."
)


def render(latency: Table, layers: Table, notes: Sequence[str], config: Mapping[str, Any], about: str) -> str:
    """The page as HTML text, of the tables of latencies and layers. Everything from outside is escaped."""
    columns = {name: list(values) for name, values in layers.columns.items()}
    longest = sorted(range(len(layers)), key=lambda row: -columns["ms"][row])[:SHOWN]
    networks = list(dict.fromkeys(columns["network"]))
    members = Members(columns, "layer", "layers", longest, shares=("share",))
    parts = {
        "TITLE": html.escape(" and ".join(networks)),
        "SUBTITLE": html.escape(about),
        "CARDS": "",
        "LATENCY": _latencies(latency),
        "NOTES": page.items(notes) if notes else "",
        "ABOUT": html.escape(ABOUT),
        "FACTS": page.folded("Run", page.definitions(config)),
    }
    return page.render("predict.html", parts, members, {"networks": networks})


def _latencies(latency: Table) -> str:
    """The table of latencies with few wide columns, as it fits beside a plot."""
    cells = []
    for row in latency.rows():
        busy = f", {row['utilisation']:.0%} utilised" if row["utilisation"] else ""
        threads = f", {row['threads']} threads" if (row["threads"] or 1) != 1 else ""
        told = [
            row["network"],
            f"batch {row['batch']}{threads}{busy}",
            f"{row['ms']:.4g} ms ({row['ms at least']:.4g} to {row['ms at most']:.4g})",
            f"{row['million MACs']:,.0f} M",
            f"{row['million params']:.1f} M",
            f"{row['stood in for']:.1%}",
        ]
        cells.append([html.escape(str(cell)) for cell in told])
    return page.table(("network", "on", "latency (90%)", "MACs", "weights", "stood in for"), cells)
