"""Fine-tuning one subnet, and what training costs on a machine of which little was measured."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from other_device import DEVICE, OtherDevice

from supernet.surrogates import training_cost
from supernet.surrogates.training_cost import Steps, StepTime
from supernet.training.finetune import FineTuning, Progress, energy_kwh, fine_tune
from supernet.training.measured_accuracy import SupernetAccuracy
from supernet.training.step import Processes, processes
from supernet.weights import network
from supernet.weights import subnet as subnets
from supernet.weights.images import Images


def test_fine_tuning_from_the_supernet_and_from_scratch(trained_folder):
    trained, images = network.load(trained_folder), Images.from_run_folder(trained_folder)
    genome = network.smallest(trained.space)
    with processes() as group:
        none = fine_tune(trained, images, genome, FineTuning(epochs=0), group)
        some = fine_tune(trained, images, genome, FineTuning(epochs=3, batch=32), group)
        scratch = fine_tune(
            trained, images, genome, FineTuning(epochs=1, batch=32, from_scratch=True, distil=False), group
        )
        again = fine_tune(
            trained, images, genome, FineTuning(epochs=1, batch=32, from_scratch=True, distil=False), group
        )
    assert none.after == none.before == some.before
    assert none.hours == 0
    assert some.after.top1 > some.before.top1
    assert some.hours == pytest.approx(sum(some.epoch_seconds) / 3600)
    assert len(some.epoch_seconds) == 3
    assert scratch.after.top1 < some.before.top1
    assert scratch.loss == again.loss
    fresh = network.load(trained_folder)  # the supernet is left as it was
    for (name, a), b in zip(
        fresh.module.state_dict().items(), trained.module.state_dict().values(), strict=True
    ):
        assert (a == b).all(), name
    assert energy_kwh(2.0, 65.0) == pytest.approx(0.13)


def test_interrupted_fine_tuning_goes_on_to_the_same_weights(trained_folder, tmp_path):
    trained, images = network.load(trained_folder), Images.from_run_folder(trained_folder)
    genome, recipe = network.smallest(trained.space), FineTuning(epochs=4, batch=100)

    def stop(done, loss):
        if done == 3:
            raise KeyboardInterrupt

    checkpoint = tmp_path / "checkpoint.safetensors"
    with processes() as group:
        whole = fine_tune(trained, images, genome, recipe, group)
        with pytest.raises(KeyboardInterrupt):
            fine_tune(trained, images, genome, recipe, group, Progress(stop, checkpoint, seconds=0))
        with pytest.raises(ValueError, match="is of another training"):
            fine_tune(trained, images, genome, replace(recipe, rate=0.1), group, Progress(None, checkpoint))
        told = []
        progress = Progress(lambda done, loss: told.append(done), checkpoint)
        again = fine_tune(trained, images, genome, recipe, group, progress)
    assert told == [4]
    assert len(again.epoch_seconds) == 4
    assert not checkpoint.exists()
    assert (again.after, again.loss) == (whole.after, whole.loss)
    state = whole.subnet.module.state_dict()
    assert all((state[name] == tensor).all() for name, tensor in again.subnet.module.state_dict().items())


def test_all_ways_to_judge_a_subnet_say_the_same(trained_folder, tmp_path):
    """`make finetune`, `evaluator=supernet`, `make export` and the definition: the same correct images.

    512 calibration images are two batches of 256 or three of 250: once the ways differed in that.
    """
    trained = network.load(trained_folder)
    images = replace(
        Images.from_run_folder(trained_folder).settings, train_images=700, calibration=600
    ).load()
    genome = network.smallest(trained.space)
    name = trained.space.format(genome)[0]
    with processes() as group:
        tuned = fine_tune(trained, images, genome, FineTuning(epochs=0), group)
    accuracy = SupernetAccuracy(folder=trained_folder, part="test", store=tmp_path / "store.sqlite")
    accuracy.__dict__["data"] = images
    measured = accuracy.evaluate(name)
    subnet = subnets.from_supernet(trained, images, name)
    quality = subnets.judge(subnet, images, "test")
    assert tuned.before == tuned.after == quality
    assert measured.correct == quality.correct
    assert measured.images == quality.images == len(images.parts["test"])
    with torch.no_grad():
        right = sum(int((subnet.module(x).argmax(1) == y).sum()) for x, y in images.batches("test", 16, 100))
    assert abs(right - quality.correct) <= 1  # other batches round logits otherwise


def test_a_fine_tuned_subnet_is_a_subnet_file_like_any_other(trained_folder, tmp_path):
    trained, images = network.load(trained_folder), Images.from_run_folder(trained_folder)
    genome = network.smallest(trained.space)
    with processes() as group:
        tuned = fine_tune(trained, images, genome, FineTuning(epochs=1, batch=32), group).subnet
    tuned.save(tmp_path / subnets.FILE)
    again = subnets.load(tmp_path)
    assert again.facts["labels"] == [str(label) for label in range(10)]
    assert again.facts["resize"] == subnets.RESIZE_SMALL
    assert again.facts["accuracy"] == {**asdict(subnets.judge(again, images, "test")), "part": "test"}
    older = {"architecture": tuned.architecture, "classes": 10, "mean": [0.5] * 3, "std": [1.0] * 3}
    network.save(tmp_path / "0.1.safetensors", tuned.module.state_dict(), subnets.KIND, older)
    with pytest.raises(ValueError, match=r"0.1.safetensors holds no usable subnet .*release 0.1 left"):
        subnets.load(tmp_path / "0.1.safetensors")  # as `make finetune` of release 0.1 wrote it


def test_fine_tuning_happens_on_the_device_of_the_group(trained_folder, monkeypatch):
    """The same weights as on the CPU; before and after, the network rests there."""
    trained, images = network.load(trained_folder), Images.from_run_folder(trained_folder)
    genome, recipe = network.smallest(trained.space), FineTuning(epochs=1, batch=32)
    with processes() as group:
        here = fine_tune(trained, images, genome, recipe, group)
    monkeypatch.setattr(network, "best_device", lambda: DEVICE)
    with OtherDevice():
        there = fine_tune(trained, images, genome, recipe, Processes(0, 1, DEVICE))
    state = there.subnet.module.state_dict()
    assert {tensor.device.type for tensor in state.values()} == {"cpu"}
    for name, tensor in here.subnet.module.state_dict().items():
        assert torch.allclose(state[name].float(), tensor.float(), rtol=1e-3, atol=1e-4), name
    assert there.before.top1 == pytest.approx(here.before.top1, abs=2 / 449)


def test_adapting_step_times_from_three_measurements():
    """A machine whose steps are exactly scaled is found; one with other proportions is met halfway."""
    rng = np.random.default_rng(0)
    low, high = np.array([5e5, 1e6, 2e5]), np.array([2e6, 9e6, 5e5])
    steps = Steps(*rng.uniform(low, high, (10, 3)).T, np.full(10, 64.0))
    base = StepTime(1.0, 40.0, 3.0, 0.2, relative_std=0.1)

    def ms(step, rows):
        return step.ms(steps.take(rows))

    def adapted(times, rows):
        return training_cost.fit(steps.take(rows), times, base)

    few, rest = slice(3), slice(3, 10)
    same = adapted(7 * ms(base, few), few)
    assert ms(same, rest) == pytest.approx(7 * ms(base, rest), rel=1e-6)
    truth = StepTime(0.5, 200.0, 3.0, 0.1, relative_std=0.0)
    error = np.abs(ms(adapted(ms(truth, few), few), rest) / ms(truth, rest) - 1).mean()
    factor = np.median(ms(truth, few) / ms(base, few))
    plain = np.abs(factor * ms(base, rest) / ms(truth, rest) - 1).mean()
    assert error < 0.5 * plain
