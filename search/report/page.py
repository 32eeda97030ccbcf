"""The page that searches and rankings share: one self-contained HTML file that works from file:// without a
network. `page.html` has the style, the table and its script; a file of its own has what a page shows above
and below the table, in sections that start with `<!-- NAME -->`.
"""

import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent


def render(own: str, parts: Mapping[str, str], data: Mapping[str, Any]) -> str:
    """The page with the sections of the file `own`, each @@NAME@@ of it replaced by a part, which is HTML.

    `data` is what the scripts draw. It holds `columns`, `rows`, `name` (the column of names) and `file` (the
    name of downloads) of the table.
    """
    from plotly.offline import get_plotlyjs

    page = (FOLDER / "page.html").read_text()
    for section in re.split(r"<!-- (?=[A-Z]+ -->)", (FOLDER / own).read_text())[1:]:
        name, _, text = section.partition(" -->\n")
        page = page.replace(f"@@{name}@@", text.strip())
    text = json.dumps(data, separators=(",", ":")).replace("</", "<\\/")
    values = {**parts, "DATA": text, "PLOTLY": get_plotlyjs()}
    return re.sub(r"@@(\w+)@@", lambda mark: values[mark[1]], page)  # one pass: values are never searched


def cards(figures: Mapping[str, str]) -> str:
    """Large figures with what they are below."""
    return "".join(
        f"<div class=card><b>{html.escape(value)}</b><span>{html.escape(name)}</span></div>"
        for name, value in figures.items()
    )


def items(lines: Iterable[str]) -> str:
    """A list of these lines, escaped."""
    return f"<ul>{''.join(f'<li>{html.escape(line)}</li>' for line in lines)}</ul>"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A wide table; the cells are HTML."""
    head = "".join(f"<th>{name}</th>" for name in heads)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table class='facts wide'><tr>{head}</tr>{body}</table>"


def definitions(facts: Mapping[str, Any]) -> str:
    """A table of names and values, escaped; nested ones with dotted names."""
    rows = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(str(value))}</td></tr>"
        for name, value in flat(facts).items()
    )
    return f"<table class=facts>{rows}</table>"


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys; empty values are left out."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            leaves |= flat(value, f"{prefix}{key}.")
        elif value not in ("", None):
            leaves[f"{prefix}{key}"] = f"{value:.4g}" if isinstance(value, float) else value
    return leaves
