"""The measurement store: append-only, safe under several writers, nothing lost."""

import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace

import pytest

from latency.measuring import store as store_module
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
    writers = [context.Process(target=write_many, args=(path, 100)) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    with Store(path) as store:
        found = store.sittings(TARGET)
        assert [len(store.visits(one.id)) for one in found] == [100] * 4


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


def test_visits_at_the_same_time_by_a_coarse_clock_are_all_kept(tmp_path):
    """96 visits of 4 networks within a second of a clock that tells whole seconds."""
    path, mine = tmp_path / "s.sqlite", sitting()
    made = [visit(mine, 7.0, architecture=f"network {i % 4}", round=i // 4) for i in range(96)]
    with Store(path) as store:
        for one in made:
            store.add(mine, one)
        kept = store.visits(mine.id)
        assert sorted((v.architecture, v.round) for v in kept) == sorted(
            (v.architecture, v.round) for v in made
        )
        assert max(v.unix_time for v in kept) - 7.0 < 1e-9
        assert store.export_csv(tmp_path / "s.csv") == 96
    with Store(tmp_path / "t.sqlite") as store:
        assert store.import_csv(tmp_path / "s.csv") == 96


def test_the_order_of_visits_is_that_of_the_rounds_when_the_clock_is_set_back(tmp_path):
    with Store(tmp_path / "s.sqlite") as store:
        mine = sitting()
        for number, when in enumerate((50.0, 51.0, 20.0, 21.0)):
            store.add(mine, visit(mine, when, round=number))
        assert [v.round for v in store.visits(mine.id)] == [0, 1, 2, 3]


def test_databases_of_others_and_of_later_releases_are_left_alone(tmp_path):
    for name, statement, words in (
        ("browser", "CREATE TABLE moz_places (id INTEGER)", "it has a table moz_places"),
        ("other", "CREATE TABLE visits (id INTEGER, url TEXT)", "it has a table visits"),
        ("later", "PRAGMA user_version = 99", "has version 99"),
    ):
        path = tmp_path / f"{name}.sqlite"
        with closing(sqlite3.connect(path)) as database:
            database.execute(statement)
        before = path.read_bytes()
        for opened in (Store, Store.to_read):
            with pytest.raises(StoreError, match=f"{words}.*left as it is"):
                opened(path)
        assert path.read_bytes() == before


def test_an_older_file_is_brought_up_to_date_once(tmp_path):
    path = tmp_path / "s.sqlite"
    first = append_only.Database(path, "measurement", {"a": "x INTEGER"})
    with first.opened() as database:
        append_only.insert(database, "a", {"x": 1})
    upgrades = ("", "ALTER TABLE a ADD COLUMN y INTEGER")
    second = append_only.Database(path, "measurement", {"a": "x INTEGER, y INTEGER"}, upgrades)
    for _ in range(2):
        with second.opened() as database:
            assert [tuple(row) for row in database.execute("SELECT x, y FROM a")] == [(1, None)]
            assert database.execute("PRAGMA user_version").fetchone()[0] == 2
    with pytest.raises(StoreError, match="has version 2, this release reads 1"):
        first.connect()


def test_a_store_that_cannot_be_written_is_exported(tmp_path):
    """Also where the folder takes no files; nothing is added to it."""
    write_many(tmp_path / "s.sqlite", 3)
    folder = tmp_path / "read_only"
    folder.mkdir()
    (tmp_path / "s.sqlite").rename(folder / "s.sqlite")
    before = (folder / "s.sqlite").read_bytes()
    folder.chmod(0o555)
    try:
        with Store.to_read(folder / "s.sqlite") as store:
            assert store.export_csv(tmp_path / "s.csv") == 3
        assert (folder / "s.sqlite").read_bytes() == before
    finally:
        folder.chmod(0o755)
    with pytest.raises(StoreError, match="no measurement store"):
        Store.to_read(tmp_path / "absent.sqlite")


def test_every_rescue_file_is_named_and_a_half_line_does_not_spoil_it(tmp_path, monkeypatch):
    monkeypatch.setattr(append_only, "BUSY_SECONDS", 0.05)
    path, (first, second) = tmp_path / "s.sqlite", (sitting(), sitting())
    Store(path).__exit__(None, None, None)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        store = Store(path)
        other.execute("BEGIN IMMEDIATE")
        store.add(first, visit(first, error="two\nlines"))
        (half,) = tmp_path.glob("s-*.csv")
        half.write_text(half.read_text() + "cut off,")  # by a kill
        store.add(first, visit(first, 2.0))
        store.add(second, visit(second))
        other.execute("ROLLBACK")
    with pytest.raises(StoreError, match="the rest is kept") as caught:
        store.__exit__(None, None, None)
    files = list(tmp_path.glob("s-*.csv"))
    assert len(files) == 2
    with Store(path) as store:
        assert [f"import_csv={file} store={path}" in str(caught.value) for file in files] == [True, True]
        assert sum(store.import_csv(file) for file in files) == 3
        assert [v.error for v in store.visits(first.id)] == ["two lines", None]


def test_a_rescued_visit_keeps_its_place_beside_those_of_the_same_second(tmp_path, monkeypatch):
    monkeypatch.setattr(append_only, "BUSY_SECONDS", 0.05)
    path, mine = tmp_path / "s.sqlite", sitting()
    made = [visit(mine, 7.0, round=number) for number in range(6)]
    store = Store(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        for number, one in enumerate(made):
            if number in (2, 3):
                other.execute("BEGIN IMMEDIATE")
            store.add(mine, one)
            if number in (2, 3):
                other.execute("ROLLBACK")
    with pytest.raises(StoreError, match="the rest is kept"):
        store.__exit__(None, None, None)
    (rescued,) = tmp_path.glob("s-*.csv")
    with Store(path) as store:
        assert store.import_csv(rescued) == 2
        assert store.import_csv(rescued) == 0
        assert sorted(one.round for one in store.visits(mine.id)) == [*range(6)]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00\x01\x02",
        b"\xff\xfe\xff",
        b"a,b\n1,2\n",
        b"sitting_id,sitting_unix_time\n",
        (",".join(store_module.COLUMNS) + "\n" + "1," * 14 + "1\n").encode(),
        (",".join(store_module.COLUMNS) + "\n" + "x," * 3 + "[1],{}" + ",y" * 10 + "\n").encode(),
    ],
)
def test_garbage_is_no_export(tmp_path, content):
    (tmp_path / "x.csv").write_bytes(content)
    with Store(tmp_path / "t.sqlite") as store:
        with pytest.raises(StoreError, match=r"x\.csv is no export .*; nothing was added") as caught:
            store.import_csv(tmp_path / "x.csv")
        assert "\n" not in str(caught.value)
        assert store.sittings() == []


def test_a_damaged_store_is_one_line(tmp_path):
    write_many(tmp_path / "s.sqlite", 300)
    content = bytearray((tmp_path / "s.sqlite").read_bytes())
    content[4096:] = bytes(len(content) - 4096)
    (tmp_path / "s.sqlite").write_bytes(content)
    with pytest.raises(StoreError, match="left as it is"), Store(tmp_path / "s.sqlite") as store:
        store.export_csv(tmp_path / "x.csv")
