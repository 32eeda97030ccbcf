"""Supernets as networks: subnets, calibration, weights."""

import numpy as np
import pytest

from supernet.space import get_space
from supernet.weights import family, network
from supernet.weights.images import ImageSet

FAMILIES = ["ofa_mbv3_w1.0", "ofa_proxyless_w1.3", "ofa_resnet50", "ofa_small"]


@pytest.fixture(scope="module")
def torch():
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ofa.imagenet_classification.elastic_nn.networks  # noqa: F401
        import torch

    torch.set_num_threads(1)
    return torch


def lively(torch, space, classes=None, pictures=4, build=network.supernet):
    """A supernet whose outputs differ from picture to picture, as a trained one's: norms fit its signals."""
    from ofa.utils.my_modules import init_models

    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = build(space, classes)
        torch.manual_seed(0)
        init_models(module)
        images = torch.randn(pictures, 3, 32, 32)
    network.set_active(module, space, network.largest(space))
    with torch.no_grad():
        for _ in range(3):
            module.train()(images)
    return module.eval(), images


@pytest.mark.parametrize("name", FAMILIES)
def test_extracted_subnet_equals_the_supernet_in_subnet_mode(name, torch):
    """20 random subnets: the same outputs to 1e-5 of their size, and different from those of the others."""
    space = get_space(name)
    module, images = lively(torch, space, classes=7, pictures=2)
    genomes = space.sample(20, np.random.default_rng(1))
    before = None
    for i in range(len(genomes)):
        genome = genomes[i : i + 1]
        network.set_active(module, space, genome)
        torch.optim.swa_utils.update_bn(
            [images], module
        )  # or the signals of random weights would fade to the same output
        with torch.no_grad():
            whole = module(images)
            part = network.extract(module, space, genome)(images)
        assert part.shape == (2, 7)
        size = float(whole.abs().max())
        assert size > 1e-3
        assert float((whole - part).abs().max()) <= 1e-5 * size
        assert before is None or float((whole - before).abs().max()) > 1e-3 * size
        before = whole


def test_small_network_has_the_layers_of_its_table(torch):
    """MACs and parameters of 10 subnets by torch's own counter, at two sides and for 10 and 3 classes."""
    from torch.utils.flop_counter import FlopCounterMode

    space = get_space("ofa_small")
    genomes = space.sample(10, np.random.default_rng(2))
    table = space.layers(genomes)
    for classes in (10, 3):
        module = network.supernet(space, classes)
        for i in range(len(genomes)):
            subnet, r = network.extract(module, space, genomes[i : i + 1]), int(space.column(genomes, "r")[i])
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                subnet(torch.zeros(1, 3, r, r))
            assert counter.get_total_flops() == 2 * (table.macs()[i] - 512 * (10 - classes))
            held = sum(p.numel() for p in subnet.parameters())
            assert held == table.params()[i] - 513 * (10 - classes)
    ends = np.concatenate([network.smallest(space), network.largest(space)])
    ends[:, space.index["r"]] = space.axis("r").values.index(32) + 1
    assert space.layers(ends).macs().tolist() == [902976, 3239040]


def test_native_activations_change_nothing_in_training(torch):
    """Same loss, and gradients to rounding."""
    space = get_space("ofa_small")
    plain, images = lively(torch, space, 10, build=family.of(space).elastic)
    native, _ = lively(torch, space, 10)
    assert any(isinstance(module, torch.nn.Hardswish) for module in native.modules())
    assert not any(isinstance(module, torch.nn.Hardswish) for module in plain.modules())
    losses = []
    for module in (plain, native):
        network.set_active(module, space, network.largest(space))
        loss = module.train()(images).square().sum()
        loss.backward()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    pairs = [(a.grad, b.grad) for a, b in zip(plain.parameters(), native.parameters(), strict=True)]
    largest = max(float(a.abs().max()) for a, _ in pairs if a is not None)
    for a, b in pairs:
        assert (a is None) == (b is None)
        assert a is None or torch.allclose(a, b, rtol=1e-3, atol=1e-5 * largest)


def test_calibration_gives_the_statistics_of_ofas_own_function(torch):
    """Batches of unequal size: both weight by images."""
    from ofa.imagenet_classification.elastic_nn.utils import set_running_statistics

    space = get_space("ofa_small")
    module, _ = lively(torch, space)
    genome = network.smallest(space)
    images = ImageSet(source="digits", resolution=(16, 16), val=200, calibration=300).load()
    ours, theirs = (network.extract(module, space, genome) for _ in range(2))
    batches = list(images.batches("calibration", 32, 70))
    network.calibrate(ours, batches, images.frequencies)
    set_running_statistics(theirs, batches)
    checked = 0
    for a, b in zip(ours.modules(), theirs.modules(), strict=True):
        if isinstance(a, torch.nn.BatchNorm2d):
            assert torch.allclose(a.running_mean, b.running_mean, rtol=1e-4, atol=1e-5)
            assert torch.allclose(a.running_var, b.running_var, rtol=1e-4, atol=1e-6)
            checked += 1
    assert checked >= 12
    order = np.argsort(images.labels[images.parts["calibration"]], kind="stable")
    images.parts["calibration"] = images.parts["calibration"][order]
    with pytest.raises(ValueError, match="shuffle"):
        network.calibrate(ours, images.batches("calibration", 32, 100), images.frequencies)


def test_supernet_file_round_trip_and_errors(torch, tmp_path):
    space = get_space("ofa_small")
    module, images = lively(torch, space, classes=4)
    facts = {"space": "ofa_small", "classes": 4, "resolution": [16, 32]}
    path = tmp_path / "supernet.safetensors"
    network.save(path, module.state_dict(), network.KIND, facts)
    trained = network.load(tmp_path)
    assert trained.resolution == (16, 32)
    assert trained.sha256 == network.load(path).sha256
    network.set_active(trained.module, space, network.largest(space))
    network.set_active(module, space, network.largest(space))
    assert (trained.module.eval()(images) == module(images)).all()

    with pytest.raises(ValueError, match="no finished supernet"):
        network.load(tmp_path.parent)
    with pytest.raises(ValueError, match="expected checkpoint"):
        network.read(path, "checkpoint")
    network.save(path, module.state_dict(), network.KIND, {**facts, "classes": 5})
    with pytest.raises(ValueError, match=r"of another network: .* classifier"):
        network.load(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"supernet.safetensors is damaged"):
        network.load(path)


def test_norms_of_one_dimension_and_norms_that_are_called_twice_are_calibrated(torch):
    """Statistics are those of what a norm sees, however often it is called and whatever stands for images."""

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.shared, self.flat = torch.nn.BatchNorm2d(3), torch.nn.BatchNorm1d(3)

        def forward(self, x):
            x = self.shared(x)
            self.shared(x.repeat(4, 1, 1, 1))
            return self.flat(x.mean(dim=(2, 3)))

    subnet = Net()
    images = 3 + 2 * torch.randn(8, 3, 4, 4)
    network.settle_norms(subnet, images)
    seen = images.mean(dim=(0, 2, 3))  # a fifth of what the shared norm sees; the rest has the mean 0
    assert torch.allclose(subnet.shared.running_mean, seen / 5, atol=1e-4)
    assert torch.allclose(subnet.flat.running_mean, torch.zeros(3), atol=1e-4)
    assert not torch.equal(subnet.flat.running_var, torch.ones(3))
