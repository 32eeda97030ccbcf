"""Sinks: where a run reports to. JSONL is the truth, W&B a copy of it, the progress bar is for the eyes."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from search.front import FrontTable

Row = Mapping[str, float]
WANDB_ROWS = 1000  # of the front in its table


class Sink(Protocol):
    """Gets every generation and, once, the front.

    `start` hands over the generations before a resume; `close` is called in any case.
    """

    def start(self, facts: Mapping[str, Any], history: Sequence[Row]) -> None: ...
    def generation(self, row: Row) -> None: ...
    def finish(self, summary: Mapping[str, Any], front: FrontTable) -> None: ...
    def close(self) -> None: ...


class Jsonl:
    """One JSON object a line, appended, never rewritten.

    A resumed run appends a `start` with `generations_before` = k: generations from k on that stand above it
    were lost with the killed process and follow anew.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", buffering=1)

    def _write(self, event: str, fields: Mapping[str, Any]) -> None:
        self._file.write(json.dumps({"event": event, "unix_time": round(time.time(), 3), **fields}) + "\n")

    def start(self, facts: Mapping[str, Any], history: Sequence[Row]) -> None:
        self._write("start", facts)

    def generation(self, row: Row) -> None:
        self._write("generation", row)

    def finish(self, summary: Mapping[str, Any], front: FrontTable) -> None:
        self._write("finish", summary)

    def close(self) -> None:
        self._file.close()


class Bar:
    """A progress line on the terminal: evaluations, size of the front, hypervolume."""

    def __init__(self, budget: int) -> None:
        self._progress = Progress(
            TextColumn("search"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("front {task.fields[front]}  hypervolume {task.fields[hypervolume]:.4f}"),
            TimeElapsedColumn(),
        )
        self._task = self._progress.add_task("search", total=budget, front=0, hypervolume=0.0)

    def start(self, facts: Mapping[str, Any], history: Sequence[Row]) -> None:
        self._progress.start()

    def generation(self, row: Row) -> None:
        self._progress.update(
            self._task,
            completed=row["evaluations"],
            front=int(row["front_size"]),
            hypervolume=row["hypervolume"],
        )

    def finish(self, summary: Mapping[str, Any], front: FrontTable) -> None:
        self._progress.refresh()

    def close(self) -> None:
        self._progress.stop()


class Wandb:
    """Weights & Biases: scalars per generation, the front as a table and a scatter plot.

    Offline needs no network.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], mode: Literal["offline", "online"]) -> None:
        self._folder, self._config, self._mode = folder, config, mode
        self._run: Any = None

    def start(self, facts: Mapping[str, Any], history: Sequence[Row]) -> None:
        import wandb

        self._run = wandb.init(
            project="ofa-frontier",
            name=self._folder.name,
            dir=str(self._folder),
            config=dict(self._config),
            mode=self._mode,
            reinit="finish_previous",
            settings=wandb.Settings(console="off", silent=True, x_disable_stats=True),
        )
        for (
            row
        ) in history:  # an offline run cannot be continued: a resumed one is a new run with the whole curve
            self.generation(row)

    def generation(self, row: Row) -> None:
        self._run.log(dict(row))

    def finish(self, summary: Mapping[str, Any], front: FrontTable) -> None:
        import wandb

        step = max(1, -(-len(front) // WANDB_ROWS))
        rows = front.rows()[::step]
        table = wandb.Table(columns=list(front.columns), data=[list(row.values()) for row in rows])
        y, x = front.objectives[:2] if len(front.objectives) > 1 else front.objectives * 2
        self._run.log({"front": table, "front_plot": wandb.plot.scatter(table, x, y, title="Pareto front")})
        self._run.summary.update(dict(summary))

    def close(self) -> None:
        if self._run is not None:
            self._run.finish()
            self._run = None
