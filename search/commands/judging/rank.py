"""Rank models by the random Pareto frontier: `make rank`, `make rank ARGS="csv=my.csv columns=my.yaml"`."""

from dataclasses import field
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from rich.console import Console

from latency.measuring.store import Store
from search import command
from search.cli import watch
from search.cli.watch import Watched
from search.ranking import rank
from search.ranking.timed_models import Torchvision
from search.report import rank_report
from supernet import choices, registry
from supernet.files import artifact
from supernet.files.command_line import then
from supernet.files.run_folder import RunFolder
from supernet.options import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt


@command.options
class Options(Watched):
    """What `make rank` takes."""

    table: command.Node  # torchvision, timm (public tables), search_run (table.folder=runs/mine)
    csv: Path | None = None  # a CSV with a row per model, in place of table=
    columns: Path | None = None  # the YAML that declares its columns (docs/efficiency.md)
    draws: PositiveInt = 10_000  # at most; fewer when every relative efficiency is known well enough
    tolerance: PositiveFloat = 0.005  # its Monte-Carlo standard error at which drawing stops
    # preferences by axis, as +weights.top1=2: adds the probability to be preferred
    weights: dict[str, NonNegativeFloat] = field(default_factory=dict)
    seed: NonNegativeInt = 0
    seconds: PositiveFloat = 150  # time budget for timing models here
    store: Path = Path("runs/measurements.sqlite")
    data_dir: Path | None = None  # folder of the public tables; None: OFA_FRONTIER_DATA, or ../shared/data
    out: Path | None = None  # folder; None: runs/rank-<table>-<time>


def declaration(options: Options) -> dict[str, Any]:
    """The node of the table: the user's own CSV and columns, or the chosen one."""
    if options.csv is None and options.columns is None:
        return options.table
    if options.csv is None or options.columns is None:
        raise ValueError(
            "csv= and columns= belong together: the table, and the YAML that declares its columns"
        )
    path = options.columns
    if not path.is_file():
        raise ValueError(f"no file {path}; columns= is a YAML file, see docs/efficiency.md")
    node = choices.read_yaml(path)
    if not isinstance(node, dict):
        raise ValueError(f"{path} must be a mapping with the keys model and axes")
    table = "search.ranking.model_table.Table"
    return {"title": options.csv.name, **node, "_target_": table, "file": str(options.csv)}


@command.named("rank")
def main(options: Options, config: dict[str, Any]) -> None:
    node = declaration(options)
    try:
        table = registry.build(node)
    except ValueError as error:
        raise ValueError(f"{options.columns}: {error}" if options.csv else str(error)) from error
    choice = HydraConfig.get().runtime.choices["table"]
    name = options.csv.stem if options.csv else choice
    out = command.run_folder(options.out, f"rank-{name}")
    with RunFolder(out, "ranking.csv").hold(config), Console().status("reading") as status:
        if isinstance(table, Torchvision):
            with Store(options.store) as store:
                models = table.models(store, seconds=options.seconds, watch=command.watcher(status))
        else:
            models = table.models()
        status.update(f"{len(models)} models: drawing frontiers")
        ranked = rank.rank(
            models,
            seed=options.seed,
            draws=options.draws,
            tolerance=options.tolerance,
            weights=options.weights,
        )
        artifact.write_text(out / "report.html", rank_report.render(ranked, table.title, table.note, config))
        rank_report.draw(ranked, table.title, out / "frontier.png")
        artifact.write_text(out / "ranking.csv", ranked.table().csv())
    read = {"measurements": options.csv} if options.csv else {}
    left = {"ranking": out / "ranking.csv", "report": out / "report.html"}
    run = watch.job("rank", name, out, config, read, left)
    best = ranked.models.names[int(ranked.main.order[0])]
    watch.report(options, run, ranked.table().rows(), {"models": len(ranked.models.names), "best": best})
    ranked.show()
    print("\n".join([*ranked.findings(), f"written to {out}: report.html, frontier.png, ranking.csv"]))
    # What one cares for most changes the order.
    given = {"csv": options.csv, "columns": options.columns} if options.csv else {"table": choice}
    folder = {"table.folder": options.table["folder"]} if choice == "search_run" else {}
    print(then("rank", **given, **folder, **{f"+weights.{ranked.models.axes[0].name}": 2}))
