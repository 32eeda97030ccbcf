"""The steps of shrinking where training happens on another device than the CPU."""

import dataclasses
import inspect

import pytest
import torch
from other_device import DEVICE, OtherDevice

from supernet.deploy import fake_quant, shrink
from supernet.training.step import Processes
from supernet.weights import subnet as subnets

SMALL = "ofa_small r16 d1-1-1 k3-3-3 e3-3-3 ft0"
OPTIONS = {
    "FineTune": {"epochs": 1, "batch": 32, "rate": 1e-4},
    "Int8Aware": {"epochs": 1, "batch": 32, "images": 32},
    "Int8": {"images": 32},
}
STEPS = sorted(name for name, of in inspect.getmembers(shrink, inspect.isclass) if hasattr(of, "apply"))


def test_the_other_device_notices_mixed_tensors():
    with OtherDevice():
        there = torch.ones(3, device=DEVICE)
        assert float((there.to("cpu") + torch.ones(3)).sum()) == 6
        with pytest.raises(RuntimeError, match="mixes tensors"):
            there + torch.ones(3)
        with pytest.raises((TypeError, RuntimeError), match="numpy"):
            there.numpy()


@pytest.mark.parametrize("name", [name for name in STEPS if name != "Step"])
def test_every_step_trains_on_the_device_of_its_group(name, bench):
    """The same network as on the CPU, and the next step finds it on the CPU."""
    step = getattr(shrink, name)(**OPTIONS.get(name, {}))
    expected = step.apply(subnets.from_supernet(bench.trained, bench.images, SMALL), bench)
    with OtherDevice():
        other = dataclasses.replace(bench, group=Processes(0, 1, DEVICE))
        got = step.apply(subnets.from_supernet(bench.trained, bench.images, SMALL), other)
    state = got.module.state_dict()
    assert {tensor.device.type for tensor in state.values()} == {"cpu"}
    for key, tensor in expected.module.state_dict().items():
        assert torch.allclose(state[key].float(), tensor.float(), rtol=1e-3, atol=1e-5), key


def test_ranges_and_rounding_where_the_network_is():
    module = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 1), torch.nn.BatchNorm2d(3), torch.nn.Flatten()).eval()
    images = torch.randn((4, 2, 1, 1), generator=torch.Generator().manual_seed(0))
    ranges = fake_quant.input_ranges(module, [images])
    with fake_quant.fake_quantised(module, ranges, narrow=True), torch.no_grad():
        expected = module(images)
    with OtherDevice():
        module.to(DEVICE)
        assert fake_quant.input_ranges(module, [images]) == ranges
        with fake_quant.fake_quantised(module, ranges, narrow=True), torch.no_grad():
            assert torch.allclose(module(images.to(DEVICE)).to("cpu"), expected)


@pytest.mark.filterwarnings("ignore")  # of the exporters
def test_a_recipe_goes_on_inside_the_training_of_a_step(bench, tmp_path):
    """Pruned, then killed at a step of the training: the same weights, and pruned weights stay zero."""
    tuned = shrink.FineTune(epochs=2, batch=32, rate=1e-4)
    recipe = shrink.Recipe((shrink.PruneChannels(), shrink.PruneWeights(), tuned))
    whole = shrink.run(recipe, SMALL, bench, tmp_path / "whole", {})[-1].subnet.module

    def kill(now):
        if now.startswith("epoch 1.25"):
            raise KeyboardInterrupt

    place = dataclasses.replace(bench, watch=kill, checkpoint_seconds=0)
    with pytest.raises(KeyboardInterrupt):
        shrink.run(recipe, SMALL, place, tmp_path / "parts", {})
    checkpoint = tmp_path / "parts" / "3-FineTune" / shrink.TRAINING
    assert checkpoint.exists()
    told = []
    again = shrink.run(recipe, SMALL, dataclasses.replace(bench, watch=told.append), tmp_path / "parts", {})
    assert told[:2] == ["FineTune", "epoch 1.50 of 2, " + told[1].rpartition(", ")[2]]
    assert not checkpoint.exists()
    state = again[-1].subnet.module.state_dict()
    assert all(torch.equal(state[key], tensor) for key, tensor in whole.state_dict().items())
    weights = torch.cat([tensor.flatten() for tensor in whole.parameters() if tensor.ndim > 1])
    assert float((weights == 0).float().mean()) == pytest.approx(0.5, abs=0.01)
