"""`make modules` as a user types it, on measurements that are there already."""

import subprocess
import sys
from pathlib import Path

import pytest

from latency.measuring.here import here
from latency.modules import data
from latency.predictors import interface

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_make_modules_selects_and_saves_a_predictor(tmp_path, measured_modules):
    target = here(engine="torch_eager")
    data.save(tmp_path / "data.npz", target, measured_modules)
    words = [
        "target.engine=torch_eager",
        f"measured={tmp_path}/data.npz",
        "networks=0",
        f"out={tmp_path}/mine",
    ]
    words += ["fitting.models=[ridge,polynomial]", f"store={tmp_path}/store.sqlite"]
    done = subprocess.run(
        [sys.executable, "-m", "search", "modules", *words], cwd=ROOT, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    assert "| auto-selection |" in done.stdout
    assert f"predictor={tmp_path}/mine/predictor.npz" in done.stdout
    found = interface.load(tmp_path / "mine" / "predictor.npz")
    assert found.target == target
    assert set(found.models) == set(measured_modules)
    again = subprocess.run(
        [
            sys.executable,
            "-m",
            "search",
            "modules",
            *words,
            f"out={tmp_path}/other",
            "fitting.models=[ridg]",
        ],
        cwd=ROOT,
        text=True,
        capture_output=True,
    )
    assert again.returncode != 0
    assert "Did you mean 'ridge'" in again.stderr
