"""The commands as a user types them, in processes of their own."""

import csv
import json
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import yaml

from latency.data import LatencyData, write_csv
from latency.zoo import catalogue
from search import command
from supernet.space import get_space
from tests.e2e.commands import ROOT, call, run, start
from tests.wandb_file import wandb_records


def search(*words, cwd):
    return call("search", *words, cwd=cwd)


def test_bound_of_limits_and_of_a_finished_search(tmp_path):
    restricted = ["target=note10_lut", "resolution=192", "genes.kernel=[3]", "genes.depth=[2]"]
    code, out, _ = call("bound", *restricted, "latency_limit_ms=20", cwd=tmp_path)
    assert code == 0
    assert "proven optimum" in out
    words = ["latency_limit_ms=20", "budget=500", "bound=20", "out=run", "wandb=disabled"]
    code, out, _ = call("search", *restricted, *words, cwd=tmp_path)
    assert code == 0
    assert "points below the best there can be" in out
    assert "points below the best there can be" in (tmp_path / "run/report.html").read_text()
    code, again, _ = call("bound", "run=run", cwd=tmp_path)
    assert code == 0
    assert re.search("at most [0-9.]+ points", again)[0] == re.search("at most [0-9.]+ points", out)[0]
    code, _, err = call("bound", "target=note10_lut", cwd=tmp_path)
    assert code != 0
    assert "give a limit" in err


