"""Training: recipes, resuming, divergence, distillation."""

import json
import math

import numpy as np
import pytest
import torch
from other_device import DEVICE, OtherDevice
from torch.nn.functional import cross_entropy

from supernet.files import run_folder
from supernet.space import get_space
from supernet.training import step, train
from supernet.training.recipes import Phase, ProgressiveShrinking, Sandwich, epochs_of
from supernet.training.step import (
    DivergedError,
    Learner,
    Optimisation,
    Processes,
    adamw,
    draw,
    processes,
    rate_at,
)
from supernet.weights import network
from supernet.weights.images import ImageSet


class Stop:
    """A sink that kills the training after an epoch."""

    def __init__(self, after):
        self.after = after

    def start(self, facts, history): ...
    def step(self, done, of, loss): ...
    def finish(self, summary, front=None): ...
    def close(self): ...

    def log(self, row):
        if row["epoch"] == self.after:
            raise KeyboardInterrupt


def test_progressive_shrinking_opens_the_space_as_published():
    """Cai et al. (2020), and train_ofa_net.py: what is open in which phase; numbers: test_recipe_ofa.py."""
    space = get_space("ofa_mbv3_w1.0")
    phases = ProgressiveShrinking().phases(space)
    assert [p.summed for p in phases] == [False] + 5 * [True]
    kernels, depths, expands = [], [], []
    for phase in phases:
        values = phase.restricted(space).values(phase.restricted(space).sample(300, np.random.default_rng(0)))
        kernels.append({*values[:, [space.index[f"ks{i}"] for i in range(20)]].ravel()} - {0})
        depths.append({*values[:, [space.index[f"d{i}"] for i in range(5)]].ravel()})
        expands.append({*values[:, [space.index[f"e{i}"] for i in range(20)]].ravel()} - {0})
    assert kernels == [{7}] + 5 * [{3, 5, 7}]
    assert depths == 2 * [{4}] + [{3, 4}] + 3 * [{2, 3, 4}]
    assert expands == 4 * [{6}] + [{4, 6}, {3, 4, 6}]
    assert [p.sort_channels for p in phases] == 4 * [False] + 2 * [True]
    resnet = ProgressiveShrinking().phases(get_space("ofa_resnet50"))
    assert [p.name for p in resnet] == [
        "largest", "depth 1", "depth 2", "expand 1", "expand 2", "width 1", "width 2",
    ]  # fmt: skip


def test_epochs_follow_the_shares():
    phases = ProgressiveShrinking().phases(get_space("ofa_mbv3_w1.0"))
    assert epochs_of(phases, 605) == (180, 125, 25, 125, 25, 125)
    for epochs in (6, 7, 13, 60):
        counts = epochs_of(phases, epochs)
        assert sum(counts) == epochs
        assert min(counts) >= 1
    with pytest.raises(ValueError, match="fewer than the 6 phases"):
        epochs_of(phases, 5)
    assert epochs_of(Sandwich().phases(get_space("ofa_small")), 100) == (35, 65)


def test_subnets_of_a_step():
    space = get_space("ofa_small")
    phase = Sandwich(random=3).phases(space)[-1]
    drawn = draw(phase, phase.restricted(space), seed=1, epoch=2, step=3)
    space.check(drawn)
    assert (drawn[0] == network.largest(space)[0]).all()
    assert (drawn[1] == network.smallest(space)[0]).all()
    assert len(np.unique(drawn, axis=0)) == 5
    again = draw(phase, phase.restricted(space), seed=1, epoch=2, step=3)
    assert (again == drawn).all()
    seeded = draw(phase, phase.restricted(space), seed=2, epoch=2, step=3)
    assert (seeded[2:] != drawn[2:]).any()
    other = draw(phase, phase.restricted(space), seed=1, epoch=2, step=4)
    assert (other[2:] != drawn[2:]).any(axis=1).all()


def test_the_rate_rises_then_falls_as_a_cosine():
    rates = [rate_at(step, 100) for step in range(100)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4] == 1.0
    assert rates[52] == pytest.approx(0.5)
    assert rates[99] == pytest.approx(0.5 * (1 + math.cos(math.pi * 95 / 96)))


