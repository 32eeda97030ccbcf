"""Fit a predictor on your own measured rows: `make fit ARGS="space=ofa_mbv3_w1.0 rows=my.csv column=lat_ms"`.

The file it writes is what `predictor=` and `accuracy_file=` of the search take. A multirun (`-m` and options
with several values, any Hydra sweeper) compares the options by their errors on rows left out of each fit.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback

from latency.data import read_csv
from latency.predictors import interface
from latency.scores import scores
from latency.target import Target
from search import command
from supernet import registry
from supernet.arrays import Floats
from supernet.files import artifact, tables
from supernet.prediction import Prediction
from supernet.space import get_space
from supernet.surrogates import accuracy, accuracy_fit

TARGET_OPTIONS = ("name", "batch", "engine", "precision", "threads", "rows", "column")
IMAGENET_CLASSES = 1000
LISTED = 10  # jobs of a multirun
FOUND = "fit.json"


def fit_latency(config: dict[str, Any], out: Path) -> tuple[str, float]:
    places = {"device": config["device"]["name"], "space": config["space"]["name"]}
    target = Target(**places, **{key: config[key] for key in TARGET_OPTIONS})
    data = read_csv(config["rows"], target, config["column"], slice(config["first"], config["past"]))
    fitted = registry.build(config["learner"]).fit(data)
    path = out if config["out"] else out.with_suffix(interface.suffix(fitted))
    if path.suffix != interface.suffix(fitted):
        raise ValueError(
            f"out={path}: a {fitted.facts['method']} predictor is a {interface.suffix(fitted)} file"
        )
    fitted.save(path)
    error = fitted.facts.get("left_out_mape", 100 * fitted.relative_std)
    what = "left-out MAPE" if "left_out_mape" in fitted.facts else "standard deviation"
    said = f"{what} {error:.2f}% on {len(data)} rows; search with predictor={path}"
    return "\n".join([*([fitted.facts["why"]] if "why" in fitted.facts else []), said]), error


def fit_accuracy(config: dict[str, Any], out: Path) -> tuple[str, float]:
    space, column = get_space(config["space"]["name"]), config["column"]
    columns = tables.select(tables.read_columns(config["rows"]), slice(config["first"], config["past"]))
    if column not in columns:
        raise registry.unknown_name(f"column of {config['rows']}", column, list(columns))
    genomes, top1 = space.encode(columns), tables.percent(columns[column]) / 100
    curve = accuracy_fit.sample_curve(space, genomes, top1, config["curve"], seeds=config["curve_seeds"])
    fitted = accuracy_fit.fit(space, genomes, top1)
    # What fine-tuning gains is published for ImageNet only; elsewhere its epochs get no effect.
    imagenet = space.classes == IMAGENET_CLASSES
    if imagenet and "finetune_epochs" in space.index and "finetune_epochs" not in columns:
        fitted = accuracy.with_finetuning(fitted)
    fitted.save(out)
    noise = fitted.facts["noise_points"]
    said = f"fitted on {fitted.facts['rows']} rows, noise {noise:.3f} points; search with accuracy_file={out}"
    return "\n".join([*curve_table(curve), said]), noise


def curve_table(curve: dict[int, tuple[Prediction, Floats]]) -> list[str]:
    """A line per number of rows: scores on the rows left out, in points of top-1."""
    lines = []
    for rows, (predicted, measured) in curve.items():
        found = scores(predicted.scaled(1 / accuracy.POINT), measured / accuracy.POINT)
        lines.append(
            f"{rows:5d} rows: Kendall {found['kendall']:.3f}, Spearman {found['spearman']:.3f}, RMSE "
            f"{found['rmse']:.3f} points, 90% intervals cover {found['coverage_90']:.0f}% of {found['n']}"
        )
    return lines


def task(config: dict[str, Any]) -> None:
    what = config["what"]
    if what not in ("latency", "accuracy"):
        raise registry.unknown_name("what", what, ("latency", "accuracy"))
    folder = Path("runs") if not command.is_sweep() else Path(HydraConfig.get().runtime.output_dir)
    out = Path(config["out"] or folder / f"{what}-{config['name']}.npz")
    said, error = (fit_latency if what == "latency" else fit_accuracy)(config, out)
    if command.is_sweep():
        found = {"error": error, "options": list(HydraConfig.get().overrides.task), "said": said}
        artifact.write_json(folder / FOUND, found)
    print(said)


class Ranking(Callback):
    """Prints the jobs of a multirun, the best first: what `hydra.callbacks` of configs/fit.yaml names."""

    def on_multirun_end(self, config: Any, **_: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        jobs = [json.loads(path.read_text()) for path in folder.glob(f"*/{FOUND}")]
        for job in sorted(jobs, key=lambda job: job["error"])[:LISTED]:
            print(f"{job['error']:8.4g}  {' '.join(job['options'])}")


def main() -> None:
    command.run("fit", task)
