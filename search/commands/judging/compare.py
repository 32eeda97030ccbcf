"""Compare the fronts of finished searches: `make compare ARGS="runs/a runs/b"`, or `runs=[runs/a,runs/b]`."""

import json
import sys
from pathlib import Path
from typing import Any

from search import command, front_table
from search.archive import Archive
from search.commands import search
from search.ranking.runs import Comparison, Run
from search.report import compare_report
from search.result import weights_and_images
from supernet.files import artifact, run_folder
from supernet.files.command_line import then
from supernet.files.run_folder import CONFIG, RunFolder
from supernet.files.tables import read_columns

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


@command.options
class Options:
    """What `make compare` takes; words without = are folders of runs."""

    runs: list[Path]  # folders of finished searches, two at least
    # limits to try, in ms of latency_ms or in the unit of the next objective that the runs share; by default
    # five between the ends of their fronts
    limits: list[float] | None = None
    out: Path | None = None  # folder; runs/compare-<time>


def finished(folder: Path, name: str) -> Run:
    """A finished search; ValueError that names the folder where there is none."""
    archive, table = folder / "archive.npz", folder / front_table.FRONT
    if not (archive.is_file() and table.is_file() and (folder / CONFIG).is_file()):
        raise ValueError(f"{folder} holds no finished search: no {table.name} with its {archive.name}")
    try:
        settings = run_folder.settings(folder)
        problem = search.problem_of(search.Options(**settings), folder)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{folder} cannot be compared: {command.explain(error)}") from error
    columns = read_columns(table)
    limited = bool(problem.evaluator.limited)
    chosen = front_table.architecture(f"{folder}:{'best' if limited else 'knee'}")
    row = columns["architecture"].tolist().index(chosen)
    return Run(name, problem, Archive.load(archive, problem.space), columns, row)


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


@command.named("compare")
def compare(options: Options, config: dict[str, Any]) -> None:
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
    words: list[str] = []
    folders: list[str] = []
    for before, word in zip(["", *sys.argv[1:]], sys.argv[1:], strict=False):
        of_an_option = "=" in word or word.startswith("-") or before in WITH_VALUE
        (words if of_an_option else folders).append(word)
    given = [f"runs=[{','.join(map(json.dumps, folders))}]"] if folders else []
    sys.argv[1:] = [*given, *words]
    compare()
