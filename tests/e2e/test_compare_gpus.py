"""Comparing GPUs: costs and choices against brute force, the command, the page in a browser."""

import csv
import re
import shutil
import signal
import time
from statistics import NormalDist

import numpy as np
import pytest
import yaml

from latency import target
from latency.zoo import catalogue
from search.commands.judging.compare import finished
from search.ranking.gpus import Served
from search.report import gpus_report
from supernet.files import run_folder
from tests.e2e.browser import Visit, needs_chromium, visit
from tests.e2e.commands import call, start

WORDS = [
    "gpus=[rtx_4090,t4,GeForce RTX 3090]",
    "search.budget=400",
    "search.resolution=[160,224]",
    "batch=32",
]
PRICES = {"rtx_4090": 0.5, "t4": 0.35}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpus")
    prices = [f"usd_per_hour.{name}={price}" for name, price in PRICES.items()]
    code, out, err = call("compare", *WORDS, *prices, "accuracies=[0.74,0.77]", "out=priced", cwd=folder)
    assert code == 0, err
    (folder / "said.txt").write_text(out)
    return folder


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_the_table_is_that_of_brute_force(folder):
    runs = {name: finished(folder / "priced" / name, name) for name in ("rtx_4090", "t4", "rtx_3090")}
    space = runs["t4"].problem.space
    genomes = space.parse([name for run in runs.values() for name in run.columns["architecture"].tolist()])
    accuracy = runs["t4"].objective("accuracy").of(genomes).mean
    rows = rows_of(folder / "priced" / "gpus.csv")
    assert [(row["accuracy"], row["gpu"]) for row in rows[:3]] == [("0.74", name) for name in runs]
    for row in rows:
        where = target.gpu(row["gpu"], batch=32)
        latency = catalogue.automatic(where)[0].predict(genomes, where)
        best = min((ms, i) for i, ms in enumerate(latency.mean) if accuracy[i] >= float(row["accuracy"]))[1]
        low, high = (ends[best] for ends in latency.interval(0.9))
        assert float(row["latency_ms"]) == pytest.approx(latency.mean[best], rel=1e-4)
        assert float(row["images_per_second"]) == pytest.approx(32 / (latency.mean[best] / 1000), rel=1e-4)
        if row["gpu"] not in PRICES:
            assert row["usd_per_million"] == row["p_cheapest"] == ""
            continue
        price = PRICES[row["gpu"]]
        for name, ms in (("", latency.mean[best]), ("_low", low), ("_high", high)):
            hours = ms / 1000 / 32 * 1e6 / 3600
            assert float(row[f"usd_per_million{name}"]) == pytest.approx(hours * price, rel=1e-4)
    for first in (0, 3):
        card, small, other = rows[first : first + 3]
        assert float(card["p_cheapest"]) + float(small["p_cheapest"]) == pytest.approx(1)
        # At what it is worth, a GPU costs what the cheapest other one does.
        cheapest = min(float(card["usd_per_million"]), float(small["usd_per_million"]))
        at_worth = 1e6 / float(other["images_per_second"]) / 3600 * float(other["worth_usd_per_hour"])
        assert at_worth == pytest.approx(cheapest, rel=1e-3)


def test_the_chance_is_that_of_two_normal_errors(folder):
    runs = [finished(folder / "priced" / name, name) for name in ("rtx_4090", "t4")]
    served = Served(runs, np.array([0.5, 0.35]), [0.74])
    means, spreads = [], []
    for gpu, run in enumerate(runs):
        row = served.table.rows()[gpu]
        one = run.objective("latency_ms").of(run.problem.space.parse([row["architecture"]]))
        means.append(row["usd_per_million"])
        spreads.append(one.std[0] / one.mean[0] * row["usd_per_million"])
    exact = NormalDist().cdf((means[1] - means[0]) / np.hypot(*spreads))
    assert served.chances[0, 0] == pytest.approx(exact, abs=0.02)


