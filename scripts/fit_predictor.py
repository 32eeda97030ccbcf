"""Fit a predictor on your own measured rows: `make fit ARGS="space=ofa_mbv3_w1.0 rows=my.csv column=lat_ms"`.

The file it writes is what `predictor=` and `accuracy_file=` of the search take.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import configs
from latency.data import read_csv
from latency.target import Target
from scripts import command
from supernet import accuracy, spaces, tidy

TARGET_OPTIONS = ("name", "batch", "engine", "precision", "threads", "rows", "column")


def fit_latency(config: dict[str, Any], out: Path) -> str:
    places = {"device": config["device"]["name"], "space": config["space"]["name"]}
    target = Target(**places, **{key: config[key] for key in TARGET_OPTIONS})
    data = read_csv(config["rows"], target, config["column"], slice(config["first"], config["past"]))
    fitted = configs.build(config["learner"]).fit(data)
    fitted.save(out)
    return (
        f"left-out MAPE {fitted.facts['left_out_mape']:.2f}% on {len(data)} rows; search with predictor={out}"
    )


def fit_accuracy(config: dict[str, Any], out: Path) -> str:
    space, column = spaces.get(config["space"]["name"]), config["column"]
    columns = tidy.select(tidy.read_columns(config["rows"]), slice(config["first"], config["past"]))
    if column not in columns:
        raise configs.unknown_name(f"column of {config['rows']}", column, list(columns))
    fitted = accuracy.fit(space, space.encode(columns), tidy.percent(columns[column]) / 100)
    if "finetune_epochs" in space.index and "finetune_epochs" not in columns:
        fitted = accuracy.with_finetuning(fitted)
    fitted.save(out)
    noise = fitted.facts["noise_points"]
    return f"fitted on {fitted.facts['rows']} rows, noise {noise:.3f} points; search with accuracy_file={out}"


def task(config: dict[str, Any]) -> None:
    what, out = config["what"], Path(config["out"] or f"runs/{config['what']}-{config['name']}.npz")
    if what not in ("latency", "accuracy"):
        raise configs.unknown_name("what", what, ("latency", "accuracy"))
    print((fit_latency if what == "latency" else fit_accuracy)(config, out))


def main() -> None:
    command.run("fit", task)


if __name__ == "__main__":
    main()
