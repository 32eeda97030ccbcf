"""Fine-tuning and shrinking by two processes of `torchrun`, and killed by the system."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from supernet.weights import network
from supernet.weights import subnet as subnets

ROOT = Path(__file__).parents[2]
SMALL = "ofa_small r16 d1-1-1 k3-3-3 e3-3-3 ft0"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A supernet of two epochs on 300 digits, as `make train` makes it."""
    out = tmp_path_factory.mktemp("trained") / "mine"
    words = ["data.train_images=320", "data.val=40", "epochs=2", "batch=64", "forward_batch=32"]
    done = command(out.parent, "train", *words, "wandb=disabled", f"out={out}")
    assert done.returncode == 0, done.stderr
    return out


def command(folder, *words, processes=1):
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *(launcher if processes > 1 else []), "-m", "search.commands", *words],
        cwd=folder,
        env=environment,
        text=True,
        capture_output=True,
        check=False,
    )


def weights(path):
    return network.read(path, subnets.KIND)[0]


@pytest.mark.slow
def test_two_processes_fine_tune_as_one(trained, tmp_path):
    """The same weights up to rounding, and one process alone writes and prints."""
    recipe = [f"supernet={trained}", f"architecture='{SMALL}'", "epochs=2", "rate=0.003"]
    for options in ([], ["norms=live", "forward_batch=16", "distil=none", "augmentation=mixup"]):
        name = "live" if options else "frozen"
        one = command(tmp_path, "finetune", *recipe, *options, f"out={name}-1")
        two = command(tmp_path, "finetune", *recipe, *options, f"out={name}-2", processes=2)
        assert one.returncode == two.returncode == 0, one.stderr + two.stderr
        assert two.stdout.count("test top-1") == 1
        first, second = (weights(tmp_path / f"{name}-{count}" / subnets.FILE) for count in (1, 2))
        for key, tensor in first.items():
            assert np.allclose(tensor, second[key], rtol=1e-4, atol=1e-5), key
        assert json.loads((tmp_path / f"{name}-2" / "cost.json").read_text())["processes"] == 2
    refused = command(tmp_path, "finetune", *recipe, "norms=live", "out=refused", processes=2)
    assert "norms=live sees the images of a forward pass together" in refused.stderr
    assert not (tmp_path / "refused").exists()


@pytest.mark.slow
def test_two_processes_shrink_as_one(trained, tmp_path):
    """Every step in all processes, its folder written by the first."""
    recipe = [f"supernet={trained}", f"architecture='{SMALL}'", "plain=0"]
    steps = ["shrink.steps.1.epochs=1", "shrink.steps.1.rate=0.003", "shrink.steps.2.epochs=1"]
    tables = []
    for processes in (1, 2):
        done = command(tmp_path, "shrink", *recipe, *steps, f"out=p{processes}", processes=processes)
        assert done.returncode == 0, done.stderr
        tables.append(json.loads((tmp_path / f"p{processes}" / "table.json").read_text()))
    assert [*tables[0]] == [*tables[1]] == ["0 start", "1 PruneChannels", "2 FineTune", "3 Int8Aware"]
    first, second = (weights(tmp_path / f"p{n}" / "2-FineTune" / subnets.FILE) for n in (1, 2))
    for key, tensor in first.items():
        assert np.allclose(tensor, second[key], rtol=1e-4, atol=1e-5), key


@pytest.mark.slow
def test_killed_by_the_system_it_ends_in_the_same_weights(trained, tmp_path):
    """kill -9 at three times, while a checkpoint is written after every step."""
    recipe = [f"supernet={trained}", f"architecture='{SMALL}'", "epochs=60", "rate=0.003", "distil=none"]
    assert command(tmp_path, "finetune", *recipe, "out=whole").returncode == 0
    words = [*recipe, "out=parts", "checkpoint_seconds=0"]
    checkpoint = tmp_path / "parts" / "checkpoint.safetensors"
    for _ in range(3):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        killed = subprocess.Popen(
            [sys.executable, "-m", "search.commands", "finetune", *words],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.DEVNULL,
        )
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        while killed.poll() is None and (not checkpoint.exists() or checkpoint.stat().st_mtime_ns == before):
            time.sleep(0.05)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert killed.returncode == -signal.SIGKILL
    done = command(tmp_path, "finetune", *words)
    assert done.returncode == 0, done.stderr
    assert not checkpoint.exists()
    whole, parts = (weights(tmp_path / out / subnets.FILE) for out in ("whole", "parts"))
    assert all((whole[key] == tensor).all() for key, tensor in parts.items())
