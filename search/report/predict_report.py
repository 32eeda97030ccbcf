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


def render(
    tables: tuple[Table, Table, Table], notes: Sequence[str], config: Mapping[str, Any], about: str
) -> str:
    """The page as HTML text, of the tables of latencies, training steps and layers. Everything from outside
    is escaped."""
    latency, training, layers = tables
    columns = {name: list(values) for name, values in layers.columns.items()}
    longest = sorted(range(len(layers)), key=lambda row: -columns["ms"][row])[:SHOWN]
    networks = list(dict.fromkeys(columns["network"]))
    members = Members(columns, "layer", "layers", longest, shares=("share",))
    parts = {
        "TITLE": html.escape(" and ".join(networks)),
        "SUBTITLE": html.escape(about),
        "CARDS": "",
        "LATENCY": _latencies(latency),
        "TRAINING": _training(training) if len(training) else "",
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
            *([f"{row['MB']:,.0f} MB" if row["MB"] else ""] if "MB" in row else []),
        ]
        cells.append([html.escape(str(cell)) for cell in told])
    heads = ("network", "on", "latency (90%)", "MACs", "weights", "stood in for")
    return page.table((*heads, "memory") if "MB" in latency.columns else heads, cells)


def _training(training: Table) -> str:
    """The table of training steps under its heading."""
    cells = []
    for row in training.rows():
        told = [row["network"], f"batch {row['training batch']}", f"{row['MB in fp32']:,.0f} MB"]
        if "ms" in row:
            told.append(f"{row['ms']:.4g} ms ({row['ms at least']:.4g} to {row['ms at most']:.4g})")
        cells.append([html.escape(str(cell)) for cell in told])
    heads = ("network", "on", "memory (fp32)", "step under AMP (90%)")
    return "<h2>Training steps</h2>" + page.table(heads[: len(cells[0])], cells)
