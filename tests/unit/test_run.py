"""The loop and its folder: byte-identical archives, resume, what is refused."""

import csv
import json
import signal
import threading
from dataclasses import replace

import numpy as np
import pytest

from latency.data import LatencyData
from latency.measuring.known import Known
from latency.zoo import catalogue
from search import models, problem, run
from search.objective import Objective
from search.ranking.timed_models import SearchRun
from search.searchers.nsga2 import NSGA2
from search.verify.rounds import Rounds
from supernet.files import run_folder
from supernet.prediction import exact
from supernet.space import get_space


@pytest.fixture(scope="module")
def asked():
    objectives = ["accuracy", "latency_ms", "training_hours"]
    return problem.build(objectives, limits={"latency_ms": 20.0, "params": 7e6})


def go(asked, out, budget=900, seed=1, **options):
    config = {"budget": budget, "seed": seed}
    searcher = NSGA2(population=60)
    return run.Search(asked, searcher, budget=budget, seed=seed, out=out, config=config, **options).run()


class StopAfter:
    """A sink that sends SIGINT to this process in one generation, as Ctrl-C does."""

    def __init__(self, generation):
        self.generation_to_stop = generation

    def start(self, facts, history):
        pass

    def log(self, row):
        if row["generation"] == self.generation_to_stop:
            signal.raise_signal(signal.SIGINT)

    def finish(self, summary, front=None):
        pass

    def close(self):
        pass


def test_same_seed_same_bytes(asked, tmp_path):
    go(asked, tmp_path / "a")
    go(asked, tmp_path / "b")
    go(asked, tmp_path / "c", seed=2)
    a, b, c = ((tmp_path / name / "archive.npz").read_bytes() for name in "abc")
    assert a == b
    assert a != c


@pytest.mark.parametrize("stop", [0, 5, 13])
def test_stopped_and_resumed_gives_the_same_bytes(asked, tmp_path, stop):
    before = signal.getsignal(signal.SIGINT)
    whole = go(asked, tmp_path / "whole")
    with pytest.raises(run.Interrupted):
        go(asked, tmp_path / "cut", sinks=[StopAfter(stop)])
    assert (tmp_path / "cut" / "checkpoint.npz").exists()
    resumed = go(asked, tmp_path / "cut")
    assert (tmp_path / "cut" / "archive.npz").read_bytes() == (
        tmp_path / "whole" / "archive.npz"
    ).read_bytes()
    assert (tmp_path / "cut" / "front.csv").read_bytes() == (tmp_path / "whole" / "front.csv").read_bytes()
    assert not (tmp_path / "cut" / "checkpoint.npz").exists()
    assert resumed.summary["hypervolume"] == whole.summary["hypervolume"]
    starts = [
        e
        for e in map(json.loads, (tmp_path / "cut" / "events.jsonl").read_text().splitlines())
        if e["event"] == "start"
    ]
    assert [start["generations_before"] for start in starts] == [0, stop + 1]
    assert signal.getsignal(signal.SIGINT) is before


def test_a_front_that_cannot_be_measured_is_not_lost(asked, tmp_path):
    class Busy:
        def known(self, target):
            return Known(LatencyData(target, get_space(target.space).parse([]), np.empty(0), np.empty(0)))

        def time(self, target, networks):
            raise ValueError("other processes use 40% of this machine")

    turns = Rounds(Busy(), lambda predictor, known: predictor, 6, 1)
    found = go(asked, tmp_path / "run", rounds=turns)
    go(turns.begin(asked), tmp_path / "plain")
    assert "could not be measured: other processes" in found.describe(tmp_path / "run")
    assert "\naccuracy: ImageNet validation top-1, calibrated with 6" in found.describe(tmp_path / "run")
    assert "other processes use 40%" in (tmp_path / "run" / "report.html").read_text()
    for name in ("front.csv", "archive.npz"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()


def test_checkpoint_after_every_generation_changes_nothing(asked, tmp_path):
    go(asked, tmp_path / "often", checkpoint_seconds=0.0)
    go(asked, tmp_path / "never", checkpoint_seconds=1e9)
    often, never = ((tmp_path / name / "archive.npz").read_bytes() for name in ("often", "never"))
    assert often == never


def test_run_folder_holds_what_it_should(asked, tmp_path):
    found = go(asked, tmp_path / "a")
    folder = tmp_path / "a"
    header = (folder / "front.csv").read_text().splitlines()[0].split(",")
    assert header[0] == "architecture"
    for name in ("accuracy", "latency_ms", "training_hours"):
        assert name in header
        assert f"{name}_std" in header
    assert {"latency_ms_limit_holds", "params_limit_holds"} <= set(header)
    rows = json.loads((folder / "front.json").read_text())
    assert len(rows) == len(found.front) == found.archive.front_size
    assert asked.space.is_canonical(asked.space.parse([row["architecture"] for row in rows]))
    for row in rows:
        assert row["latency_ms"] + 1.2815 * row["latency_ms_std"] <= 20.001
        assert row["params"] <= 7e6
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    assert [e["event"] for e in events] == ["start", *["generation"] * 15, "finish"]
    assert events[-1]["evaluations"] == 900
    assert json.loads((folder / "env.json").read_text())["packages"]["numpy"] == np.__version__
    assert '<script id="data"' in (folder / "report.html").read_text()


def test_finished_runs_are_left_alone(asked, tmp_path):
    go(asked, tmp_path / "a")
    before = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir() if path.is_file()}
    with pytest.raises(run_folder.FinishedRun, match="finished run, which is left alone"):
        go(asked, tmp_path / "a")
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir() if path.is_file()}


