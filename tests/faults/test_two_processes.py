"""Two processes with one folder, started at once: one ends well, the other is refused in one line."""

import shutil

import pytest

from tests.e2e.commands import start
from tests.faults.commands import WRITING, prepare


@pytest.mark.slow
@pytest.mark.parametrize("name", ["search", "finetune", "rank"])
def test_one_wins_and_the_other_says_so(name, tmp_path):
    folder, writing = tmp_path / "both", WRITING[name]
    prepare(tmp_path)
    shutil.copytree(tmp_path, folder, ignore=shutil.ignore_patterns("both"))
    code, error = writing.run(tmp_path)
    assert code == 0, error
    both = [start(name, *writing.words, cwd=folder) for _ in range(2)]
    ends = sorted((process.communicate(timeout=300)[1].strip(), process.returncode) for process in both)
    assert sorted(code for _, code in ends) == [0, 1]
    (refusal,) = (error for error, code in ends if code)
    assert refusal.splitlines()[-1].startswith("error: ")
    assert "another process is running" in refusal or "holds a finished run" in refusal
    assert writing.left(folder) == writing.left(tmp_path)
