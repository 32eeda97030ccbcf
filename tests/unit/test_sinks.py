"""What W&B is given: scalars per generation, the front as a table, accuracy drawn over latency."""

import json
import sys
import types

import pytest

from search import front_table, problem
from search.run import Search
from search.searchers.nsga2 import NSGA2
from supernet.files.sinks import Bar, Jsonl, Wandb


class Recorder:
    """A tiny W&B that keeps what it is told."""

    def __init__(self):
        self.logged, self.plots, self.tables, self.summary, self.finished = [], [], [], {}, False

    def module(self):
        fake = types.ModuleType("wandb")
        fake.init = lambda **options: self
        fake.Settings = dict
        fake.Table = lambda columns, data: self.tables.append((columns, data)) or "table"
        fake.plot = types.SimpleNamespace(scatter=lambda table, x, y, title: self.plots.append((x, y)))
        return fake

    def log(self, row):
        self.logged.append(row)

    def finish(self):
        self.finished = True


@pytest.mark.parametrize(
    "objectives", [["accuracy", "latency_ms", "training_hours"], ["latency_ms", "params"]]
)
def test_what_wandb_gets(objectives, tmp_path, monkeypatch):
    recorder = Recorder()
    monkeypatch.setitem(sys.modules, "wandb", recorder.module())
    asked = problem.build(objectives)
    sink = Wandb(tmp_path / "a", {"seed": 0}, "offline")
    found = Search(asked, NSGA2(population=50), budget=300, seed=0, out=tmp_path / "a", sinks=[sink]).run()
    assert [row["generation"] for row in recorder.logged[:-1]] == list(range(6))
    assert recorder.plots == [(objectives[1], objectives[0])]
    columns, rows = recorder.tables[0]
    assert columns == list(front_table.table(found.archive, asked.evaluator).columns)
    assert len(rows) == len(found.front)
    assert recorder.finished


def test_a_resumed_run_logs_what_went_before(tmp_path, monkeypatch):
    recorder = Recorder()
    monkeypatch.setitem(sys.modules, "wandb", recorder.module())
    sink = Wandb(tmp_path, {}, "offline")
    sink.start({}, [{"generation": 0.0}, {"generation": 1.0}])
    assert [row["generation"] for row in recorder.logged] == [0, 1]
    sink.close()


@pytest.mark.parametrize("unit", ["generation", "epoch"])
def test_json_lines_name_the_round_and_say_what_went_before(tmp_path, unit):
    sink = Jsonl(tmp_path / "events.jsonl", unit)
    sink.start({"seed": 1}, [{unit: 0}, {unit: 1}])
    sink.step(1, 2, 0.5)
    sink.log({unit: 2})
    sink.finish({"seconds": 3})
    sink.close()
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [event.pop("event") for event in events] == ["start", unit, "finish"]
    assert all(event.pop("unix_time") > 1e9 for event in events)
    assert events == [{"seed": 1, f"{unit}s_before": 2}, {unit: 2}, {"seconds": 3}]


def test_the_bar_keeps_what_a_round_does_not_say(capsys):
    bar = Bar("train", 4, {"phase": "{}", "loss": "loss {:.2f}", "val": "val {:.1f}"})
    bar.start({}, [{"phase": "first", "loss": 3.0, "val": 0.2}])
    bar.step(1, 2, 2.0)
    bar.log({"phase": "last", "loss": 1.0})
    bar.finish({})
    bar.close()
    assert "2/4 last  loss 1.00  val 0.2" in capsys.readouterr().out
