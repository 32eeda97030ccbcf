"""What the machine cannot do is one line too, with what was noted on its way."""

import errno
import importlib
import os

import pytest
import yaml

from tests.e2e.commands import call

SCORE = importlib.import_module("search.commands.judging.score")


def damaged():
    try:
        yaml.safe_load("a: [")
    except yaml.YAMLError as error:
        return error


def noted(error, note):
    error.add_note(note)
    return error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "x.npz"),
            "x.npz: No space left on device; what is ",
        ),
        (PermissionError(errno.EACCES, os.strerror(errno.EACCES), "x"), "x: Permission denied"),
        (OSError("the line went dead"), "the line went dead"),
        (MemoryError("Unable to allocate 9 TiB"), "not enough memory (Unable to allocate 9 TiB)"),
        (RuntimeError("DefaultCPUAllocator: not enough memory: 9\nmore"), "not enough memory (DefaultCPU"),
        (damaged(), "a YAML file is damaged: while parsing"),
        (noted(ValueError("no"), "the rest is in y.csv"), "no; the rest is in y.csv"),
    ],
)
def test_it_is_one_line(error, words, tmp_path, monkeypatch):
    def fail(*arguments):
        raise error

    monkeypatch.setattr(SCORE, "score", fail)
    code, _, said = call("score", "predictor=v100_b64", "rows=x.csv", "column=ms", "out=s.json", cwd=tmp_path)
    assert code == 1
    assert said.startswith(f"error: {words}")
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())  # the file that was reserved is gone
