"""The report in a real browser: what is seen first, the limit box, the table, phones."""

import csv
import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest

from search import problem
from search.report import page
from search.run import Search
from search.searchers.nsga2 import NSGA2
from tests.e2e.browser import PAGES, Visit, needs_chromium, visit

DESKTOP = (PAGES / "report.js").read_text()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    out = tmp_path_factory.mktemp("report") / "run"
    objectives = ["accuracy", "latency_ms", "training_hours"]
    asked = problem.build(objectives, limits={"latency_ms": 25.0})
    evil = {"note": "<!--<script></script><script>window.problems.push('escaped')</script><b>bold</b>"}
    Search(asked, NSGA2(population=50), budget=1500, seed=0, out=out, config=evil).run()
    return out / "report.html"


def test_report_is_self_contained(report):
    text = report.read_text()
    assert "<script src" not in text
    assert '<link rel="stylesheet' not in text
    assert "@@" not in text.split("<body>")[1]
    assert "&lt;b&gt;bold&lt;/b&gt;" in text
    assert not re.search(r"\{(models|spec|cost|target)\b", text.split("<main>")[1].split("</main>")[0])
    assert "<h2>Verification" not in text  # nothing was measured: no empty section
    assert len(text) < 1.4e6


@needs_chromium
def test_report_in_a_browser(report, tmp_path):
    text = report.read_text()
    wide, narrow = visit(tmp_path, Visit(text, 1400, 900, DESKTOP), Visit(text, 390, 844))
    rows = json.loads((report.parent / "front.json").read_text())
    by_name = {row["architecture"]: row for row in rows}
    for seen in (wide, narrow):
        assert seen["problems"] == []
        assert seen["overflow"] <= 0
        assert seen["clipped"] == []
        assert seen["links"] == 0
    found = wide["answer"]
    first = found["first"]
    assert first["shortlist"] == sum(row["shortlist"] for row in rows)
    assert first["knee"]
    assert first["name"] in first["command"]
    assert first["shown"] < len(rows)
    assert found["given"] == "25"
    assert found["up"] == sorted(found["up"])
    assert found["down"] == sorted(found["down"], reverse=True)
    assert found["sorts"] == ["ascending", "descending", "none"]
    assert all(name.endswith("ft75") for name in found["kept"])
    assert found["kept"]
    assert len(found["points"]) == 4
    assert all(count > 20 for count in found["points"][:3])
    assert all(len(line) <= 80 for text in found["hover"] for line in text.split("<br>"))
    assert len(found["known"]) == 3  # of OFA's own, at 224 px
    assert found["titles"] == ["ms per batch of 64 on v100_b64", "top-1, ImageNet validation"]
    # The limit box against the file that a user would ask.
    holding = [row for row in rows if row["latency_ms_bound"] <= 20]
    best = max(holding, key=lambda row: row["accuracy"])
    limited = found["limited"]
    assert limited["name"] == best["architecture"]
    assert limited["row"].removeprefix("* ") == best["architecture"]
    assert best["architecture"] in limited["command"]
    assert limited["answer"] == f"{100 * best['accuracy']:.2f}%"
    assert limited["ring"] == [best["latency_ms"], best["accuracy"]]
    assert limited["line"] == 20
    assert 0 < len(holding) < len(rows)
    assert by_name[first["name"]]["shortlist"]


def test_bounds_in_the_table_are_those_of_the_limits(report):
    with (report.parent / "front.csv").open() as file:
        rows = list(csv.DictReader(file))
    mean, std, bound = (
        np.array([float(row[f"latency_ms{end}"]) for row in rows]) for end in ("", "_std", "_bound")
    )
    assert bound == pytest.approx(mean + 1.2815516 * std, rel=1e-5)
    assert (bound <= 25).all()


def test_the_script_that_draws_is_the_published_one():
    folder = Path(page.__file__).parent / "plotly"
    checksum = hashlib.sha256((folder / "plotly-basic.min.js").read_bytes()).hexdigest()
    assert checksum in (folder / "README.md").read_text()
    assert page.plotly().startswith("/**\n* plotly.js (basic - minified)")
