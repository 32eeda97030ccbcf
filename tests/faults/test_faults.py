"""A fault at a change of the disk loses nothing: the command says one line, and completes when repeated."""

import os
import random
import re
import shutil
import time
from pathlib import Path

import pytest

from supernet.files import disk
from tests.e2e.commands import call
from tests.faults.commands import WRITING, rows
from tests.faults.injection import JUMP, KILL, KINDS, Fault, Killed, injected

# all: a fault at every change, every: also at each row that is added to a store; else a sample of the day
PROOFS = os.environ.get("PROOFS")
ALL, EVERY = PROOFS in ("all", "every"), PROOFS == "every"
SEED = os.environ.get("PROOFS_SEED") or time.strftime("%Y-%m-%d")
SAMPLED = 4  # commands of a sample
# a process that is killed closes no file
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
SHARED = ("accuracy-data", "evaluate")  # several at once add to one store: each is right


def broken(name, folder, fault):
    """The command with a fault: that it says one line, and loses no row that was stored."""
    writing = WRITING[name]
    before = {store: rows(folder / store) for store in writing.stores}
    code, error = None, ""
    with injected(fault):
        try:
            code, error = writing.run(folder)
        except Killed:
            assert fault.kind == KILL
    assert not (code and fault.kind == JUMP), error
    if code:
        lines = error.strip().splitlines()
        assert len(lines) == 1, error
        assert lines[0].startswith("error: "), error
    stored = {store: rows(folder / store) for store in writing.stores}
    for store, tables in stored.items():
        for table, kept in tables.items():
            assert len(kept) == len(before[store].get(table, [])) + fault.rows.get(table, 0), table
    rescued = re.findall(r"import_csv=([^\s\"]+)", error)
    for file in rescued:
        code, _, failed = call("measure", f"import_csv={file}", "store=s.sqlite", cwd=folder)
        assert code == 0, failed
        (folder / file).unlink()
    return stored


def completed(name, folder, stored):
    """The same command again: it ends well, and what was stored is still there."""
    code, error = WRITING[name].run(folder)
    assert code == 0 or "holds a finished run" in error or "exists and is left alone" in error, error
    for store, tables in stored.items():
        after = rows(folder / store)
        for table, kept in tables.items():
            assert set(kept) <= set(after[table])
            assert len(set(after[table])) == len(after[table])
    return WRITING[name].left(folder)


def check(name, kind, at, inputs, folder, expected):
    shutil.copytree(inputs, folder)
    fault = Fault(kind, at)
    stored = broken(name, folder, fault)
    try:
        assert completed(name, folder, stored) == expected
    except (AssertionError, OSError, ValueError) as error:
        what = fault.happened[at - 1] if at <= len(fault.happened) else "nothing"
        raise AssertionError(f"{name}: {kind} at change {at} ({what}): {error}") from error


def cases(unbroken, name, kind):
    """The changes at which faults are made: all, of rows that are added to stores a dozen."""
    happened = unbroken(name)[1].happened
    inserts = [at for at, change in enumerate(happened, start=1) if change.startswith("insert")]
    step = 1 if EVERY else max(1, len(inserts) // 12)
    left_out = set(inserts) - set(inserts[::step])
    every = [at for at in range(1, len(happened) + 1) if at not in left_out]
    return every[:: len(every) // 6] if WRITING[name].slow else every


def refused(writing, inputs, folder):
    """Where another process has what a command writes, it says so in one line and changes nothing."""
    shutil.copytree(inputs, folder)
    named = dict(word.split("=", 1) for word in writing.words)
    out = named.get("out") or named["csv"]
    hold = disk.reserved if Path(out).suffix else disk.holding
    with hold(folder / out):
        before = sorted(folder.rglob("*"))
        code, error = writing.run(folder)
        assert code == 1, writing.name
        assert re.fullmatch(r"error: another process is .*; (choose|name) another .*\n", error), error
        assert sorted(folder.rglob("*")) == before


@pytest.mark.slow
def test_locks_and_a_sample_of_faults(inputs, unbroken, tmp_path):
    """In one test, because its supernet and tables take long to make."""
    quick = [name for name in sorted(WRITING) if not WRITING[name].slow]
    for name in quick:
        assert unbroken(name)[1].unheld == [], name
    for name in WRITING:
        if name not in SHARED:
            refused(WRITING[name], inputs, tmp_path / name)
    draw, chosen = random.Random(SEED), []
    for name in draw.sample(quick, SAMPLED):
        kind = draw.choice(KINDS)
        chosen.append((name, kind, draw.choice(cases(unbroken, name, kind))))
    print(f"PROOFS_SEED={SEED}: {chosen}")
    for number, (name, kind, at) in enumerate(chosen):
        check(name, kind, at, inputs, tmp_path / str(number), unbroken(name)[0])


@pytest.mark.slow
@pytest.mark.skipif(not ALL, reason="PROOFS=all tries every fault; a sample was tried")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", sorted(WRITING))
def test_every_fault(name, kind, inputs, unbroken, tmp_path):
    failures, tried = [], cases(unbroken, name, kind)
    for at in tried:
        try:
            check(name, kind, at, inputs, tmp_path / str(at), unbroken(name)[0])
        except AssertionError as error:
            failures.append(str(error))
        shutil.rmtree(tmp_path / str(at))
    print(f"{name}: {len(tried)} faults of {kind}, {len(failures)} not survived")
    assert not failures, "\n".join(failures)
