"""The benchmarks that search with other libraries, other tables and other predictors."""

import csv
import json
import sys

import numpy as np
import pytest

from benchmarks import command, linas, ofa_search
from search import pareto
from search.objective import Evaluator, Objective
from supernet import footprint
from supernet.files.tables import read_columns
from supernet.prediction import exact
from supernet.space import get_space

PACKAGES = pytest.mark.parametrize(
    ("name", "package"), [("botorch", "botorch"), ("optuna-tpe", "optuna"), ("optuna-nsga2", "optuna")]
)


@pytest.fixture
def run(monkeypatch, tmp_path):
    """The one row that `benchmarks.ofa_search` writes for some words."""

    def main(*words):
        out = tmp_path / "out.json"
        monkeypatch.setattr(sys, "argv", ["ofa_search", "seeds=1", "budget=400", f"out={out}", *words])
        ofa_search.main()
        return json.loads(out.read_text())[0]

    return main


@pytest.fixture
def csv_table(data, tmp_path):
    """A lookup table like the Note 10's, of a device that takes twice as long."""
    columns = read_columns(data / "lut_note10_ofa_mbv3_w12.csv.gz")
    columns["mean_ms"] = columns["mean_ms"] * 2
    path = tmp_path / "slow.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*(values.tolist() for values in columns.values()), strict=True))
    return path


@pytest.mark.slow
def test_copies_of_the_files_give_the_same(run, data, tmp_path):
    """Tables and predictor written again, and of the reference front every third member."""
    import torch

    official = data / "ofa_official"
    for path in official.glob("note10_w1.2_*"):
        (tmp_path / path.name.replace("note10", "mine")).write_bytes(path.read_bytes())
    weights = torch.load(official / "ofa_mbv3_w1.2_acc_predictor.pth", map_location="cpu", weights_only=True)
    torch.save({name: torch.nn.Parameter(value) for name, value in weights.items()}, tmp_path / "mine.pth")
    front = read_columns(data / "note10_best_known_front.csv")
    rows = list(zip(front["latency_ms"][::3], front["accuracy"][::3], strict=True))
    (tmp_path / "mine.csv").write_text(
        "latency_ms,accuracy\n" + "\n".join(f"{ms},{top1}" for ms, top1 in rows)
    )
    files = [str(path) for path in sorted(tmp_path.glob("mine_*"))]
    own = ["--accuracy", str(tmp_path / "mine.pth"), "--reference", str(tmp_path / "mine.csv")]
    ours = run("only=nsga2", "generations=1", "--tables", *files, *own)
    theirs = run("only=nsga2", "generations=0")
    assert ours["nsga2"]["accuracy"] == theirs["nsga2"]["accuracy"]
    assert min(ours["ofa"]["accuracy"].values()) > 0.76

    def volume(rows):
        """Rectangles from the slowest member to the fastest."""
        total, right = 0.0, 36.0
        for ms, top1 in sorted(row for row in rows if row[0] < 36 and row[1] > 0.76)[::-1]:
            total, right = total + (right - ms) * (top1 - 0.76), ms
        return total

    ratio = volume(zip(front["latency_ms"], front["accuracy"], strict=True)) / volume(rows)
    assert ours["nsga2"]["share"] == pytest.approx(theirs["nsga2"]["share"] * ratio, rel=1e-9)


def test_another_device_by_a_csv_table(run, csv_table, rng, capsys):
    own = ofa_search.Task.from_options(ofa_search.Options(tables=(csv_table,)))
    note10 = ofa_search.Task.from_options(ofa_search.Options())
    genomes = note10.space.sample(50, rng)
    assert own.evaluate(genomes)[0][:, 1] == pytest.approx(2 * note10.evaluate(genomes)[0][:, 1], rel=1e-3)
    row = run("only=nsga2", "generations=0", f"--tables={csv_table}")
    assert row["nsga2"]["accuracy"]["15.0"] == 0  # its smallest network takes 20 ms
    assert row["nsga2"]["accuracy"]["33.0"] > 0.75
    assert "--reference FILE takes another" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--tables {csv}", r"none of \[160, 176, 192, 208, 224\]: leave it out with generations=0"),
        ("--tables nope_160_lookup_table.yaml", "nope_160_lookup_table.yaml is no YAML"),
        ("--accuracy {data}/ofa_official/ofa_resnet50_acc_predictor.pth", "predicts ofa_resnet50"),
        ("--accuracy {csv}", "is no accuracy predictor of OFA"),
        ("--reference {data}/hardware.csv", "unknown column of .*'accuracy'"),
        ("--reference {low}", "must be above 0.76 within 36 ms"),
        ("only=local,nsga3", "only=nsga3 must be some of"),
    ],
)
def test_other_files_are_refused_in_one_line(run, words, message, data, csv_table, tmp_path):
    low = tmp_path / "low.csv"
    low.write_text("accuracy,latency_ms\n.71,12\n")
    with pytest.raises(SystemExit, match=message):
        run(*words.format(data=data, csv=csv_table, low=low).split())


def test_an_option_may_take_several_words(monkeypatch):
    words = ["name", "seeds=2", "--tables", "a.yaml", "b.yaml", "--accuracy", "c.pth", "budget=7"]
    monkeypatch.setattr(sys, "argv", words[:1] + words[1:])
    _, options = command.words(ofa_search.Options, ())
    assert [str(path) for path in options.tables] == ["a.yaml", "b.yaml"]
    assert (options.seeds, options.budget, str(options.accuracy)) == (2, 7, "c.pth")


@pytest.mark.filterwarnings("ignore")  # of the libraries
@PACKAGES
def test_peers_propose_new_networks_until_there_are_none(name, package, rng):
    pytest.importorskip(package, reason='pip install "ofa-frontier[peers]"')
    space = get_space("ofa_mbv3_w1.0")
    for axis in space.axes:
        if axis.name not in ("d0", "ks0", "e0"):
            space = space.restrict(axis.name, axis.values[0], axis.values[0])

    def late(genomes):
        return exact(footprint.compute(space, genomes, "macs") ** 0.1 + space.column(genomes, "ks0"))

    def macs(genomes):
        return exact(footprint.compute(space, genomes, "macs"))

    asked = Evaluator(
        (
            Objective("accuracy", "", late, maximize=True, measured="made up"),
            Objective("macs", "MACs", macs),
        )
    )
    worst = np.array([0.0, 1e9])
    archive, _ = ofa_search.search(space, asked, linas.make(name), 27, rng, worst)
    assert len(archive) == space.count() == 27
    assert pareto.hypervolume(archive.costs, worst) > 0


def test_what_is_not_installed_is_named_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr(linas, "find_spec", lambda package: None)
    assert linas.names("") == list(linas.SEARCHERS)
    assert capsys.readouterr().out.strip().endswith('pip install "ofa-frontier[peers]"')
    with pytest.raises(SystemExit, match=r'not installed are botorch.*: pip install "ofa-frontier\[peers\]"'):
        linas.names("linas,botorch")
    with pytest.raises(SystemExit, match="only=tpe must be some of"):
        linas.names("tpe")
