"""Compare the fronts of finished searches, or GPUs by what it costs to serve a front: `make compare
ARGS="runs=[runs/a,runs/b]"`, which is also `ARGS="runs/a runs/b"`; `gpus=[rtx_4090,l4]`."""

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from latency.zoo import catalogue
from search import command, front_table, run
from search.archive import Archive
from search.commands import search
from search.ranking.gpus import Served
from search.ranking.runs import Comparison, Run
from search.report import compare_report, gpus_report
from search.result import weights_and_images
from supernet import registry
from supernet.arrays import Floats
from supernet.devices.catalogue import plain
from supernet.files import artifact, run_folder
from supernet.files.command_line import then, words
from supernet.files.run_folder import CONFIG, FinishedRun, RunFolder
from supernet.files.tables import read_columns
from supernet.options import NonNegativeFloat, OpenFraction, PositiveFloat, PositiveInt

WITH_VALUE = (
    "--config-dir",
    "-cd",
    "--config-path",
    "-cp",
    "--config-name",
    "-cn",
    "--cfg",
    "-c",
    "--package",
    "-p",
)
# Options that searches do not depend on: with others the same command compares again, and searches nothing.
FREE = frozenset({"usd_per_hour", "accuracies", "latency_limit_ms", "confidence", "out"})
SET_HERE = ("target", "targets", "predictor", "space", "latency_limit_ms", "out")  # not by search.NAME=


@command.options
class Options:
    """What `make compare` takes; words without = are folders of runs."""

    runs: list[Path] = field(default_factory=list)  # folders of finished searches, two at least
    # limits to try, in ms of latency_ms or in the unit of the next objective that the runs share; by default
    # five between the ends of their fronts
    limits: list[NonNegativeFloat] | None = None
    # in place of runs: GPUs to search for, two at least. Names of data sheets, what is known of one without
    # {name: mine, cores: 3584, ram_gb: 12, bandwidth_gbs: 360}, or run:FOLDER of make adapt
    gpus: list[str | dict[str, Any]] = field(default_factory=list)
    # of gpus=, USD: usd_per_hour.l4=0.8; else that of the device's YAML, if it has one
    usd_per_hour: dict[str, PositiveFloat] = field(default_factory=dict)
    accuracies: list[OpenFraction] | None = None  # to compare gpus= at, fractions; five of the fronts
    latency_limit_ms: PositiveFloat | None = None  # for a batch on gpus=, tested on the bound
    confidence: OpenFraction = 0.9  # of that bound, and of intervals
    batch: PositiveInt = 64  # images at a time on gpus=
    precision: Literal["fp32", "tf32", "amp"] = "fp32"  # of gpus=
    space: str = "ofa_mbv3_w1.2"  # whose networks gpus= are searched for
    # other options of the search of each of gpus=, as make search has them: search.budget=5000 search.seed=1
    search: dict[str, Any] = field(default_factory=dict)
    out: Path | None = None  # folder; runs/compare-<time>


@dataclass(frozen=True)
class GpuSearch:
    """The search for one of gpus=: what the GPU is called, its price by its data sheet, the configuration."""

    name: str
    usd_per_hour: float | None
    config: dict[str, Any]

    @classmethod
    def from_options(cls, gpu: str | dict[str, Any], options: Options) -> "GpuSearch":
        """ValueError where there is no such GPU, or no such option of a search."""
        if own := [name for name in options.search if name in SET_HERE]:
            raise ValueError(f"search.{own[0]}= follows from gpus= and the options beside it: leave it out")
        usual = {"objectives": ["accuracy", "latency_ms"], "bound": 0, "verify": 0, "wandb": "disabled"}
        asked = usual | options.search
        if isinstance(gpu, str) and (gpu.startswith("run:") or gpu.endswith(catalogue.SUFFIXES)):
            asked["predictor"] = gpu
        else:
            asked |= {"target": "gpu", "target.device": gpu}
            asked |= {f"target.{name}": getattr(options, name) for name in ("batch", "precision", "space")}
        try:
            config = command.compose("search", words(asked))
            where = search.Choices.from_options(search.Options(**config)).where
        except (TypeError, AttributeError) as error:
            said = f"search={options.search} are no options of a search ({error})"
            raise ValueError(f"{said}: give them as make search has them") from error
        assert where is not None
        name = where.name if "predictor" in asked else where.spec.name
        return cls(name, where.spec.usd_per_hour, config)

    def run(self, out: Path) -> tuple[Run, list[str]]:
        """The search in a folder of its own, and what it assumes; what is finished is only read."""
        folder, notes, own = out / self.name, list[str](), search.Options(**self.config)
        choices, bar = search.Choices.from_options(own), search.progress(self.name, own)
        with suppress(FinishedRun):
            search.run_search(own, self.config, choices, folder, sinks=[bar])
        return finished(folder, self.name, notes.append), notes


