"""Comparing finished searches: every figure against brute force from their files; the page in a browser."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest

from search import pareto, search
from search.commands.judging.compare import finished
from search.ranking.runs import Comparison
from search.report import compare_report
from tests.e2e.browser import Visit, needs_chromium, visit
from tests.e2e.commands import call

WITHIN = 20.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two searches on one device, one on another, one in another space."""
    folder = tmp_path_factory.mktemp("compare")
    asked = {"objectives": ["accuracy", "latency_ms"]}
    for name, target, budget in (("a", "v100_b64", 120), ("b", "v100_b64", 900), ("c", "note10_lut", 120)):
        resolution = [160, 224]  # both devices know these
        search(**asked, target=target, budget=budget, resolution=resolution, out=folder / name)
    search(**asked, target="epyc_ort", budget=120, out=folder / "d")
    return folder


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def compared(folder):
    """What the command prints and writes for a and b."""
    code, out, err = call("compare", "a", "b", f"limits=[{WITHIN}]", "out=compared", cwd=folder)
    assert code == 0, err
    return out


def test_table_is_that_of_brute_force(folder, compared):
    fronts = {name: json.loads((folder / name / "front.json").read_text()) for name in "ab"}
    references = {
        name: np.load(folder / name / "archive.npz", allow_pickle=False)["reference"] for name in "ab"
    }
    costs = {n: np.array([[-row["accuracy"], row["latency_ms"]] for row in fronts[n]]) for n in "ab"}
    worst = np.maximum(references["a"], references["b"])
    box = np.prod(worst - np.minimum(costs["a"].min(axis=0), costs["b"].min(axis=0)))
    rows = {row["run"]: row for row in rows_of(folder / "compared" / "comparison.csv")}
    for name in "ab":
        assert float(rows[name]["hypervolume"]) == pytest.approx(
            pareto.hypervolume(costs[name], worst) / box, rel=1e-4
        )
        best = max(row["accuracy"] for row in fronts[name] if row["latency_ms_bound"] <= WITHIN)
        assert float(rows[name]["accuracy@20latency_ms"]) == best
        assert rows[name]["target"] == "v100_b64"
        assert name in compared
    assert "next: " in compared.splitlines()[-1]


def test_regret_is_that_of_brute_force(folder, compared):
    runs = {name: finished(folder / name, name) for name in "ab"}
    for row in rows_of(folder / "compared" / "regret.csv"):
        b = runs[row["on"]]
        genome = b.problem.space.parse([row["architecture"]])
        accuracy, latency = (one.of(genome).mean[0] for one in b.problem.evaluator.objectives)
        costs = b.archive.costs
        best = max(-cost for cost, ms in costs if ms <= latency)
        assert float(row["regret"]) == pytest.approx(max(best - accuracy, 0), rel=1e-3, abs=1e-9)
    assert any(float(row["regret"]) > 0 for row in rows_of(folder / "compared" / "regret.csv"))


def test_other_devices_and_spaces_are_told(folder):
    a, c, d = (finished(folder / name, name) for name in "acd")
    across = Comparison([a, c, d])
    assert across.shared == ["accuracy"]
    assert across.table.columns["hypervolume"] == ["-"] * 3
    told = {(x, y): r for x, y, r, _ in zip(*across.regrets.columns.values(), strict=True)}
    assert told["a", "d"] == told["d", "a"] == "-"
    assert told["a", "c"] >= 0  # of one space, so one tells the other's choice
    assert any("latency_ms is not compared: v100_b64 in a, note10_lut in c" in note for note in across.notes)
    assert any("of ofa_mbv3_w1.0, not of ofa_mbv3_w1.2" in note for note in across.notes)
    assert "ofa_mbv3_w1.0" in compare_report.render(across, {})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a"], "needs two finished searches at least"),
        (["a", "absent"], "absent holds no finished search"),
        (["a", "./a"], "names a run twice"),
        (["runs=[a,b]", "limit=[20]"], "limits"),
    ],
)
def test_errors_are_one_line(folder, words, message):
    code, _, err = call("compare", *words, cwd=folder)
    assert code != 0
    assert message in err
    assert "Traceback" not in err


@needs_chromium
def test_page_in_a_browser(folder, compared, tmp_path):
    script = """
      const main = document.getElementById("main");
      const choices = main.data.slice(0, 2).map(trace => [trace.name, trace.x.length]);
      all("tbody.rows tr")[1].click();
      const ring = main.data.at(-1), picked = all("tbody.rows tr.picked td");
      return {choices, ring: [ring.x[0], ring.y[0]], cells: picked.map(cell => cell.textContent)};
    """
    text = (folder / "compared" / "report.html").read_text()
    evil = [replace(finished(folder / name, name), name="<!--<script>" + name) for name in "ab"]
    wide, narrow, named = visit(
        tmp_path,
        Visit(text, 1400, 900, script),
        Visit(text, 390, 844),
        Visit(compare_report.render(Comparison(evil), {}), 390, 844),
    )
    for seen in (wide, narrow, named):
        assert seen["problems"] == []
        assert seen["overflow"] <= 0
        assert seen["clipped"] == []
    assert [name for name, _ in wide["answer"]["choices"]] == ["a", "b"]
    assert wide["answer"]["cells"][0] == "b"
    chosen = finished(folder / "b", "b")
    assert wide["answer"]["ring"][0] == pytest.approx(chosen.columns["latency_ms"][chosen.chosen])
