"""Score a fitted predictor on measured rows: `make score ARGS="predictor=v100_b64 rows=my.csv
column=lat_ms"`.

With `target=` it is scored on a target that it serves beside its own, for instance a GPU by its data sheet.
Accuracy is scored on published networks too: of a table with a column `space` the rows of the predictor's own
space count, at the input sides that it knows, fine-tuned as the column `finetune_epochs` says.
"""

from pathlib import Path
from typing import Any

import numpy as np
from hydra.core.hydra_config import HydraConfig

from latency.data import read_csv
from latency.predictors.interface import KINDS
from latency.scores import calibration, markdown, scores
from latency.target import Target
from latency.zoo import catalogue
from search import command
from search.models import latency_for
from supernet import registry
from supernet.arrays import Floats
from supernet.files import architectures, artifact, disk, tables
from supernet.files.command_line import then
from supernet.files.tables import Columns, select
from supernet.options import JsonFile, NonNegativeInt, PositiveInt
from supernet.prediction import Prediction
from supernet.space import get_space
from supernet.surrogates import accuracy
from supernet.surrogates.accuracy import AccuracySurrogate

AUTO = "auto"


@command.options
class Options:
    """What `make score` takes."""

    # a target of the zoo, an accuracy surrogate, a file of either; auto: what the search takes for target=
    predictor: str = AUTO
    target: command.Node | None = None  # None: that of the predictor; else one that it serves too
    rows: Path  # tidy .csv or .csv.gz with a column architecture, or the columns of the space's genes
    column: str  # measured: milliseconds, or top-1 (percent or fraction) for an accuracy surrogate
    first: NonNegativeInt = 0  # first row to score
    past: PositiveInt | None = None  # past the last row; None: all
    out: JsonFile | None = None  # JSON file; None: runs/score-<predictor>-<column>.json


def score(name: str, rows: Path, column: str, part: slice, target: Target | None = None) -> dict[str, float]:
    """Scores of the predictor `name` on a part of the rows of a table, for a target that it serves.

    In ms for latencies, in points of top-1 for accuracy.

    >>> score("ofa_mbv3_w1.2", Path("../shared/data/ofa_published_nets.csv"), "top1", slice(None))["rmse"]
    """
    if _kind(name) == accuracy.KIND:
        surrogate = accuracy.load(name)
        columns = _own_rows(tables.select(tables.read_columns(rows), part), surrogate, rows)
        points = tables.percent(columns, column, rows)
        predicted = surrogate.predict(architectures.genomes(columns, get_space(surrogate.space)))
        return judged(predicted.scaled(100), points)
    if name == AUTO and target is None:
        raise ValueError("give predictor=, or target= for what the search takes for it")
    predictor = latency_for(None, target, None if name == AUTO else catalogue.find(name))
    assert predictor is not None  # one of the two was given
    data = read_csv(rows, predictor.target, column, part)
    return judged(predictor.predict(data.genomes, predictor.target), data.ms)


def judged(predicted: Prediction, measured: Floats) -> dict[str, float]:
    """Scores, and how often the intervals hold."""
    return scores(predicted, measured) | calibration(predicted, measured)


def _kind(name: str) -> str:
    """What a predictor predicts: the kind of its file, or the group that it is in."""
    if name.endswith(".npz"):
        return str(artifact.load(Path(name), accuracy.KIND, *KINDS)[1]["kind"])
    return accuracy.KIND if name in registry.names("accuracy") else ""


def _option(name: str) -> str:
    """The option of the search that takes it."""
    if _kind(name) != accuracy.KIND:
        return "predictor"
    return "accuracy_file" if name.endswith(".npz") else "accuracy"


def _own_rows(columns: Columns, surrogate: AccuracySurrogate, file: Path) -> Columns:
    """The rows that the surrogate says something of: in a table of several spaces those of its own."""
    if "space" not in columns:
        return columns
    keep = columns["space"] == surrogate.space
    if "r" in columns:
        low, high = surrogate.resolutions
        keep &= (low <= columns["r"]) & (columns["r"] <= high)
    if not keep.any():
        raise ValueError(f"{file} has no rows of {surrogate.space} at input sides that its surrogate knows")
    return select(columns, keep)


@command.named("score")
def main(options: Options, config: dict[str, Any]) -> None:
    name, column = options.predictor, options.column
    target = None if options.target is None else registry.build(options.target)
    title = Path(name).stem if name.endswith(".npz") else name
    out = options.out or Path(f"runs/score-{title}-{column}.json")
    with disk.reserved(out), tables.about(options.rows):
        row = score(name, options.rows, column, slice(options.first, options.past), target)
        print(markdown({name: row}))
        clean = {key: value if np.isfinite(value) else None for key, value in row.items()}
        artifact.write_json(out, {**config, "out": str(out), **clean})
    print(f"written to {out}")
    typed = [word for word in HydraConfig.get().overrides.task if word.startswith("target")]
    print(then("search", *typed, **({} if name == AUTO else {_option(name): name})))
