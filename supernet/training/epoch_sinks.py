"""Where a training reports to, epoch by epoch: JSONL is the truth, W&B a copy, the bar is for the eyes."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

Row = Mapping[str, Any]


class EpochSink(Protocol):
    """Gets every epoch; `start` hands over the epochs before a resume, `close` is called in any case."""

    def start(self, facts: Mapping[str, Any], history: Sequence[Row]) -> None: ...
    def step(self, done: int, of: int, loss: float) -> None: ...
    def epoch(self, row: Row) -> None: ...
    def finish(self, summary: Mapping[str, Any]) -> None: ...
    def close(self) -> None: ...


class EpochJsonl:
    """One JSON object a line, appended, never rewritten.

    A resumed training appends a `start` with `epochs_before` = k: epochs from k on that stand above it were
    lost with the killed process and follow anew.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", buffering=1)

    def _write(self, event: str, fields: Mapping[str, Any]) -> None:
        self._file.write(json.dumps({"event": event, "unix_time": round(time.time(), 3), **fields}) + "\n")

    def start(self, facts: Mapping[str, Any], history: Sequence[Row]) -> None:
        self._write("start", {**facts, "epochs_before": len(history)})

    def step(self, done: int, of: int, loss: float) -> None:
        """Steps are too many for the record."""

    def epoch(self, row: Row) -> None:
        self._write("epoch", row)

    def finish(self, summary: Mapping[str, Any]) -> None:
        self._write("finish", summary)

    def close(self) -> None:
        self._file.close()


class EpochBar:
    """A progress line on the terminal: epochs, phase, loss, accuracy of the largest and smallest subnet."""

    def __init__(self, epochs: int) -> None:
        self._progress = Progress(
            TextColumn("{task.fields[phase]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}  val {task.fields[accuracy]}"),
            TimeElapsedColumn(),
        )
        self._task = self._progress.add_task("train", total=epochs, phase="train", loss="-", accuracy="-")
        self._done = 0

    def start(self, facts: Mapping[str, Any], history: Sequence[Row]) -> None:
        self._done = len(history)
        self._progress.start()
        self._progress.update(self._task, completed=self._done)

    def step(self, done: int, of: int, loss: float) -> None:
        self._progress.update(self._task, completed=self._done + done / of, loss=f"{loss:.3f}")

    def epoch(self, row: Row) -> None:
        self._done = int(row["epoch"]) + 1
        self._progress.update(self._task, completed=self._done, phase=row["phase"], loss=f"{row['loss']:.3f}")
        if "val_largest" in row:
            accuracy = f"{row['val_largest']:.3f} .. {row['val_smallest']:.3f}"
            self._progress.update(self._task, accuracy=accuracy)

    def finish(self, summary: Mapping[str, Any]) -> None:
        self._progress.refresh()

    def close(self) -> None:
        self._progress.stop()


class EpochWandb:
    """Weights & Biases: scalars per epoch. Offline needs no network."""

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
        for row in history:  # an offline run cannot be continued: a resumed one is a new run, whole curve
            self.epoch(row)

    def step(self, done: int, of: int, loss: float) -> None:
        """Epochs are enough."""

    def epoch(self, row: Row) -> None:
        self._run.log(dict(row))

    def finish(self, summary: Mapping[str, Any]) -> None:
        self._run.summary.update(dict(summary))

    def close(self) -> None:
        if self._run is not None:
            self._run.finish()
            self._run = None
