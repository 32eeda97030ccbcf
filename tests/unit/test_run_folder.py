"""The run folder: what it says, what it refuses, what goes on, and what it does not block."""

import errno
import json
import os
import subprocess
import sys
import types
from dataclasses import replace

import numpy as np
import pytest
import yaml

from latency.predictors.transfer import Transfer
from latency.target import Target
from latency.zoo import adaptation
from latency.zoo.adaptation import Adaptation
from search import problem
from search.run import Search
from search.searchers.nsga2 import NSGA2
from supernet.files import disk, run_folder
from supernet.files.run_folder import FinishedRun, RunFolder
from supernet.training.recipes import ProgressiveShrinking, Sandwich


def begun(path, config, **options):
    """A folder in which a run of these settings was killed at once."""
    code = "import os, sys; from pathlib import Path; from supernet.files.run_folder import RunFolder\n"
    code += f"with RunFolder(Path({str(path)!r}), 'result').hold({config!r}): os._exit(9)"
    subprocess.run([sys.executable, "-c", code], check=False)
    return RunFolder(path, "result", **options)


def test_settings_and_environment_are_kept(tmp_path):
    folder = RunFolder(tmp_path / "a", "result")
    with folder.hold({"seed": 1, "data": {"root": tmp_path}, "sides": (16, 32)}) as environment:
        (folder.path / "result").write_text("")
    assert run_folder.settings(folder.path) == {"seed": 1, "data": {"root": str(tmp_path)}, "sides": [16, 32]}
    assert json.loads((folder.path / "env.json").read_text()) == environment
    assert environment["packages"]["numpy"] == np.__version__
    with pytest.raises(FinishedRun, match="finished run, which is left alone"):
        folder.check({"seed": 1})


def test_where_there_is_no_fcntl_the_folder_is_locked_by_windows(tmp_path, monkeypatch):
    locked = []

    def locking(number, mode, size):
        if (mode, size, os.fstat(number).st_ino) in locked:
            raise PermissionError(errno.EACCES, "another process holds it")
        locked.append((mode, size, os.fstat(number).st_ino))

    windows = types.ModuleType("msvcrt")
    windows.locking, windows.LK_NBLCK = locking, 2
    monkeypatch.setitem(sys.modules, "msvcrt", windows)
    monkeypatch.setitem(sys.modules, "fcntl", None)  # importing it fails
    monkeypatch.setattr(disk, "sys", types.SimpleNamespace(platform="win32"))
    with disk.holding(tmp_path / "a"), pytest.raises(ValueError, match="another process is running"):
        disk.holding(tmp_path / "a").__enter__()
    assert [what[:2] for what in locked] == [(2, 1)]


def test_a_training_says_its_versions_and_commit(tmp_path, training):
    """As a search does: the packages, the commit and the machine."""
    training(tmp_path / "run", Sandwich(), images=64, epochs=2)
    kept = json.loads((tmp_path / "run" / "env.json").read_text())
    assert kept == run_folder.environment()
    assert {"torch", "numpy", "ofa-frontier"} <= kept["packages"].keys()
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    assert events[0]["environment"] == kept


def test_a_refused_training_does_not_block_the_corrected_one(tmp_path, training):
    with pytest.raises(ValueError, match="fewer than the"):
        training(tmp_path / "run", ProgressiveShrinking(), images=64, epochs=1)
    assert not (tmp_path / "run").exists()
    begun(tmp_path / "run", {"epochs": 1})
    training(tmp_path / "run", Sandwich(), images=64, epochs=2)


def test_a_search_that_found_nothing_does_not_block_the_corrected_one(tmp_path):
    def search(limits):
        asked, config = problem.build(["accuracy", "latency_ms"], limits=limits), {"limits": limits}
        whole = Search(asked, NSGA2(population=50), budget=300, seed=0, out=tmp_path / "run", config=config)
        return whole.run()

    with pytest.raises(ValueError, match="none of 300"):
        search({"latency_ms": 9.0, "accuracy": 0.78})
    assert len(search({}).front)


def test_what_was_saved_is_not_taken_over(tmp_path):
    folder = begun(tmp_path / "a", {"seed": 1, "searcher": {"population": 50}})
    folder.check({"seed": 2})
    (folder.path / "checkpoint").write_text("")
    folder.check({"seed": 1, "searcher": {"population": 50}, "out": "elsewhere"})
    with pytest.raises(ValueError, match=r"other settings \(searcher.population=50, now 100\)"):
        folder.check({"seed": 1, "searcher": {"population": 100}})


def test_files_of_others_are_never_taken_over(tmp_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"mine": 1}))
    folder = RunFolder(tmp_path, "result")
    with pytest.raises(ValueError, match="other settings"):
        folder.check({"seed": 1})
    (tmp_path / "config.yaml").rename(tmp_path / "notes.yaml")
    with pytest.raises(ValueError, match="holds other files and no run"):
        folder.check({"seed": 1})
    (tmp_path / "notes.yaml").rename(tmp_path / "result.part")
    folder.check({"seed": 1})
    assert os.listdir(tmp_path) == ["result.part"]


def test_a_kept_predictor_of_another_target_says_what_differs(tmp_path):
    target = Target(name="t", device="v100", space="ofa_mbv3_w1.0", engine="torch_eager")
    kept = tmp_path / "predictor.npz"
    Transfer().from_specification(target).save(kept)
    for changes, words in (
        ({"space": "ofa_mbv3_w1.2"}, r"\(space ofa_mbv3_w1.0, not ofa_mbv3_w1.2\)"),
        ({"batch": 4, "isa": "avx2"}, r"\(batch 1, not 4, isa None, not avx2\)"),
    ):
        with pytest.raises(ValueError, match=words):
            adaptation.for_run(replace(target, **changes), kept, Adaptation(), store=None)


def test_another_environment_is_said_when_a_run_goes_on(tmp_path):
    folder = begun(tmp_path / "a", {"seed": 1})
    path = folder.path / "env.json"
    kept = json.loads(path.read_text())
    kept["kernels"]["numpy"], kept["packages"]["numpy"] = "openblas 0.3 Prescott", "1.0"
    path.write_text(json.dumps(kept))
    with (
        pytest.warns(run_folder.OtherEnvironmentWarning, match=r"numpy 1.0, now .* Prescott, now"),
        folder.hold({"seed": 1}),
    ):
        (folder.path / "checkpoint").write_text("")
    with folder.hold({"seed": 1}):  # it has gone on here: no word about it
        (folder.path / "result").write_text("")


def test_what_a_killed_process_left_is_removed(tmp_path):
    """What it was writing, and what a finished run does not need."""
    folder = replace(begun(tmp_path / "a", {}), scratch=frozenset({"checkpoint"}))
    (folder.path / "checkpoint").write_text("")
    (folder.path / "config.yaml.part").write_text("half")
    with folder.hold({}):
        assert (folder.path / "checkpoint").exists()
    assert not list(folder.path.glob("*.part"))
    (folder.path / "result").write_text("")
    with pytest.raises(FinishedRun), folder.hold({}):
        pass
    assert not (folder.path / "checkpoint").exists()
