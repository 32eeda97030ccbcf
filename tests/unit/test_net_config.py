"""Specialised networks of the OFA authors: from the config of a network back to its genome."""

import json
import subprocess
import sys

import numpy as np
import pytest

from search.commands import export
from supernet import footprint
from supernet.deploy import export as deploy
from supernet.files.tables import read_columns, select
from supernet.space import get_space
from supernet.spaces import net_config
from supernet.weights import live_memory, network
from supernet.weights import subnet as subnets

SPACES = ["ofa_mbv3_w1.0", "ofa_mbv3_w1.2", "ofa_proxyless_w1.3", "ofa_resnet50"]


@pytest.fixture(scope="module", params=SPACES)
def built(request):
    """A space and its supernet, with random weights."""
    space = get_space(request.param)
    return space, network.supernet(space)


def layers(space, genomes):
    """What the network is made of; two genomes of OFA-ResNet50 may stand for the same one."""
    table = space.layers(genomes)
    return np.where(table.live, table.layer_params(), 0), np.where(table.live, table.layer_macs(), 0)


def test_configs_of_the_ofa_package_come_back_as_the_networks_they_are_of(built):
    space, supernet = built
    genomes = np.concatenate([space.sample(4, np.random.default_rng(0)), space.extremes()])
    for genome in genomes[:, None]:
        config = json.loads(json.dumps(network.extract(supernet, space, genome).config))
        r, epochs = (int(space.column(genome, name)[0]) for name in ("r", "finetune_epochs"))
        again, imported = net_config.from_config(config, side=r, epochs=epochs)
        assert again.name == space.name
        for one, other in zip(layers(space, genome), layers(space, imported), strict=True):
            assert (one == other).all()
        if space.name != "ofa_resnet50":
            assert (imported == genome).all()


def test_older_configs_name_their_blocks_otherwise(built):
    space, supernet = built
    if space.name == "ofa_resnet50":
        pytest.skip("its blocks have one layout")
    genome = space.sample(1, np.random.default_rng(1))
    config = json.loads(json.dumps(network.extract(supernet, space, genome).config))
    for block in config["blocks"]:
        block["mobile_inverted_conv"] = {**block.pop("conv"), "mid_channels": None}
    assert (net_config.from_config(config)[1][:, 1:-1] == genome[:, 1:-1]).all()


@pytest.mark.slow
def test_published_networks_have_the_macs_of_their_configs(data):
    """All 26, also those of 228 to 240 pixels, whose MACs no slot table holds."""
    rows = read_columns(data / "ofa_published_nets.csv")
    count = 0
    for name in SPACES[:3]:
        space, part = get_space(name), select(rows, rows["space"] == name)
        supernet = network.supernet(space)
        genomes = space.encode(part)
        assert (space.parse(space.format(genomes)) == genomes).all()
        for i, genome in enumerate(genomes[:, None]):
            module = network.extract(supernet, space, genome)
            side = int(part["r"][i])
            _, imported = net_config.from_config(
                module.config, side=side, epochs=int(part["finetune_epochs"][i])
            )
            assert (imported == genome).all()
            macs = footprint.compute(space, genome, "macs")[0]
            assert macs == pytest.approx(live_memory.footprint(module, side)["macs"], rel=0.01)
            if np.isfinite(part["mflops"][i]):
                assert macs / 1e6 == pytest.approx(part["mflops"][i], rel=0.01)
            count += 1
    assert count == 26


def rebuilt_by_ofa(subnet, folder):
    """The network that the `ofa` package makes of the files that formats=net_config writes."""
    import torch
    from ofa.imagenet_classification.networks import get_net_by_name

    written = deploy.export(subnet, folder, ["net_config"])["net_config"]
    assert written.path == folder / "net.config"
    config = json.loads(written.path.read_text())
    network = get_net_by_name(config["name"]).build_from_config(config)
    network.load_state_dict(torch.load(folder / "init", weights_only=True)["state_dict"])
    return json.loads(written.path.read_text()), network.eval()  # the package takes apart what it builds from


def check_exported(space, genome, folder):
    """Equal logits in `ofa`, and the folder is read as the authors' are: the same name, the same config."""
    import torch

    name = space.format(genome)[0]
    subnet = subnets.random(name)
    config, theirs = rebuilt_by_ofa(subnet, folder)
    images = torch.randn(2, 3, subnet.side, subnet.side)
    with torch.inference_mode():
        assert torch.equal(theirs(images), subnet.module(images))
    again = net_config.one_line_name(str(folder))
    assert subnets.random(again).config == config
    if space.name != "ofa_resnet50":  # two genomes may stand for the same network
        assert again == name


@pytest.mark.parametrize("name", SPACES)
def test_exported_networks_are_built_by_ofa_with_equal_logits(name, tmp_path):
    space = get_space(name).restrict("r", 128, 128)
    check_exported(space, space.network(space.sample(1, np.random.default_rng(5))), tmp_path / "phone")


