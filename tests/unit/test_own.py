"""Objectives of the user's own: from Python, YAML and plugins, through to archive, report and W&B."""

import importlib
import json
import signal
import sys

import numpy as np
import pytest

from search import models, own, problem, run, search
from search.archive import Archive
from search.objective import Objective
from search.searchers.random import RandomSearch
from supernet import choices, registry
from supernet.space import get_space

SPACE = get_space("ofa_mbv3_w1.2")
MODULE = """
from search.objective import Objective

def blocks(space, weight=1.0):
    def of(genomes):
        return weight * sum(space.column(genomes, f"d{stage}") for stage in range(5)).astype(float)

    return Objective("blocks", "layers", of)

def nothing():
    return 3
"""


def depth(genomes):
    return sum(SPACE.column(genomes, f"d{stage}") for stage in range(5)).astype(float)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A user's folder: a module, and YAML for it in a folder of configuration."""
    (tmp_path / "my_objectives.py").write_text(MODULE)
    (tmp_path / "mine" / "objective").mkdir(parents=True)
    for name, target in {
        "depth": "my_objectives.blocks",
        "it": "my_objectives.nothing",
        "evil": "os.system",
    }.items():
        (tmp_path / "mine" / "objective" / f"{name}.yaml").write_text(f"_target_: {target}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("my_objectives", None)


def command(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["search", *words, "budget=400", "out=run"])
    importlib.import_module("search.commands.search").main()


def test_a_yaml_of_ones_own_reaches_every_file(folder, monkeypatch):
    """Weight 2 from the command line, the space from the search; W&B's offline file names the column."""
    words = ["objectives=[accuracy,depth]", "objective.depth.weight=2", "limits.depth=26"]
    command(monkeypatch, "--config-dir", "mine", *words, "wandb=offline")
    rows = json.loads((folder / "run" / "front.json").read_text())
    expected = 2 * depth(SPACE.parse([row["architecture"] for row in rows]))
    assert [row["depth"] for row in rows] == expected.tolist()
    assert expected.max() <= 26
    archive = Archive.load(folder / "run" / "archive.npz", SPACE)
    assert archive.objectives == ("accuracy", "depth")
    assert (archive.costs[:, 1] == 2 * depth(archive.genomes)).all()
    assert "depth (layers)" in (folder / "run" / "report.html").read_text()
    assert json.loads((folder / "run" / "objectives.json").read_text())["depth"]["unit"] == "layers"
    assert b"best_depth" in next((folder / "run").glob("wandb/offline-run-*/*.wandb")).read_bytes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["objectives=[accuracy,evil]"], "_target_=os.system is not registered"),
        (["objectives=[accuracy,dept]"], "unknown objective 'dept'"),
        (["limits.dept=3"], "unknown option of limits 'dept'"),
        (["objectives=[accuracy,no]", "objective.no.weight=2"], "objective.no names no function"),
        (
            ["objectives=[accuracy,no]", "objective.no._target_=my_objectives.other"],
            "other is not registered",
        ),
        (["objectives=[accuracy,it]"], "it is a int, not a"),
        (["objectives=[accuracy,params]", "objective.macs._target_=my_objectives.blocks"], ""),
    ],
)
def test_what_is_wrong_is_said(folder, monkeypatch, words, message, capsys):
    if not message:  # a definition that nothing asks for harms nobody
        command(monkeypatch, *words, "wandb=disabled")
        return
    with pytest.raises(SystemExit, match=message):
        command(monkeypatch, "--config-dir", "mine", *words, "wandb=disabled")
    assert not (folder / "run").exists()


def test_an_installed_plugin_offers_objectives(folder):
    (folder / "thing-1.0.dist-info").mkdir()
    (folder / "thing-1.0.dist-info" / "METADATA").write_text("Name: thing\nVersion: 1.0\n")
    text = f"[{choices.PLUGINS['objective']}]\nplugged = my_objectives:blocks\n"
    (folder / "thing-1.0.dist-info" / "entry_points.txt").write_text(text)
    assert registry.names("objective") == ["plugged"]
    assert "my_objectives" not in sys.modules
    front = search(objectives=["accuracy", "latency_ms"], limits={"plugged": 12}, budget=300)
    assert depth(SPACE.parse([row["architecture"] for row in front.rows()])).max() <= 12


def test_a_name_of_ours_is_refused():
    with pytest.raises(ValueError, match="cannot be called 'macs'"):
        problem.build(["accuracy", Objective("macs", "", depth)], models.choose())


@pytest.mark.parametrize("answer", [np.zeros(3), np.array(1.0), np.array([np.nan])])
def test_answers_are_one_finite_number_each(answer):
    asked = own.prepared(Objective("mine", "", lambda genomes: answer), SPACE)
    with pytest.raises(ValueError, match="mine must give one finite number for each of 1 architectures"):
        asked.of(SPACE.sample(1, np.random.default_rng(0)))


def test_what_is_measured_is_asked_once_for_what_is_proposed(tmp_path):
    """The proposals and two networks that fix the scale; a stopped run asks for none of them again."""
    calls, stop = [], [5]

    def board(genomes):
        calls.extend(SPACE.format(genomes))
        if stop and len(calls) > 2 + 20 * stop[0]:
            stop.clear()
            signal.raise_signal(signal.SIGINT)
        return depth(genomes)

    def go():
        energy = Objective("energy", "J", board, measured="my board at 25 C")
        mine = own.prepared(energy, SPACE, tmp_path / "run" / own.STORE)
        asked = problem.build(["accuracy", mine], models.choose())
        out = tmp_path / "run"
        return run.Search(asked, RandomSearch(batch=20), budget=200, seed=1, out=out).run()

    with pytest.raises(run.Interrupted):
        go()
    archive = go().archive
    assert len(calls) == len(set(calls)) == 200 + 2
    assert set(SPACE.format(archive.genomes)) <= set(calls)
    assert (archive.costs[:, 1] == depth(archive.genomes)).all()
