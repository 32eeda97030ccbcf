"""Ranking as a user types it: an own table, the front of a search, classifiers timed here; its report."""

import csv
import io
import json
import re
from pathlib import Path

import pytest

from latency.measuring.store import Store
from search.ranking import rank as ranking
from search.ranking.timed_models import Timing, Torchvision
from supernet import registry
from supernet.files import tables
from tests.e2e.browser import Visit, needs_chromium, visit
from tests.e2e.commands import call

COLUMNS = """
model: network
axes:
  - {name: top1, better: higher, column: top1, unit: "%", scale: logit, images: 50000}
  - {name: latency, better: lower, columns: [ms1, ms2, ms3], unit: ms}
  - {name: training, better: lower, column: step, unit: ms, spread: 0.1}
devices:
  phone: [top1, latency]
  server: [top1, training]
"""
ROWS = """network,top1,ms1,ms2,ms3,step
a,70.0,1.0,1.1,1.0,10
"b</script><script>window.problems.push('escaped')</script>",75.0,2.0,2.1,1.9,30
c,75.1,2.1,1.8,2.2,31
d<!--<script>,74.0,4.0,4.1,4.2,60
=e(),80.0,8.0,8.5,7.5,55
"""


def rank(*words, cwd):
    return call("rank", *words, cwd=cwd)


@pytest.fixture(scope="module")
def ranked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rank")
    (folder / "mine.csv").write_text(ROWS)
    (folder / "mine.yaml").write_text(COLUMNS)
    code, out, err = rank(
        "csv=mine.csv", "columns=mine.yaml", "draws=2000", "+weights.top1=1", "out=out", cwd=folder
    )
    assert code == 0, err
    return folder, out


def test_own_table_is_ranked(ranked):
    folder, out = ranked
    assert "5 models by top1, latency, training" in out
    with (folder / "out" / "ranking.csv").open() as file:
        rows = {row["model"][0]: row for row in csv.DictReader(file)}
    assert float(rows["a"]["p_efficient"]) == 1  # the fastest by far
    assert float(rows["d"]["p_efficient"]) == 0  # slower and less accurate than c
    assert 0.1 < float(rows["b"]["p_efficient"]) < 1
    # Weights ask for accuracy alone; what a spreadsheet would compute is quoted.
    assert float(rows["'"]["p_preferred"]) == 1
    assert (folder / "out" / "frontier.png").read_bytes().startswith(b"\x89PNG")
    first = (folder / "out" / "ranking.csv").read_bytes()
    words = ["csv=mine.csv", "columns=mine.yaml", "draws=2000", "+weights.top1=1", "out=again"]
    assert rank(*words, cwd=folder)[0] == 0
    assert (folder / "again" / "ranking.csv").read_bytes() == first


@needs_chromium
def test_report_in_a_browser(ranked, tmp_path):
    script = """
      all("table.short tr[data-row]")[1].click();
      let file;
      URL.createObjectURL = blob => (file = blob, "#");
      document.getElementById("csv").click();
      return {csv: await file.text(),
        short: all("table.short tr[data-row] td.why").map(cell => cell.textContent),
        first: all("tbody.rows tr td.name").map(cell => cell.textContent),
        picked: all("tr.picked td.name, tr.picked td.why").map(cell => cell.textContent),
        plots: all(".plot").map(place => place.querySelectorAll(".point").length)};
    """
    text = (ranked[0] / "out" / "report.html").read_text()
    wide, narrow = visit(tmp_path, Visit(text, 1400, 900, script), Visit(text, 390, 844))
    for seen in (wide, narrow):
        assert seen["problems"] == []
        assert seen["overflow"] <= 0
        assert seen["clipped"] == []
    found = wide["answer"]
    with (ranked[0] / "out" / "ranking.csv").open() as file:
        cells = [row["model"] for row in csv.DictReader(file)]
    names = [tables.read_cell(cell) for cell in cells]
    assert found["first"] == found["short"] == names
    assert "=e()" in names
    assert [row["model"] for row in csv.DictReader(io.StringIO(found["csv"]))] == cells
    assert found["picked"] == [names[1]] * 2
    assert len(found["plots"]) == 3 + 1 + 3  # pairs of axes, ranks, views
    assert all(found["plots"])


def test_front_of_a_search_is_ranked(tmp_path):
    code, out, err = call(
        "search", "budget=600", "searcher.population=50", "wandb=disabled", "out=run", cwd=tmp_path
    )
    assert code == 0, err
    assert "p_efficient" in out
    code, out, err = rank("table=search_run", "table.folder=run", "draws=300", "out=ranked", cwd=tmp_path)
    assert code == 0, err
    with (tmp_path / "ranked" / "ranking.csv").open() as file:
        rows = list(csv.DictReader(file))
    front = json.loads((tmp_path / "run" / "front.json").read_text())
    assert {row["model"] for row in rows} == {row["architecture"] for row in front}
    assert all(row["on_front_without_noise"] == "True" for row in rows)
    assert min(float(row["p_efficient"]) for row in rows) < 0.9


@pytest.mark.slow
def test_classifiers_are_timed_here(tmp_path):
    """Three of torchvision's, with a training step; the larger ones take longer."""
    names = ("shufflenet_v2_x0_5", "mobilenet_v2", "resnet18")
    timings = {"latency_ms": Timing("torch_eager"), "training_ms": Timing("torch_training")}
    with Store(tmp_path / "store.sqlite") as store:
        models = Torchvision(timings=timings, names=names).models(store, seconds=40)
    assert models.names == names
    assert models.axis("top1").values == pytest.approx([0.60552, 0.72154, 0.69758])
    latency, training = models.axis("latency_ms").values, models.axis("training_ms").values
    assert latency[0] < latency[1] < 10 * latency[2]
    assert (training > latency).all()
    assert ranking.rank(models, draws=200).main.probability[0] > 0.9


def test_timm_table_has_its_models(data):
    table = registry.build({**registry.load("table", "timm"), "data_dir": str(data)})
    models = table.models()
    assert 700 < len(models) <= 712
    assert len(set(models.names)) == len(models)
    gpu, training = models.axis("rtx3090"), models.axis("training")
    assert (gpu.values > training.values).mean() > 0.99  # a training step takes longer


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["csv=absent.csv"], "csv= and columns= belong together"),
        (["csv=mine.csv", "columns=absent.yaml"], "no file absent.yaml"),
        (["csv=absent.csv", "columns=mine.yaml"], "no table absent.csv"),
        (["csv=mine.csv", "columns=mine.yaml", "+weights.speed=1"], "unknown axis 'speed'"),
        (["csv=mine.csv", "columns=wrong.yaml"], "axis top1 has better=None; say better: higher or lower"),
        (["table=torchvison"], "Did you mean 'torchvision'"),
        (["table=search_run", "table.folder=."], "holds no finished search"),
    ],
)
def test_errors_are_one_line_and_no_traceback(ranked, words, message):
    folder = Path(ranked[0])
    (folder / "wrong.yaml").write_text(re.sub("better: higher, ", "", COLUMNS, count=1))
    code, _, err = rank(*words, cwd=folder)
    assert code != 0
    assert message in err
    assert "Traceback" not in err
