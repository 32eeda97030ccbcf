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


@pytest.mark.slow
def test_a_base_is_brought_to_another_engine_within_the_minutes(tmp_path):
    """A real measuring, of eager PyTorch from what ships for ONNX Runtime."""
    words = [
        "base=onnxruntime",
        "target.engine=torch_eager",
        "minutes=3",
        "networks=2",
        "classifiers=[alexnet]",
    ]
    words += ["design.kinds=[linear,mbconv]", "design.points=4", f"store={tmp_path}/store.sqlite"]
    done = subprocess.run(
        [sys.executable, "-m", "search", "modules", *words, f"out={tmp_path}/mine"],
        cwd=ROOT,
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    assert "networks corrected it" in done.stdout
    moved = interface.load(tmp_path / "mine" / "predictor.npz")
    assert moved.target.engine == "torch_eager"
    assert moved.facts["networks"] >= 5


def test_an_unknown_base_is_refused_before_anything_is_measured(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "search", "modules", "base=tflite", f"out={tmp_path}/mine"],
        cwd=ROOT,
        text=True,
        capture_output=True,
    )
    assert done.returncode != 0
    assert "tflite" in done.stderr
    assert "onnxruntime" in done.stderr
    assert not (tmp_path / "mine").exists()
