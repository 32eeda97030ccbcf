"""Rank models by the random Pareto frontier: `make rank`, `make rank ARGS="csv=my.csv columns=my.yaml"`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from rich.console import Console

from latency.measuring.store import Store
from search import command
from search.ranking import rank
from search.ranking.timed_models import Torchvision
from search.report import rank_report
from supernet import registry
from supernet.files import artifact
from supernet.files.run_folder import RunFolder

OWN = "search.ranking.model_table.Table"


def declaration(config: dict[str, Any]) -> dict[str, Any]:
    """The node of the table: the user's own CSV and columns, or the chosen one."""
    if config["csv"] is None and config["columns"] is None:
        return config["table"]
    if config["csv"] is None or config["columns"] is None:
        raise ValueError(
            "csv= and columns= belong together: the table, and the YAML that declares its columns"
        )
    path = Path(config["columns"])
    if not path.is_file():
        raise ValueError(f"no file {path}; columns= is a YAML file, see docs/efficiency.md")
    node = yaml.safe_load(path.read_text())
    if not isinstance(node, dict):
        raise ValueError(f"{path} must be a mapping with the keys model and axes")
    return {"_target_": OWN, "title": Path(config["csv"]).name, **node, "file": config["csv"]}


def task(config: dict[str, Any]) -> None:
    table = registry.build(declaration(config))
    name = Path(config["csv"]).stem if config["csv"] else HydraConfig.get().runtime.choices["table"]
    out = command.run_folder(config["out"], f"rank-{name}")
    with RunFolder(out, "ranking.csv").hold(config), Console().status("reading") as status:
        if isinstance(table, Torchvision):
            with Store(config["store"]) as store:
                models = table.models(store, seconds=config["seconds"], watch=command.watcher(status))
        else:
            models = table.models()
        status.update(f"{len(models)} models: drawing frontiers")
        options = {key: config[key] for key in ("seed", "draws", "tolerance", "weights")}
        found = rank.rank(models, **options)
        artifact.write_text(out / "report.html", rank_report.render(found, table.title, table.note, config))
        rank_report.draw(found, table.title, out / "frontier.png")
        artifact.write_text(out / "ranking.csv", found.table().csv())
    found.show()
    print("\n".join([*found.findings(), f"written to {out}: report.html, frontier.png, ranking.csv"]))


def main() -> None:
    command.run("rank", task)
