"""Where searches and trainings report to: JSON lines, the progress bar."""

import json

import pytest

from supernet.files.sinks import Bar, Jsonl


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
