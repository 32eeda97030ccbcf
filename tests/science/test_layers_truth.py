"""The layer tables against the networks that the ofa package builds, and against published rows."""

import numpy as np
import pytest

from supernet.files.tables import read_columns
from supernet.space import get_space

OFA = [
    "ofa_mbv3_w1.0",
    "ofa_mbv3_w1.2",
    "ofa_proxyless_w1.3",
    "ofa_resnet50",
    "compofa_fixed",
    "compofa_elastic",
]


@pytest.fixture(scope="module")
def torch():
    """torch and the ofa package, imported once; their own import-time warnings are not ours."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ofa.imagenet_classification.elastic_nn.networks  # noqa: F401
        import torch

    torch.set_num_threads(1)
    return torch


@pytest.mark.parametrize("name", OFA)
def test_macs_and_params_equal_those_of_the_extracted_subnet(name, torch):
    """20 random subnets per space: torch's flop counter (2 per MAC) and numel, to the last digit."""
    from torch.utils.flop_counter import FlopCounterMode

    from supernet.weights import network

    space = get_space(name)
    supernet = network.supernet(space)
    genomes = space.sample(20, np.random.default_rng(1))
    table = space.layers(genomes)
    for i in range(len(genomes)):
        subnet = network.extract(supernet, space, genomes[i : i + 1])
        r = network.resolution(space, genomes[i : i + 1])
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            subnet(torch.zeros(1, 3, r, r))
        assert counter.get_total_flops() == 2 * table.macs()[i]
        assert sum(p.numel() for p in subnet.parameters()) == table.params()[i]


def test_live_peak_of_a_network_worked_out_by_hand(torch):
    """Two convolutions and a shortcut, 8 channels of 4 x 4: input of the block, its hidden map twice as wide,
    and the hidden map after ReLU, which is a copy in eager mode and none in the executor."""
    from supernet.weights.live_memory import executor, live_peak_bytes

    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = torch.nn.Conv2d(3, 8, 1)
            self.wide, self.act = torch.nn.Conv2d(8, 16, 1), torch.nn.ReLU()
            self.narrow = torch.nn.Conv2d(16, 8, 1)

        def forward(self, x):
            x = self.stem(x)
            return self.narrow(self.act(self.wide(x))) + x

    block, images, map_bytes = Block().eval(), torch.zeros(1, 3, 4, 4), 8 * 16 * 4
    assert live_peak_bytes(block, images) == (1 + 2 + 2) * map_bytes
    assert live_peak_bytes(executor(block), images) == (1 + 2 + 1) * map_bytes


def test_memory_of_a_training_step_worked_out_by_hand(torch):
    """Two linear layers, 10 to 100 to 10, and a batch of 64. When the gradient of the hidden rows is passed
    through ReLU there are the rows, both gradients of them, that of the second weights, and the outputs."""
    from supernet.weights.live_memory import inference_bytes, training_step

    layers = [torch.nn.Linear(10, 100, bias=False), torch.nn.ReLU(), torch.nn.Linear(100, 10, bias=False)]
    network = torch.nn.Sequential(*layers)
    step = training_step(network, (10,), 64)
    assert (step.params, step.macs, step.activations) == (2000, 2000, 110)
    at_once = 3 * 64 * 100 + 1000 + 64 * 10
    assert step.peak_bytes == pytest.approx(4 * (2 * 2000 + at_once), abs=64)  # the losses are numbers too
    assert inference_bytes(network, (10,), 64) == 4 * (2000 + 64 * 110)
    assert network.training
    assert all(parameter.device.type == "cpu" for parameter in network.parameters())


def test_memory_on_paper_is_that_of_a_real_run(torch):
    from torchvision import models

    from supernet.weights.live_memory import footprint, inference_bytes

    network = models.mobilenet_v3_small(weights=None).eval()
    real = footprint(network, 64)
    whole = inference_bytes(network, (3, 64, 64), 1)
    # the weights without the norms, which are folded into convolutions that get a bias
    assert whole == pytest.approx(real["peak_bytes"] + real["weight_bytes"], rel=0.01)
    assert inference_bytes(network, (3, 64, 64), 5) - whole == 4 * real["peak_bytes"]


@pytest.mark.parametrize(
    ("name", "count", "off"),
    [("ofa_mbv3_w1.0", 20, 1e-9), ("ofa_proxyless_w1.3", 6, 1e-9), ("ofa_resnet50", 6, 0.15)],
)
def test_peak_memory_is_what_is_really_alive(name, count, off, torch):
    """Analytic peak against the storages that exist during a real forward pass: equal.

    But for ResNets with a wide stem, up to 15% more: PyTorch's max pooling also makes the indices, which no
    inference engine does.
    """
    from supernet.weights import network
    from supernet.weights.live_memory import executor, live_peak_bytes

    space = get_space(name)
    supernet = network.supernet(space)
    genomes = space.sample(count, np.random.default_rng(2))
    ratio = []
    for i, peak in enumerate(space.layers(genomes).peak_bytes()):
        subnet = network.extract(supernet, space, genomes[i : i + 1])
        r = network.resolution(space, genomes[i : i + 1])
        ratio.append(live_peak_bytes(executor(subnet), torch.zeros(1, 3, r, r)) / peak)
    assert min(ratio) >= 1 - 1e-9
    assert max(ratio) <= 1 + off
    assert np.median(ratio) == pytest.approx(1)


def test_published_rows_have_the_same_macs_and_params(data):
    """All 1,513 rows of DyNAS-T's evaluations of OFA-MobileNetV3 w1.0."""
    rows = read_columns(data / "ofa_mbv3_accuracy.csv.gz")
    space = get_space("ofa_mbv3_w1.0")
    table = space.layers(space.encode(rows))
    assert (table.macs() == rows["macs"]).all()
    assert (table.params() == rows["params"]).all()
