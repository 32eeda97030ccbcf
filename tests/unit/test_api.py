"""Searching from Python: the way of the command, and what the front answers."""

import builtins
import importlib
import json
import subprocess
import sys

import numpy as np
import pytest

from latency.zoo import catalogue
from search import command, search
from search.objective import Objective
from supernet.files import command_line
from supernet.prediction import exact
from supernet.space import get_space

OPTIONS = {"target": "titan_rtx_b64", "latency_limit_ms": 20, "budget": 1500, "seed": 4}


@pytest.fixture(scope="module")
def front():
    return search(**OPTIONS)


def test_the_command_finds_the_same(front, tmp_path, monkeypatch):
    """The rows of front.json, byte for byte, and nothing is left behind without `out`."""
    monkeypatch.chdir(tmp_path)
    again = search(**OPTIONS, out=tmp_path / "here")
    words = ["search", *command_line.words(OPTIONS), "out=there", "wandb=disabled"]
    monkeypatch.setattr(sys, "argv", words)
    importlib.import_module("search.commands.search").main()
    here, there = ((tmp_path / name / "front.json").read_bytes() for name in ("here", "there"))
    assert here == there
    assert json.loads(here) == front.rows() == again.rows()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "there"]
    assert (front.out, again.out) == (None, tmp_path / "here")


def test_best_is_the_most_accurate_whose_bound_holds(front):
    """Against the predictors themselves, asked again."""
    space = get_space("ofa_mbv3_w1.2")
    genomes = space.parse([row["architecture"] for row in front.rows()])
    target = catalogue.target("titan_rtx_b64")
    holds = catalogue.predictor(target.name).predict(genomes, target).upper(0.9) <= 15
    accuracy = np.array([row["accuracy"] for row in front.rows()])
    assert 0 < holds.sum() < len(holds)
    assert front.best(latency_ms=15)["accuracy"] == accuracy[holds].max()
    smaller = front.best(latency_ms=15, params=6e6)
    assert smaller["params"] <= 6e6
    assert front.best()["accuracy"] == accuracy.max()
    with pytest.raises(ValueError, match="no member of this front holds latency_ms=1: <front of"):
        front.best(latency_ms=1)
    with pytest.raises(ValueError, match="Did you mean 'latency_ms'"):
        front.best(latency=15)


def test_it_shows_itself_in_few_words(front):
    assert len(repr(front)) < 500
    assert "accuracy 0.7" in repr(front)
    table = front._repr_html_()
    assert table.count("<tr>") == 1 + len(front.shortlist()) == 11
    assert "&" not in table.replace("&amp;", "").replace("&lt;", "")
    many = search(budget=300, objectives=["accuracy", "latency_ms", "peak_bytes", "weight_bytes", "macs"])
    assert len(repr(many)) < 500


def test_pandas_where_it_is_installed(front):
    pandas = pytest.importorskip("pandas")
    frame = front.to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert list(frame["architecture"]) == [row["architecture"] for row in front.rows()]


def test_without_pandas_the_error_says_so(front, monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name == "pandas":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match="pip install pandas"):
        front.to_pandas()


def test_an_objective_of_ones_own_may_stand_among_the_names():
    space = get_space("ofa_mbv3_w1.2")

    def blocks(genomes):
        return sum(space.column(genomes, f"d{stage}") for stage in range(5)).astype(float)

    depth = Objective("blocks", "", lambda genomes: exact(blocks(genomes)))
    front = search(objectives=["accuracy", depth], budget=600, searcher={"population": 40})
    row = front.best(blocks=10)
    assert row["blocks"] == 10 == blocks(space.parse([row["architecture"]]))[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "v100_b65"}, "Did you mean 'v100_b64'"),
        ({"latency_limit": 3}, "Did you mean 'latency_limit_ms'"),
        ({"budget": "many"}, "budget=many must be a whole number"),
        ({"genes": {"kernel": [4]}}, r"genes.kernel=\[4\] of ofa_mbv3_w1.2 must be some of 3, 5, 7"),
    ],
)
def test_errors_are_those_of_the_command(options, message):
    with pytest.raises(ValueError, match=message):
        search(**options)


@pytest.mark.parametrize("text", ["a b", "it's", "x\\", "[1,2]", "a,b=c", "", "plain/path.npz", "100%"])
def test_texts_survive_the_command_line(text):
    assert command.compose("search", command_line.words({"predictor": text}))["predictor"] == text


def test_import_search_is_light():
    code = "import time; t = time.perf_counter(); import search, sys\n"
    code += "print(time.perf_counter() - t, len(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    seconds, modules = out.split()
    assert float(seconds) < 0.5
    assert int(modules) < 200
