"""What W&B and TensorBoard are given, read back from what they wrote."""

import json
import os
import subprocess
import sys
import time

import pytest

from search import command, problem
from search.cli import watch
from search.commands.search import Options
from search.run import Search
from search.searchers.nsga2 import NSGA2
from supernet.files.loggers import Job, TensorBoard, Wandb, WandbSink, marks
from tests.wandb_file import wandb_records


def options(*words):
    return Options(**command.compose("search", list(words)))


def test_the_group_says_where_a_run_is_watched(tmp_path, monkeypatch):
    """One option for all commands; `wandb=` is short for its mode."""
    monkeypatch.delenv("WANDB_MODE")
    run = watch.job("search", "v100_b64", tmp_path, {}, {}, {})
    kinds = {
        (): ["WandbSink"],
        ("logger=[wandb,tensorboard]",): ["WandbSink", "TensorBoardSink"],
        ("logger=tensorboard",): ["TensorBoardSink"],
        ("logger=[]",): [],
        ("logger=[]", "wandb=offline"): ["WandbSink"],
        ("wandb=disabled",): [],
        ("logger.wandb.mode=disabled",): [],
    }
    for words, expected in kinds.items():
        assert [type(sink).__name__ for sink in watch.sinks(options(*words), run)] == expected
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert watch.sinks(options(), run) == []
    assert len(watch.sinks(options("wandb=offline"), run)) == 1  # the command line goes before
    monkeypatch.setenv("WANDB_MODE", "sometimes")
    with pytest.raises(ValueError, match="WANDB_MODE=sometimes must be offline, online or disabled"):
        watch.sinks(options(), run)
    with pytest.raises(ValueError, match="unknown logger 'nope'"):
        options("logger=nope")
    assert list(tmp_path.iterdir()) == []


REQUIRED = {
    "fit": ["rows=a.csv", "column=b"],
    "finetune": ["supernet=a", "architecture=b"],
    "shrink": ["supernet=a", "architecture=b"],
}


@pytest.mark.parametrize("name", [*REQUIRED, "search", "train", "adapt", "measure", "rank", "modules"])
def test_every_long_command_has_it(name):
    words = REQUIRED.get(name, [])
    assert command.compose(name, [*words, "logger=wandb"])["logger"]["wandb"]["mode"] is None


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """A search with both loggers that goes on after a stop, the result and its folder."""
    out = tmp_path_factory.mktemp("watched") / "mine"
    predictor = out.with_name("other") / "predictor.npz"
    predictor.parent.mkdir()
    predictor.write_bytes(b"fitted elsewhere")
    left = {"archive": out / "archive.npz", "front": out / "front.csv", "report": out / "report.html"}
    left["measurements"] = out / "measured.csv"  # which this search does not write
    job = Job("search", "titan_rtx_b64 seed=1", out, {"seed": 1}, "a sweep", ("titan_rtx_b64",))
    job = Job(**{**vars(job), "inputs": {"predictor": predictor}, "outputs": left})
    asked = problem.build(["accuracy", "latency_ms", "params"])
    environment = {"WANDB_PROJECT": "phones", "WANDB_TAGS": "first,second", "WANDB_NOTES": "a note"}
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("WANDB_MODE")
        for name, value in environment.items():
            patch.setenv(name, value)

        def search():
            sinks = [Wandb(tags=("mine",)).sink(job), TensorBoard().sink(job)]
            return Search(asked, NSGA2(population=50), 600, 1, out, sinks=sinks, checkpoint_seconds=0).run()

        class Stopped(Exception):
            pass

        log = WandbSink.log

        def stops(sink, row):
            log(sink, row)
            if row["generation"] == 5:
                raise Stopped

        with patch.context() as broken:
            broken.setattr(WandbSink, "log", stops)
            with pytest.raises(Stopped):
                search()
        time.sleep(1.1)  # W&B's files are named by the second
        return search(), out


def test_wandb_has_the_run_and_its_names(watched):
    _, out = watched
    runs = [record.run for record in wandb_records(out) if record.HasField("run")]
    assert len(runs) >= 2  # before the stop, and after it
    assert len({run.run_id for run in runs}) == 1
    for run in runs:
        assert (run.project, run.run_group, run.job_type) == ("phones", "a sweep", "search")
        assert (run.display_name, run.notes) == ("titan_rtx_b64 seed=1", "a note")
        assert list(run.tags) == ["titan_rtx_b64", "mine", "first", "second"]
    config = {update.key: json.loads(update.value_json) for update in runs[0].config.update}
    assert config["seed"] == 1
    assert config["budget"] == 600


