"""The convolutional space of `examples`, and other designs: ofa's elastic blocks in any layout."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from supernet import registry
from supernet.deploy import export, pruning
from supernet.layers import Activation
from supernet.space import get_space
from supernet.spaces import net_config
from supernet.training.recipes import ProgressiveShrinking
from supernet.weights import family, live_memory, network
from supernet.weights import subnet as subnets

FOLDER = Path(__file__).parents[2] / "examples" / "elastic_cnn"


@pytest.fixture(scope="module")
def cnn():
    """The space, as `--config-dir` makes it a choice."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", sys.path[:])
        registry.use_folders(FOLDER / "configs")
        yield get_space("elastic_cnn")
    registry.use_folders()
    get_space.cache_clear()


def check(space, count):
    """Subnets compute what the supernet set to them does, and cost what the layer table says."""
    torch.manual_seed(0)
    module = network.supernet(space, 10)
    network.set_active(module, space, network.largest(space))
    for _ in range(2):
        module.train()(torch.randn(4, 3, 32, 32))
    module.eval()
    for genome in space.sample(count, np.random.default_rng(0))[:, None]:
        subnet, side = network.extract(module, space, genome), network.resolution(space, genome)
        network.set_active(module, space, genome)
        images = torch.randn(2, 3, side, side)
        assert torch.allclose(subnet(images), module(images), rtol=1e-4, atol=1e-6)
        counted, table = live_memory.footprint(subnet, side), space.layers(genome)
        assert (counted["macs"], counted["params"]) == (table.macs()[0], table.params()[0])
    return module


def test_it_is_one_short_file_and_one_yaml():
    assert len((FOLDER / "elastic_cnn.py").read_text().splitlines()) <= 40
    names = sorted(path.name for path in FOLDER.rglob("*") if path.is_file() and path.suffix != ".pyc")
    assert names == ["README.md", "elastic_cnn.py", "elastic_cnn.yaml"]


def test_networks_and_layers_agree_and_channels_sort(cnn):
    module = check(cnn, 4)
    assert sum(phase.sort_channels for phase in ProgressiveShrinking().phases(cnn)) == 2
    network.set_active(module, cnn, network.largest(cnn))
    images = torch.randn(2, 3, 32, 32)
    before = module(images)
    family.sorting(cnn).sort_channels(module, 2)
    assert torch.allclose(module(images), before, rtol=1e-3, atol=1e-5)


def test_cut_channels_and_the_form_of_the_authors(cnn, tmp_path):
    name = cnn.format(network.smallest(cnn))[0]
    subnet = subnets.random(name)
    assert pruning.prune_channels(subnet, 0.5).facts["pruned"] == 0.5
    written = export.export(subnet, tmp_path / "phone", ["net_config"])["net_config"]
    assert json.loads(written.path.read_text())["name"] == "MobileNetV3"
    assert net_config.one_line_name(str(tmp_path / "phone")) == name


def test_other_designs(cnn):
    """A first block without shortcut, other activations, one kernel; and what cannot be built."""
    relu6 = Activation.RELU6
    design = replace(cnn.design, first=24, widths=(32, 48), strides=(1, 2), acts=(relu6,) * 2, outer=relu6)
    design = replace(design, squeeze=(True, False), elastic=2, kernels=(5,), depths=(1, 2))
    check(design.space("other"), 2)
    with pytest.raises(ValueError, match=r"two widths of the head are needed, and RELU, RELU6, HARD_SWISH"):
        network.supernet(replace(design, head=(64,)).space("other"))