@pytest.mark.parametrize(
    ("recipe", "options"),
    [
        (Sandwich(largest_first=0.34, distil=True), {"ema": 0.9}),
        (ProgressiveShrinking(), {"epochs": 6, "batch": 32, "augmentation": "strong", "dropout": 0.2}),
        (Sandwich(), {"optimiser": "adamw", "rate": 0.002, "weight_decay": 0.05}),
    ],
)
def test_killed_training_resumes_to_the_same_bits(tmp_path, training, recipe, options):
    """Killed in the middle, and for progressive shrinking again where a phase begins."""
    whole = training(tmp_path / "whole", recipe, images=64, **options)
    for after in (0, 3) if "epochs" in options else (1,):
        with pytest.raises(KeyboardInterrupt):
            training(tmp_path / "parts", recipe, images=64, sinks=[Stop(after)], **options)
        assert (tmp_path / "parts" / "checkpoint.safetensors").exists()
    parts = training(tmp_path / "parts", recipe, images=64, **options)
    assert parts.sha256 == whole.sha256
    assert not (tmp_path / "parts" / "checkpoint.safetensors").exists()
    events = [json.loads(line) for line in (tmp_path / "parts" / "events.jsonl").read_text().splitlines()]
    epochs = [event["epoch"] for event in events if event["event"] == "epoch"]
    assert epochs == list(range(options.get("epochs", 3)))
    with pytest.raises(run_folder.FinishedRun, match="left alone"):
        training(tmp_path / "parts", recipe, images=64, **options)


def test_adamw_moves_weights_by_its_rate_and_decays_matrices_only():
    """Its first step moves each weight by the rate, whatever the gradient, and shrinks what decays."""
    module = torch.nn.Linear(3, 2)
    before = [parameter.detach().clone() for parameter in module.parameters()]
    optimiser = adamw(module, 0.01, 0.9, 0.1)
    module(torch.randn(4, 3)).square().sum().backward()
    optimiser.step()
    for start, now, decay in zip(before, module.parameters(), (0.1, 0.0), strict=True):
        moved = start * (1 - 0.01 * decay) - 0.01 * now.grad.sign()
        assert torch.allclose(now.detach(), moved, atol=1e-6)


def test_divergence_keeps_the_last_good_checkpoint(tmp_path, training, monkeypatch):
    good = rate_at
    monkeypatch.setattr(step, "rate_at", lambda now, *of: good(now, *of) if now < 2 else 1e30)
    with pytest.raises(DivergedError, match=r"step 2 of epoch 2 .* checkpoint of epoch 1 is kept"):
        training(tmp_path / "run", Sandwich(), images=128)
    tensors, facts = network.read(tmp_path / "run" / "checkpoint.safetensors", train.CHECKPOINT_KIND)
    assert len(facts["history"]) == 1
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    assert not (tmp_path / "run" / "supernet.safetensors").exists()
    monkeypatch.setattr(step, "rate_at", lambda now, *of: good(now, *of) if now < 3 else np.inf)
    with pytest.raises(DivergedError, match=r"step 2 of epoch 2 .* checkpoint of epoch 1 is kept"):
        training(tmp_path / "run", Sandwich(), images=128)  # in the last step: the epoch counts for nothing
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"other settings \(rate=0.05, now 0.01\)"):
        training(tmp_path / "run", Sandwich(), images=128, rate=0.01)
    training(tmp_path / "run", Sandwich(), images=128)


