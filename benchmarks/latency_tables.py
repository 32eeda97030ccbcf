"""The tables of the papers beside ours, on the public measurements: `python -m benchmarks.latency_tables`.

`... [PROTOCOL ...] [seeds=5] [test_rows=FILE.csv.gz] [validation=1] [small=1] [out=runs/latency-tables]`; all
protocols without a name. Writes Markdown and JSON per protocol: one object per protocol, method, target, N,
rows and seed. `test_rows` (same columns as the training file, or further devices) is reported on instead of
the protocol's own test part; `small` shows in seconds that a protocol runs. One thread.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks import command
from benchmarks.protocols import (
    few_figures,
    gpu_kernels,
    gpu_loo,
    help_ofa,
    help_ranks,
    maplex,
    nas_note10,
    phones,
    s1,
    ten_samples,
)
from benchmarks.protocols.protocol import Row, Setting
from supernet.files import artifact
from supernet.files.tables import Table

PROTOCOLS: dict[str, Callable[[Setting], Iterator[Row]]] = {
    "s1": s1.run,
    "help_ofa": help_ofa.run,
    **help_ranks.PROTOCOLS,
    "gpu_loo": gpu_loo.run,
    "gpu_kernels": gpu_kernels.kernels,
    "gpu_networks": gpu_kernels.networks,
    "nas_note10": nas_note10.run,
    "phones": phones.run,
    "few_figures": few_figures.run,
    **maplex.PROTOCOLS,
    "ten_samples": ten_samples.run,
}
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
    """Mean and standard deviation; empty where there is no number."""
    if np.isnan(values).all():
        return ""
    spread = f" +- {np.nanstd(values, ddof=1):.2g}" if len(values) > 1 else ""
    return f"{np.nanmean(values):.4g}{spread}"


def _middle(values: Sequence[float | None]) -> str:
    numbers = [value for value in values if value is not None]
    return f"{np.median(numbers):.3g}" if numbers else ""


def main() -> None:
    asked, setting = command.words(Setting, PROTOCOLS)
    with threadpool_limits(1):
        for name in asked:
            rows = []
            for row in PROTOCOLS[name](setting):  # each result is kept at once: some protocols take long
                rows.append(row)
                artifact.write_json(setting.out / f"{name}.json", [row.plain() for row in rows])
            artifact.write_text(setting.out / f"{name}.md", markdown(rows))
            print(f"## {name}\n\n{markdown(rows)}", flush=True)


if __name__ == "__main__":
    main()