def finished(folder: Path, name: str, say: Callable[[str], None] = lambda line: None) -> Run:
    """A finished search; ValueError that names the folder where there is none. `say` gets what it assumes."""
    archive, table = folder / "archive.npz", folder / front_table.FRONT
    if not (archive.is_file() and table.is_file() and (folder / CONFIG).is_file()):
        raise ValueError(f"{folder} holds no finished search: no {table.name} with its {archive.name}")
    try:
        settings = run_folder.settings(folder)
        problem = search.problem_of(search.Options(**settings), folder, say)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{folder} cannot be compared: {command.explain(error)}") from error
    columns, own = read_columns(table), Archive.load(archive, problem.space)
    if list(own.objectives) != (wanted := [one.name for one in problem.evaluator.objectives]):
        raise ValueError(
            f"{archive} has not the objectives of {CONFIG}, {', '.join(wanted)}: give another run"
        )
    limited = bool(problem.evaluator.limited)
    chosen = front_table.architecture(f"{folder}:{'best' if limited else 'knee'}")
    with artifact.usable(table, "front of a search"):
        row = columns["architecture"].tolist().index(chosen)
    return Run(name, problem, own, columns, row)


def distinct(folders: list[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart."""
    whole = [folder.resolve().parts for folder in folders]
    if len(set(whole)) < len(whole):
        raise ValueError(f"runs=[{','.join(map(str, folders))}] names a run twice")
    for count in range(1, max(map(len, whole), default=1) + 1):
        names = ["/".join(parts[-count:]) for parts in whole]
        if len(set(names)) == len(names):
            break
    return names


def prices(options: Options, searches: Sequence[GpuSearch]) -> Floats:
    """(t,) USD per hour of each GPU, NaN where none is known; ValueError for a price of no GPU."""
    called = {plain(one.name): i for i, one in enumerate(searches)}
    called |= {plain(gpu): i for i, gpu in enumerate(options.gpus) if isinstance(gpu, str)}
    if unknown := [name for name in options.usd_per_hour if plain(name) not in called]:
        raise registry.unknown_name("GPU of usd_per_hour", unknown[0], [one.name for one in searches])
    values = np.array([np.nan if one.usd_per_hour is None else one.usd_per_hour for one in searches])
    for name, price in options.usd_per_hour.items():
        values[called[plain(name)]] = price
    return values


def compare_gpus(options: Options, config: dict[str, Any]) -> None:
    """The same search for each GPU, and which of them serves its front at which price."""
    searches = [GpuSearch.from_options(gpu, options) for gpu in options.gpus]
    if len({one.name for one in searches}) < max(len(searches), 2):
        raise ValueError(f"gpus=[{','.join(map(str, options.gpus))}] must name two different GPUs at least")
    paid, out = prices(options, searches), command.run_folder(options.out, "compare-gpus")
    with RunFolder(out, finished=None, reporting=FREE).hold(config):
        try:
            runs, notes = zip(*(one.run(out) for one in searches), strict=True)
        except (run.Interrupted, KeyboardInterrupt):
            command.stop("compare", out)
        served = Served(runs, paid, options.accuracies, options.latency_limit_ms, options.confidence)
        artifact.write_text(out / "report.html", gpus_report.render(served, notes, config))
        artifact.write_text(out / "gpus.csv", served.table.csv())
    gpus_report.summary(served).show()
    for line in gpus_report.decisions(served):
        print(line)
    print(f"written to {out}: report.html, gpus.csv, and the search of each GPU")
    print(then("export", weights="random", architecture=served.best(), out=out / "export"))


@command.named("compare")
def compare(options: Options, config: dict[str, Any]) -> None:
    if bool(options.runs) == bool(options.gpus):
        raise ValueError(
            "please give runs=[runs/a,runs/b], finished searches, or gpus=[rtx_4090,l4], not both"
        )
    if options.gpus:
        compare_gpus(options, config)
        return
    names = distinct(options.runs)
    runs = [finished(folder, name) for folder, name in zip(options.runs, names, strict=True)]
    comparison = Comparison(runs, options.limits)
    out = command.run_folder(options.out, "compare")
    with RunFolder(out, "comparison.csv").hold(config):
        artifact.write_text(out / "report.html", compare_report.render(comparison, config))
        artifact.write_text(out / "regret.csv", comparison.regrets.csv())
        artifact.write_text(out / "comparison.csv", comparison.table.csv())
    comparison.table.show()
    comparison.regrets.show()
    for note in dict.fromkeys(comparison.notes):
        print(note)
    print(f"written to {out}: report.html, comparison.csv, regret.csv")
    best = max(range(len(runs)), key=lambda i: comparison.hypervolumes[i] or 0.0)
    weights, images = weights_and_images(run_folder.settings(options.runs[best]))
    member = f"{options.runs[best]}:best"
    print(then("export", weights=weights, architecture=member, **images, out=out / "export"))


def main() -> None:
    """Words that are no options are folders."""
    options: list[str] = []
    folders: list[str] = []
    for before, word in zip(["", *sys.argv[1:]], sys.argv[1:], strict=False):
        of_an_option = "=" in word or word.startswith("-") or before in WITH_VALUE
        (options if of_an_option else folders).append(word)
    given = [f"runs=[{','.join(map(json.dumps, folders))}]"] if folders else []
    sys.argv[1:] = [*given, *options]
    compare()
