"""Where a search or a training reports to, round by round.

JSON lines are the truth, loggers have a copy of them, the progress bar is for the eyes. A round is a
generation of a search or an epoch of a training.
"""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from supernet.files import disk

Row = Mapping[str, Any]


class Front(Protocol):
    """What a search found: columns by name, those of `objectives` can be drawn; the rows of the knee, of the
    most accurate member and of those that stand for all."""

    @property
    def columns(self) -> Mapping[str, Sequence[Any]]: ...
    @property
    def objectives(self) -> tuple[str, ...]: ...
    @property
    def knee(self) -> int: ...
    @property
    def best(self) -> int: ...
    def shortlist(self) -> list[int]: ...
    def rows(self) -> list[dict[str, Any]]: ...


class Sink(Protocol):
    """Gets every round and, once, the summary and the front of a search.

    `start` hands over the rounds before a resume, `step` tells how much of a long round is done, and `close`
    is called in any case.
    """

    def start(self, facts: Mapping[str, Any], history: Sequence[Row]) -> None: ...
    def step(self, done: int, of: int, loss: float) -> None: ...
    def log(self, row: Row) -> None: ...
    def finish(self, summary: Mapping[str, Any], front: Front | None = None) -> None: ...
    def close(self) -> None: ...


class Jsonl:
    """One JSON object a line, appended, never rewritten; `unit` is generation or epoch.

    A resumed run appends a `start` with `generations_before` (`epochs_before`) = k: rounds from k on that
    stand above it were lost with the killed process and follow anew.
    """

    def __init__(self, path: Path, unit: Literal["generation", "epoch"]) -> None:
        self._file, self._unit = disk.appending(path), unit

    def _write(self, event: str, fields: Mapping[str, Any]) -> None:
        line = {"event": event, "unix_time": round(time.time(), 3), **fields}
        disk.append(self._file, json.dumps(line) + "\n")

    def start(self, facts: Mapping[str, Any], history: Sequence[Row]) -> None:
        self._write("start", {**facts, f"{self._unit}s_before": len(history)})

    def step(self, done: int, of: int, loss: float) -> None:
        """Steps are too many for the record."""

    def log(self, row: Row) -> None:
        self._write(self._unit, row)

    def finish(self, summary: Mapping[str, Any], front: Front | None = None) -> None:
        self._write("finish", summary)

    def close(self) -> None:
        self._file.close()


class Bar:
    """A progress line on the terminal.

    `shown` gives the text for a field of a round, by its name; a field that a round lacks keeps its last
    value. Progress is the field `counted`, or the number of rounds.
    """

    def __init__(self, title: str, total: int, shown: Mapping[str, str], counted: str | None = None) -> None:
        self._shown, self._counted = shown, counted
        self._values: dict[str, Any] = {}
        self._rounds = 0
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        self._progress = Progress(*columns, TextColumn("{task.fields[said]}"), TimeElapsedColumn())
        self._task = self._progress.add_task(title, total=total, said="")

    def _update(self, completed: float) -> None:
        said = "  ".join(t.format(self._values[key]) for key, t in self._shown.items() if key in self._values)
        self._progress.update(self._task, completed=completed, said=said)

    def start(self, facts: Mapping[str, Any], history: Sequence[Row]) -> None:
        self._progress.start()
        for row in history:
            self.log(row)

    def step(self, done: int, of: int, loss: float) -> None:
        self._values["loss"] = loss
        self._update(self._rounds + done / of)

    def log(self, row: Row) -> None:
        self._rounds += 1
        self._values |= row
        self._update(row[self._counted] if self._counted else self._rounds)

    def finish(self, summary: Mapping[str, Any], front: Front | None = None) -> None:
        self._progress.refresh()

    def close(self) -> None:
        self._progress.stop()