def test_wandb_has_the_whole_curve_again_after_a_stop(watched):
    result, out = watched
    files = [[]]
    for record in wandb_records(out):
        if record.HasField("header"):
            files.append([])
        if record.HasField("history"):
            row = {(*item.nested_key, item.key)[0]: item.value_json for item in record.history.item}
            files[-1].append(row)
    curve = [json.loads(row["hypervolume"]) for row in files[-1] if "hypervolume" in row]
    assert curve == [row["hypervolume"] for row in result.history]


def test_wandb_knows_what_was_made_of_what(watched):
    _, out = watched
    artifacts = [
        record.request.log_artifact.artifact for record in wandb_records(out) if record.HasField("request")
    ]
    artifacts += [record.artifact for record in wandb_records(out) if record.HasField("artifact")]
    listed = {(one.type, one.name, one.use_after_commit) for one in artifacts if one.type != "run_table"}
    assert listed == {
        ("predictor", "other.predictor.npz", True),
        ("archive", "mine.archive.npz", False),
        ("front", "mine.front.csv", False),
        ("report", "mine.report.html", False),
    }


def test_the_table_of_wandb_has_the_knee_the_extremes_and_the_shortlist(watched):
    result, out = watched
    tables = [
        json.loads(path.read_text()) for path in out.glob("wandb/offline-run-*/files/media/table/**/*.json")
    ]
    (table,) = [table for table in tables if len(table["columns"]) > 3]
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    marked = {row["architecture"]: row["mark"] for row in rows if row["mark"]}
    front = result.front
    assert "knee" in marked[result.summary["knee"]]
    assert {front.columns["architecture"][row] for row in front.shortlist()} <= set(marked)
    for name in front.objectives:
        extreme = max(rows, key=lambda row: row[name])
        assert extreme[name] == max(front.columns[name])
    words = " ".join(marked.values())
    assert all(f"{which} {name}" in words for which in ("least", "most") for name in front.objectives)
    configs = [u for r in wandb_records(out) if r.HasField("config") for u in r.config.update]
    text = " ".join(update.value_json for update in configs)
    for pair in ("accuracy over latency_ms", "accuracy over params", "latency_ms over params"):
        assert pair in text


def test_a_large_front_is_thinned_but_keeps_its_marks(watched):
    front = watched[0].front
    rows = marks(front)
    assert rows[front.knee].startswith("knee")
    assert set(front.shortlist()) <= set(rows)


def test_tensorboard_says_what_the_events_say(watched):
    """Exactly, in double precision, and once for every generation although the search was stopped."""
    from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
    from tensorboard.util import tensor_util

    _, out = watched
    read = EventAccumulator(str(out / "tensorboard"), size_guidance={"tensors": 0}).Reload()
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    rounds = {event["generation"]: event for event in events if event["event"] == "generation"}
    for tag in set(rounds[0]) - {"event", "unix_time"}:
        values = {one.step: tensor_util.make_ndarray(one.tensor_proto).item() for one in read.Tensors(tag)}
        assert values == {row: event.get(tag) for row, event in rounds.items()}, tag
        assert len(read.Tensors(tag)) == len(rounds)
    text = tensor_util.make_ndarray(read.Tensors("front/text_summary")[0].tensor_proto).item().decode()
    assert "knee" in text


DENIED = """
import socket, sys
def refuse(one, address, connect=socket.socket.connect):
    if isinstance(address, tuple) and not str(address[0]).startswith(("127.", "::1", "localhost")):
        raise RuntimeError(f"a connection to {address}")
    return connect(one, address)
socket.socket.connect = refuse
socket.getaddrinfo = lambda host, *rest, ask=socket.getaddrinfo: (
    ask(host, *rest) if host in ("127.0.0.1", "localhost", "::1") else refuse(None, (host, 0)))
from search.commands.search import main
sys.argv = ["search", "budget=300", "out=run"]
main()
import wandb.env
assert not wandb.env.error_reporting_enabled(), "W&B reports errors to a third party"
assert "torch" not in sys.modules, "the default search imports torch"
"""


def test_a_default_search_opens_no_connection(tmp_path):
    """Of this process; what W&B starts beside it is told to send no error reports."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    run = subprocess.run(
        [sys.executable, "-c", DENIED],
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert list(tmp_path.glob("run/wandb/offline-run-*/*.wandb"))
