"""Pruning, fake quantisation and recipes: against masked networks, numpy and repeated runs."""

import dataclasses

import numpy as np
import pytest
import torch

from supernet.deploy import export, fake_quant, onnx, pruning, shrink
from supernet.space import get_space
from supernet.weights import network
from supernet.weights import subnet as subnets


def smallest_of(name):
    """A subnet with untrained weights at the lowest resolution, the smallest one but in depth."""
    space = get_space(name)
    genome = network.smallest(space)
    genome[:, [space.index[axis.name] for axis in space.axes if axis.letter == "d"]] = 2
    return subnets.random(space.format(space.canonical(genome))[0])


def most_read(weight, keep):
    """Channels that stay, from the weights (out, in, k, k) that read them."""
    importance = np.abs(weight.numpy()).sum(axis=(0, 2, 3))
    count = max(8, int(keep * len(importance) + 4) // 8 * 8)
    count += 8 * (count < 0.9 * keep * len(importance))
    return np.sort(np.argsort(-importance, kind="stable")[:count])


@pytest.mark.parametrize("name", ["ofa_small", "ofa_proxyless_w1.3", "ofa_resnet50"])
def test_pruned_network_computes_what_a_masked_one_does(name):
    """Zero everything that reads a pruned channel instead of removing the channel: the same logits."""
    subnet = smallest_of(name)
    pruned = pruning.prune_channels(subnet, 0.5)
    images = torch.randn((2, 3, subnet.side, subnet.side), generator=torch.Generator().manual_seed(1))
    masked = subnets.build(subnet.architecture, subnet.config, subnet.module.state_dict())
    state = masked.state_dict()
    with torch.no_grad():
        for key, weight in state.items():
            place, _, rest = key.rpartition(".conv.weight")
            reads = place.endswith(("point_linear", "conv2", "conv3")) and not rest
            inside = place.rpartition(".")[0]
            if not reads or (
                place.endswith("point_linear") and f"{inside}.inverted_bottleneck.conv.weight" not in state
            ):
                continue
            gone = np.setdiff1d(np.arange(weight.shape[1]), kept := most_read(weight, 0.5))
            weight[:, gone] = 0
            squeeze = f"{inside}.depth_conv.se.fc"
            if f"{squeeze}.reduce.weight" in state:
                state[f"{squeeze}.reduce.weight"][:, gone] = 0
                expand = state[f"{squeeze}.expand.weight"]
                order = np.argsort(-np.abs(expand.numpy()).sum(axis=(0, 2, 3)), kind="stable")
                fewer = len(pruned.module.state_dict()[f"{squeeze}.reduce.weight"])
                expand[:, order[fewer:].copy()] = 0
            assert len(kept) < weight.shape[1]
    with torch.inference_mode():
        expected, found, whole = masked(images), pruned.module(images), subnet.module(images)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    assert not torch.allclose(whole, expected, rtol=1e-2)
    assert sum(p.numel() for p in pruned.module.parameters()) < sum(
        p.numel() for p in subnet.module.parameters()
    )


def test_keeping_everything_changes_nothing():
    subnet = smallest_of("ofa_small")
    images = torch.randn(2, 3, subnet.side, subnet.side)
    with torch.inference_mode():
        assert torch.equal(pruning.prune_channels(subnet, 1.0).module(images), subnet.module(images))
        assert torch.equal(pruning.prune_weights(subnet, 1.0).module(images), subnet.module(images))


def test_pruned_weights_are_the_smallest_of_the_whole_network():
    subnet = smallest_of("ofa_small")
    before = torch.cat([p.detach().flatten() for p in subnet.module.parameters() if p.ndim > 1])
    after = [
        p.detach().flatten() for p in pruning.prune_weights(subnet, 0.3).module.parameters() if p.ndim > 1
    ]
    after = torch.cat(after)
    assert (after != 0).sum() == pytest.approx(0.3 * len(before), abs=1)
    assert before[after == 0].abs().max() <= before[after != 0].abs().min()


def test_fake_quantised_convolution_is_on_the_grid():
    """A convolution with its norm in numpy: rounded inputs, folded and rounded weights."""
    module = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 1, bias=False), torch.nn.BatchNorm2d(3)).eval()
    with torch.no_grad():
        module[1].running_mean[:] = torch.tensor([0.1, -0.2, 0.3])
        module[1].running_var[:] = torch.tensor([1.0, 4.0, 0.25])
    x = np.array([-0.5, 0.3])
    low, high = -1.0, 1.55
    scale = (high - low) / 255
    zero = round(-low / scale)
    grid = (np.clip(np.round(x / scale) + zero, 0, 255) - zero) * scale
    factor = 1 / np.sqrt(np.array([1.0, 4.0, 0.25]) + 1e-5)
    weight = module[0].weight.detach().numpy()[:, :, 0, 0] * factor[:, None]
    step = np.abs(weight).max(axis=1, keepdims=True) / 63
    expected = (np.round(weight / step) * step) @ grid - np.array([0.1, -0.2, 0.3]) * factor
    images = torch.tensor(x, dtype=torch.float32).view(1, 2, 1, 1)
    plain = module(images)
    with fake_quant.fake_quantised(module, {"0": (low, high)}, narrow=True):
        found = module(images)
        found.sum().backward()
    assert np.allclose(found.detach().numpy().ravel(), expected, atol=1e-5)
    assert module[0].weight.grad is not None
    assert torch.equal(module(images), plain)


