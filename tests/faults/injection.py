"""Faults at every change of the disk: the few functions of `supernet.files` that make them are wrapped.

A fault is a kill (from then on nothing reaches the disk, whatever runs while the process ends), an error of
the system (a full disk stays full until the fault is taken away, other errors come once), or a clock that is
set forward or back by days.
"""

import errno
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from supernet.files import append_only, disk

KILL, FULL, JUMP = "kill", "ENOSPC", "jump"
KINDS = (KILL, FULL, "EIO", "EACCES", JUMP)
DAYS = 2 * 86400.0
# What each of them changes: functions of `disk`, whose first argument says where, and the rows of stores.
CHANGES = ("make_folder", "open_locked", "allocate", "append", "sync", "rename", "remove")
FREEING = ("remove",)  # works on a full disk
SQLITE = {
    FULL: "database or disk is full",
    "EIO": "disk I/O error",
    "EACCES": "attempt to write a readonly database",
}


class Killed(BaseException):
    """The process was killed here."""


@dataclass
class Fault:
    """At the change number `at` (from 1 on; 0: never) something of `kind` happens. `happened` says what was
    about to change, in order; `rows` counts those that stores took, by table."""

    kind: str = KILL
    at: int = 0
    happened: list[str] = field(default_factory=list)
    rows: dict[str, int] = field(default_factory=dict)
    room: bool = False  # a file that kept space was removed from a full disk
    unheld: list[str] = field(default_factory=list)  # files of the current folder that were not ours to write

    @property
    def struck(self) -> bool:
        return 0 < self.at <= len(self.happened)

    @property
    def shift(self) -> float:
        """Seconds that the clock is off: back at every other change."""
        return (DAYS if self.at % 2 else -DAYS) if self.kind == JUMP and self.struck else 0.0

    def before(self, change: str, what: Any) -> None:
        """Called before each change."""
        dead = self.struck and self.kind == KILL
        if not dead:
            name = getattr(what, "name", what)
            self.happened.append(f"{change} {Path(name).name if isinstance(name, str | Path) else ''}")
            self._look(change, what if isinstance(what, Path) else Path(str(name)))
        now = len(self.happened) == self.at
        if dead or (now and self.kind == KILL):
            raise Killed
        full = self.struck and self.kind == FULL
        if full and change == "remove" and str(what).endswith(f".spare{disk.ASIDE}"):
            self.room = True
        if full and self.room:
            self.room = change != "rename"  # of the file that needed the space
            return
        if (full and change not in FREEING) or (now and self.kind not in (FULL, JUMP)):
            if change == "insert":
                raise sqlite3.OperationalError(SQLITE[self.kind])
            raise OSError(getattr(errno, self.kind), os.strerror(getattr(errno, self.kind)), str(what))

    def _look(self, change: str, path: Path) -> None:
        path = path.with_name(path.name.removesuffix(disk.ASIDE)).absolute()
        writes = change in ("append", "allocate", "rename", "remove") and path.is_relative_to(Path.cwd())
        if writes and not disk.is_ours(path):
            self.unheld.append(f"{change} {path}")


def _is_none(change: str, what: Path) -> bool:
    """Whether nothing would change."""
    return (change == "make_folder" and what.is_dir()) or (change == "remove" and not what.exists())


@contextmanager
def injected(fault: Fault) -> Iterator[None]:
    """Inside the block the fault happens."""

    def wrapped(change: str) -> Any:
        function = getattr(disk, change)

        def call(what: Any, *rest: Any) -> Any:
            if not isinstance(what, Path) or not _is_none(change, what):
                fault.before(change, what)
            return function(what, *rest)

        return mock.patch.object(disk, change, call)

    def insert(database: Any, table: str, row: Any) -> int:
        fault.before("insert", table)
        count = add(database, table, row)
        fault.rows[table] = fault.rows.get(table, 0) + count
        return count

    def clock() -> float:
        return now() + fault.shift

    add, now, patches = append_only.insert, time.time, [wrapped(change) for change in CHANGES]
    patches.append(mock.patch.object(append_only, "insert", insert))
    patches.append(mock.patch.object(time, "time", clock))
    for patch in patches:
        patch.start()
    try:
        yield
    finally:
        for patch in patches:
            patch.stop()
