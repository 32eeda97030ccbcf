"""A family of networks that is defined outside of the package goes through all that has weights."""

from dataclasses import replace

import numpy as np
import pytest
import tiny_family
import torch

from supernet import registry
from supernet.deploy import export, fake_quant, shrink
from supernet.space import get_space
from supernet.training.recipes import ProgressiveShrinking, Sandwich
from supernet.training.step import Optimisation
from supernet.training.train import Plan
from supernet.weights import family, live_memory, network
from supernet.weights import subnet as subnets
from supernet.weights.images import ImageSet


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The space `tiny` of a folder of the user."""
    folder = tmp_path_factory.mktemp("own") / "mine"
    (folder / "space").mkdir(parents=True)
    (folder / "space" / "tiny.yaml").write_text("_target_: tiny_family.space\nname: tiny\n")
    registry.use_folders(folder)
    yield get_space("tiny")
    registry.use_folders()
    get_space.cache_clear()


@pytest.fixture(scope="module")
def supernet(tiny):
    """A supernet of seven classes whose norms have statistics of their own."""
    torch.manual_seed(0)
    module = network.supernet(tiny, 7)
    network.set_active(module, tiny, network.largest(tiny))
    for _ in range(3):
        module.train()(torch.randn(8, 3, 16, 16))
    return module.eval()


def test_subnets_compute_what_the_supernet_set_to_them_does(tiny, supernet):
    images, outputs = torch.randn(2, 3, 16, 16), []
    for genome in tiny.sample(20, np.random.default_rng(0))[:, None]:
        subnet = network.extract(supernet, tiny, genome)
        network.set_active(supernet, tiny, genome)
        assert torch.allclose(subnet(images), supernet(images), rtol=1e-5, atol=1e-6)
        counted = sum(parameter.numel() for parameter in subnet.parameters())
        assert counted == tiny.layers(genome).params()[0] - 3 * (1 + int(tiny.column(genome, "w")[0]))
        outputs.append(subnet(images))
    assert len({tuple(output.flatten().tolist()) for output in outputs}) > 10


def test_a_subnet_file_says_the_family_and_its_space_builds_it(tiny, supernet, tmp_path):
    genome = tiny.sample(1, np.random.default_rng(1))
    name = tiny.format(genome)[0]
    subnet = subnets.Subnet(name, 16, network.extract(supernet, tiny, genome), {"mean": [0.0] * 3})
    subnet.save(tmp_path / subnets.FILE)
    again, images = subnets.load(tmp_path), torch.randn(1, 3, 16, 16)
    assert (again.architecture, again.config) == (name, {"classes": 7})
    assert torch.equal(again.module(images), subnet.module(images))
    tensors, facts = network.read(tmp_path / subnets.FILE, subnets.KIND)
    assert facts["family"] == "Tiny"
    network.save(tmp_path / subnets.FILE, tensors, subnets.KIND, {**facts, "family": "Other"})
    with pytest.raises(ValueError, match="is of the family Other; tiny is now Tiny"):
        subnets.load(tmp_path)


def test_starting_weights_follow_from_the_seed(tiny):
    name = tiny.format(tiny.extremes()[:1])[0]
    one, same, other = (subnets.untrained(name, {"classes": 5}, seed) for seed in (1, 1, 2))
    assert torch.equal(one.head.weight, same.head.weight)
    assert not torch.equal(one.head.weight, other.head.weight)


def test_state_dict_says_what_it_needs(tiny, tmp_path):
    subnet = subnets.random(tiny.format(tiny.extremes()[:1])[0])
    written = export.export(subnet, tmp_path, ["state_dict"])
    code = written["state_dict"].path.read_text()
    scope = {"__file__": str(tmp_path / "load.py")}
    exec(compile(code, "load.py", "exec"), scope)
    assert "needs ofa-frontier, and the space" in code
    images = torch.randn(2, 3, 12, 12)
    assert torch.equal(scope["network"](images), subnet.module(images))


def test_formats_that_cannot_hold_it_are_refused_before_any_is_written(tiny, tmp_path):
    subnet = subnets.random(tiny.format(tiny.extremes()[:1])[0])
    with pytest.raises(ValueError, match=r"a network of the ofa package; tiny is of the family Tiny"):
        export.export(subnet, tmp_path / "out", ["state_dict", "net_config"])
    assert not (tmp_path / "out").exists()


def test_what_a_family_lacks_is_one_line_before_any_work(tiny, tmp_path, bench):
    images = ImageSet("digits", (16, 16)).load()
    Plan(tiny, images, Sandwich(), Optimisation())
    Plan(tiny, images, ProgressiveShrinking(), Optimisation())  # no expansions: nothing to sort
    expanding = tiny_family.space("tiny")
    expanding = replace(
        expanding, axes=(*expanding.axes[:2], replace(expanding.axes[2], letter="e"), *expanding.axes[3:])
    )
    with pytest.raises(ValueError, match=r"family of tiny, Tiny, has no sort_channels"):
        Plan(expanding, images, ProgressiveShrinking(), Optimisation())
    module = network.supernet(tiny, 10)
    own = replace(bench, trained=network.Trained(tiny, module, bench.trained.facts, "none"))
    recipe = shrink.Recipe((shrink.FineTune(epochs=1), shrink.PruneChannels()))
    name = tiny.format(tiny.extremes()[:1])[0]
    with pytest.raises(ValueError, match=r"PruneChannels knows the blocks of the OFA families.* \(Tiny\)"):
        shrink.run(recipe, name, own, tmp_path / "out", {})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"family": None}, "is a benchmark of latencies: it has no weight-sharing"),
        ({"family": "tiny_family:Missing"}, "names the family 'tiny_family:Missing', which is none"),
        ({"axes": ()}, r"lacks the axes r, finetune_epochs .*mobile\.resolution_axis"),
    ],
)
def test_spaces_without_networks_are_refused(tiny, changes, message):
    with pytest.raises(ValueError, match=message):
        family.of(replace(tiny, **changes))


def test_layers_that_are_not_called_are_named(tiny):
    """Its convolutions are cut by hand: neither torch.fx nor fake quantisation can follow them."""
    subnet = subnets.random(tiny.format(tiny.extremes()[1:])[0])
    counted = live_memory.footprint(subnet.module, subnet.side)
    assert counted["macs"] == tiny.layers(tiny.extremes()[1:]).macs()[0]
    assert counted["peak_bytes"] >= tiny.layers(tiny.extremes()[1:]).peak_bytes()[0]
    with pytest.raises(ValueError, match=r"cannot follow head: .* quantise with Int8"):
        fake_quant.input_ranges(subnet.module, [torch.zeros(1, 3, 16, 16)])
    functional = torch.nn.ModuleDict({"norm": torch.nn.BatchNorm2d(3)})
    functional.forward = lambda x: x
    with pytest.raises(ValueError, match="the norm norm was not called, so it cannot be calibrated"):
        network.settle_norms(functional, torch.zeros(2, 3, 4, 4))
