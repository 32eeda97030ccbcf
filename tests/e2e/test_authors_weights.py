"""Checkpoints in the form of the OFA authors, and a folder of 40 photos: every command runs for them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoints import write_checkpoint, write_photos

from search.commands import accuracy_data, export, finetune, search, shrink
from search.commands.judging import evaluate
from supernet.files.tables import read_columns
from supernet.space import get_space
from supernet.surrogates import training_cost
from supernet.surrogates.training_cost import StepTime
from supernet.weights import network

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of the exporters


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    import torch

    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()

    def call(command, *words):
        monkeypatch.setattr(sys, "argv", [command.__name__, *words])
        capsys.readouterr()
        command.main()
        return capsys.readouterr().out

    yield call
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", ["ofa_mbv3_w1.0", "ofa_resnet50"])  # one of each kind of network
def test_every_command_takes_the_authors_weights(name, run, tmp_path):
    write_checkpoint(tmp_path / "ofa.pth", name)
    write_photos(tmp_path / "photos")
    data = ["data=folder", "data.root=photos", "data.val=4", "data.calibration=8"]
    space = get_space(name).restrict("r", 128, 128)
    smallest = space.format(network.smallest(space))[0]
    architecture = f"architecture='{smallest}'"
    out = run(evaluate, "weights=ofa.pth", *data, architecture, "calibration=ofa")
    assert "16 test images, norms: 20 augmented training crops" in out
    rows = read_columns(tmp_path / "runs" / "ofa" / "evaluation-test.csv")
    assert rows["architecture"].tolist() == [smallest]
    out = run(accuracy_data, "supernet=ofa.pth", *data, "subnets=2", "resolution=128")
    assert "2 subnets of this supernet are in runs/ofa/accuracies-val.csv" in out
    genes = [f"genes.{axis.name}={axis.values[0]}" for axis in space.axes if axis.name[0] in "dew"]
    words = ["evaluator=supernet", "evaluator.weights=ofa.pth", "objectives=[accuracy,macs]"]
    words += ["resolution=128", "searcher=random", "budget=2", "wandb=disabled", "out=found"]
    out = run(search, *words, *data, *genes)
    assert "accuracy is measured: 2 evaluations" in out
    assert "data=folder data.root=photos" in out
    training_cost.save_step(tmp_path / "step.json", StepTime(1.0, 9.0, 1.0, 1.0, relative_std=0.1))
    words = ["epochs=1", "rate=1e-5", "batch=10", "distil=false", "step_file=step.json", "out=tuned"]
    assert "after 1 epoch" in run(finetune, "supernet=ofa.pth", *data, architecture, *words)
    out = run(shrink, "supernet=ofa.pth", *data, architecture, "shrink=int8", "plain=0", "out=small")
    assert "small/1-Int8/model.onnx" in out
    out = run(export, "weights=ofa.pth", *data, architecture, "formats=[state_dict]", "out=exported")
    assert "logits within" in out
    assert "norms: as saved" in run(evaluate, "weights=tuned")


def test_processes_of_torchrun_count_the_same(run, tmp_path):
    write_checkpoint(tmp_path / "ofa.pth", "ofa_mbv3_w1.0")
    write_photos(tmp_path / "photos")
    data = ["data=folder", "data.root=photos", "data.val=4", "data.calibration=8"]
    smallest = "ofa_mbv3_w1.0 r128 d2-2-2-2-2 k33-33-33-33-33 e33-33-33-33-33 ft0"
    words = ["weights=ofa.pth", *data, "batch=3", f"architecture='{smallest}'"]
    run(evaluate, *words, "store=one.sqlite", "csv=one.csv")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    again = ["-m", "search.commands", "evaluate", *words, "store=2.sqlite", "csv=two.csv"]
    done = subprocess.run(
        [sys.executable, *launcher, *again],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()
