"""Fine-tuning one subnet, and what training costs on a machine of which little was measured."""

import copy
import itertools
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from other_device import DEVICE, OtherDevice

from supernet.surrogates import training_cost
from supernet.surrogates.training_cost import Steps, StepTime
from supernet.training import finetune
from supernet.training.finetune import FineTuning, Progress, energy_kwh, fine_tune
from supernet.training.measured_accuracy import SupernetAccuracy
from supernet.training.step import DivergedError, Processes, alone, processes
from supernet.weights import network
from supernet.weights import subnet as subnets
from supernet.weights.augmentation import Augmentation
from supernet.weights.images import Images


def test_fine_tuning_from_the_supernet_and_from_scratch(trained_folder):
    trained, images = network.load(trained_folder), Images.from_run_folder(trained_folder)
    genome = network.smallest(trained.space)
    with processes() as group:
        none = fine_tune(trained, images, genome, FineTuning(epochs=0), group)
        some = fine_tune(trained, images, genome, FineTuning(epochs=3, batch=32, rate=0.003), group)
        scratch = fine_tune(
            trained, images, genome, FineTuning(epochs=1, batch=32, from_scratch=True, distil="none"), group
        )
        again = fine_tune(
            trained, images, genome, FineTuning(epochs=1, batch=32, from_scratch=True, distil="none"), group
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


class Killed(Exception):
    pass


@pytest.mark.parametrize(
    ("options", "epochs"),
    [
        ({"augmentation": Augmentation(mixup=0.2, erase=0.5), "forward_batch": 32}, 8),
        ({"norms": "live", "distil": "none"}, 8),
        ({"amp": "fp16", "distil": "none"}, 1),
    ],
    ids=["augmented", "live", "fp16"],
)
def test_killed_at_any_step_it_ends_in_the_same_weights(
    trained_folder, tmp_path, monkeypatch, options, epochs
):
    """Killed at 20 of 31 steps; with a checkpoint every third step at most, a resume repeats some."""
    trained, images = network.load(trained_folder), Images.from_run_folder(trained_folder)
    if options.get("amp") == "fp16":
        options = {"distil": "none"}
        monkeypatch.setattr(finetune, "precision", lambda amp, device: torch.float16)
    recipe = FineTuning(epochs=epochs, batch=64, rate=0.003, **options)
    start = subnets.from_supernet(trained, images, trained.space.format(network.smallest(trained.space))[0])
    teacher = finetune.teacher(recipe.distil, trained, images, 16)

    def train(progress=finetune.NO_PROGRESS, recipe=recipe):
        subnet = replace(start, module=copy.deepcopy(start.module))
        seconds, loss = finetune.train_alone(
            subnet, images, recipe, alone(), teacher=teacher, progress=progress
        )
        return subnet.module.state_dict(), len(seconds), loss

    state, _, loss = train()
    checkpoint, clock = tmp_path / "checkpoint.safetensors", itertools.count()
    monkeypatch.setattr(finetune.time, "monotonic", lambda: next(clock))
    steps = np.arange(1, 4 * epochs)
    for place in sorted(np.random.default_rng(0).choice(steps, min(20, len(steps)), replace=False)):

        def watch(done, loss, place=place):
            if round(4 * done) == place:
                raise Killed

        with pytest.raises(Killed):
            train(Progress(watch, checkpoint, seconds=3))
    with pytest.raises(ValueError, match="is of another training"):
        train(Progress(None, checkpoint), replace(recipe, rate=0.1))
    told = []
    progress = Progress(lambda done, loss: told.append(done), checkpoint)
    for steps_left in (
        range(1, 5),
        range(1),
    ):  # the second time it was killed before the results were written
        told.clear()
        again, count, same_loss = train(progress)
        assert len(told) in steps_left
        assert (count, same_loss) == (epochs, loss)
        assert all((state[name] == tensor).all() for name, tensor in again.items())
    progress.remove()
    assert not checkpoint.exists()


def test_frozen_norms_keep_their_statistics(trained_folder):
    trained, images = network.load(trained_folder), Images.from_run_folder(trained_folder)
    genome, recipe = network.smallest(trained.space), FineTuning(epochs=1, batch=100)
    before = subnets.from_supernet(trained, images, trained.space.format(genome)[0]).module.state_dict()

    def statistics(recipe):
        after = fine_tune(trained, images, genome, recipe, alone()).subnet.module.state_dict()
        return [bool((after[name] == before[name]).all()) for name in after if "running" in name]

    assert all(statistics(recipe))
    assert not any(statistics(replace(recipe, norms="live")))
    assert not any(statistics(replace(recipe, from_scratch=True)))
    with pytest.raises(ValueError, match="from_scratch=true has none yet"):
        replace(recipe, from_scratch=True, norms="frozen")


def test_forward_passes_of_any_size_give_the_same_gradients_with_frozen_norms(trained_folder):
    trained, images = network.load(trained_folder), Images.from_run_folder(trained_folder)
    genome, recipe = network.smallest(trained.space), FineTuning(epochs=1, batch=100, rate=0.003)

    def loss(**options):
        return fine_tune(trained, images, genome, replace(recipe, **options), alone()).loss

    assert loss(forward_batch=25) == pytest.approx(loss(), abs=1e-5)
    assert abs(loss(forward_batch=25, norms="live") - loss(norms="live")) > 1e-4


@pytest.mark.parametrize(
    ("options", "world", "reason"),
    [
        ({"norms": "live"}, 2, "norms=live sees the images .* 2 processes forward_batch=, at most 32"),
        ({"augmentation": Augmentation(mixup=0.2)}, 2, "this augmentation sees the images"),
        ({"forward_batch": 32}, 4, "batch=64 in forward passes of 32 cannot be shared equally by 4 process"),
        ({"batch": 500}, 1, "batch=500 is more than the 300 images"),
        ({}, 3, "cannot be shared equally by 3"),
    ],
)
def test_steps_that_cannot_be_shared_are_refused(options, world, reason):
    with pytest.raises(ValueError, match=reason):
        FineTuning(**options).passes(Processes(0, world, torch.device("cpu")), 300)


def test_the_teacher_is_nobody_the_largest_subnet_or_one_in_a_folder(trained_folder, tmp_path):
    trained, images = network.load(trained_folder), Images.from_run_folder(trained_folder)
    genome, recipe = network.smallest(trained.space), FineTuning(epochs=1, batch=100)
    largest = subnets.largest(trained, images, 16)
    largest.save(tmp_path / subnets.FILE)

    def loss(distil):
        return fine_tune(trained, images, genome, replace(recipe, distil=distil), alone()).loss

    assert loss("none") == loss(False) < loss("largest") == loss(True) == loss(tmp_path)
    largest.with_facts(mean=[0.0, 0.0, 0.0]).save(tmp_path / subnets.FILE)
    with pytest.raises(ValueError, match=r"cannot teach here, its mean is \[0.0, 0.0, 0.0\], not"):
        loss(tmp_path)


def test_divergence_writes_nothing(trained_folder):
    trained, images = network.load(trained_folder), Images.from_run_folder(trained_folder)
    genome = network.smallest(trained.space)
    with pytest.raises(DivergedError, match=r"of epoch 1 .* lower rate=, or with norms=live"):
        fine_tune(trained, images, genome, FineTuning(epochs=2, batch=100, rate=1e30), alone())


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


@pytest.mark.parametrize(
    "options", [{}, {"norms": "live", "distil": "none"}, {"augmentation": Augmentation(cutmix=1.0)}]
)
def test_fine_tuning_happens_on_the_device_of_the_group(trained_folder, monkeypatch, options):
    """The same weights as on the CPU; before and after, the network rests there."""
    trained, images = network.load(trained_folder), Images.from_run_folder(trained_folder)
    genome, recipe = network.smallest(trained.space), FineTuning(epochs=1, batch=32, rate=0.003, **options)
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
