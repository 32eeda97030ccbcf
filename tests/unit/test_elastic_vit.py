"""The elastic vision transformer of `examples`: a family outside of the package, in every step."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from latency.modules.networks import tracing
from latency.target import Target
from supernet import footprint, registry
from supernet.deploy import export, int8, onnx
from supernet.files import command_line
from supernet.space import get_space
from supernet.surrogates import training_cost
from supernet.training.measured_accuracy import SupernetAccuracy
from supernet.training.recipes import Sandwich
from supernet.training.step import Optimisation, processes
from supernet.training.train import Plan, train
from supernet.weights import live_memory, network
from supernet.weights import subnet as subnets
from supernet.weights.origins import origin

FOLDER = Path(__file__).parents[2] / "examples" / "elastic_vit"
DIGITS = {"_target_": "supernet.weights.images.ImageSet", "source": "digits", "resolution": [16, 16]}


@pytest.fixture(scope="module")
def vit():
    """The space, as `--config-dir` makes it a choice."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", sys.path[:])
        registry.use_folders(FOLDER / "configs")
        yield get_space("elastic_vit")
    registry.use_folders()
    get_space.cache_clear()


@pytest.fixture(scope="module")
def supernet(vit):
    torch.manual_seed(0)
    return network.supernet(vit, 10).eval()


@pytest.fixture(scope="module")
def trained(vit, tmp_path_factory):
    """A run folder of eight epochs on some digits."""
    out = tmp_path_factory.mktemp("trained") / "run"
    node = {**DIGITS, "train_images": 512, "val": 200, "calibration": 64}
    options = dict(epochs=8, batch=32, forward_batch=32, rate=0.004, weight_decay=0.05, optimiser="adamw")
    plan = Plan(vit, registry.build(node).load(), Sandwich(), Optimisation(**options))
    with processes() as group:
        train(plan, out, {"data": node, "seed": 0, **options}, group, validate_every=100)
    return out


def test_it_is_one_short_file_and_one_yaml():
    assert len((FOLDER / "elastic_vit.py").read_text().splitlines()) <= 150
    names = sorted(path.name for path in FOLDER.rglob("*") if path.is_file() and path.suffix != ".pyc")
    assert names == ["README.md", "elastic_vit.py", "elastic_vit.yaml"]


def test_subnets_compute_and_cost_what_the_space_says(vit, supernet):
    """Logits of the supernet set to a subnet; torch's counter; a run that adds its storages up, which has a
    copy of each activation and of each scaled query beside what an engine keeps."""
    for genome in vit.sample(8, np.random.default_rng(0))[:, None]:
        side = network.resolution(vit, genome)
        subnet, images = network.extract(supernet, vit, genome), torch.randn(2, 3, side, side)
        network.set_active(supernet, vit, genome)
        assert torch.allclose(subnet(images), supernet(images), atol=1e-5)
        counted = live_memory.footprint(subnet, side)
        for metric in ("macs", "params"):
            assert footprint.compute(vit, genome, metric).tolist() == [counted[metric]]
        peak = footprint.compute(vit, genome, "peak_bytes")[0]
        assert peak <= counted["peak_bytes"] <= 1.5 * peak
    assert training_cost.family_of_space(vit) == "transformer"


def test_module_predictors_serve_the_space(vit, supernet, modules_of):
    """The table of the space says what the modules of a network say together, but for moving queries,
    keys and values to their heads."""
    target = Target(
        name="cpu", device="i7_8700k", space=vit.name, engine="torch_eager", threads=1, method="modules"
    )
    predictor, genomes = modules_of(target), vit.sample(3, np.random.default_rng(3))
    for genome, ms in zip(genomes[:, None], predictor.predict(genomes, target).mean, strict=True):
        side = network.resolution(vit, genome)
        modules = tracing.modules(network.extract(supernet, vit, genome), (3, side, side))
        kept = [module for module in modules if module.kind != "movement"]
        assert ms == pytest.approx(predictor.network_ms([kept], np.array([[1.0, 1.0, 0.0]]))[0], rel=1e-9)


def test_it_learns_and_its_subnets_are_judged(vit, trained):
    """Chance is 10%. There are no batch norms: calibration leaves a subnet as it is."""
    ends = vit.restrict("r", 16, 16)
    genomes = np.concatenate([network.largest(ends), network.smallest(ends)])
    accuracy = SupernetAccuracy(folder=trained, part="test")
    top1 = accuracy.predict(genomes).mean
    assert top1.min() > 0.2
    name = vit.format(genomes[1:])[0]
    raw, settled = (
        subnets.from_supernet(accuracy.trained, accuracy.data, name, calibrate=on) for on in (False, True)
    )
    images = torch.randn(4, 3, 16, 16)
    assert torch.equal(raw.module(images), settled.module(images))


def test_next_commands_know_the_folder(vit):
    line = command_line.then("export", "weights=runs/vit", out="phone")
    assert line == f'next: make export ARGS="--config-dir {FOLDER}/configs weights=runs/vit out=phone"'


def test_a_subnet_is_a_file_again_and_onnx(vit, trained, tmp_path):
    name = vit.format(network.smallest(vit.restrict("r", 16, 16)))[0]
    subnet = origin.subnet(str(trained), name)
    subnet.save(tmp_path / "subnet.safetensors")
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(subnets.load(tmp_path).module(images), subnet.module(images))
    assert export.export(subnet, tmp_path / "onnx", ["onnx"])["onnx"].difference < 1e-4


def test_int8_comes_near_the_logits(vit, trained):
    name = vit.format(network.smallest(vit.restrict("r", 16, 16)))[0]
    subnet, images = origin.subnet(str(trained), name), torch.randn(8, 3, 16, 16)
    whole = onnx.to_onnx(subnet.module, images, any_batch=True)
    small = int8.onnxruntime_int8(whole, [images.numpy()], narrow=False)
    logits, quantised = (onnx.runner(model)(images.numpy()) for model in (whole, small))
    assert onnx.weight_bytes(small) < 0.5 * onnx.weight_bytes(whole)
    assert 0 < np.abs(logits - quantised).max() < 0.1 * np.abs(logits).max()
