"""This machine as a target: adapt, measure, search and verify, as a user types it; with real timings."""

import contextlib
import csv
import json
import re
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from latency.data import read_csv
from latency.measuring.here import here
from latency.measuring.machine import cpu_flags
from latency.measuring.store import Store
from latency.predictors.transfer import Transfer
from latency.zoo import adaptation, catalogue
from latency.zoo.adaptation import Adaptation
from supernet.space import get_space
from tests.e2e.commands import ROOT, call, run, start

EAGER = "target.engine=torch_eager"


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapted")
    words = [EAGER, "samples=5", "tests=4", "resolution=160", "out=mine", "store=s.sqlite"]
    code, out, err = call("adapt", *words, cwd=folder)
    assert code == 0, err
    return folder, out


def test_adapt_scores_saves_and_says_what_is_next(adapted):
    folder, out = adapted
    for row in (
        "transfer, 3 samples",
        "transfer, 5 samples",
        "MACs line, 5 samples",
        "specification, 0 samples",
    ):
        assert row in out
    assert re.fullmatch(
        r'next: make search ARGS="predictor=run:mine latency_limit_ms=[\d.]+"', out.splitlines()[-1]
    )
    predictor = catalogue.find(f"run:{folder / 'mine'}")
    assert predictor.target.key == here(engine="torch_eager").key
    assert predictor.facts["samples"] == 5
    with (folder / "mine" / "samples.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5
    assert {row["r"] for row in rows} == {"160"}
    found = json.loads((folder / "mine" / "scores.json").read_text())
    assert found["table"]["transfer, 5 samples"]["mape"] < 40
    code, _, err = call("adapt", EAGER, "out=mine", cwd=folder)
    assert code != 0
    assert "left alone" in err


@pytest.mark.slow
def test_twice_three_samples_are_six(tmp_path):
    """The second call measures others, keeps the first ones, and fits on all six."""
    words = [EAGER, "samples=3", "tests=2", "resolution=160", "store=s.sqlite"]
    for out in ("first", "second"):
        code, said, err = call("adapt", *words, f"out={out}", cwd=tmp_path)
        assert code == 0, err
    assert "3 subnets measured earlier are samples too" in said
    first, second = (
        read_csv(tmp_path / out / "samples.csv", here(engine="torch_eager"), "lat_ms")
        for out in ("first", "second")
    )
    assert len(first) == 3
    assert len(second) == 6
    assert {row.tobytes() for row in first.genomes} < {row.tobytes() for row in second.genomes}
    _, sources = adaptation.plan(here(engine="torch_eager"), Adaptation(resolution=(160, 160)))
    adapted = catalogue.find(f"run:{tmp_path / 'second'}")
    assert adapted.facts["samples"] == 6
    at_once = Transfer().fit_from(sources, second)
    said = (each.predict(second.genomes, each.target).mean for each in (at_once, adapted))
    assert np.allclose(*said, rtol=1e-3)


def test_search_with_it_verifies_the_front(adapted):
    folder, _ = adapted
    words = ["predictor=run:mine", "resolution=160", "budget=1000", "verify=3", "wandb=disabled", "out=run"]
    code, out, err = call("search", *words, "store=s.sqlite", "latency_limit_ms=1000", cwd=folder)
    assert code == 0, err
    assert re.search(r"measured 3 networks of the front in 3 rounds, \d+ s: predictions were off by", out)
    assert "3 of the 3 measured networks hold the limit of 1000 ms" in out
    assert re.search(r"the speed of this machine wanders by [\d.]+% between sittings", out)
    rows = json.loads((folder / "run" / "front.json").read_text())
    verified = [row for row in rows if row["on_verified_front"]]
    assert verified
    assert all(row["latency_ms_measured"] for row in verified)
    assert all(row["latency_ms_measured"] is None for row in rows if not row["on_verified_front"])
    with (folder / "run" / "measured.csv").open() as file:
        measured = list(csv.DictReader(file))
    assert [row["round"] for row in measured] == ["1", "2", "3"]
    shown = set(re.findall(r"ofa_mbv3_w1\.0 r\d+ d\S+ k\S+ e\S+ ft\d+", out))
    assert shown <= {row["architecture"] for row in verified}
    assert "measured 3 networks of the front" in (folder / "run" / "report.html").read_text()


def test_search_for_here_measures_once_and_again_uses_the_store(adapted):
    folder, _ = adapted
    words = ["target=here", EAGER, "samples=5", "budget=500", "verify=0", "wandb=disabled", "store=s.sqlite"]
    with Store(folder / "s.sqlite") as store:
        before = len(store.sittings(here(engine="torch_eager")))
    for out in ("a", "b"):
        code, _, err = call("search", *words, f"out={out}", "resolution=160", cwd=folder)
        assert code == 0, err
    with Store(folder / "s.sqlite") as store:
        assert len(store.sittings(here(engine="torch_eager"))) == before
    assert (folder / "a" / "predictor.npz").read_bytes() == (folder / "b" / "predictor.npz").read_bytes()
    assert (folder / "a" / "archive.npz").read_bytes() == (folder / "b" / "archive.npz").read_bytes()


def test_folders_of_others_are_refused_before_anything_is_measured(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("do not touch")
    words = ["target=here", EAGER, "out=mine", "store=s.sqlite", "wandb=disabled"]
    code, _, err = call("search", *words, cwd=tmp_path)
    assert code != 0
    assert "holds other files" in err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    with Store(tmp_path / "s.sqlite") as store:
        assert store.sittings(here(engine="torch_eager")) == []


def test_measure_reports_repeatability_and_writes_csv(tmp_path):
    words = [EAGER, "subnets=3", "sittings=2", "resolution=[128,128]", "csv=m.csv", "store=s.sqlite"]
    code, out, err = call("measure", *words, cwd=tmp_path)
    assert code == 0, err
    assert re.search(r"repeatability over 3 subnets: median difference [\d.]+%", out)
    assert len((tmp_path / "m.csv").read_text().splitlines()) == 4
    code, out, _ = call("measure", "export_csv=all.csv", "store=s.sqlite", cwd=tmp_path)
    assert code == 0
    code, out, _ = call("measure", "import_csv=all.csv", "store=t.sqlite", cwd=tmp_path)
    count = int(re.search(r"added (\d+) visits", out)[1])
    assert count == len((tmp_path / "all.csv").read_text().splitlines()) - 1


@pytest.mark.slow
def test_measure_under_an_instruction_set_limit_starts_itself_again(tmp_path):
    if "sse4_1" not in cpu_flags():
        pytest.skip("no x86 CPU")
    words = [EAGER, "target.isa=sse41", "subnets=2", "resolution=128", "store=s.sqlite"]
    code, out, err = run("measure", *words, cwd=tmp_path)
    assert code == 0, err
    assert "at most sse41" in out
    free = here(engine="torch_eager")
    with Store(tmp_path / "s.sqlite") as store:
        assert store.sittings(free) == []
        (sitting,) = store.sittings(replace(free, isa="sse41"))
    assert sitting.facts["limits"] == {"ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default"}
    assert sitting.engine_version.endswith("DEFAULT")  # what PyTorch itself says it runs
    code, _, err = run("measure", *words[:1], "target.isa=sse41,avx", "-m", cwd=tmp_path)
    assert code != 0
    assert "not to a sweep" in err


def test_a_killed_measurement_keeps_every_finished_visit(tmp_path):
    words = [EAGER, "subnets=20", "resolution=[128,128]", "store=s.sqlite"]
    process = start("measure", *words, cwd=tmp_path)
    path, end = tmp_path / "s.sqlite", time.time() + 90
    visits = 0
    while visits < 30 and time.time() < end and process.poll() is None:
        time.sleep(0.1)
        if path.exists():
            database = sqlite3.connect(path)
            with contextlib.suppress(sqlite3.OperationalError):  # the tables are not there yet
                visits = database.execute("SELECT count(*) FROM visits").fetchone()[0]
            database.close()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with Store(path) as store:
        (sitting,) = store.sittings(here(engine="torch_eager"))
        kept = store.visits(sitting.id)
    assert len(kept) >= visits >= 30
    assert all(visit.wall_ms and visit.cpu_ms for visit in kept)


@pytest.mark.parametrize(
    ("module", "words", "message"),
    [
        ("adapt", ["samples=1"], "samples=1 must be 0 or at least 2"),
        ("adapt", ["target.engine=tensorrt"], "unknown engine 'tensorrt'"),
        ("adapt", [EAGER, "target.precision=int8"], "precision=int8"),
        ("measure", ["target.isa=sse41"], "onnxruntime takes no instruction-set limit"),
        ("measure", ["target.isa=sse"], "Did you mean 'sse41'?"),
        ("adapt", ["sample=5"], "Did you mean 'samples'?"),
        ("adapt", ["target=v100_b64"], "not this machine"),
        ("measure", [EAGER, "names=absent.txt"], "no such file"),
        ("measure", [EAGER, "sittings=0"], "sittings=0 must be greater than 0"),
        ("lookup-table", [EAGER, "resolutions=[100]"], "resolutions=[100]"),
        ("search", ["predictor=run:absent"], "no file absent/predictor.npz"),
        ("search", ["target=here", "target.engine=openvino", "target.batch=0"], "batch"),
        ("search", ["target=v100_b64", "target.batch=2"], "states a fact"),
    ],
)
def test_bad_requests_are_one_line(tmp_path, module, words, message):
    starts_anew = any(word.startswith("target.isa") for word in words)  # in place of this process
    code, _, err = (run if starts_anew else call)(module, *words, cwd=tmp_path)
    assert code != 0
    assert message in err
    assert "Traceback" not in err


@pytest.mark.slow
def test_lookup_table_is_built_and_read_back(tmp_path):
    words = [
        EAGER,
        "target.space=ofa_proxyless_w1.3",
        "resolutions=[128]",
        "tests=0",
        "out=lut",
        "store=s.sqlite",
    ]
    code, _, err = call("lookup-table", *words, cwd=tmp_path)
    assert code == 0, err
    from latency.predictors import lookup_table

    (path,) = (tmp_path / "lut").glob("*_128_lookup_table.yaml")
    target = here("ofa_proxyless_w1.3", engine="torch_eager")
    ours = catalogue.find(f"run:{tmp_path / 'lut'}")
    read = lookup_table.read([path]).predictor(target)
    space = get_space(target.space).restrict("r", 128, 128)
    genomes = space.canonical(space.levels.astype("int8")[None])
    genomes[:, space.index["r"]] = 1
    assert read.predict(genomes, target).mean == pytest.approx(ours.predict(genomes, target).mean, rel=1e-4)


def test_measuring_modules_import_without_torch():
    modules = "latency.measuring.session, latency.zoo.adaptation, search.verify"
    code = f"import sys, {modules}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(ROOT))
