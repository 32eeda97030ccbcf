"""Measurements in one SQLite file that only grows.

Rows are never changed or deleted: triggers refuse it. Write-ahead logging lets several processes write and
read at once.
"""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BUSY_SECONDS = 30.0  # how long to wait for another process's write


class StoreError(ValueError):
    """The store cannot be used, or could not take everything; says where the measurements are."""


@dataclass(frozen=True)
class Database:
    """A file of append-only tables. `tables` gives the SQL of the columns of each."""

    path: Path
    content: str  # what it holds, for the messages: "measurement"
    tables: Mapping[str, str]

    def connect(self) -> sqlite3.Connection:
        """The open file, made when there is none; StoreError when it is something else."""
        with self._refused():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            database = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None)
            try:
                database.row_factory = sqlite3.Row
                database.execute("PRAGMA journal_mode=WAL")
                database.executescript(self._schema())
            except sqlite3.Error:
                database.close()
                raise
        return database

    @contextmanager
    def opened(self) -> Iterator[sqlite3.Connection]:
        """The file, open until the block is left."""
        with closing(self.connect()) as database, self._refused():
            yield database

    @contextmanager
    def _refused(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise StoreError(
                f"{self.path} cannot be used as the {self.content} store ({error}); left as it is, choose "
                "another store="
            ) from error

    def _schema(self) -> str:
        made = [f"CREATE TABLE IF NOT EXISTS {name} ({columns});" for name, columns in self.tables.items()]
        guards = [
            f"CREATE TRIGGER IF NOT EXISTS {name}_{verb} BEFORE {verb} ON {name} "
            f"BEGIN SELECT RAISE(ABORT, 'the {self.content} store only grows'); END;"
            for name in self.tables
            for verb in ("UPDATE", "DELETE")
        ]
        return "\n".join([*made, *guards])


def insert(database: sqlite3.Connection, table: str, row: Mapping[str, Any]) -> int:
    """Add a row unless its key is there already; returns how many rows were added."""
    names, marks = ", ".join(row), ", ".join(f":{name}" for name in row)
    return database.execute(f"INSERT OR IGNORE INTO {table} ({names}) VALUES ({marks})", row).rowcount
