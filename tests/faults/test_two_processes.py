"""Commands that run at once, in one folder or on one store: one ends well and the other is refused in one
line, or both are right. No row of a store is lost."""

import multiprocessing
import random
import re
import shutil
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import pytest

from search.cli import help
from supernet.files import tables
from tests.faults.commands import WRITING, rows
from tests.faults.injection import Fault, injected
from tests.faults.test_faults import ALL, SAMPLED, SEED, SHARED

REFUSED = r"error: .*(another process is|holds a finished run|exists and is left alone).*"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pool():
    """Processes that have imported what the commands need; each runs one of them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.faults.commands", *help.modules().values()])
    with ProcessPoolExecutor(4, context, max_tasks_per_child=1) as processes:
        yield processes


def at_once(pool, folder, commands, apart=0.0):
    """[(exit code, standard error, {table: rows added})] of (name, words) that start so far apart."""
    begin = time.time() + 0.3
    tasks = [(name, words, folder, begin + i * apart) for i, (name, words) in enumerate(commands)]
    return list(pool.map(run_at, *zip(*tasks, strict=True)))


def run_at(name, words, folder, begin):
    time.sleep(max(0.0, begin - time.time()))
    fault = Fault()
    with injected(fault):
        code, error = replace(WRITING[name], words=words).run(folder)
    return code, error, fault.rows


def nothing_lost(folder, store, before, ends):
    """Each row that a process has added is there, once."""
    after = rows(folder / store)
    for table, kept in after.items():
        added = sum(inserted.get(table, 0) for _, _, inserted in ends)
        assert len(set(kept)) == len(kept) == len(before.get(table, [])) + added, (store, table)


@pytest.fixture
def raced(pool, inputs, unbroken, tmp_path):
    """`raced(name, apart)`: the same command twice in one folder."""

    def race(name, apart):
        writing, folder = WRITING[name], tmp_path / name
        shutil.copytree(inputs, folder)
        before = {store: rows(folder / store) for store in writing.stores}
        ends = at_once(pool, folder, [(name, writing.words)] * 2, apart)
        errors = [error.strip() for code, error, _ in ends if code]
        assert len(errors) <= (name not in SHARED), errors
        for error in errors:
            assert re.fullmatch(REFUSED, error), error
        for store, kept in before.items():
            nothing_lost(folder, store, kept, ends)
        assert writing.left(folder) == unbroken(name)[0]
        shutil.rmtree(folder)
        return f"{name}: " + (errors[0] if errors else "both are right")

    return race


def test_a_folder_is_of_one_process(raced):
    """All commands with PROOFS=all, else a sample of the day."""
    draw = random.Random(SEED)
    quick = [name for name in sorted(WRITING) if not WRITING[name].slow]
    for name in quick if ALL else draw.sample(quick, SAMPLED):
        for apart in (0.0, 0.5) if ALL else (draw.choice((0.0, 0.2, 0.5)),):
            print(raced(name, apart))


def test_four_commands_add_to_one_store(pool, inputs, tmp_path):
    shutil.copytree(inputs, folder := tmp_path / "here")
    commands = [
        (name, tuple(f"out={name}" if word == "out=run" else word for word in WRITING[name].words))
        for name in ("search here", "adapt", "measure", "modules")
    ]
    ends = at_once(pool, folder, commands)
    assert [code for code, _, _ in ends] == [0] * 4, ends
    nothing_lost(folder, "s.sqlite", {}, ends)


def test_the_table_of_a_supernet_has_what_all_processes_measured(pool, inputs, tmp_path):
    shutil.copytree(inputs, folder := tmp_path / "here")
    before = rows(folder / "net" / "accuracies.sqlite")
    commands = [("accuracy-data", ("supernet=net", "subnets=4", f"seed={seed}")) for seed in range(4)]
    ends = at_once(pool, folder, commands)
    assert [code for code, _, _ in ends] == [0] * 4, ends
    nothing_lost(folder, "net/accuracies.sqlite", before, ends)
    listed = tables.read_columns(folder / "net" / "accuracies-val.csv")["architecture"]
    stored = [row[1] for row in rows(folder / "net" / "accuracies.sqlite")["accuracies"]]
    assert set(listed) == set(stored)
