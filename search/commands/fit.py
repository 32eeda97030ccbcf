"""Fit a predictor on your own measured rows: `make fit ARGS="target=here rows=my.csv column=lat_ms"`.

Rows name their architectures in a column `architecture`, or have a column per gene of `space=`. With
`devices=` the tables of several GPUs become one predictor, which serves others by their data sheets. The file
it writes is what `predictor=` and `accuracy_file=` of the search take. A multirun (`-m` and options with
several values, any Hydra sweeper) compares the options by their errors on rows left out of each fit.
"""

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from latency.data import LatencyData, read_csv
from latency.predictors import interface
from latency.predictors.interface import LatencyPredictor, ManyDevices
from latency.scores import scores
from latency.target import NOT_STATED, Target
from search import command
from search.cli import watch
from search.cli.watch import Watched
from supernet import registry
from supernet.arrays import Floats
from supernet.device import Device
from supernet.device import get as get_device
from supernet.devices import estimates
from supernet.files import architectures, disk, tables
from supernet.files.command_line import then
from supernet.options import FileName, NonNegativeInt, PositiveInt, PredictorFile
from supernet.prediction import Prediction
from supernet.space import SearchSpace, get_space
from supernet.surrogates import accuracy, accuracy_fit

IMAGENET_CLASSES = 1000


MOST_APART = 0.05  # of top-1, that two trainings of one network may be apart


@command.options
class Options(Watched):
    """What `make fit` takes."""

    learner: command.Node  # auto: what suits the rows, or a method by name
    target: command.Node | None = None  # what the rows were timed on; here: this machine
    # without target=: the device, and below its name, batch, engine, precision and threads
    device: command.Node
    # GPUs of one predictor: names, or figures as target=gpu takes, {cores:...,ram_gb:...,bandwidth_gbs:...};
    # rows=, column= and batch= are then lists with one for each, or one for all
    devices: list[str | dict[str, Any]] = field(default_factory=list)
    space: command.Node | None = None  # of the architectures; None: that of the column architecture
    what: Literal["latency", "accuracy"] = "latency"  # what is predicted
    # tidy .csv or .csv.gz with a column architecture, or the columns of the space's genes
    rows: Path | list[Path]
    column: str | list[str]  # milliseconds, or top-1 (percent or fraction)
    name: FileName = "mine"  # of the target
    batch: PositiveInt | list[PositiveInt] = 1
    engine: FileName = "not stated"
    precision: FileName = "fp32"
    threads: PositiveInt | None = None
    first: NonNegativeInt = 0  # first row to fit on
    past: PositiveInt | None = None  # past the last row; None: all
    curve: list[PositiveInt] = field(default_factory=list)  # what=accuracy: numbers of rows to fit on first
    curve_seeds: PositiveInt = 3  # random choices of those rows
    out: PredictorFile | None = None  # .npz, or .safetensors of a network; None: runs/<what>-<name>


@dataclass(frozen=True)
class Fit:
    """A fitted predictor: its file, its error, what is said of it, and scores by number of rows."""

    path: Path
    error: float
    lines: list[str]
    curve: list[dict[str, float]] = field(default_factory=list)


def fit_latency(options: Options, out: Path) -> Fit:
    learner = registry.build(options.learner)
    fitted = _of_several(options, learner) if options.devices else learner.fit(_of_one(options))
    suffix = interface.suffix(fitted)
    path = out.with_suffix(suffix)
    fitted.save(path)
    error = fitted.facts.get("left_out_mape", 100 * fitted.relative_std)
    what = "left-out MAPE" if "left_out_mape" in fitted.facts else "standard deviation"
    said = [fitted.facts["why"]] if "why" in fitted.facts else []
    said.append(f"{what} {error:.2f}% on {fitted.facts.get('rows', fitted.facts.get('samples'))} rows")
    if path != out and options.out:
        said.append(f"a {fitted.facts['method']} predictor is a {suffix} file: written to {path}")
    if not options.devices:
        return Fit(path, error, [*said, then("search", predictor=path)])
    by_gpu = fitted.facts["gpus_left_out"]
    said.append("predicted by the others: " + ", ".join(f"{gpu} {off:g}% off" for gpu, off in by_gpu.items()))
    return Fit(path, error, [*said, _on_another(fitted.target, by_gpu, path)])


def _on_another(target: Target, gpus: Iterable[str], predictor: Path) -> str:
    """The search on a GPU that was not among these, for the terminal."""
    sheets = [get_device(name) for name in registry.shipped("device")]
    other = next(sheet.name for sheet in sheets if sheet.kind == "gpu" and sheet.name not in gpus)
    asked = {"device": other, "space": target.space, "batch": target.batch}
    if target.engine != NOT_STATED:
        asked["engine"] = target.engine
    options = {f"target.{name}": value for name, value in asked.items()}
    return then("search", predictor=predictor, target="gpu", **options)


