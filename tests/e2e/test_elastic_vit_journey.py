"""The elastic vision transformer of `examples`, as docs/extending.md has it: trained, searched, exported."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from search.commands import export, search, train
from supernet import registry
from supernet.files import tables
from supernet.space import get_space
from supernet.weights.origins import origin

ROOT = Path(__file__).parents[2]
FOLDER = ["--config-dir", str(ROOT / "examples" / "elastic_vit" / "configs")]


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """A command in this process, in a folder of its own: what it prints."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])

    def call(command, *words):
        monkeypatch.setattr(sys, "argv", [command.__name__, *FOLDER, *words])
        capsys.readouterr()
        command.main()
        return capsys.readouterr().out

    threads = torch.get_num_threads()
    yield call
    torch.set_num_threads(threads)
    registry.use_folders()
    get_space.cache_clear()


def package():
    """What git says of the files of the project."""
    status = ["git", "status", "--porcelain", "--", "supernet", "latency", "search", "configs", "examples"]
    return subprocess.run(status, cwd=ROOT, capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
def test_a_family_of_ones_own_from_training_to_export(run, tmp_path):
    """At least 95% of 449 test images in less than 3 minutes of CPU (seen: 98.0% in 43 s); a front whose
    latencies are measured here; an ONNX file with the logits of the network to 1e-4."""
    before = package()
    learning = ["optimiser=adamw", "rate=0.002", "weight_decay=0.05", "epochs=40"]
    run(train, "space=elastic_vit", "data=digits", *learning, "wandb=disabled", "out=vit")
    assert json.loads((tmp_path / "vit" / "summary.json").read_text())["cpu_seconds"] < 180
    words = ["evaluator=supernet", "evaluator.weights=vit", "target=here", "target.space=elastic_vit"]
    words += ["objectives=[accuracy,latency_ms]", "searcher=linas", "budget=40"]
    printed = run(search, *words, "wandb=disabled", "out=front")
    assert printed.splitlines()[-1].startswith(f'next: make export ARGS="{" ".join(FOLDER)} weights=vit')
    front = tables.read_columns(tmp_path / "front" / "front.csv")
    assert np.isfinite(front["latency_ms"]).all()
    assert len(front["architecture"]) >= 3
    name = max(zip(front["accuracy"], front["architecture"], strict=True))[1]
    run(export, "weights=vit", f"architecture='{name}'", "formats=[onnx]", "out=phone")
    subnet = origin.subnet("vit", str(name))
    largest = get_space("elastic_vit").restrict("r", 16, 16).extremes()[1:]
    top = origin.subnet("vit", get_space("elastic_vit").format(get_space("elastic_vit").network(largest))[0])
    assert top.facts["accuracy"]["top1"] >= 0.95
    images = torch.randn(3, 3, 16, 16)
    session = onnxruntime.InferenceSession(tmp_path / "phone" / "model.onnx")
    logits = session.run(None, {session.get_inputs()[0].name: images.numpy()})[0]
    assert np.abs(logits - subnet.module(images).detach().numpy()).max() < 1e-4
    assert package() == before
