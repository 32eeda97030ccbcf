"""The measurement store: append-only, safe under several writers, nothing lost."""

import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from latency.measuring.store import Sitting, Store, Visit
from latency.target import Target
from supernet.files import append_only
from supernet.files.append_only import StoreError

TARGET = Target(name="t", device="v100", space="ofa_mbv3_w1.0", engine="torch_eager", threads=1)


def sitting():
    return Sitting.begin(TARGET, "torch 2", {"load": [0.1]})


def visit(of, when=1.0, **changes):
    base = Visit(of.id, when, "ofa_mbv3_w1.0 r160 x", "candidate", 1, 1, (1.0, 1.1), (0.9, 1.0), 0.25)
    return replace(base, **changes)


def write_many(path, count):
    with Store(path) as store:
        mine = sitting()
        for i in range(count):
            store.add(mine, visit(mine, float(i)))


def test_what_is_added_comes_back(tmp_path):
    mine = sitting()
    with Store(tmp_path / "s.sqlite") as store:
        store.add(mine, visit(mine))
        store.add(mine, visit(mine, 2.0, error="it broke", wall_ms=(), cpu_ms=(), others=None))
    with Store(tmp_path / "s.sqlite") as store:
        assert store.sittings(TARGET) == [mine]
        assert store.sittings(TARGET, "torch 3") == []
        assert store.sittings(replace(TARGET, batch=8)) == []
        assert store.visits(mine.id) == [
            visit(mine),
            visit(mine, 2.0, error="it broke", wall_ms=(), cpu_ms=(), others=None),
        ]


def test_rows_can_neither_be_changed_nor_deleted(tmp_path):
    write_many(tmp_path / "s.sqlite", 1)
    database = sqlite3.connect(tmp_path / "s.sqlite")
    for command in ("DELETE FROM visits", "UPDATE visits SET round = 2", "DELETE FROM sittings"):
        with pytest.raises(sqlite3.IntegrityError, match="only grows"):
            database.execute(command)
    database.close()


def test_a_file_of_release_0_1_is_read_and_grows(tmp_path):
    """Its tables, and its triggers with other words, as release 0.1 made them."""
    path, mine = tmp_path / "s.sqlite", sitting()
    database = sqlite3.connect(path)
    database.executescript(
        "CREATE TABLE sittings (id TEXT PRIMARY KEY, unix_time REAL NOT NULL, engine_version TEXT NOT NULL, "
        "target TEXT NOT NULL, facts TEXT NOT NULL);"
        "CREATE TABLE visits (sitting TEXT NOT NULL REFERENCES sittings(id), unix_time REAL NOT NULL, "
        "architecture TEXT NOT NULL, role TEXT NOT NULL, block INTEGER NOT NULL, round INTEGER NOT NULL, "
        "wall_ms TEXT NOT NULL, cpu_ms TEXT NOT NULL, others REAL, error TEXT, "
        "PRIMARY KEY (sitting, unix_time, architecture));"
        "CREATE TRIGGER visits_DELETE BEFORE DELETE ON visits BEGIN SELECT RAISE(ABORT, 'old words'); END;"
    )
    append_only.insert(database, "sittings", mine.row())
    append_only.insert(database, "visits", visit(mine).row())
    database.commit()
    database.close()
    with Store(path) as store:
        store.add(mine, visit(mine, 2.0))
        assert store.sittings() == [mine]
        assert store.visits(mine.id) == [visit(mine), visit(mine, 2.0)]


def test_several_writers_lose_nothing(tmp_path):
    path = tmp_path / "s.sqlite"
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_many, args=(path, 100)) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    with Store(path) as store:
        found = store.sittings(TARGET)
        assert [len(store.visits(one.id)) for one in found] == [100, 100, 100]


def test_csv_goes_out_and_comes_back_once(tmp_path):
    write_many(tmp_path / "a.sqlite", 5)
    with Store(tmp_path / "a.sqlite") as store:
        assert store.export_csv(tmp_path / "a.csv") == 5
        before = [store.visits(one.id) for one in store.sittings(TARGET)]
    with Store(tmp_path / "b.sqlite") as store:
        assert store.import_csv(tmp_path / "a.csv") == 5
        assert store.import_csv(tmp_path / "a.csv") == 0
        assert [store.visits(one.id) for one in store.sittings(TARGET)] == before


def test_a_locked_store_loses_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(append_only, "BUSY_SECONDS", 0.05)
    path, mine = tmp_path / "s.sqlite", sitting()
    Store(path).__exit__(None, None, None)
    other = sqlite3.connect(path, isolation_level=None)
    store = Store(path)
    other.execute("BEGIN IMMEDIATE")
    store.add(mine, visit(mine))
    store.add(mine, visit(mine, 2.0))
    other.execute("ROLLBACK")
    store.add(mine, visit(mine, 3.0))
    other.close()
    with pytest.raises(StoreError, match="import_csv=") as caught:
        store.__exit__(None, None, None)
    rescued = next(tmp_path.glob("s-*.csv"))
    assert str(rescued) in str(caught.value)
    with Store(path) as store:
        assert [v.unix_time for v in store.visits(mine.id)] == [3.0]
        assert store.import_csv(rescued) == 2
        assert [v.unix_time for v in store.visits(mine.id)] == [1.0, 2.0, 3.0]


def test_foreign_files_are_refused_and_left_alone(tmp_path):
    path = tmp_path / "s.sqlite"
    path.write_text("no database at all, but text that is long enough to have a header" * 20)
    with pytest.raises(StoreError, match="left as it is"):
        Store(path)
    assert path.read_text().startswith("no database")
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    with Store(tmp_path / "t.sqlite") as store:
        with pytest.raises(StoreError, match="no export"):
            store.import_csv(tmp_path / "x.csv")
        with pytest.raises(StoreError, match="no file"):
            store.import_csv(tmp_path / "y.csv")


ENDLESS = """
import sys, time
from latency.measuring.store import Store
from tests.unit.test_store import sitting, visit
with Store(sys.argv[1]) as store:
    mine = sitting()
    for i in range(10**6):
        print(i, flush=True)
        store.add(mine, visit(mine, float(i)))
"""


def test_a_kill_loses_at_most_the_visit_in_flight(tmp_path):
    path = tmp_path / "s.sqlite"
    process = subprocess.Popen(
        [sys.executable, "-c", ENDLESS, str(path)], stdout=subprocess.PIPE, text=True, cwd=os.getcwd()
    )
    assert process.stdout is not None
    begun = []
    end = time.time() + 30
    while len(begun) < 50 and time.time() < end:
        begun.append(int(process.stdout.readline()))
    process.send_signal(signal.SIGKILL)
    begun += [int(line) for line in process.stdout.read().split()]
    process.stdout.close()
    process.wait()
    with Store(path) as store:
        (one,) = store.sittings(TARGET)
        kept = [int(v.unix_time) for v in store.visits(one.id)]
    assert kept == list(range(len(kept)))
    assert len(kept) >= len(begun) - 1
