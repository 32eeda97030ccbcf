"""Train, measure, fit, fine-tune, as a user types it; and on two processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from search.commands import accuracy_data, finetune, fit, train
from supernet.files import artifact, run_folder
from supernet.files.run_folder import RunFolder
from supernet.space import get_space
from supernet.surrogates import accuracy, training_cost
from supernet.surrogates.training_cost import Steps, StepTime
from supernet.weights.subnet import FILE

ROOT = Path(__file__).parents[2]
TINY = ["data.train_images=128", "data.calibration=128", "epochs=2", "batch=64", "forward_batch=32"]


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """A command in this process, in a folder of its own: what it prints. Importing torch takes seconds."""
    import torch

    monkeypatch.chdir(tmp_path)

    def call(script, *words):
        monkeypatch.setattr(sys, "argv", [script.__name__, *words])
        capsys.readouterr()
        script.main()
        return capsys.readouterr().out

    threads = torch.get_num_threads()
    yield call
    torch.set_num_threads(threads)


def losses(folder):
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    return np.array([event["loss"] for event in events if event["event"] == "epoch"])


def test_train_measure_fit_and_fine_tune(run, tmp_path, monkeypatch):
    out = run(train, *TINY, "wandb=offline", "out=mine")
    assert "largest subnet (1.04 M MACs)" in out
    assert list((tmp_path / "mine" / "wandb").glob("offline-run-*/*.wandb"))
    out = run(accuracy_data, "supernet=mine", "subnets=16")
    assert "16 subnets of this supernet are in" in out
    rows = tmp_path / "mine" / "accuracies-val.csv"
    words = ["what=accuracy", "space=ofa_small", f"rows={rows}", "column=top1", "curve=[12]", "out=mine.npz"]
    assert "12 rows: Kendall" in run(fit, *words)
    assert accuracy.load(tmp_path / "mine.npz").space == "ofa_small"
    name = rows.read_text().splitlines()[2].rsplit(",", 1)[1]
    step = StepTime(1.0, 9.0, 1.0, 1.0, relative_std=0.1)
    training_cost.save_step(tmp_path / "step.json", step)
    words = ["supernet=mine", f"architecture='{name}'", "epochs=1", "step_file=step.json"]
    write = artifact.write_json

    def write_while_held(path, content):
        if path.name == "cost.json":  # nobody else may begin before the results are written
            settings = run_folder.settings(path.parent)
            with pytest.raises(ValueError, match="another process"):
                RunFolder(path.parent, FILE).hold(settings).__enter__()
        write(path, content)

    monkeypatch.setattr(artifact, "write_json", write_while_held)
    assert "off by" in run(finetune, *words)
    cost = json.loads((tmp_path / "mine" / "subnet" / "cost.json").read_text())
    assert cost["energy_kwh_model"] == pytest.approx(cost["device_hours"] * 0.065)
    space = get_space("ofa_small")
    table = space.layers(space.parse([name]))
    activations = table.layer_activations().sum(axis=1)
    ms = step.ms(Steps(activations, table.macs(), table.params(), np.array([64.0])))[0]
    assert cost["predicted_hours"] == pytest.approx(ms * 128 / 3.6e6, rel=1e-6)


@pytest.mark.slow
def test_two_processes_have_the_loss_curve_of_one(run, tmp_path):
    """Same global batch: equal to rounding, with the same images, mixed alike, and the same dropout."""
    words = [*TINY, "augmentation=strong", "dropout=0.1", "wandb=disabled"]
    run(train, *words, "out=one")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [sys.executable, *launcher, "-m", "scripts.train_supernet", *words, "out=two"],
        cwd=tmp_path,
        env=environment,
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == 2
    assert np.allclose(one, two, rtol=1e-5)
    assert json.loads((tmp_path / "two" / "summary.json").read_text())["processes"] == 2


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["data=folder", "data.root=nowhere"], "is no folder"),
        (["data.val=1500"], "leaves no training image"),
        (["recipe=progressive", "epochs=3"], "fewer than the"),
        (["data.resolution=[16,18]"], "must start and end at input sides of ofa_small"),
        (["recipe=sandwhich"], "Did you mean 'sandwich'"),
        (["rate=fast"], "rate=fast"),
    ],
)
def test_wrong_words_are_one_line(run, words, reason):
    with pytest.raises(SystemExit, match=reason):
        run(train, *words, "wandb=disabled", "out=mine")
