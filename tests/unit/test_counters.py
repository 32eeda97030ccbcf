"""Hardware events of operators: recorded by perf or simulated by cachegrind, masked where unknown."""

import shutil

import numpy as np
import pytest

from latency.descriptors import Descriptors
from latency.measuring import operators
from latency.measuring.counters import cachegrind, perf
from latency.measuring.counters.events import EVENTS, per_ms
from latency.measuring.operators import Operators

STEM = """# started on Tue Nov 25 12:00:00 2026

1234567,,instructions:u,1000,100.00,1.20,insn per cycle
<not supported>,,cache-misses,0,100.00,,
<not counted>,,LLC-loads,0,0.00,,
400000,,cycles:u,1000,100.00,,
12.5,msec,task-clock,1000,100.00,0.9,CPUs utilized
0,,cpu-migrations,1000,100.00,,
"""
LAUNCH = """900,,cpu_core/instructions/u,1000,90.00,,
100,,cpu_atom/instructions/u,1000,10.00,,
2000000,nsec,task-clock:u,1000,100.00,,
"""
CACHEGRIND = """desc: I1 cache:         32768 B, 64 B, 8-way associative
cmd: python -c pass
events: Ir I1mr ILmr Dr D1mr DLmr Dw D1mw DLmw
fl=/a/b.c
fn=main
3 100 1 1 40 5 2 20 3 1
summary: 1000 10 1 400 50 20 200 30 10
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "stem_3x3_192.csv").write_text(STEM)
    (tmp_path / "launch.csv").write_text(LAUNCH)
    return tmp_path


def test_perf_output_is_read():
    counts = {"instructions": 1234567.0, "cpu-cycles": 400000.0, "task-clock": 12.5, "cpu-migrations": 0.0}
    assert perf.parse(STEM) == counts
    assert perf.parse(LAUNCH) == {"instructions": 1000.0, "task-clock": 2.0}  # ms, both kinds of cores
    assert perf.parse("1.0,12345,,instructions\nCPU0,1,,instructions\n,,\nnonsense") == {}


def test_recorded_files_become_the_masked_part_of_a_descriptor(folder):
    """Events per ms by hand; what perf could not count is unknown, and so is an operator without a file."""
    counters = perf.recorded(folder, list(operators.primitives()))
    assert counters["stem_3x3_192"] == {"instructions": 98765.0, "cpu-cycles": 32000.0, "cpu-migrations": 0.0}
    assert counters["launch"] == {"instructions": 500.0}
    ms = dict.fromkeys(operators.primitives(), 1.0)
    counted = Operators(ms, {}, 1.0, counters=counters).descriptor()
    part = counted["counters"].reshape(len(ms), len(EVENTS))
    row = sorted(ms).index("launch")
    assert part[row, EVENTS.index("instructions")] == pytest.approx(np.log(501.0))
    assert np.isfinite(part).sum() == 4
    plain = Operators(dict.fromkeys(ms, 0.5), {}, 1.0).descriptor()
    distance = Descriptors.from_devices([counted, plain, counted]).squared_distance()
    times = [{"operators": device["operators"]} for device in (counted, plain, counted)]
    assert distance[0, 2] == 0
    assert distance[0, 1] == pytest.approx(Descriptors.from_devices(times).squared_distance()[0, 1])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("stem", STEM, "no operator has this name"),
        ("launch", "# nothing\n", "no events with their task-clock"),
        ("launch", "900,,instructions,1,100.0,,\n", "record it with perf stat -x,"),
        ("launch", "0,msec,task-clock,1,100.0,,\n900,,instructions,1,100.0,,\n", "task-clock"),
    ],
)
def test_files_that_are_no_recordings_are_refused(tmp_path, name, text, message):
    (tmp_path / f"{name}.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        perf.recorded(tmp_path, list(operators.primitives()))


def test_a_folder_without_recordings_is_refused_before_anything_is_timed(tmp_path):
    from latency.measuring.here import here

    for nothing in (tmp_path, tmp_path / "none"):
        with pytest.raises(ValueError, match=r"no file OPERATOR\.csv in it"):
            operators.describe(here(engine="torch_eager"), str(nothing))


def test_cachegrind_output_is_read():
    assert cachegrind.parse(CACHEGRIND) == {
        "instructions": 1000.0,
        "cache-references": 90.0,
        "cache-misses": 31.0,
        "L1-dcache-loads": 400.0,
        "L1-dcache-load-misses": 50.0,
        "LLC-loads": 60.0,
        "LLC-load-misses": 21.0,
        "LLC-stores": 30.0,
        "LLC-store-misses": 10.0,
    }
    only = cachegrind.parse("events: Ir\nsummary: 7\n")  # without a simulated cache
    assert only == {"instructions": 7.0}
    assert per_ms(only, 2.0) == {"instructions": 3.5}
    for broken in ("", "events: Ir Dr\nsummary: 1\n", "events: Ir\nsummary: x\n"):
        with pytest.raises(ValueError, match="no output of cachegrind"):
            cachegrind.parse(broken)


LOOPS = """
import sys
from pathlib import Path
from latency.measuring.counters import cachegrind

def run(times):
    for _ in range(times):
        sum(range(2000))

runs = {"few": lambda: run(1), "many": lambda: run(10)}
cachegrind.fork_each(runs, Path(sys.argv[1]))
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed")
def test_cachegrind_counts_what_each_operator_runs():
    """Ten times the same work: ten times the instructions, whatever it took to start."""
    counts = cachegrind.simulate(LOOPS)
    assert list(counts) == ["few", "many"]
    assert counts["many"]["instructions"] / counts["few"]["instructions"] == pytest.approx(10, rel=0.1)
    assert counts["few"]["instructions"] > 2000
    with pytest.raises(ValueError, match=r"not finished after 0\.1 s"):
        cachegrind.simulate(LOOPS, seconds=0.1)
    with pytest.raises(ValueError, match="could not run the operators"):
        cachegrind.simulate("raise SystemExit(3)")


def test_cachegrind_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match="apt-get install valgrind"):
        cachegrind.simulate("")
