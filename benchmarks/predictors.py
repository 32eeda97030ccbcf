"""Latency predictors on rows they have not seen: `python -m benchmarks.predictors [only=TARGET,...]`.

HELP's columns: fitted on rows 0-3499, the ridge chosen on rows 3000-3499 of them, reported on rows 3500-3999.
Those of arXiv 2101.00732: fitted on rows 0-6999, the ridge chosen on 6000-6999, reported on rows 7000-8499.
All rows count. The set of features was first compared on HELP's reported rows; on rows 3000-3499 alone the
comparison comes out the same. The baselines are fitted on the same rows: the mean, a robust line in MACs.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import command
from latency.data import read_csv
from latency.predictors import baselines
from latency.predictors.additive import Additive
from latency.scores import scores
from latency.zoo import catalogue
from supernet.files import artifact
from supernet.files.tables import Table, data_dir
from supernet.prediction import exact

PUBLISHED_MAE = {"2080ti_b64_w1.0": 0.386, "p40_b64_w1.0": 1.18}  # the released MLP on the same rows
SHOWN = {
    "mae": "MAE ms",
    "published": "published MAE",
    "mape": "MAPE %",
    "median_ape": "median %",
    "within_5": "within 5%",
    "spearman": "Spearman",
    "coverage_90": "90% covers",
    "macs_line_mape": "MACs line %",
    "mean_mape": "mean %",
}


@dataclass(frozen=True)
class Options:
    only: str = ""  # targets; all of the additive predictors without a name
    out: Path = Path("runs/bench-predictors.json")


def main() -> None:
    _, options = command.words(Options, ())
    results = {}
    for name in options.only.split(",") if options.only else catalogue.names():
        target = catalogue.target(name)
        if target.method != "additive":
            continue
        data = read_csv(data_dir() / target.rows, target, target.column)
        assert target.test is not None
        first, past = target.test
        train, test = data.take(slice(0, first)), data.take(slice(first, past))
        fitted = Additive(validation=target.validation).fit(train)
        mean = exact(np.full(len(test), train.ms.mean()))
        line = baselines.from_samples([], train, test.genomes)["MACs line"]
        results[name] = {
            **scores(fitted.predict(test.genomes, target), test.ms),
            "ridge": fitted.facts["ridge"],
            "macs_line_mape": scores(line, test.ms)["mape"],
            "mean_mape": scores(mean, test.ms)["mape"],
            "published": PUBLISHED_MAE.get(name, ""),
        }
    lines = [[name, *(row[key] for key in SHOWN)] for name, row in results.items()]
    print(Table.from_rows(["target", *SHOWN.values()], lines).markdown())
    artifact.write_json(options.out, results)


if __name__ == "__main__":
    main()
