"""Two processes with one folder, started at once: one ends well, the other is refused in one line."""

import shutil

import pytest

from tests.e2e.commands import start
from tests.faults.commands import WRITING, prepare


@pytest.mark.slow
def test_one_wins_and_the_other_says_so(tmp_path):
    prepare(inputs := tmp_path / "inputs")
    for name in ("search", "finetune"):
        shutil.copytree(inputs, tmp_path / f"{name} alone")
        shutil.copytree(inputs, tmp_path / f"{name} twice")
        raced(WRITING[name], tmp_path / f"{name} alone", tmp_path / f"{name} twice")


def raced(writing, alone, folder):
    code, error = writing.run(alone)
    assert code == 0, error
    both = [start(writing.name, *writing.words, cwd=folder) for _ in range(2)]
    ends = sorted((process.communicate(timeout=300)[1].strip(), process.returncode) for process in both)
    assert sorted(code for _, code in ends) == [0, 1]
    (refusal,) = (error for error, code in ends if code)
    assert refusal.splitlines()[-1].startswith("error: ")
    assert "another process is running" in refusal or "holds a finished run" in refusal
    assert writing.left(folder) == writing.left(alone)