def test_overlapping_intervals_are_a_tie(folder):
    """Prices are set so that the second GPU costs a given multiple of the first."""
    runs = [finished(folder / "priced" / name, name) for name in ("rtx_4090", "t4")]
    prices = np.array([1.0, 1.0])
    first, second = Served(runs, prices, [0.74]).table.rows()
    alike = first["usd_per_million"] / second["usd_per_million"]
    touching = first["usd_per_million_high"] / second["usd_per_million_low"]
    for price, verdicts in (
        (alike, ["tie", "tie"]),
        (0.99 * touching, ["tie", "tie"]),
        (1.01 * touching, ["best", "worse"]),
        (np.nan, ["only price", "no price"]),
    ):
        served = Served(runs, np.array([1.0, price]), [0.74])
        assert served.verdicts.tolist() == [verdicts]
        assert len(gpus_report.answers(served)) == 1
    assert np.isnan(served.chances).all()
    assert gpus_report.answers(served)[0][1].startswith("the only one with a price, ")
    assert "%" not in gpus_report.render(served, [[], []], {}).split("only price")[1].split("</td>")[0]
    assert gpus_report.missing(served) == [
        "no price of t4, not compared: give usd_per_hour.t4=..., or usd_per_hour in its YAML"
    ]


def test_a_limit_holds_on_the_bound(folder):
    runs = [finished(folder / "priced" / name, name) for name in ("rtx_4090", "t4")]
    free = Served(runs, np.array([1.0, 1.0]), [0.74])
    genomes = runs[0].problem.space.parse([row["architecture"] for row in free.table.rows()])
    limit = float(runs[1].objective("latency_ms").of(genomes).upper(0.9).min())  # of the t4 at 74%
    for factor, verdicts in ((1.001, free.verdicts[0].tolist()), (0.95, ["best", "too slow"])):
        served = Served(runs, np.array([1.0, 1.0]), [0.74], limit_ms=factor * limit)
        assert served.verdicts[0].tolist() == verdicts
    assert np.isnan(served.chances).all()  # as no other one is within the limit
    assert served.table.rows()[1]["architecture"] is None
    assert "t4: no network of 74.0% within" in gpus_report.missing(served)[0]
    with pytest.raises(ValueError, match="no network of these fronts is within it"):
        Served(runs, np.array([1.0, 1.0]), limit_ms=0.001)


def test_fronts_of_the_page_are_efficient(folder):
    runs = [finished(folder / "priced" / name, name) for name in ("rtx_4090", "t4")]
    columns, lines, ringed = Served(runs, np.array([np.nan, np.nan])).fronts()
    for rows, rings in zip(lines, ringed, strict=True):
        costs, accuracy = (
            np.array([columns[name][row] for row in rows]) for name in ("ms_per_image", "accuracy")
        )
        assert (np.diff(costs) >= 0).all()
        assert (np.diff(accuracy) > 0).all()
        assert set(rings) <= set(rows)
        assert rings


def test_what_is_said(folder):
    said = (folder / "said.txt").read_text()
    assert "USD per million images" in said
    assert "no price of rtx_3090, not compared" in said
    assert said.splitlines()[-1].startswith("next: make export")
    (answer,) = [line for line in said.splitlines() if line.startswith("77.0%: ")]
    assert re.search(r"(rtx_4090|t4).*: (cheapest,|a tie, from) [\d.e-]+ USD per million images$", answer)


def test_without_prices_the_fastest_is_told(folder):
    code, out, err = call("compare", *WORDS, "out=plain", cwd=folder)
    assert code == 0, err
    rows = rows_of(folder / "plain" / "gpus.csv")
    assert "usd_per_million" not in rows[0]
    assert len(rows) == 15
    for first in range(0, 15, 3):
        assert sum(float(row["p_fastest"]) for row in rows[first : first + 3]) == pytest.approx(1, abs=1e-4)
    assert "ms per image" in out
    assert "no price of rtx_4090, t4, rtx_3090, speeds are compared" in out


