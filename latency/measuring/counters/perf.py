"""Events as `perf stat` counts them, here or in files recorded elsewhere."""

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from latency.measuring.counters.events import CLOCK, EVENTS, SOFTWARE, Counters, per_ms

SECONDS_PER_COUNT = 0.4  # of which perf needs some to start
SUFFIX = ".csv"  # of a recorded file, after the name of its operator
UNITS = {"": 1.0, "msec": 1.0, "usec": 1e-3, "nsec": 1e-6, "sec": 1e3}  # perf's, in ms where it is a time
PMU = re.compile(r"^cpu(_core|_atom)?/")  # of a hybrid CPU: cpu_core/cycles/u
MODIFIERS = re.compile(r"(:[a-zA-Z]+|/[a-zA-Z]*)$")  # cycles:u
SAME = {"cycles": "cpu-cycles", "migrations": "cpu-migrations"}


def countable() -> tuple[str, ...]:
    """The events that `perf stat` counts on this machine; none where it counts no hardware or is missing."""
    if shutil.which("perf") is None:
        return ()
    command = ["perf", "stat", "-x,", "-e", ",".join(EVENTS), "true"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    counted = tuple(parse(done.stderr)) if done.returncode == 0 else ()
    return counted if set(counted) - set(SOFTWARE) else ()


def parse(text: str) -> dict[str, float]:
    """Counts by event of the output of `perf stat -x,`; what it could not count is left out.

    Fields are count, unit, event and more. Events have the names of `EVENTS` whatever their modifiers; those
    of the kinds of cores of a hybrid CPU are added. The clock is in ms.
    """
    counts: dict[str, float] = {}
    for line in text.splitlines():
        fields = line.split(",")
        if len(fields) < 3 or not re.fullmatch(r"\d+(\.\d+)?", fields[0]) or fields[1] not in UNITS:
            continue
        name = MODIFIERS.sub("", PMU.sub("", fields[2]))
        name = SAME.get(name, name)
        counts[name] = counts.get(name, 0.0) + float(fields[0]) * UNITS[fields[1]]
    return counts


def count(run: Callable[[], object], events: Sequence[str]) -> dict[str, float]:
    """Events per ms of this process while it does nothing but `run`; empty if its clock was not read."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "perf.csv"
        words = ["-x,", "-o", str(path), "-p", str(os.getpid()), "-e", ",".join([*events, CLOCK])]
        process = subprocess.Popen(["perf", "stat", *words])
        end = time.perf_counter() + SECONDS_PER_COUNT
        while time.perf_counter() < end:
            run()
        process.send_signal(signal.SIGINT)
        process.wait()
        counts = parse(path.read_text())
    return per_ms(counts, counts[CLOCK]) if counts.get(CLOCK) else {}


def recorded(folder: Path, operators: Sequence[str]) -> Counters:
    """Events per ms by operator, from OPERATOR.csv of `perf stat -x, -e cpu-cycles,...,task-clock` each.

    An operator without a file is left out. ValueError for a folder with none of them, a file with another
    name, and one without events or without the clock.
    """
    files = sorted(folder.glob(f"*{SUFFIX}")) if folder.is_dir() else []
    if not files:
        raise ValueError(
            f"counters={folder}: no file OPERATOR{SUFFIX} in it; operators: {', '.join(operators)}"
        )
    counters = {}
    for file in files:
        if file.stem not in operators:
            raise ValueError(f"{file}: no operator has this name; they are {', '.join(operators)}")
        counts = parse(file.read_text(encoding="utf-8", errors="replace"))
        if not counts.get(CLOCK) or not set(counts) & set(EVENTS):
            wanted = f"perf stat -x, -o {file.name} -e {','.join([*EVENTS, CLOCK])} COMMAND"
            raise ValueError(f"{file}: no events with their {CLOCK}; record it with {wanted}")
        counters[file.stem] = per_ms(counts, counts[CLOCK])
    return counters