def test_unfinished_runs_of_other_settings_are_left_alone(asked, tmp_path):
    with pytest.raises(run.Interrupted):
        go(asked, tmp_path / "a", sinks=[StopAfter(2)])
    with pytest.raises(ValueError, match=r"other settings \(seed=1, now 5\)"):
        go(asked, tmp_path / "a", seed=5)


def test_folders_of_others_are_left_alone(asked, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds other files and no run"):
        go(asked, tmp_path)
    with pytest.raises(ValueError, match="is a file"):
        go(asked, tmp_path / "notes.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("damage", [b"", b"garbage"])
def test_damaged_checkpoints_are_named_and_kept(asked, tmp_path, damage):
    with pytest.raises(run.Interrupted):
        go(asked, tmp_path / "a", sinks=[StopAfter(2)])
    path = tmp_path / "a" / "checkpoint.npz"
    path.write_bytes(damage)
    with pytest.raises(ValueError, match=r"checkpoint\.npz is damaged"):
        go(asked, tmp_path / "a")
    assert path.read_bytes() == damage


def test_checkpoints_of_another_space_are_refused(asked, tmp_path):
    with pytest.raises(run.Interrupted):
        go(asked, tmp_path / "a", sinks=[StopAfter(2)])
    other = problem.build(["macs", "params"], models.choose(space=get_space("fbnet")))
    with pytest.raises(ValueError, match=r"is no usable search checkpoint .*ofa_mbv3_w1.2, not of fbnet"):
        go(other, tmp_path / "a")


def test_checkpoints_of_other_models_are_refused(asked, tmp_path):
    with pytest.raises(run.Interrupted):
        go(asked, tmp_path / "a", sinks=[StopAfter(2)])
    other = problem.build(
        ["accuracy", "latency_ms", "training_hours"],
        models.choose(target=catalogue.target("titan_rtx_b64")),
        limits={"latency_ms": 20.0, "params": 7e6},
    )
    with pytest.raises(ValueError, match="predictors were other ones"):
        go(other, tmp_path / "a")


def test_damaged_configuration_is_named(asked, tmp_path):
    with pytest.raises(run.Interrupted):
        go(asked, tmp_path / "a", sinks=[StopAfter(2)])
    (tmp_path / "a" / "config.yaml").write_text("a: [")
    with pytest.raises(ValueError, match=r"config\.yaml is no YAML that can be read"):
        go(asked, tmp_path / "a")


def test_two_processes_do_not_share_a_folder(asked, tmp_path):
    first, errors = threading.Event(), []

    class Wait(StopAfter):
        def log(self, row):
            if not first.is_set():
                first.set()
                try:
                    go(asked, tmp_path / "a")
                except ValueError as error:
                    errors.append(str(error))

    go(asked, tmp_path / "a", sinks=[Wait(-1)])
    assert "another process is running" in errors[0]


def test_impossible_limits_leave_no_folder(asked, tmp_path):
    hopeless = problem.build(["accuracy", "latency_ms"], limits={"latency_ms": 1.0})
    with pytest.raises(ValueError, match="meets latency_ms <= 1 ms"):
        go(hopeless, tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_limits_that_exclude_each_other_are_reported(tmp_path):
    hopeless = problem.build(["accuracy", "latency_ms"], limits={"latency_ms": 9.0, "accuracy": 0.79})
    with pytest.raises(
        ValueError, match=r"none of 300 architectures meets all limits .* together; the nearest is ofa_"
    ):
        go(hopeless, tmp_path / "a", budget=300)


@pytest.mark.parametrize("options", [dict(budget=0), dict(seed=-1)])
def test_senseless_numbers_are_refused(asked, tmp_path, options):
    with pytest.raises(ValueError, match=r"budget=0|seed=-1"):
        go(asked, tmp_path / "a", **options)


def test_exhausted_space_ends_the_run(tmp_path):
    small = problem.build(
        ["macs", "params"], models.choose(space=get_space("compofa_fixed").restrict("r", 224, 224))
    )
    small = replace(small, space=small.space.restrict("finetune_epochs", 0, 0))
    found = go(small, tmp_path / "a", budget=10_000)
    assert found.summary["exhausted"]
    assert found.summary["evaluations"] == 3**5


def test_objectives_of_your_own_go_through_a_whole_run(tmp_path):
    """Nothing looks their names up: the table, the report and the folder take unit and direction along."""
    space = get_space("compofa_fixed")

    def depth(genomes):
        return exact(sum(space.column(genomes, f"d{stage}") for stage in range(5)).astype(float))

    steps = Objective("steps", "layers", depth, maximize=True, limit=12.0)
    asked = problem.build([steps, "macs"], models.choose(space=space))
    found = go(asked, tmp_path / "a", budget=300)
    assert found.archive.objectives == ("steps", "macs")
    rows = list(csv.DictReader((tmp_path / "a" / "front.csv").read_text().splitlines()))
    names = [row["architecture"] for row in rows]
    assert [float(row["steps"]) for row in rows] == depth(space.parse(names)).mean.tolist()
    assert {row["steps_limit_holds"] for row in rows} == {"True"}
    report = (tmp_path / "a" / "report.html").read_text()
    assert "steps (layers)" in report
    assert "steps &gt;= 12 layers" in report
    ranked = SearchRun(folder=tmp_path / "a").models()
    assert [(axis.name, axis.unit, axis.maximize) for axis in ranked.axes] == [
        ("steps", "layers", True),
        ("macs", "MACs", False),
    ]