@pytest.mark.slow
def test_killed_comparison_goes_on(tmp_path):
    """With the searches that are finished, to the same bytes."""
    words = [*WORDS[1:], "gpus=[t4,v100]", "search.budget=3000", "out=cut"]
    process = start("compare", *words, cwd=tmp_path)
    first, deadline = tmp_path / "cut" / "t4" / "archive.npz", time.monotonic() + 60
    while not first.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert not (tmp_path / "cut" / "gpus.csv").exists()
    before = first.stat().st_mtime_ns
    assert call("compare", *words, cwd=tmp_path)[0] == 0
    assert first.stat().st_mtime_ns == before
    assert call("compare", *words[:-1], "out=whole", cwd=tmp_path)[0] == 0
    for name in ("gpus.csv", "t4/archive.npz", "v100/archive.npz"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_other_prices_need_no_other_search(folder, tmp_path):
    shutil.copytree(folder / "priced", tmp_path / "priced")
    archive = tmp_path / "priced" / "t4" / "archive.npz"
    before, table = archive.stat().st_mtime_ns, rows_of(tmp_path / "priced" / "gpus.csv")
    prices = [f"usd_per_hour.{name}={2 * price}" for name, price in PRICES.items()]
    assert call("compare", *WORDS, *prices, "accuracies=[0.74,0.77]", "out=priced", cwd=tmp_path)[0] == 0
    doubled = rows_of(tmp_path / "priced" / "gpus.csv")
    assert archive.stat().st_mtime_ns == before
    assert float(doubled[0]["usd_per_million"]) == pytest.approx(2 * float(table[0]["usd_per_million"]), 1e-3)
    code, _, err = call("compare", *WORDS, "batch=16", "out=priced", cwd=tmp_path)
    assert (code, "batch=32, now 16" in err) == (1, True)


def test_gpus_of_ones_own(tmp_path):
    """Three figures of a card, and a card with a price in a folder of YAML."""
    node = {"_target_": "supernet.device.Device", "name": "ours", "title": "Ours", "kind": "gpu"}
    node |= {"source": "us", "cores": 5120, "ram_gb": 16, "bandwidth_gbs": 700, "fp32_tflops": 14}
    (tmp_path / "mine" / "device").mkdir(parents=True)
    (tmp_path / "mine" / "device" / "ours.yaml").write_text(yaml.safe_dump(node | {"usd_per_hour": 0.25}))
    card = "{name:card,cores:3584,ram_gb:12,bandwidth_gbs:360}"
    words = ["--config-dir", "mine", f"gpus=[ours,{card}]", "search.budget=400", "accuracies=[0.7]"]
    words.append("precision=amp")
    code, _, err = call("compare", *words, "usd_per_hour.card=0.1", "out=there", cwd=tmp_path)
    assert code == 0, err
    rows = rows_of(tmp_path / "there" / "gpus.csv")
    assert [(row["gpu"], float(row["usd_per_hour"])) for row in rows] == [("ours", 0.25), ("card", 0.1)]
    assert run_folder.settings(tmp_path / "there" / "card")["target"]["precision"] == "amp"
    assert "fp32_tflops, tdp_w" in (tmp_path / "there" / "report.html").read_text()  # are estimated


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "please give runs="),
        (["gpus=[t4]"], "two different GPUs"),
        (["gpus=[t4,T4]"], "two different GPUs"),
        (["gpus=[t4,rtx_409]"], "Did you mean 'rtx_4090'"),
        (["gpus=[t4,l4x9]", "runs=[a,b]"], "not both"),
        ([*WORDS, "usd_per_hour.t5=1"], "unknown GPU of usd_per_hour 't5'"),
        ([*WORDS, "usd_per_hour.t4=0"], "greater than 0"),
        ([*WORDS, "accuracies=[78]"], "less than 1"),
        ([*WORDS, "accuracies=[0.95]"], "must be fractions"),
        ([*WORDS, "search.target=x"], "leave it out"),
        ([*WORDS, "search.latency_limit_ms=3"], "leave it out"),
        ([*WORDS, "search.searcher=loocal"], "Did you mean 'local'"),
        (["gpus=[t4,{cores:3}]"], "target.device.ram_gb=..."),
        ([*WORDS, "search.budgt=5"], "budgt"),
        ([*WORDS, "precision=int8"], "precision=int8 must be 'fp32', 'tf32' or 'amp'"),
    ],
)
def test_errors_are_one_line(words, message, tmp_path):
    code, _, err = call("compare", *words, "out=there", cwd=tmp_path)
    assert code
    assert message in err
    assert "Traceback" not in err


@needs_chromium
def test_page_in_a_browser(folder, tmp_path):
    script = """
      const main = document.getElementById("main");
      const bars = main.data.filter(trace => trace.error_x && trace.error_x.array);
      const positive = bars.map(trace => trace.error_x.array.every(value => value > 0));
      return {lines: main.data.slice(0, 2).map(trace => trace.name), bars: positive};
    """
    text = (folder / "priced" / "report.html").read_text()
    wide, narrow = visit(tmp_path, Visit(text, 1400, 900, script), Visit(text, 390, 844))
    for seen in (wide, narrow):
        assert seen["problems"] == []
        assert seen["overflow"] <= 0
    assert wide["answer"]["lines"] == ["rtx_4090", "t4"]
    assert all(wide["answer"]["bars"])
    assert len(wide["answer"]["bars"]) >= 2
