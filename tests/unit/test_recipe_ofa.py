"""`recipe=ofa` against the constants of OFA's authors, each with the line that says it.

Files: github mit-han-lab/once-for-all, commit 80a2e26: train_ofa_net.py (T), and in ofa/: imagenet.py of
imagenet_classification/data_providers (I), run_config.py and distributed_run_manager.py of
imagenet_classification/run_manager (C, M), my_random_resize_crop.py of utils/my_dataloader (R),
ofa_mbv3.py of imagenet_classification/elastic_nn/networks (N), progressive_shrinking.py of
imagenet_classification/elastic_nn/training (P).
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from search import command
from search.commands.train import Options
from supernet import registry
from supernet.space import get_space
from supernet.training.recipes import Phase, epochs_of
from supernet.training.step import Learner, Optimisation, Processes, sgd
from supernet.training.train import Plan
from supernet.weights import network

GPUS = 32  # Cai et al. (arXiv 1908.09791), section 4.1: batch 2,048, rate 2.6, 180 epochs for the largest
OPTIONS = {  # name: (value, where it stands)
    "batch": (64 * GPUS, "T: base_batch_size = 64, of each GPU"),
    "forward_batch": (64, "T: base_batch_size = 64; norms are not synchronised"),
    "reference_batch": (64, "T: init_lr = base_lr * num_gpus"),
    "momentum": (0.9, "T: momentum = 0.9"),
    "optimiser": ("sgd", "T: opt_type = 'sgd', no_nesterov = False"),
    "weight_decay": (3e-5, "T: weight_decay = 3e-5"),
    "label_smoothing": (0.1, "T: label_smoothing = 0.1"),
    "dropout": (0.1, "T: dropout = 0.1"),
    "ema": (None, "T: there is none"),
    "seed": (0, "T: manual_seed = 0"),
}
AUGMENTATION = {
    "cut": ("crop", "I: MyRandomResizedCrop"),
    "area": ([0.08, 1.0], "T: resize_scale = 0.08"),
    "aspect": ([3 / 4, 4 / 3], "R: ratio=(3.0 / 4.0, 4.0 / 3.0)"),
    "flip": (True, "I: RandomHorizontalFlip()"),
    "brightness": (32 / 255, "I: distort_color 'tf', ColorJitter(brightness=32.0 / 255.0, saturation=0.5)"),
    "saturation": (0.5, "I: the same"),
    **dict.fromkeys(("contrast", "hue", "randaugment", "erase", "mixup", "cutmix"), (0, "I: nothing else")),
}
DATA = {
    "resolution": ([128, 224], "T: image_size = '128,160,192,224', continuous_size = True"),
    "val": (10000, "T: valid_size = 10000"),
    "calibration": (2000, "M: reset_running_statistics(subset_size=2000)"),
    "workers": (8, "T: n_worker = 8"),
}
# name: epochs, of which warm-up, rate of 64 images, subnets of a step, what is open
# (T: args.task, args.phase; P: train runs n_epochs + warmup_epochs)
PHASES = {
    "largest": (180, None, 2.6 / GPUS, 1, {}),
    "kernel": (125, 5, 3e-2, 1, {"k": 3}),
    "depth 1": (25, 0, 2.5e-3, 2, {"k": 3, "d": 2}),
    "depth 2": (125, 5, 7.5e-3, 2, {"k": 3, "d": 3}),
    "expand 1": (25, 0, 2.5e-3, 4, {"k": 3, "d": 3, "e": 2}),
    "expand 2": (125, 5, 7.5e-3, 4, {"k": 3, "d": 3, "e": 3}),
}
WORDS = ["space=ofa_mbv3_w1.0", "data=imagenet", "data.root=imagenet", "recipe=ofa"]


@pytest.fixture(scope="module")
def config():
    return command.compose("train", WORDS)


IMAGENET = SimpleNamespace(  # what a plan asks of the images
    parts={"train": range(1_271_167)}, settings=SimpleNamespace(resolution=(128, 224))
)


@pytest.fixture(scope="module")
def plan(config):
    optimisation = command.take(Optimisation, Options(**config))
    return Plan(get_space("ofa_mbv3_w1.0"), IMAGENET, registry.build(config["recipe"]), optimisation)


@pytest.mark.parametrize(("group", "table"), [("", OPTIONS), ("augmentation", AUGMENTATION), ("data", DATA)])
def test_options_are_those_of_the_authors(config, group, table):
    node = config[group] if group else config
    assert {name: node[name] for name in table} == {name: value for name, (value, _) in table.items()}


def test_words_of_the_command_line_go_before():
    """And another recipe, or another optimisation by its name, leaves the rest as it is."""
    mine = command.compose("train", [*WORDS, "rate=.5", "epochs=9", "augmentation.area=[.2,1]"])
    assert (mine["rate"], mine["epochs"], mine["batch"]) == (0.5, 9, 2048)
    assert mine["augmentation"]["area"] == [0.2, 1]
    assert mine["augmentation"]["saturation"] == 0.5
    other = command.compose("train", ["recipe=ofa", "augmentation=data"])
    assert (other["augmentation"]["cut"], other["augmentation"]["saturation"]) == (None, 0)
    usual = command.compose("train", [])
    assert (usual["epochs"], usual["rate"], "augmentation" in usual) == (60, 0.05, False)
    assert command.compose("train", ["optimisation=ofa"])["weight_decay"] == 3e-5


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("augmentation=mixxup", "unknown augmentation 'mixxup'. Did you mean 'mixup'"),
        ("optimisation=off", "unknown optimisation 'off'. Did you mean 'ofa'"),
        ("augmentation.mixup=1", r"nothing is chosen for augmentation: give augmentation=... first \(crop"),
    ],
)
def test_a_choice_that_does_not_exist_is_refused(word, reason):
    with pytest.raises(ValueError, match=reason):
        command.compose("train", [word])


def test_phases_are_those_of_the_authors(plan):
    lengths = dict(zip((p.name for p in plan.phases), np.diff(plan.starts), strict=True))
    assert lengths == {name: row[0] for name, row in PHASES.items()}
    for phase in plan.phases:
        epochs, warm_up, rate, subnets, opened = PHASES[phase.name]
        assert plan.optimisation.rate * phase.rate == pytest.approx(rate)
        assert (len(phase.subnets), phase.open, phase.restart) == (subnets, opened, True)
        if warm_up is not None:
            assert phase.warm_up * epochs == pytest.approx(warm_up)
            assert (phase.distil, phase.summed) == ("teacher", True)  # T: kd_ratio = 1.0, kd_type = 'ce'
        assert phase.sort_channels == phase.name.startswith("expand")
    assert epochs_of(plan.phases, 121) == (36, 25, 5, 25, 5, 25)


def test_rates_are_those_of_their_run_config(plan):
    """At every step of a few epochs: C, warmup_adjust_learning_rate and adjust_learning_rate."""
    from ofa.imagenet_classification.run_manager.run_config import ImagenetRunConfig

    steps, parameters = 3, [torch.nn.Parameter(torch.zeros(1))]
    for phase, start in zip(plan.phases[1:], plan.starts[1:], strict=False):
        epochs, warm_up, base, *_ = PHASES[phase.name]
        theirs = ImagenetRunConfig(n_epochs=epochs - warm_up, init_lr=GPUS * base)
        optimiser = torch.optim.SGD(parameters, lr=1)
        for epoch in (0, 1, 4, 5, 6, 20, epochs - 1):
            for step in range(steps):
                if epoch < warm_up:
                    place = (optimiser, warm_up * steps, steps, epoch, step, base)
                    rate = theirs.warmup_adjust_learning_rate(*place)
                else:
                    rate = theirs.adjust_learning_rate(optimiser, epoch - warm_up, step, steps)
                assert plan.rate(start + epoch, step, steps) == pytest.approx(rate, rel=1e-9)


def test_the_rate_grows_with_the_batch():
    """T: init_lr = base_lr * num_gpus. Without a reference it is what it is."""
    small = Optimisation(batch=256, forward_batch=64, rate=0.03, reference_batch=64)
    assert small.rate_at(500, 1000, 0.5) == pytest.approx(4 * 0.03)
    assert small.rate_at(0, 1000, 0.5) == pytest.approx(0.03 * (1 + 3 / 500))
    assert Optimisation(batch=256, rate=0.03).rate_at(500, 1000, 0.5) == pytest.approx(0.03)


@pytest.mark.parametrize("name", ["ofa_mbv3_w1.0", "ofa_resnet50", "ofa_small"])
def test_what_decays_is_what_decays_there(name):
    """T: no_decay_keys = 'bn#bias'."""
    module = network.supernet(get_space(name))
    decayed, plain = (group["params"] for group in sgd(module, 0.1, 0.9, 3e-5).param_groups)
    theirs = list(module.get_parameters(["bn", "bias"], mode="exclude"))
    assert {*map(id, decayed)} == {*map(id, theirs)}
    assert len(decayed) + len(plain) == len(list(module.parameters()))


def test_the_network_is_theirs():
    """T: bn_momentum = 0.1, bn_eps = 1e-5, image sizes a multiple of 4 (R: IMAGE_SIZE_SEG = 4)."""
    space = get_space("ofa_mbv3_w1.0")
    norms = [m for m in network.supernet(space).modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert {(norm.momentum, norm.eps) for norm in norms} == {(0.1, 1e-5)}
    sides = space.axis("r").values
    assert [side for side in sides if 128 <= side <= 224] == list(range(128, 225, 4))


def test_dropout_acts_on_the_inputs_of_the_classifier():
    """N: LinearLayer(last_channel, n_classes, dropout_rate). One pass against features that are dropped here;
    which ones depends on the place in the training, and the teacher sees all."""
    space, optimisation = get_space("ofa_small"), Optimisation(batch=8, forward_batch=8, dropout=0.5)
    learner = Learner(space, 10, optimisation, Processes(0, 1, torch.device("cpu")), seed=0)
    learner.module.train()
    inputs, genomes = [], network.largest(space)
    layer = learner.module.classifier
    layer.linear.register_forward_pre_hook(lambda _, x: inputs.append(x[0].detach()))
    pictures = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(8)
    phase = Phase("all", 1, {}, ("largest",))
    losses = []
    for epoch, step in ((0, 0), (0, 0), (0, 1), (1, 0)):
        learner.begin(0.1, epoch=epoch, step=step)
        losses.append(float(learner.add_gradients(phase, genomes, pictures, labels, 1)))
    assert losses[0] == losses[1]
    assert len(set(losses)) == 3
    network.set_active(learner.module, space, genomes)
    learner.module(pictures)  # without dropout, as a teacher computes
    *dropped, whole = inputs
    gone = dropped[0] == 0
    assert 0.4 < float(gone.float().mean()) < 0.6
    assert torch.allclose(dropped[0][~gone], 2 * whole[~gone], rtol=1e-3, atol=1e-6)
