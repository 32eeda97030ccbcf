"""Events as valgrind's cachegrind simulates them, where the kernel counts none: minutes, and no cycles.

One process prepares all operators under valgrind and forks for each a child that runs it some times; what it
counted more than a child that runs nothing is the operator's. Of what valgrind writes only the names of the
events and their sums are read. Valgrind knows no AVX-512: libraries run what they have for AVX2.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from latency.measuring.counters.events import Counts
from supernet.files import artifact

SECONDS = 900.0  # for all operators
RUNS = 3  # of each operator: it is some 50 times slower than without valgrind
NOTHING = "nothing"  # name of the child that runs no operator
MEANING: Mapping[str, Sequence[str]] = {  # events by cachegrind's; it knows no cycles and no migrations
    "instructions": ("Ir",),
    "cache-references": ("I1mr", "D1mr", "D1mw"),
    "cache-misses": ("ILmr", "DLmr", "DLmw"),
    "L1-dcache-loads": ("Dr",),
    "L1-dcache-load-misses": ("D1mr",),
    "LLC-loads": ("I1mr", "D1mr"),
    "LLC-load-misses": ("ILmr", "DLmr"),
    "LLC-stores": ("D1mw",),
    "LLC-store-misses": ("DLmw",),
}


def simulate(code: str, *arguments: str, seconds: float = SECONDS) -> dict[str, Counts]:
    """Events of one run by operator, of Python code that calls `fork_each` on its operators.

    ValueError without valgrind, when the time is over, or when the code fails.
    """
    if shutil.which("valgrind") is None:
        raise ValueError("counters=cachegrind: valgrind is not installed (Debian: apt-get install valgrind)")
    with tempfile.TemporaryDirectory() as folder:
        out = f"--cachegrind-out-file={folder}/%p.out"
        command = ["valgrind", "--tool=cachegrind", "--cache-sim=yes", out, sys.executable, "-c", code]
        names = _finished(
            [*command, f"{folder}/names.json", *arguments], Path(folder) / "names.json", seconds
        )
        counts = {name: parse((Path(folder) / f"{pid}.out").read_text()) for name, pid in names.items()}
    idle = counts.pop(NOTHING)
    return {
        name: {event: max(own[event] - idle.get(event, 0.0), 0.0) / RUNS for event in own}
        for name, own in counts.items()
    }


def _finished(command: Sequence[str], result: Path, seconds: float) -> dict[str, int]:
    """The process of each name; all processes of the command are ended when the time is over."""
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        _, said = process.communicate(timeout=seconds)
    except BaseException as error:  # a break too: nothing may go on running without us
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if isinstance(error, subprocess.TimeoutExpired):
            problem = f"not finished after {seconds:g} s; leave counters out"
            raise ValueError(f"counters=cachegrind: {problem}") from None
        raise
    if process.returncode or not result.is_file():
        last = said.strip().splitlines()[-1:] or [f"it ended with {process.returncode}"]
        raise ValueError(f"counters=cachegrind: valgrind could not run the operators: {last[0]}")
    return dict(json.loads(result.read_text()))


def fork_each(runs: Mapping[str, Callable[[], object]], names: Path) -> None:
    """Run each operator in a child of this process, after all have warmed up; `names` gets their numbers."""
    for run in runs.values():
        run()
    started = {}
    for name, run in {NOTHING: lambda: None, **runs}.items():
        started[name] = os.fork()
        if not started[name]:
            for _ in range(RUNS):
                run()
            os._exit(0)
        _, status = os.waitpid(started[name], 0)
        if status:
            raise ValueError(f"{name} ended with {status} under valgrind")
    artifact.write_text(names, json.dumps(started))


def parse(text: str) -> Counts:
    """Events by MAPLE-Edge's names from what cachegrind writes: its lines `events:` and `summary:`.

    ValueError without these lines, or when they do not fit together.
    """
    lines = dict(line.split(":", 1) for line in text.splitlines() if line.startswith(("events:", "summary:")))
    names, sums = (lines.get(key, "").split() for key in ("events", "summary"))
    if not names or len(names) != len(sums) or not all(number.isdecimal() for number in sums):
        raise ValueError("no output of cachegrind: its events and their summary do not fit together")
    counts = dict(zip(names, map(float, sums), strict=True))
    return {
        event: sum(counts[name] for name in theirs)
        for event, theirs in MEANING.items()
        if set(theirs) <= set(counts)
    }
