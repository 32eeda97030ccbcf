"""Fit a predictor on your own measured rows: `make fit ARGS="target=here rows=my.csv column=lat_ms"`.

Rows name their architectures in a column `architecture`, or have a column per gene of `space=`. The file it
writes is what `predictor=` and `accuracy_file=` of the search take. A multirun (`-m` and options with several
values, any Hydra sweeper) compares the options by their errors on rows left out of each fit.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from latency.data import read_csv
from latency.predictors import interface
from latency.scores import scores
from latency.target import Target
from search import command
from search.cli import watch
from search.cli.watch import Watched
from supernet import registry
from supernet.arrays import Floats
from supernet.files import architectures, tables
from supernet.files.command_line import then
from supernet.options import FileName
from supernet.prediction import Prediction
from supernet.space import SearchSpace, get_space
from supernet.surrogates import accuracy, accuracy_fit

IMAGENET_CLASSES = 1000


@command.options
class Options(Watched):
    """What `make fit` takes."""

    learner: dict[str, Any]  # auto: what suits the rows, or a method by name
    target: dict[str, Any] | None = None  # what the rows were timed on; here: this machine
    # without target=: the device, and below its name, batch, engine, precision and threads
    device: dict[str, Any]
    space: dict[str, Any] | None = None  # of the architectures; None: that of the column architecture
    what: str = "latency"  # latency, or accuracy
    rows: Path  # tidy .csv or .csv.gz with a column architecture, or the columns of the space's genes
    column: str  # milliseconds, or top-1 (percent or fraction)
    name: FileName = "mine"  # of the target
    batch: int = 1
    engine: str = "not stated"
    precision: str = "fp32"
    threads: int | None = None
    first: int = 0  # first row to fit on
    past: int | None = None  # past the last row; None: all
    curve: list[int] = field(default_factory=list)  # what=accuracy: numbers of rows to fit on first
    curve_seeds: int = 3  # random choices of those rows
    out: Path | None = None  # .npz, or .safetensors of a network; None: runs/<what>-<name>


@dataclass(frozen=True)
class Fit:
    """A fitted predictor: its file, its error, what is said of it, and scores by number of rows."""

    path: Path
    error: float
    lines: list[str]
    curve: list[dict[str, float]] = field(default_factory=list)


def fit_latency(options: Options, out: Path) -> Fit:
    target = _target(options)
    data = read_csv(options.rows, target, options.column, slice(options.first, options.past))
    fitted = registry.build(options.learner).fit(data)
    suffix = interface.suffix(fitted)
    path = out if options.out else out.with_suffix(suffix)
    if path.suffix != suffix:
        raise ValueError(f"out={path}: a {fitted.facts['method']} predictor is a {suffix} file")
    fitted.save(path)
    error = fitted.facts.get("left_out_mape", 100 * fitted.relative_std)
    what = "left-out MAPE" if "left_out_mape" in fitted.facts else "standard deviation"
    said = [f"{what} {error:.2f}% on {len(data)} rows", then("search", predictor=path)]
    return Fit(path, error, [*([fitted.facts["why"]] if "why" in fitted.facts else []), *said])


def _target(options: Options) -> Target:
    """What the rows were timed on: `target=`, as it is or with the space that is asked for, or what the
    options say one by one."""
    if options.target is None:
        space = _space(options, tables.read_columns(options.rows)).name
        return command.take(
            Target, options, device=options.device["name"], space=space, rows=str(options.rows)
        )
    target: Target = registry.build(options.target)
    space = target.space if options.space is None else registry.build(options.space).name
    return replace(target, space=space, rows=str(options.rows), column=options.column)


def _space(options: Options, columns: tables.Columns) -> SearchSpace:
    """The space of the architectures: `space=`, else what their names say."""
    if options.space is None:
        return architectures.space_of_rows(columns, options.rows)
    return get_space(registry.build(options.space).name)


def fit_accuracy(options: Options, out: Path) -> Fit:
    columns = tables.select(tables.read_columns(options.rows), slice(options.first, options.past))
    space = _space(options, columns)
    top1 = tables.percent(tables.column(columns, options.column, options.rows)) / 100
    genomes = architectures.genomes(columns, space)
    curve = scored(accuracy_fit.sample_curve(space, genomes, top1, options.curve, seeds=options.curve_seeds))
    fitted = accuracy_fit.fit(space, genomes, top1)
    scale = f"as in the column {options.column} of {options.rows.name}"
    fitted = replace(fitted, facts={**fitted.facts, "scale": scale})
    # What fine-tuning gains is published for ImageNet only; elsewhere its epochs get no effect.
    imagenet = space.classes == IMAGENET_CLASSES and "finetune_epochs" in space.index
    if imagenet and "finetune_epochs" not in columns and not space.column(genomes, "finetune_epochs").any():
        fitted = accuracy.with_finetuning(fitted)
    fitted.save(out)
    noise = fitted.facts["noise_points"]
    said = f"fitted on {fitted.facts['rows']} rows, noise {noise:.3f} points"
    next_line = then("search", space=space.name, accuracy_file=out)
    return Fit(out, noise, [*curve_table(curve), said, next_line], curve)


def scored(curve: dict[int, tuple[Prediction, Floats]]) -> list[dict[str, float]]:
    """A row per number of rows: scores on the rows left out, in points of top-1."""
    return [
        {"rows": rows, **scores(predicted.scaled(1 / accuracy.POINT), measured / accuracy.POINT)}
        for rows, (predicted, measured) in curve.items()
    ]


def curve_table(curve: list[dict[str, float]]) -> list[str]:
    """A line per number of rows."""
    return [
        f"{row['rows']:5d} rows: Kendall {row['kendall']:.3f}, Spearman {row['spearman']:.3f}, RMSE "
        f"{row['rmse']:.3f} points, 90% intervals cover {row['coverage_90']:.0f}% of {row['n']}"
        for row in curve
    ]


@command.named("fit")
def main(options: Options, config: dict[str, Any]) -> dict[str, float]:
    what = options.what
    if what not in ("latency", "accuracy"):
        raise registry.unknown_name("what", what, ("latency", "accuracy"))
    folder = command.run_folder(None, what) if command.is_sweep() else Path("runs")
    out = options.out or folder / f"{what}-{options.name}.npz"
    fitted = (fit_latency if what == "latency" else fit_accuracy)(options, out)
    logs = folder if command.is_sweep() else command.run_folder(None, f"fit-{options.name}")
    read, left = {"measurements": options.rows}, {"predictor": fitted.path}
    run = watch.job("fit", options.name, logs, config, read, left)
    watch.report(options, run, fitted.curve, {"error": fitted.error})
    print("\n".join(fitted.lines))
    return {"error": fitted.error}