def test_search_prints_a_front_and_writes_a_report(tmp_path):
    code, out, err = run(
        "search",
        "budget=2000",
        "target=titan_rtx_b64",
        "latency_limit_ms=25",
        "out=run",
        "wandb=offline",
        cwd=tmp_path,
    )
    assert code == 0, err
    names = re.findall(r"ofa_mbv3_w1\.2 r\d+ d\S+ k\S+ e\S+ ft\d+", out)
    assert len(names) >= 10
    assert get_space("ofa_mbv3_w1.2").is_canonical(get_space("ofa_mbv3_w1.2").parse(names))
    assert re.search(r"latency_ms <= 25 ms: holds for (\d+) of \1 at 90% confidence", out)
    last = out.strip().splitlines()[-1]
    assert re.fullmatch(
        r"next: make export ARGS=\"weights=random architecture='[^']+' out=run/export\"", last
    )
    assert command.compose("export", shlex.split(last.partition('"')[2].rstrip('"')))["out"] == "run/export"
    files = {path.name for path in (tmp_path / "run").iterdir()}
    assert {
        "front.csv",
        "front.json",
        "archive.npz",
        "events.jsonl",
        "config.yaml",
        "env.json",
        "report.html",
    } <= files
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))
    assert not (tmp_path / "outputs").exists()
    with (tmp_path / "run" / "front.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert all(row["latency_ms_limit_holds"] == "True" for row in rows)
    assert {row["architecture"] for row in rows if row["shortlist"] == "True"} == set(names)


def test_finished_folder_is_left_alone_and_other_seed_is_refused(tmp_path):
    words = ["budget=300", "wandb=disabled", "out=run"]
    assert search(*words, cwd=tmp_path)[0] == 0
    code, _, err = search(*words, cwd=tmp_path)
    assert code != 0
    assert "left alone" in err


KILLED = ["budget=20000", "seed=3", "searcher.population=100", "wandb=disabled"]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The archive of a search that nobody stopped."""
    folder = tmp_path_factory.mktemp("unbroken")
    assert call("search", *KILLED, "out=whole", cwd=folder)[0] == 0
    return (folder / "whole" / "archive.npz").read_bytes()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_killed_search_resumes_to_the_same_bytes(unbroken, tmp_path, how):
    process = start("search", *KILLED, "out=cut", cwd=tmp_path)
    events = tmp_path / "cut" / "events.jsonl"
    deadline = time.monotonic() + 60
    generation = int(np.random.default_rng().integers(10, 40))
    while time.monotonic() < deadline and process.poll() is None:
        if events.exists() and events.read_text().count('"generation"') >= 2 * generation:
            break
        time.sleep(0.01)
    process.send_signal(how)
    _, err = process.communicate(timeout=60)
    assert not (tmp_path / "cut" / "archive.npz").exists(), "finished before it was stopped"
    if how != signal.SIGKILL:
        assert process.returncode == 130
        assert 'go on with: make search ARGS="' in err
        assert "out=cut" in err
    code, _, err = call("search", *KILLED, "out=cut", cwd=tmp_path)
    assert code == 0, err
    assert (tmp_path / "cut" / "archive.npz").read_bytes() == unbroken


def test_multirun_gives_each_run_its_folder(tmp_path):
    """And W&B calls it by what it has of its own, the folder is their group."""
    words = ["-m", "target=v100_b64,2080ti_b64_w1.0", "budget=300", "out=sweep", "wandb=offline"]
    code, out, err = search(*words, cwd=tmp_path)
    assert code == 0, out + err
    spaces_found, runs = [], []
    for job in ("v100_b64", "2080ti_b64_w1.0"):
        folder = tmp_path / "sweep" / f"target-{job}"
        assert (folder / "report.html").exists()
        (run,) = [record.run for record in wandb_records(folder) if record.HasField("run")]
        assert run.run_group == "sweep"
        runs.append(run.display_name)
        spaces_found.append(json.loads((folder / "front.json").read_text())[0]["architecture"].split()[0])
    assert spaces_found == ["ofa_mbv3_w1.2", "ofa_mbv3_w1.0"]
    assert runs == ["v100_b64 budget=300", "2080ti_b64_w1.0 budget=300"]


def test_recipe_is_an_option_here_and_a_group_of_training(tmp_path):
    words = ["objectives=[accuracy,macs]", "budget=300", "wandb=disabled"]
    code, out, err = search(*words, "out=none", cwd=tmp_path)
    assert code == 0, err
    assert "recipe of all networks: no fine-tuning (0 epochs); a training cost among" in out
    code, out, err = search(*words, "recipe=25", "out=some", cwd=tmp_path)
    assert code == 0, err
    assert "recipe of all networks: 25 epochs of fine-tuning\n" in out
    for folder, epochs in (("none", "ft0"), ("some", "ft25")):
        front = json.loads((tmp_path / folder / "front.json").read_text())
        assert {row["architecture"].split()[-1] for row in front} == {epochs}
    code, _, err = call("train", "recipe=sandwhich", cwd=tmp_path)
    assert (code, "Did you mean 'sandwich'?" in err) == (1, True)


def test_one_failing_job_does_not_stop_a_sweep(tmp_path):
    words = ["-m", "latency_limit_ms=1,30", "budget=300", "out=sweep", "wandb=disabled"]
    code, _, err = search(*words, cwd=tmp_path)
    assert code != 0
    assert "error: job latency_limit_ms-1: no ofa_mbv3_w1.2 subnet meets latency_ms <= 1 ms" in err
    assert (tmp_path / "sweep" / "latency_limit_ms-30" / "report.html").exists()
    assert not (tmp_path / "sweep" / "latency_limit_ms-1").exists()
    code, out, _ = search(
        "-m", "latency_limit_ms=25,30", "budget=300", "out=sweep", "wandb=disabled", cwd=tmp_path
    )
    assert code == 0
    assert "left alone" in out


def test_a_sweep_with_a_misspelt_choice_does_not_begin(tmp_path):
    code, _, err = search("-m", "target=v100_b64,nope", "wandb=disabled", "out=sweep", cwd=tmp_path)
    assert code != 0
    assert err.startswith("error: unknown target 'nope'")
    assert not (tmp_path / "sweep").exists()


def test_words_of_hydra_pass(tmp_path):
    """A folder of one's own, whose nodes need no more lines than ours; printing the configuration."""
    (tmp_path / "mine" / "searcher").mkdir(parents=True)
    (tmp_path / "mine" / "searcher" / "small.yaml").write_text("_target_: search.searchers.nsga2.NSGA2\n")
    words = ["--config-dir", "mine", "searcher=small", "searcher.population=30", "+hydra.job.env_set={A: b}"]
    code, out, err = search(*words, "--cfg", "job", cwd=tmp_path)
    assert code == 0, err
    assert yaml.safe_load(out)["searcher"]["population"] == 30
    code, out, err = search("--help", cwd=tmp_path)
    assert code == 0, err
    assert "latency_limit_ms" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["target=v100_b65"], "unknown target 'v100_b65'. Did you mean 'v100_b64'?"),
        (["latency_limit_ms=1"], "meets latency_ms <= 1 ms"),
        (["latency_limit_ms=nan"], "latency_limit_ms=nan must be a finite number"),
        (["space=ofa_mbv3_w1.0", "target=v100_b64"], "Targets that fit ofa_mbv3_w1.0"),
        (["objectives=[acuracy]"], "Did you mean 'accuracy'?"),
        (["budget=many"], "error: budget=many must be a whole number"),
        (["training.gpu=rtx_409"], "unknown device 'rtx_409'. Did you mean 'rtx_4090'?"),
        (["searcher.population=2"], "population"),
        (["predictor=absent.npz"], "no file absent.npz"),
        (["genes.kernl=[3]"], "unknown gene of ofa_mbv3_w1.2 'kernl'. Did you mean 'kernel'?"),
        (
            ["target=2080ti_b64_w1.0", "genes.resolution=[128,176]"],
            "goes beyond what the models were fitted on: 160 to 224",
        ),
        (["searcher.popultion=3"], "Did you mean 'population'?"),
        (["target=v100_b64", "target.batch=1"], "target.batch states a fact"),
    ],
)
def test_errors_are_one_line_and_no_traceback(tmp_path, words, message):
    code, _, err = search(*words, "wandb=disabled", cwd=tmp_path)
    assert code != 0
    assert message in err
    assert err.startswith("error: ")
    assert "Traceback" not in err
    assert not (tmp_path / "runs").exists()


