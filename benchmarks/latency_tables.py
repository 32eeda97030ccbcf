"""The tables of the papers beside ours, on the public measurements: `python -m benchmarks.latency_tables`.

`... [PROTOCOL ...] [seeds=5] [test_rows=FILE.csv.gz] [validation=1] [out=runs/latency-tables]`; all protocols
without a name. Writes Markdown and JSON per protocol: one object per protocol, method, target, N, rows and
seed. `test_rows` (same columns as the training file, or further devices) is reported on instead of the
protocol's own test part. One thread.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.protocols import gpu_loo, help_ofa, help_ranks, maplex, nas_note10, s1
from benchmarks.protocols.protocol import Row, Setting
from supernet.files import artifact
from supernet.files.tables import Table, data_dir
from supernet.registry import unknown_name

PROTOCOLS: dict[str, Callable[[Setting], Iterator[Row]]] = {
    **s1.PROTOCOLS,
    **help_ofa.PROTOCOLS,
    **help_ranks.PROTOCOLS,
    **gpu_loo.PROTOCOLS,
    **nas_note10.PROTOCOLS,
    **maplex.PROTOCOLS,
}
OPTIONS = ("seeds", "test_rows", "validation", "out")
SHOWN = {
    "mae": "MAE ms",
    "rmse": "RMSE",
    "mape": "MAPE %",
    "within_10": "within 10%",
    "spearman": "Spearman",
    "kendall": "Kendall",
    "coverage_90": "90% covers",
}


def markdown(rows: Sequence[Row]) -> str:
    """A line per method, target, N and part of the rows: mean +- standard deviation over the seeds."""
    groups: dict[tuple[str, str, int, str, bool], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.target, row.rows, row.n, row.method, row.published].append(row)
    extra = sorted({key for row in rows for key in row.scores} - {*SHOWN, "n", "median_ape", "within_5"})
    titles = [*SHOWN.values(), *extra]
    lines = []
    for (target, part, n, method, published), of in groups.items():
        cells = [_cell([row.scores.get(key, np.nan) for row in of]) for key in (*SHOWN, *extra)]
        cells += [_middle([row.fit_seconds for row in of]), _middle([row.per_second for row in of])]
        name = f"*{method} (published)*" if published else method
        lines.append([target, part, n, name, *cells, len(of)])
    heads = ["target", "rows", "N", "method", *titles, "fit s", "archs/s", "seeds"]
    notes = sorted({row.note for row in rows if row.note})
    return "\n".join([Table.from_rows(heads, lines).markdown(), *(f"\n{note}" for note in notes)]) + "\n"


def _cell(values: Sequence[float]) -> str:
    found = np.array(values, float)
    if np.isnan(found).all():
        return ""
    spread = f" +- {np.nanstd(found, ddof=1):.2g}" if len(found) > 1 else ""
    return f"{np.nanmean(found):.4g}{spread}"


def _middle(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{np.median(known):.3g}" if known else ""


def main() -> None:
    options = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
    asked = [word for word in sys.argv[1:] if "=" not in word] or list(PROTOCOLS)
    for given, known in ((options, OPTIONS), (asked, PROTOCOLS)):
        for name in given:
            if name not in known:
                sys.exit(f"error: {unknown_name('word', name, known)}")
    setting = Setting(
        data_dir(),
        int(options.get("seeds", 5)),
        Path(options["test_rows"]) if "test_rows" in options else None,
        options.get("validation", "0") == "1",
    )
    out = Path(options.get("out", "runs/latency-tables"))
    with threadpool_limits(1):
        for name in asked:
            rows = []
            for row in PROTOCOLS[name](setting):  # each result is kept at once: some protocols take long
                rows.append(row)
                found = [row.plain() for row in rows]
                artifact.write_json(out / f"{name}.json", found)
            artifact.write_text(out / f"{name}.md", markdown(rows))
            print(f"## {name}\n\n{markdown(rows)}", flush=True)


if __name__ == "__main__":
    main()