RECIPE = shrink.Recipe(
    steps=(
        shrink.PruneChannels(keep=0.5),
        shrink.FineTune(epochs=1, batch=32, rate=1e-4),
        shrink.Int8Aware(epochs=1, batch=32, images=32),
    )
)
SMALL = "ofa_small r16 d1-1-1 k3-3-3 e3-3-3 ft0"


@pytest.mark.filterwarnings("ignore")  # of ONNX Runtime's quantiser
def test_recipe_is_resumable_and_gives_the_same_bytes(bench, tmp_path):
    """What is deployed gets smaller where a step says so; a run that was cut ends in the same weights."""
    stages = shrink.run(RECIPE, SMALL, bench, tmp_path / "whole", {"seed": 0})
    plain, pruned, tuned, int8 = (stage.card for stage in stages)
    assert pruned["params"] < plain["params"]
    assert pruned["macs"] < plain["macs"]
    assert tuned["params"] == pruned["params"]
    assert tuned["training_hours"] > 0
    assert (tuned["precision"], int8["precision"]) == ("fp32", "int8")
    assert int8["weight_bytes"] < 0.4 * tuned["weight_bytes"]
    assert int8["file_bytes"] == (stages[-1].folder / "model.onnx").stat().st_size
    assert int8["training_hours"] > tuned["training_hours"]

    class Cut(Exception):
        pass

    def stop(now):
        if now == "Int8Aware":
            raise Cut

    with pytest.raises(Cut):
        shrink.run(RECIPE, SMALL, dataclasses.replace(bench, watch=stop), tmp_path / "cut", {"seed": 0})
    again = shrink.run(RECIPE, SMALL, bench, tmp_path / "cut", {"seed": 0})
    for one, other in zip(stages, again, strict=True):
        state, same = one.subnet.module.state_dict(), other.subnet.module.state_dict()
        assert all(torch.equal(state[key], same[key]) for key in state)
    with pytest.raises(ValueError, match=r"other settings \(seed=0, now 1\)"):
        shrink.run(RECIPE, SMALL, bench, tmp_path / "cut", {"seed": 1})
    with pytest.raises(ValueError, match="int8_engine=not known then, now openvino"):
        shrink.run(RECIPE, SMALL, bench, tmp_path / "cut", {"seed": 0, "int8_engine": "openvino"})


@pytest.mark.filterwarnings("ignore")  # of the ONNX exporter
def test_a_folder_of_another_rival_is_made_anew(bench, tmp_path):
    first = shrink.run_plain(SMALL, bench, tmp_path)
    assert shrink.run_plain(SMALL, bench, tmp_path).card == first.card
    other = SMALL.replace("e3-3-3", "e2-2-2")
    assert shrink.run_plain(other, bench, tmp_path).subnet.architecture == other
    assert shrink.run_plain(other, bench, tmp_path).card["params"] < first.card["params"]


def test_growing_takes_the_next_level_of_depth_and_expansion(bench):
    grown = shrink.Grow().apply(subnets.from_supernet(bench.trained, bench.images, SMALL), bench)
    assert grown.architecture == "ofa_small r16 d2-2-2 k33-33-33 e42-42-42 ft0"


def test_table_has_a_row_per_card_in_the_units_of_the_registry():
    text = shrink.table({"a": {"precision": "fp32", "top1": 0.5, "file_bytes": 2000.0}}).markdown()
    assert "| a | fp32 | 2 | 50 |" in text
    assert "file_bytes [kB]" in text


def test_short_names_compute_the_same():
    """Smaller, the same logits, the same names outside."""
    onnxruntime = pytest.importorskip("onnxruntime")
    subnet = smallest_of("ofa_small")
    model = export.onnx_bytes(subnet)
    short = onnx.compact(model)
    assert len(short) < len(model)
    images = np.random.default_rng(0).normal(size=(3, 3, subnet.side, subnet.side)).astype(np.float32)
    session = onnxruntime.InferenceSession(short, providers=["CPUExecutionProvider"])
    assert (session.get_inputs()[0].name, session.get_outputs()[0].name) == ("images", "logits")
    (found,) = session.run(None, {"images": images})
    assert (found == onnx.runner(model)(images)).all()