def test_own_measurements_from_csv_to_search(tmp_path):
    """Fit on a user's table, score on other rows, search with the result."""
    space = get_space("ofa_mbv3_w1.2")
    genomes = space.sample(250, np.random.default_rng(0))
    ms = catalogue.predictor("v100_b64").predict(genomes, catalogue.target("v100_b64")).mean * 2
    names = [axis.name for axis in space.axes if not axis.deploy]
    with (tmp_path / "mine.csv").open("w") as file:
        writer = csv.writer(file)
        writer.writerow([*names, "lat_mine"])
        for row, t in zip(space.values(genomes)[:, : len(names)].tolist(), ms, strict=True):
            writer.writerow([*row, t])
    table = ["rows=mine.csv", "column=lat_mine"]
    words = ["space=ofa_mbv3_w1.2", "device=v100", *table, "past=150", "out=mine.npz"]
    _, out, err = call("fit", *words, cwd=tmp_path)
    assert "predictor=mine.npz" in out, err
    words = ["predictor=mine.npz", *table, "first=150", "out=score.json"]
    _, out, err = call("score", *words, cwd=tmp_path)
    row = json.loads((tmp_path / "score.json").read_text())
    assert row["n"] == 100, err
    assert row["mape"] < 3
    assert "| mine.npz | 100 |" in out
    code, out, err = search("predictor=mine.npz", "budget=500", "wandb=disabled", "out=run", cwd=tmp_path)
    assert code == 0, err


def test_ten_rows_are_enough_with_transfer(tmp_path):
    space = get_space("ofa_mbv3_w1.2").restrict("r", 160, 224)
    genomes = space.network(space.sample(10, np.random.default_rng(0)))
    target = replace(catalogue.target("v100_b64"), name="mine")
    ms = 2 * catalogue.predictor("v100_b64").predict(genomes, catalogue.target("v100_b64")).mean
    write_csv(tmp_path / "ten.csv", LatencyData(target, genomes, ms, np.full(10, np.nan)))
    words = [
        "learner=transfer",
        "space=ofa_mbv3_w1.2",
        "device=v100",
        "batch=64",
        "rows=ten.csv",
        "column=lat_ms",
    ]
    _, out, err = call("fit", *words, "out=ten.npz", cwd=tmp_path)
    assert "left-out MAPE" in out, err
    found = catalogue.find(str(tmp_path / "ten.npz"))
    test = space.sample(50, np.random.default_rng(1))
    truth = 2 * catalogue.predictor("v100_b64").predict(test, catalogue.target("v100_b64")).mean
    assert np.abs(found.predict(test, found.target).mean / truth - 1).mean() < 0.02


