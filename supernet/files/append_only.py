"""Measurements in one SQLite file that only grows.

Rows are never changed or deleted: triggers refuse it. Write-ahead logging lets several processes write and
read at once. A file says which version of its tables it has; files of earlier versions are brought up to date
when they are opened to write, those of later ones and databases of other programs are refused.
"""

import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from supernet.files import disk

BUSY_SECONDS = 30.0  # how long to wait for another process's write


class StoreError(ValueError):
    """The store cannot be used, or could not take everything; says where the measurements are."""


@dataclass(frozen=True)
class Database:
    """A file of append-only tables. `tables` gives the SQL of the columns of each; `upgrades[v]` is the SQL
    that makes version v + 1 of version v."""

    path: Path
    content: str  # what it holds, for the messages: "measurement"
    tables: Mapping[str, str]
    upgrades: Sequence[str] = ("",)  # release 0.1 numbered no files: they are version 0

    @property
    def version(self) -> int:
        return len(self.upgrades)

    def connect(self) -> sqlite3.Connection:
        """The open file, made when there is none; StoreError when it is something else."""
        with self._refused():
            disk.make_folder(self.path.parent)
            database = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None)
            try:
                self._check(database)
                _patiently(database, "PRAGMA journal_mode=WAL")
                if self._version(database) < self.version or self._columns(database) != self._own:
                    self._upgrade(database)
            except BaseException:
                database.close()
                raise
        return database

    def connect_to_read(self) -> sqlite3.Connection:
        """The open file, which stays as it is, also on a disk that cannot be written; StoreError where there
        is none, and for something else."""
        if not self.path.is_file():
            raise StoreError(f"no {self.content} store {self.path}: name one with store=")
        with self._refused():
            address, wal = self.path.resolve().as_uri(), self.path.with_name(self.path.name + "-wal")
            # Without a log nothing can change where the files that readers share cannot be made.
            for how in ("mode=ro", *([] if wal.exists() else ["mode=ro&immutable=1"])):
                database = sqlite3.connect(f"{address}?{how}", uri=True, timeout=BUSY_SECONDS)
                try:
                    self._check(database)
                    return database
                except sqlite3.OperationalError as error:
                    database.close()
                    reason = error
                except BaseException:
                    database.close()
                    raise
            raise reason

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

    def _check(self, database: sqlite3.Connection) -> None:
        """StoreError for a database of another program, of another store, or of a later release."""
        database.row_factory = sqlite3.Row
        database.execute("PRAGMA trusted_schema=OFF")  # nothing that the file says is executed
        tables, version = self._columns(database), self._version(database)
        foreign = [name for name, columns in tables.items() if self._own.get(name) != columns]
        left = "left as it is, choose another store="
        if version > self.version:
            raise StoreError(f"{self.path} has version {version}, this release reads {self.version}; {left}")
        if foreign and not any(self.upgrades[version:]):
            raise StoreError(f"{self.path} is no {self.content} store: it has a table {foreign[0]}; {left}")

    @cached_property
    def _own(self) -> dict[str, list[str]]:
        """{table: columns} of a file of this release."""
        with closing(sqlite3.connect(":memory:")) as database:
            database.executescript(self._schema())
            return self._columns(database)

    def _columns(self, database: sqlite3.Connection) -> dict[str, list[str]]:
        """{table: columns} of a file."""
        query = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
        names = [str(row[0]) for row in database.execute(query)]
        columns = "SELECT name FROM pragma_table_info(?) ORDER BY cid"
        return {name: [str(row[0]) for row in database.execute(columns, (name,))] for name in names}

    def _version(self, database: sqlite3.Connection) -> int:
        return int(database.execute("PRAGMA user_version").fetchone()[0])

    def _upgrade(self, database: sqlite3.Connection) -> None:
        """Make the tables, or bring them up to date, all or nothing."""
        _patiently(database, "BEGIN IMMEDIATE")
        try:
            if self._columns(database):
                for statement in "".join(self.upgrades[self._version(database) :]).split(";"):
                    database.execute(statement)
            for statement in self._statements():
                database.execute(statement)
            database.execute(f"PRAGMA user_version = {self.version}")
            database.execute("COMMIT")
        except BaseException:
            database.execute("ROLLBACK")
            raise

    def _statements(self) -> list[str]:
        made = [f"CREATE TABLE IF NOT EXISTS {name} ({columns})" for name, columns in self.tables.items()]
        guards = [
            f"CREATE TRIGGER IF NOT EXISTS {name}_{verb} BEFORE {verb} ON {name} "
            f"BEGIN SELECT RAISE(ABORT, 'the {self.content} store only grows'); END"
            for name in self.tables
            for verb in ("UPDATE", "DELETE")
        ]
        return [*made, *guards]

    def _schema(self) -> str:
        return ";\n".join(self._statements())


def _patiently(database: sqlite3.Connection, statement: str) -> None:
    """Execute what fails at once, whatever the time-out, while another process opens the same new file."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            database.execute(statement)
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() >= deadline:
                raise
            time.sleep(0.02)


def insert(database: sqlite3.Connection, table: str, row: Mapping[str, Any]) -> int:
    """Add a row unless its key is there already; returns how many rows were added."""
    names, marks = ", ".join(row), ", ".join(f":{name}" for name in row)
    return database.execute(f"INSERT OR IGNORE INTO {table} ({names}) VALUES ({marks})", row).rowcount