def _of_several(options: Options, learner: Any) -> LatencyPredictor:
    """The predictor of the measurements of several GPUs."""
    if not isinstance(learner, ManyDevices):
        fitting = "learner=auto, neural and s1_gpus make one predictor of several"
        raise ValueError(f"{type(learner).__name__} fits one device; {fitting}")
    if options.target is not None:
        raise ValueError("devices= names what the rows were timed on: leave target= out")
    count, sets = len(options.devices), []
    listed = (_for_each(options, option, count) for option in ("rows", "column", "batch"))
    for given, rows, column, batch in zip(options.devices, *listed, strict=True):
        device = given if isinstance(given, str) else estimates.from_facts(given)
        name = f"{device if isinstance(device, str) else device.name}_b{batch}"
        one = replace(options, name=name, rows=rows, column=column, batch=batch)
        sets.append(_of_one(one, device))
    return learner.fit_many(sets)


def _for_each(options: Options, option: str, count: int) -> list[Any]:
    """An option of each of so many devices, for which it may have one value in common."""
    value = getattr(options, option)
    values = value if isinstance(value, list) else [value] * count
    if len(values) != count:
        raise ValueError(f"{option}= lists {len(values)}, devices= {count}: one for each, or one for all")
    return values


def _of_one(options: Options, device: str | Device | None = None) -> LatencyData:
    """The measurements of one target, the device in place of that of the options."""
    rows, column = _table(options)
    target = _target(options, device)
    return read_csv(rows, target, column, slice(options.first, options.past))


def _table(options: Options) -> tuple[Path, str]:
    """The table and its column; ValueError for lists, whose devices nobody named."""
    rows, column = options.rows, options.column
    if isinstance(rows, list) or isinstance(column, list) or isinstance(options.batch, list):
        raise ValueError("rows=, column= and batch= are lists with devices= only, which names the GPUs")
    return rows, column


def _target(options: Options, device: str | Device | None) -> Target:
    """What the rows were timed on: `target=`, as it is or with the space that is asked for, or what the
    options say one by one."""
    rows, column = _table(options)
    if options.target is None:
        space = _space(options, tables.read_columns(rows)).name
        device = device or options.device["name"]
        return command.take(Target, options, device=device, space=space, rows=str(rows))
    target: Target = registry.build(options.target)
    space = target.space if options.space is None else registry.build(options.space).name
    return replace(target, space=space, rows=str(rows), column=column)


def _space(options: Options, columns: tables.Columns) -> SearchSpace:
    """The space of the architectures: `space=`, else what their names say."""
    if options.space is None:
        return architectures.space_of_rows(columns, _table(options)[0])
    return get_space(registry.build(options.space).name)


def fit_accuracy(options: Options, out: Path) -> Fit:
    if options.devices:
        raise ValueError("devices= are of latencies: leave it out with what=accuracy")
    file, column = _table(options)
    columns = tables.select(tables.read_columns(file), slice(options.first, options.past))
    space = _space(options, columns)
    top1 = tables.percent(columns, column, file) / 100
    genomes = architectures.genomes(columns, space)
    architectures.refuse_contradictions(
        genomes, top1, space, column, lambda low, high: high - low > MOST_APART
    )
    curve = scored(accuracy_fit.sample_curve(space, genomes, top1, options.curve, seeds=options.curve_seeds))
    fitted = accuracy_fit.fit(space, genomes, top1)
    scale = f"as in the column {column} of {file.name}"
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
    folder = command.run_folder(None, what) if command.is_sweep() else Path("runs")
    out = options.out or folder / f"{what}-{options.name}.npz"
    with ExitStack() as stack:  # a predictor that is a network is a .safetensors
        for path in [out] if options.out else [out, out.with_suffix(".safetensors")]:
            stack.enter_context(disk.reserved(path))
        if not options.devices:
            stack.enter_context(tables.about(_table(options)[0]))
        fitted = (fit_latency if what == "latency" else fit_accuracy)(options, out)
    logs = folder if command.is_sweep() else command.run_folder(None, f"fit-{options.name}")
    files = options.rows if isinstance(options.rows, list) else [options.rows]
    read = {f"measurements{i or ''}": file for i, file in enumerate(files)}
    left = {"predictor": fitted.path}
    run = watch.job("fit", options.name, logs, config, read, left)
    watch.report(options, run, fitted.curve, {"error": fitted.error})
    print("\n".join(fitted.lines))
    return {"error": fitted.error}