def test_genes_restrict_a_search(tmp_path):
    words = [
        "genes.kernel=[3,7]",
        "genes.depth=[2,4]",
        "genes.ks3=7",
        "budget=400",
        "wandb=disabled",
        "out=run",
    ]
    code, _, err = search(*words, cwd=tmp_path)
    assert code == 0, err
    space = get_space("ofa_mbv3_w1.2")
    rows = json.loads((tmp_path / "run" / "front.json").read_text())
    genomes = space.parse([row["architecture"] for row in rows])
    values = {axis.name: set(space.column(genomes, axis.name)) for axis in space.axes}
    assert values["ks0"] | values["ks1"] == {3, 7}
    assert values["ks3"] <= {0, 7}
    assert all(values[f"d{stage}"] <= {2, 4} for stage in range(5))


def test_import_is_light():
    """`import search` and its loop bring neither torch nor a plotting, network or configuration library."""
    code = "import search.run, sys; print([m for m in sys.argv[1:] if m in sys.modules])"
    heavy = ["torch", "wandb", "plotly", "matplotlib", "hydra", "requests", "sklearn"]
    words = [sys.executable, "-c", code, *heavy]
    process = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "[]"


def test_search_for_a_gpu_known_by_its_data_sheet(tmp_path):
    words = [
        "target=gpu",
        "target.device=rtx_4090",
        "target.batch=8",
        "budget=500",
        "wandb=disabled",
        "out=run",
    ]
    code, out, err = search(*words, cwd=tmp_path)
    assert code == 0, err
    assert "nothing was measured on it" in out
    rows = json.loads((tmp_path / "run" / "front.json").read_text())
    assert all(row["latency_ms_std"] > 0.05 * row["latency_ms"] for row in rows)


def test_a_sweep_of_fits_ranks_its_options_and_a_network_searches(tmp_path):
    target = catalogue.target("v100_b64")
    space = get_space(target.space).restrict("r", 160, 224)
    genomes = space.network(space.sample(60, np.random.default_rng(0)))
    ms = catalogue.predictor("v100_b64").predict(genomes, target).mean
    write_csv(tmp_path / "mine.csv", LatencyData(target, genomes, ms, np.full(60, np.nan)))
    words = ["-m", "learner=neural", "space=ofa_mbv3_w1.2", "device=v100", "batch=64", "rows=mine.csv"]
    words += ["column=lat_ms", "learner.hidden=[16]", "learner.training.epochs=2,40", "hydra.sweep.dir=sweep"]
    _, out, err = call("fit", *words, cwd=tmp_path)
    jobs = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("sweep/jobs/*.json"))]
    assert len(jobs) == 2, err
    best = min(jobs, key=lambda job: job["figures"]["error"])
    assert best["name"] == "learner.training.epochs-40"
    assert out.strip().splitlines()[-3].split() == [best["name"], f"{best['figures']['error']:.4g}"]
    words = [
        f"predictor=sweep/{best['name']}/latency-mine.safetensors",
        "budget=500",
        "wandb=disabled",
        "out=run",
    ]
    code, out, err = search(*words, cwd=tmp_path)
    assert code == 0, err


def test_a_command_needs_no_words(tmp_path, monkeypatch):
    """`make search` as the README has it: everything at its default."""

    def stop(options, *_, **__):
        raise ValueError(f"asked with budget={options.budget}")

    monkeypatch.setattr("search.commands.search.run_search", stop)
    assert call("search", cwd=tmp_path)[::2] == (1, "error: asked with budget=None\n")


def test_a_list_with_a_space_is_explained(tmp_path):
    code, _, err = call("search", "objectives=[accuracy,", "latency_ms]", "budget=100", cwd=tmp_path)
    assert code == 1
    assert (
        "objectives=[accuracy, latency_ms] is cut at the space: write objectives=[accuracy,latency_ms]" in err
    )
