"""Choices from outside the project: a folder of the user and an installed package, beside those that ship."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from latency.data import LatencyData, write_csv
from latency.measuring.engine import build_engine
from latency.target import Target
from latency.zoo import catalogue
from supernet import choices, registry
from supernet.space import get_space
from tests.e2e.commands import ROOT, call

PACKAGE = '''
from dataclasses import replace

from latency.measuring.engines.torch_eager import TorchEager
from latency.predictors.baselines import Constant
from latency.target import Target
from search.objective import Objective
from search.searchers.random import RandomSearch
from supernet.device import Device
from supernet.spaces.ofa_small import DESIGN
from supernet.training.recipes import Sandwich


def space():
    return replace(DESIGN, kernels=(5, 7)).space("plugged_space")


def board(space="ofa_mbv3_w1.2", batch=2):
    card = Device(name="card", title="A card", kind="gpu", source="a test", cores=2560, ram_gb=16,
                  bandwidth_gbs=320, fp32_tflops=8.1, tdp_w=70, generation="Turing", sm=40, base_mhz=585,
                  boost_mhz=1590, l2_mb=4, tensor_cores=320, year=2018)
    return Target(name="plugged_board", device=card, space=space, batch=batch, method="data sheet")


class Engine(TorchEager):
    """PyTorch again."""


class Mean(Constant):
    """The mean again."""


class Draw(RandomSearch):
    """Random search again."""


class Recipe(Sandwich):
    """The sandwich rule again."""


def layers(space, weight=1.0):
    def of(genomes):
        return weight * sum(space.column(genomes, f"d{stage}") for stage in range(3)).astype(float)

    return Objective("plugged_layers", "layers", of)
'''
POINTS = """
[ofa_frontier.spaces]
plugged_space = plugged_package.things:space
[ofa_frontier.targets]
plugged_board = plugged_package.things:board
[ofa_frontier.engines]
plugged_engine = plugged_package.things:Engine
[ofa_frontier.predictors]
plugged_mean = plugged_package.things:Mean
[ofa_frontier.searchers]
plugged_draw = plugged_package.things:Draw
[ofa_frontier.recipes]
plugged_recipe = plugged_package.things:Recipe
[ofa_frontier.objectives]
plugged_layers = plugged_package.things:layers
"""
PLUGGED = {
    "space": "plugged_space",
    "target": "plugged_board",
    "engine": "plugged_engine",
    "learner": "plugged_mean",
    "searcher": "plugged_draw",
    "recipe": "plugged_recipe",
    "objective": "plugged_layers",
}
DEVICE = "_target_: supernet.device.Device\ntitle: Mine\nsource: me\n"
TARGET = "_target_: latency.target.Target\nname: my_target\ndevice: my_board\nspace: my_space\n"
MINE = {
    "space/my_space.yaml": "_target_: my_parts.space\n",
    "device/my_board.yaml": DEVICE + "name: my_board\nkind: cpu\n",
    "target/my_target.yaml": TARGET,
    "searcher/small.yaml": "_target_: search.searchers.random.RandomSearch\nbatch: 50\n",
    "searcher/local.yaml": "_target_: search.searchers.random.RandomSearch\n",
}
MY_PARTS = """
from dataclasses import replace
from pathlib import Path

from supernet.spaces.ofa_small import DESIGN


def space():
    return replace(DESIGN, depths=(1, 2)).space("my_space")
