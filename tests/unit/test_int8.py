"""Int8 models: the ranges of activations, and what both engines make of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from latency.measuring.machine import pairs_overflow
from supernet import extras, registry
from supernet.deploy import int8, onnx, openvino, shrink
from supernet.deploy import model as deployed_model
from supernet.training.step import processes
from supernet.weights import network
from supernet.weights.images import Images

SMALL = "ofa_small r16 d1-1-1 k3-3-3 e3-3-3 ft0"


def test_value_range_drops_what_is_largest_in_magnitude():
    values = np.arange(-1000, 1001, dtype=np.float32)
    assert int8.value_range(values, 0.0) == (-1000, 1000)
    assert int8.value_range(values, 0.1) == pytest.approx((-900, 900), abs=1)
    assert int8.value_range(np.abs(values) - 1, 0.1) == pytest.approx((-1, 899), abs=1)  # as after hard-swish
    assert int8.value_range(values[1500:], 0.0) == (0, 1000)  # zero is always on the grid


def test_ranges_of_an_onnx_model_are_those_of_the_network():
    """Every activation that PyTorch shows is there, mean of the ranges of two batches."""
    layers = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 2, 3)).eval()
    batches = [torch.randn((4, 3, 8, 8), generator=torch.Generator().manual_seed(k)) for k in range(2)]
    model = onnx.to_onnx(layers, batches[0])
    found = int8.activation_ranges(model, [batch.numpy() for batch in batches], 0.05)
    with torch.inference_mode():
        inner = [[layers[:k](batch).numpy() for k in (1, 2)] for batch in batches]
    for k in range(2):
        wanted = np.mean([int8.value_range(inner[b][k], 0.05) for b in range(2)], axis=0)
        assert any(np.allclose(got, wanted, rtol=1e-4, atol=1e-5) for got in found.values())


def test_logits_are_not_clipped():
    layers = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 100)).eval()
    batch = torch.randn((4, 3, 4, 4), generator=torch.Generator().manual_seed(0))
    assert "logits" not in int8.activation_ranges(onnx.to_onnx(layers, batch), [batch.numpy()], 0.05)


@pytest.mark.filterwarnings("ignore")  # of ONNX Runtime's quantiser and of NNCF
@pytest.mark.parametrize("engine", list(deployed_model.ENGINES))
def test_int8_models_follow_the_network(engine, trained_folder, tmp_path):
    """Logits of the int8 model against fp32, its files, and what they say about themselves."""
    for package in registry.load("engine", engine)["requires"]:
        pytest.importorskip(package)
    supernet, images = network.load(trained_folder), Images.from_run_folder(trained_folder)
    with processes() as group:
        here = shrink.Bench(supernet, images, group, narrow=pairs_overflow(), engine=engine)
        plain, small = shrink.run(shrink.Recipe(steps=(shrink.Int8(images=64),)), SMALL, here, tmp_path, {})
    assert small.card["precision"] == "int8"
    assert small.card["weight_bytes"] < 0.4 * plain.card["weight_bytes"]
    path = deployed_model.path(small.folder)
    assert path.name == {"onnxruntime": "model.onnx", "openvino": "model.xml"}[engine]
    files = [path] if engine == "onnxruntime" else [path, path.with_suffix(".bin")]
    assert small.card["file_bytes"] == sum(file.stat().st_size for file in files)
    pictures, _ = next(iter(images.batches("val", 16, 64)))
    fp32 = onnx.runner(deployed_model.path(plain.folder).read_bytes())(pictures.contiguous().numpy())
    if engine == "onnxruntime":
        found = onnx.runner(path.read_bytes())(pictures.contiguous().numpy())
        assert onnx.read_metadata(path)["precision"] == "int8"
    else:
        found = openvino.runner(path)(pictures.contiguous().numpy())
        model = openvino.read_model(path)
        assert model.get_rt_info(["ofa_frontier", "precision"]).astype(str) == "int8"
    assert np.corrcoef(fp32.ravel(), found.ravel())[0, 1] > 0.75  # a hardly trained network: .83 and .88


def test_unknown_or_missing_engine(bench, tmp_path, monkeypatch):
    def run(engine):
        shrink.run(shrink.Recipe(steps=(shrink.Int8(),)), SMALL, replace(bench, engine=engine), tmp_path, {})

    with pytest.raises(ValueError, match=r"tensorrt.*onnxruntime, openvino"):
        run("tensorrt")
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name in ("openvino", "nncf") else name)
    with pytest.raises(ValueError, match=r"needs openvino, nncf.*ofa-frontier\[openvino\]"):
        run("openvino")
    assert not list(tmp_path.iterdir())
