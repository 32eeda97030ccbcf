"""Latency predictors on rows they have not seen: `python -m benchmarks.predictors`.

HELP's columns: fitted on rows 0-3499, the ridge chosen on rows 3000-3499 of them, reported on rows 3500-3999.
S1's columns: fitted on rows 0-6999, the ridge chosen on 6000-6999, reported on rows 7000-8499. All rows
count. The set of features was first compared on HELP's reported rows; on rows 3000-3499 alone the comparison
comes out the same. The baselines are fitted on the same rows: the mean, and a robust line in MACs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from latency.data import LatencyData, read_csv
from latency.predictors.additive import Additive
from latency.scores import scores
from latency.zoo import catalogue
from supernet import footprint
from supernet.arrays import Floats
from supernet.files import artifact
from supernet.files.tables import Table, data_dir
from supernet.prediction import Prediction
from supernet.space import get_space

S1_MAE = {
    "2080ti_b64_w1.0": 0.386,
    "p40_b64_w1.0": 1.18,
}  # S1's own MLP, its released checkpoint on the same rows


def macs_line(train: LatencyData, test: LatencyData) -> Floats:
    """a + b MACs, least squares of the relative error."""
    space = get_space(train.target.space)

    def design(data: LatencyData) -> Floats:
        return np.stack([np.ones(len(data)), footprint.of(space, data.genomes, "macs") / 1e8], axis=1)

    weights, *_ = np.linalg.lstsq(design(train) / train.ms[:, None], np.ones(len(train)), rcond=None)
    return np.asarray(design(test) @ weights)


SHOWN = {
    "MAPE %": "mape",
    "median %": "median_ape",
    "within 5%": "within_5",
    "Spearman": "spearman",
    "90% covers": "coverage_90",
}


def main() -> None:
    folder, results = data_dir(), {}
    rows: list[list[Any]] = []
    for name in catalogue.names():
        target = catalogue.target(name)
        if target.method != "additive":
            continue
        data = read_csv(folder / target.rows, target, target.column)
        assert target.test is not None
        first, past = target.test
        train, test = data.take(slice(0, first)), data.take(slice(first, past))
        fitted = Additive(validation=target.validation).fit(train)
        row = scores(fitted.predict(test.genomes, target), test.ms)
        line = Prediction(macs_line(train, test), np.ones(len(test)))
        mean = Prediction(np.full(len(test), train.ms.mean()), np.ones(len(test)))
        baselines = [scores(predicted, test.ms)["mape"] for predicted in (line, mean)]
        results[name] = {
            **row,
            "ridge": fitted.facts["ridge"],
            "macs_line_mape": baselines[0],
            "mean_mape": baselines[1],
        }
        published = f" (S1: {S1_MAE[name]})" if name in S1_MAE else ""
        rows.append([name, f"{row['mae']:.3f}{published}", *(row[key] for key in SHOWN.values()), *baselines])
    print(Table.from_rows(("target", "MAE ms", *SHOWN, "MACs line %", "mean %"), rows).markdown())
    out = Path("runs/bench-predictors.json")
    artifact.write_json(out, results)


if __name__ == "__main__":
    main()