"""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A package in a folder of Python's path, as pip installs one: code, and metadata with entry points."""
    package, metadata = tmp_path / "site" / "plugged_package", tmp_path / "site" / "plugged-1.0.dist-info"
    for folder in (package, metadata):
        folder.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "things.py").write_text(PACKAGE)
    (metadata / "METADATA").write_text("Name: plugged\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(POINTS)
    monkeypatch.syspath_prepend(tmp_path / "site")
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("plugged_package")]:
        del sys.modules[name]
    get_space.cache_clear()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of the user's, and beside it the module that its YAML names."""
    for name, text in MINE.items():
        (tmp_path / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mine" / name).write_text(text)
    (tmp_path / "my_parts.py").write_text(MY_PARTS)
    monkeypatch.setattr(sys, "path", sys.path[:])
    yield tmp_path
    choices.use_folders()
    sys.modules.pop("my_parts", None)
    get_space.cache_clear()


def measure(path, space, device):
    """Nine networks of the space, 4 ms each."""
    genomes = get_space(space).sample(9, np.random.default_rng(0))
    target = Target(name="mine", device=device, space=space)
    write_csv(path, LatencyData(target, genomes, np.full(9, 4.0), np.full(9, np.nan)))


def test_a_plugin_is_listed_with_its_package_and_imported_when_it_is_chosen(installed):
    for group, name in PLUGGED.items():
        assert name in registry.names(group)
        assert registry.find(group, name).origin == "plugin plugged"
        assert name not in registry.shipped(group)
    assert "plugged_package.things" not in sys.modules
    assert get_space("plugged_space").axis("ks0").values == (5, 7)
    assert isinstance(registry.get("target", "plugged_board"), Target)
    assert build_engine("plugged_engine").precision == "fp32"
    assert registry.get("recipe", "plugged_recipe").phases(get_space("plugged_space"))
    assert not set(PLUGGED.values()) & set(catalogue.names())


def test_a_search_uses_the_parts_of_a_plugin(installed):
    words = ["searcher=plugged_draw", "searcher.batch=40", "budget=80", "wandb=disabled"]
    code, out, err = call("search", *words, "target=plugged_board", "target.batch=4", "out=a", cwd=installed)
    assert code == 0, err
    assert "latency of plugged_board: nothing was measured on it" in out
    words += ["space=plugged_space", "objectives=[macs,plugged_layers]", "objective.plugged_layers.weight=2"]
    code, _, err = call("search", *words, "out=run", cwd=installed)
    assert code == 0, err
    rows = json.loads((installed / "run" / "front.json").read_text())
    space = get_space("plugged_space")
    genomes = space.parse([row["architecture"] for row in rows])
    layers = sum(space.column(genomes, f"d{stage}") for stage in range(3))
    assert [row["plugged_layers"] for row in rows] == (2.0 * layers).tolist()


def test_a_predictor_of_a_plugin_is_fitted(installed):
    measure(installed / "mine.csv", "plugged_space", "t4")
    words = ["space=plugged_space", "device=t4", "learner=plugged_mean", "rows=mine.csv", "column=lat_ms"]
    code, _, err = call("fit", *words, "out=mine.npz", cwd=installed)
    assert code == 0, err
    assert catalogue.find(str(installed / "mine.npz")).facts["method"] == "constant"


def test_a_folder_of_ones_own_has_choices_of_every_group(folder):
    registry.use_folders(folder / "mine")
    measure(folder / "mine.csv", "my_space", "my_board")
    words = ["--config-dir", "mine", "space=my_space", "device=my_board", "learner=constant", "rows=mine.csv"]
    words += ["column=lat_ms", "out=mine/target/my_target.npz"]
    code, _, err = call("fit", *words, cwd=folder)
    assert code == 0, err
    words = ["--config-dir", "mine", "target=my_target", "searcher=small", "objectives=[macs,latency_ms]"]
    code, out, err = call("search", *words, "budget=60", "wandb=disabled", "out=run", cwd=folder)
    assert code == 0, err
    rows = json.loads((folder / "run" / "front.json").read_text())
    assert rows[0]["architecture"].startswith("my_space ")
    assert rows[0]["latency_ms"] == pytest.approx(4.0)
    assert re.search(r"latency of my_target: the file \S*mine/target/my_target.npz", out)
    code, _, err = call("search", *words[2:], cwd=folder)
    assert code == 1
    assert "unknown searcher 'small'" in err


def test_a_name_that_two_sources_have_is_refused_where_it_is_asked_for(folder):
    words = ["--config-dir=mine", "wandb=disabled", "out=run"]
    code, _, err = call("search", *words, cwd=folder)
    assert code == 1
    assert "searcher=local is more than one: " in err
    assert "mine/searcher/local.yaml; rename one" in err
    assert not (folder / "run").exists()


@pytest.mark.parametrize(
    ("file", "text", "words", "said"),
    [
        ("device/other.yaml", "name: my_board\n", ["target.device=other"], "must be that of the file, other"),
        ("device/other.yaml", "just words\n", ["target.device=other"], "must be a mapping with a _target_"),
        (
            "device/other.yaml",
            "a: [1\n",
            ["target.device=other"],
            "other.yaml is no YAML that can be",
        ),
        (
            "device/other.yaml",
            DEVICE + "name: other\nkind: gpu\ncors: 3\n",
            ["target.device=other"],
            "Did you mean 'cores'?",
        ),
        (
            "device/other.yaml",
            DEVICE + "name: other\nkind: gup\n",
            ["target.device=other"],
            "kind=gup must be 'gpu', 'cpu'",
        ),
        ("searcher/other.yaml", "- 1\n", ["searcher=other"], "must be a mapping with a _target_"),
        (
            "searcher/other.yaml",
            "_target_: os.system\n",
            ["searcher=other"],
            "_target_=os.system is not registered",
        ),
        (
            "searcher/other.yaml",
            "_target_: my_parts.Path\n",
            ["searcher=other"],
            "_target_=my_parts.Path is not registered",
        ),
        ("searcher/other.yaml", "_target_: absent.Thing\n", ["searcher=other"], "names no class or function"),
    ],
)
def test_what_is_wrong_in_ones_own_yaml_is_said_in_a_line(folder, file, text, words, said):
    (folder / "mine" / file).write_text(text)
    (folder / "mine" / "searcher" / "local.yaml").unlink()
    if file.startswith("device"):
        words = ["target=gpu", *words]
    code, _, err = call("search", "-cd", "mine", *words, "budget=60", "wandb=disabled", cwd=folder)
    assert code == 1
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert said in err


def test_nodes_of_files_name_modules_of_the_folder_only_while_it_is_used(folder, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    node = {"_target_": "my_parts.space"}
    with pytest.raises(ValueError, match=r"_target_=my_parts\.space is not registered"):
        registry.build(node)
    registry.use_folders(folder / "mine")
    assert registry.build(node).name == "my_space"
    with pytest.raises(ValueError, match=r"_target_=my_parts\.Path is not registered"):
        registry.build({"_target_": "my_parts.Path"})
    with pytest.raises(ValueError, match="no folder"):
        registry.use_folders(folder / "nowhere")


@pytest.mark.slow
def test_a_wheel_is_installed_and_list_shows_each_of_its_parts(tmp_path):
    """Built by hatchling and installed by pip, beside this project."""
    pytest.importorskip("hatchling", reason="the extra dev brings hatchling")
    package = tmp_path / "source" / "plugged_package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "things.py").write_text(PACKAGE)
    points = re.sub(r"^\[(.*)\]$", r'[project.entry-points."\1"]', POINTS, flags=re.MULTILINE)
    points = re.sub(r"^(\w+) = (.*)$", r'\1 = "\2"', points, flags=re.MULTILINE)
    project = '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
    project += (
        '[project]\nname = "plugged"\nversion = "1.0"\n[tool.hatch.build]\npackages = ["plugged_package"]\n'
    )
    (package.parent / "pyproject.toml").write_text(project + points)

    def run(*words, cwd=tmp_path):
        path = f"{ROOT}:{tmp_path / 'site'}"
        done = subprocess.run(
            [sys.executable, "-m", *words], cwd=cwd, env={**os.environ, "PYTHONPATH": path, "COLUMNS": "200"},
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("hatchling", "build", "-t", "wheel", "-d", str(tmp_path), cwd=package.parent)
    wheel = next(tmp_path.glob("*.whl"))
    run("pip", "install", "-q", "--no-deps", "--no-index", "--target", str(tmp_path / "site"), str(wheel))
    for group, name in PLUGGED.items():
        row = next(line for line in run("search", "list", group).splitlines() if line.startswith(name))
        assert "plugged" in row.removeprefix(name)