def test_wrong_settings_are_refused_before_training(tmp_path, training):
    with pytest.raises(ValueError, match="forward_batch=24 must divide batch=64"):
        training(tmp_path / "a", Sandwich(), forward_batch=24)
    with pytest.raises(ValueError, match="more than the 64 training images"):
        training(tmp_path / "b", Sandwich(), images=64, batch=128)
    with pytest.raises(KeyboardInterrupt):
        training(tmp_path / "c", Sandwich(), sinks=[Stop(0)])
    (tmp_path / "c" / "checkpoint.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="damaged"):
        training(tmp_path / "c", Sandwich())


def test_subnets_learn_the_outputs_of_the_first(tmp_path, training):
    """The losses of a step against the definition, from logits that are computed here."""
    space = get_space("ofa_small")
    images = ImageSet(source="digits", resolution=(16, 16), val=300, train_images=64).load()
    recipe = Sandwich(random=0, largest_first=0, distil=True)
    phase = recipe.phases(space)[0]
    genomes = draw(phase, space, seed=0, epoch=0, step=0)
    pixels, labels = next(iter(images.batches("train", 16, 32)))
    plan = Optimisation(epochs=1, batch=32, forward_batch=32, label_smoothing=0.1)
    with processes() as group:
        run = Learner(space, 10, plan, group, seed=0)
    run.module.train()
    losses = run.add_gradients(phase, genomes, pixels, labels, 1)
    assert losses.shape == (2,)
    gradient = {name: p.grad.clone() for name, p in run.module.named_parameters() if p.grad is not None}
    run.module.zero_grad()
    network.set_active(run.module, space, genomes[:1])
    first = run.module(pixels)
    network.set_active(run.module, space, genomes[1:])
    second = run.module(pixels)
    wanted = torch.full((32, 10), 0.1 / 10)
    wanted[torch.arange(32), labels] += 0.9
    hard = -(wanted * first.log_softmax(1)).sum(1).mean()
    soft = -(first.detach().exp() / first.detach().exp().sum(1, keepdim=True) * second.log_softmax(1)).sum(1)
    assert losses[0].item() == pytest.approx(hard.item(), rel=1e-5)
    assert losses[1].item() == pytest.approx(soft.mean().item(), rel=1e-5)
    assert losses[1].item() != pytest.approx(cross_entropy(second, labels).item(), rel=1e-3)
    ((hard + soft.mean()) / 2).backward()  # the gradient is that of the mean loss
    for name, parameter in run.module.named_parameters():
        if parameter.grad is not None:
            assert torch.allclose(parameter.grad, gradient[name], rtol=1e-3, atol=1e-5)


def test_a_step_happens_on_the_device_of_the_group():
    """Losses and weights after a step as on the CPU, with a teacher and with averaged weights."""
    space = get_space("ofa_small")
    images = ImageSet(source="digits", resolution=(16, 16), val=300, train_images=64).load()
    phase = Phase("all", 1, {"k": 2, "d": 3, "e": 3}, ("largest", "smallest"), distil="teacher")
    genomes = draw(phase, space, seed=0, epoch=0, step=0)
    pixels, labels = next(iter(images.batches("train", 16, 32)))
    plan = Optimisation(batch=32, forward_batch=32, ema=0.9)

    def step(device):
        learner = Learner(space, 10, plan, Processes(0, 1, device), seed=0)
        learner.enter(phase)
        learner.module.train()
        losses = learner.add_gradients(phase, genomes, pixels, labels, 1)
        learner.finish_step()
        return losses, {name: tensor.to("cpu") for name, tensor in learner.tensors().items()}

    losses, tensors = step(torch.device("cpu"))
    with OtherDevice():
        other_losses, other_tensors = step(DEVICE)
    assert torch.allclose(losses, other_losses, rtol=1e-4)
    assert tensors.keys() == other_tensors.keys()
    for name, tensor in tensors.items():
        assert torch.allclose(tensor.float(), other_tensors[name].float(), rtol=1e-3, atol=1e-4), name


def test_sorting_channels_leaves_the_largest_subnet_as_it_is(trained_folder):
    trained = network.load(trained_folder)
    space, module = trained.space, trained.module.eval()
    picture = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        network.set_active(module, space, network.largest(space))
        before = module(picture)
        network.set_active(module, space, network.smallest(space))
        small = module(picture)
        module.re_organize_middle_weights(expand_ratio_stage=0)
        other = module(picture)
        network.set_active(module, space, network.largest(space))
        after = module(picture)
    assert torch.allclose(before, after, atol=1e-4 * float(before.abs().max()))
    assert not torch.allclose(small, other, atol=1e-2 * float(small.abs().max()))


def test_a_phase_needs_a_part_of_the_space():
    space = get_space("ofa_small")
    narrow = Phase("kernel", 1, {"k": 2}, ("random",)).restricted(space)
    assert narrow.count() == 2**9 * 13 * 3