@pytest.mark.slow
@pytest.mark.parametrize("name", SPACES)
def test_twenty_exported_networks(name, tmp_path):
    """Five of each family, at all sides."""
    space = get_space(name)
    for i, genome in enumerate(space.network(space.sample(5, np.random.default_rng(6)))[:, None]):
        check_exported(space, genome, tmp_path / str(i))


def test_published_networks_come_back_from_an_export(data, tmp_path):
    """A published network of 236 pixels, 75 epochs: its folder's name says the epochs, as the authors' do."""
    rows = read_columns(data / "ofa_published_nets.csv")
    part = select(rows, (rows["r"] == 236) & (rows["space"] == "ofa_mbv3_w1.2"))
    space = get_space("ofa_mbv3_w1.2")
    genome = space.encode(part)[:1]
    folder = tmp_path / str(part["name"][0])
    rebuilt_by_ofa(subnets.random(space.format(genome)[0]), folder)
    imported = net_config.read(folder)
    assert imported[0].name == space.name
    assert (imported[1] == genome).all()


def test_files_say_side_and_recipe(tmp_path):
    space = get_space("ofa_mbv3_w1.2")
    genome = space.sample(1, np.random.default_rng(2))
    folder = tmp_path / "flops-595M_top1-80.0_finetune-75"
    folder.mkdir()
    config = network.extract(network.supernet(space), space, genome).config
    (folder / "net.config").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"does not say the input side: put run\.config"):
        net_config.read(folder)
    (folder / "run.config").write_text(json.dumps({"image_size": 236}))
    for path in (folder, folder / "net.config"):
        name = net_config.one_line_name(str(path))
        assert name.startswith("ofa_mbv3_w1.2 r236 d")
        assert name.endswith(" ft75")
    assert net_config.one_line_name(name) == name
    assert (space.parse([name])[:, 1:-1] == genome[:, 1:-1]).all()


def test_export_takes_a_config_in_place_of_a_name(tmp_path, monkeypatch, capsys):
    space = get_space("ofa_mbv3_w1.0")
    genome = space.extremes()[:1]
    config = network.extract(network.supernet(space), space, genome).config
    (tmp_path / "net.config").write_text(json.dumps(config))
    (tmp_path / "run.config").write_text(json.dumps({"image_size": 240}))
    words = ["weights=random", f"architecture={tmp_path / 'net.config'}", "formats=[state_dict]"]
    monkeypatch.setattr(sys, "argv", ["export", *words, f"out={tmp_path / 'out'}"])
    monkeypatch.chdir(tmp_path)
    export.main()
    assert capsys.readouterr().out.startswith("ofa_mbv3_w1.0 r240 d2-2-2-2-2 k33-33")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "DenseNet"}, "'DenseNet' is none of the OFA"),
        ({"name": "ResNets", "blocks": []}, "has not the layout that ofa writes"),
        ({"name": "MobileNetV3", "first_conv": {"out_channels": 9}, "blocks": []}, "has not the layout"),
    ],
)
def test_other_networks_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        net_config.from_config(config)


def test_a_width_that_no_space_has_is_named():
    space = get_space("ofa_mbv3_w1.0")
    config = network.extract(network.supernet(space), space, space.extremes()[:1]).config
    config["first_conv"]["out_channels"] = 20
    with pytest.raises(ValueError, match=r"widths \(20, 16, 24, 40"):
        net_config.from_config(config)


def test_sides_beyond_are_named_and_counted_but_neither_searched_nor_tabulated():
    space = get_space("ofa_mbv3_w1.2")
    genome = space.sample(3, np.random.default_rng(0))
    genome[:, 0] = len(space.axis("r").values) + 4
    assert space.is_canonical(genome)
    assert (space.column(genome, "r") == 240).all()
    assert (space.parse(space.format(genome)) == genome).all()
    smaller = genome.copy()
    smaller[:, 0] = 1
    assert (footprint.compute(space, genome, "macs") > 2 * footprint.compute(space, smaller, "macs")).all()
    with pytest.raises(ValueError, match="beyond what is searched and fitted"):
        space.one_hot(genome)
    assert space.column(space.sample(1000, np.random.default_rng(0)), "r").max() == 224
    assert space.column(space.mutate(genome, np.random.default_rng(0), 1.0), "r").max() <= 224


def test_reading_needs_no_torch():
    code = "import sys; import supernet.spaces.net_config; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("channels", [float("nan"), 1e308, 10**30, -1, "16"])
def test_channels_that_no_network_has_are_refused_without_a_warning(built, channels, recwarn):
    space, supernet = built
    genome = space.extremes()[1:]
    config = json.loads(json.dumps(network.extract(supernet, space, genome).config))
    key = "out_channels" if space.name == "ofa_resnet50" else "in_channels"
    block = config["blocks"][1]
    block.get("conv", block.get("mobile_inverted_conv", block))[key] = channels
    with pytest.raises(ValueError, match=r"channels|stages|widths"):
        net_config.from_config(config)
    assert not recwarn.list


def test_a_file_nested_without_end_is_refused(tmp_path):
    (tmp_path / "net.config").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="cannot be read as JSON"):
        net_config.read(tmp_path, side=224)
