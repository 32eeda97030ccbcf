"""Exported subnets compute the same as the networks they come from, in programs that know nothing of us."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from supernet.deploy import export, onnx
from supernet.space import get_space
from supernet.weights import subnet as subnets
from supernet.weights.origins import origin

FAMILIES = ["ofa_mbv3_w1.0", "ofa_proxyless_w1.3", "ofa_resnet50"]
FREE_PROGRAM = """
import runpy, sys
import numpy, torch
for folder in sys.argv[1:]:
    network = runpy.run_path(folder + "/load.py")["network"]
    with torch.inference_mode():
        found = network(torch.from_numpy(numpy.load(folder + "/images.npy")))
    numpy.save(folder + "/logits.npy", found.numpy())
assert not {name.split(".")[0] for name in sys.modules} & {"supernet", "latency", "search", "configs"}
"""


def small(name, count):
    """One-line names of random subnets at the lowest resolution and depth."""
    space = get_space(name)
    space = space.restrict("r", space.axis("r").values[0], space.axis("r").values[0])
    for axis in space.axes:
        if axis.letter == "d":
            space = space.restrict(axis.name, axis.values[0], axis.values[0])
    return space.format(space.network(space.sample(count, np.random.default_rng(5))))


def logits(subnet, images):
    import torch

    with torch.inference_mode():
        return subnet.module(torch.from_numpy(images)).numpy()


def noise(subnet, batch):
    shape = (batch, 3, subnet.side, subnet.side)
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("name", FAMILIES)
def test_onnx_of_three_subnets_loads_and_agrees(name, tmp_path):
    """Read by plain ONNX Runtime, on other images and another batch than `export` itself looks at."""
    import onnxruntime

    for i, architecture in enumerate(small(name, 3)):
        subnet = subnets.random(architecture)
        written = export.export(subnet, tmp_path / str(i), ["onnx"])["onnx"]
        session = onnxruntime.InferenceSession(written.path)
        images = noise(subnet, 2)
        (found,) = session.run(None, {"images": images})
        expected = logits(subnet, images)
        assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
        assert np.ptp(expected) > 0.01
        told = onnx.read_metadata(written.path)
        assert told["name"] == architecture
        assert json.loads(told["preprocessing"])["side"] == int(told["resolution"]) == 128
        assert written.file_bytes == written.path.stat().st_size


def test_snippet_runs_in_a_fresh_process_without_us(tmp_path):
    """Eleven lines, which need `ofa` and nothing of this package, and give the same logits."""
    found = {name: subnets.random(small(name, 1)[0]) for name in [*FAMILIES, "ofa_small"]}
    for name, subnet in found.items():
        export.export(subnet, tmp_path / name, ["state_dict"])
        assert (tmp_path / name / "load.py").read_text().count("\n") == 11
        np.save(tmp_path / name / "images.npy", noise(subnet, 2))
    program = [sys.executable, "-I", "-c", FREE_PROGRAM, *(str(tmp_path / name) for name in found)]
    done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    for name, subnet in found.items():
        expected = logits(subnet, noise(subnet, 2))
        got = np.load(tmp_path / name / "logits.npy")
        assert np.abs(got - expected).max() <= 1e-5 * np.abs(expected).max()
        facts = json.loads((tmp_path / name / "subnet.json").read_text())
        assert facts["name"] == subnet.architecture


@pytest.mark.filterwarnings("ignore")  # of torch.export and OpenVINO at import
def test_programs_carry_their_facts(tmp_path):
    """torch.export and OpenVINO IR: what is known of the network can be read without us."""
    import torch

    pytest.importorskip("openvino")
    import openvino

    subnet = subnets.random(small("ofa_small", 1)[0]).with_facts(latency={"ms": 2.5})
    written = export.export(subnet, tmp_path, ["torch_export", "openvino"])
    files = {"name": "", "latency": ""}
    program = torch.export.load(written["torch_export"].path, extra_files=files)
    assert files["name"] == subnet.architecture
    assert json.loads(files["latency"]) == {"ms": 2.5}
    images = torch.from_numpy(noise(subnet, 4))
    assert torch.allclose(program.module()(images), subnet.module(images), rtol=1e-4, atol=1e-4)
    model = openvino.Core().read_model(written["openvino"].path)
    assert model.get_rt_info(["ofa_frontier", "name"]).astype(str) == subnet.architecture


@pytest.mark.filterwarnings("ignore")
def test_executorch_programs_carry_their_facts(tmp_path):
    """Runs where executorch is installed (it was with 1.5.1, for the three families)."""
    pytest.importorskip("executorch")
    from executorch.runtime import Runtime

    for family in ("ofa_small", "ofa_mbv3_w1.0", "ofa_proxyless_w1.3", "ofa_resnet50"):
        subnet = subnets.random(small(family, 1)[0])
        written = export.export(subnet, tmp_path / family, ["executorch"])["executorch"]
        program = Runtime.get().load_program(written.path)
        assert json.loads(program.load_method("ofa_frontier").execute([])[0])["name"] == subnet.architecture
        assert written.difference <= export.TOLERANCE


def test_what_is_there_is_left_alone_and_unknown_formats_are_named(tmp_path):
    subnet = subnets.random(small("ofa_small", 1)[0])
    (tmp_path / "model.onnx").write_bytes(b"mine")
    with pytest.raises(ValueError, match="left alone"):
        export.export(subnet, tmp_path, ["onnx"])
    assert (tmp_path / "model.onnx").read_bytes() == b"mine"
    with pytest.raises(ValueError, match="Did you mean 'onnx'"):
        export.export(subnet, tmp_path, ["onxx"])
    with pytest.raises(ValueError, match="deployed in int8"):
        export.export(subnet.with_facts(precision="int8"), tmp_path, ["onnx"])


def test_a_file_that_computes_something_else_is_not_kept(tmp_path, monkeypatch):
    subnet = subnets.random(small("ofa_small", 1)[0])
    real = export.FORMATS["onnx"]
    wrong = {"onnx": replace(real, load=lambda path: lambda images: 1.01 * real.load(path)(images))}
    monkeypatch.setattr(export, "FORMATS", wrong)
    with pytest.raises(ValueError, match=r"off by 1\.0e-02"):
        export.export(subnet, tmp_path, ["onnx"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["ofa_mbv3_w1.0", "compofa_fixed"])
def test_published_weights_are_calibrated_on_the_images_that_are_given(name, tmp_path):
    """Weights of the supernet, norms of the images: without images there is nothing to calibrate on."""
    import torch

    from supernet import registry
    from supernet.weights import network

    owner = get_space("ofa_mbv3_w1.0")
    supernet = network.supernet(owner)
    torch.save({"state_dict": supernet.state_dict()}, tmp_path / "ofa.pth")
    architecture = small(name, 1)[0]
    with pytest.raises(ValueError, match="needs data="):
        origin.subnet(str(tmp_path / "ofa.pth"), architecture)
    digits = registry.build(registry.load("data", "digits") | {"calibration": 64})
    found = origin.subnet(str(tmp_path / "ofa.pth"), architecture, digits)
    first, stem = found.module.first_conv, supernet.first_conv.conv.weight
    assert (first.conv.weight == stem).all()
    images = torch.cat([pictures for pictures, _ in digits.load(photos=True).batches("calibration", 128, 64)])
    with torch.no_grad():
        out = first.conv(images)
    assert torch.allclose(first.bn.running_mean, out.mean(dim=(0, 2, 3)), atol=1e-3)
    assert found.facts["classes"] == 1000


def test_weights_that_name_nothing_are_refused(tmp_path):
    with pytest.raises(ValueError, match="please give architecture"):
        origin.subnet("random", None)
    with pytest.raises(ValueError, match="no folder, no file"):
        origin.subnet(str(tmp_path / "absent"), small("ofa_mbv3_w1.0", 1)[0])


def test_saved_subnets_come_back(tmp_path):
    subnet = subnets.random(small("ofa_resnet50", 1)[0])
    subnet.save(tmp_path / "subnet.safetensors")
    again = subnets.load(tmp_path)
    images = noise(subnet, 1)
    assert (again.architecture, again.side, again.facts) == (subnet.architecture, 128, subnet.facts)
    assert (logits(again, images) == logits(subnet, images)).all()
    (tmp_path / "subnet.safetensors").write_bytes(b"not one")
    with pytest.raises(ValueError, match="damaged or not a file"):
        subnets.load(tmp_path)
