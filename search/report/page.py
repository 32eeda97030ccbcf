"""The page of a search, a ranking and a comparison: one self-contained HTML file that works from file://
without a network. `page.html` has the style, the table and its script; a file of its own has what a page
shows above and below the table, in sections that start with `<!-- NAME -->`.
"""

import gzip
import html
import json
import re
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
LEVEL = 5  # of compression: a fifth of the time of 9, 4% larger


@dataclass(frozen=True)
class Members:
    """The table of a page.

    `columns` are the values by name, `name` is the column of names, `file` the name of downloads. `first` are
    the rows that are shown until somebody asks for all, `chosen` and `knee` are rows. Columns in `shares` are
    fractions and shown as percents; `titles` say what a column is.
    """

    columns: Mapping[str, Sequence[Any]]
    name: str
    file: str
    first: Sequence[int]
    chosen: int | None = None
    knee: int | None = None
    shares: Sequence[str] = ()
    titles: Mapping[str, str] = field(default_factory=dict)

    def described(self) -> dict[str, Any]:
        """What the script of the page reads, as JSON."""
        names = list(self.columns)
        values = [list(values) for values in self.columns.values()]
        return vars(self) | {"columns": names, "values": values, "name": names.index(self.name)}


def render(own: str, parts: Mapping[str, str], members: Members, data: Mapping[str, Any]) -> str:
    """The page with the sections of the file `own`, each @@NAME@@ of it replaced by a part, which is HTML.

    `data` is what its script draws. It and the table are compressed, so that nothing in them is HTML.
    """
    page = (FOLDER / "page.html").read_text()
    for section in re.split(r"<!-- (?=[A-Z]+ -->)", (FOLDER / own).read_text())[1:]:
        name, _, text = section.partition(" -->\n")
        page = page.replace(f"@@{name}@@", text.strip())
    text = json.dumps({**data, "table": members.described()}, separators=(",", ":"))
    values = {
        **parts,
        "DATA": b64encode(gzip.compress(text.encode(), LEVEL, mtime=0)).decode(),
        "PLOTLY": plotly(),
    }
    return re.sub(r"@@(\w+)@@", lambda mark: values[mark[1]], page)  # one pass: values are never searched


@cache
def plotly() -> str:
    """The script that draws: plotly.js in its basic bundle, MIT licence; see its folder."""
    return (FOLDER / "plotly" / "plotly-basic.min.js").read_text()


def section(title: str, body: str) -> str:
    """A body under a heading; nothing without a body."""
    return f"<h2>{html.escape(title)}</h2>{body}" if body else ""


def folded(title: str, body: str) -> str:
    """A body that shows when its title is clicked; nothing without a body."""
    return f"<details><summary>{html.escape(title)}</summary>{body}</details>" if body else ""


def cards(figures: Mapping[str, str]) -> str:
    """Figures with what they are."""
    return "".join(
        f"<div class='card'><b>{html.escape(value)}</b><span>{html.escape(name)}</span></div>"
        for name, value in figures.items()
    )


def items(lines: Iterable[str]) -> str:
    """A list of these lines, escaped."""
    return f"<ul>{''.join(f'<li>{html.escape(line)}</li>' for line in lines)}</ul>"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A wide table; the cells are HTML."""
    head = "".join(f"<th>{name}</th>" for name in heads)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<div class='scroll'><table class='wide'><tr>{head}</tr>{body}</table></div>"


def definitions(facts: Mapping[str, Any]) -> str:
    """A table of names and values, escaped; nested ones with dotted names."""
    rows = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(str(value))}</td></tr>"
        for name, value in flat(facts).items()
    )
    return f"<table class='facts'>{rows}</table>"


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys; empty values are left out."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            leaves |= flat(value, f"{prefix}{key}.")
        elif value not in ("", None):
            leaves[f"{prefix}{key}"] = f"{value:.4g}" if isinstance(value, float) else value
    return leaves
