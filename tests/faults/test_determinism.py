"""What a search must not depend on: threads, the seed of hashes, locale, time zone, assertions."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.commands import ROOT

WORDS = [
    "-m",
    "search",
    "search",
    "target=v100_b64",
    "budget=300",
    "searcher.population=50",
    "wandb=disabled",
]
ONE = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "0", "LC_ALL": "C", "TZ": "UTC"}


def archive(folder, *flags, **environment):
    """SHA-256 of the archive of a small search in a process of its own, the kernel in its env.json, and what
    it warned of."""
    done = subprocess.run(
        [sys.executable, *flags, *WORDS, "out=run"],
        cwd=folder,
        env={**os.environ, **ONE, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    content = (Path(folder) / "run" / "archive.npz").read_bytes()
    about = json.loads((Path(folder) / "run" / "env.json").read_text())
    return hashlib.sha256(content).hexdigest(), about["kernels"]["numpy"], done.stderr


@pytest.mark.slow
def test_the_archive_is_the_same_everywhere(tmp_path):
    found = {}
    for name, flags, changed in (
        ("as it is", [], {}),
        ("threads", [], {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}),
        ("hashes", [], {"PYTHONHASHSEED": "1"}),
        ("random hashes", [], {"PYTHONHASHSEED": "random"}),
        ("locale and zone", [], {"LC_ALL": "C.UTF-8", "TZ": "Asia/Kolkata"}),
        ("no assertions", ["-O"], {}),
    ):
        (tmp_path / name).mkdir()
        found[name] = archive(tmp_path / name, *flags, **changed)[0]
    print({name: digest[:12] for name, digest in found.items()})
    assert set(found.values()) == {found["as it is"]}, found


@pytest.mark.slow
def test_another_kernel_is_said(tmp_path):
    """By env.json, and by a run that goes on with another than it began with."""
    _, begun, said = archive(tmp_path, OPENBLAS_CORETYPE="Haswell")
    if "openblas" not in begun:
        pytest.skip(f"numpy has {begun}, whose kernel no variable chooses")
    assert said == ""
    (tmp_path / "run" / "archive.npz").unlink()  # as a run that was killed before its end
    _, now, said = archive(tmp_path, OPENBLAS_CORETYPE="Prescott")
    assert now != begun
    (warning,) = said.splitlines()
    assert warning.startswith("warning: run goes on in another environment")
    assert f"kernels.numpy {begun}, now {now}" in warning
