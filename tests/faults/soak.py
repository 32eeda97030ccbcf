"""Kills at random: `make soak MINUTES=10`.

Commands run in processes of their own and are killed (SIGKILL) at random moments, up to three times, before
they may end; what they leave must be what an unbroken one leaves, and stores must have lost nothing.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.e2e.commands import ROOT
from tests.faults.commands import WRITING, Writing, prepare, rows

KILLS = 3
WAIT_SECONDS = 300
REFUSALS = ("holds a finished run", "exists and is left alone")


def start(writing: Writing, folder: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "WANDB_MODE": "disabled"}
    return subprocess.Popen(
        [sys.executable, "-m", "search", writing.name, *writing.words],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(writing: Writing, folder: Path) -> float:
    """Run the command to its end; the seconds it took."""
    begun = time.monotonic()
    process = start(writing, folder)
    _, error = process.communicate(timeout=WAIT_SECONDS)
    assert not process.returncode or any(words in error for words in REFUSALS), error
    return time.monotonic() - begun


def lost(before: dict[str, list], after: dict[str, list]) -> int:
    return sum(len(set(kept) - set(after[table])) for table, kept in before.items())


def soak(minutes: float, seed: int) -> int:
    """Print what happened; the number of promises that were broken."""
    draw, counts, broken = random.Random(seed), Counter[str](), []
    inputs, unbroken = Path(tempfile.mkdtemp()), {}
    prepare(inputs)
    end = time.monotonic() + 60 * minutes
    names = [name for name, one in WRITING.items() if not one.measures]
    while time.monotonic() < end:
        name = draw.choice(names)
        writing, folder = WRITING[name], Path(tempfile.mkdtemp()) / "run"
        if name not in unbroken:
            whole = Path(tempfile.mkdtemp()) / "run"
            shutil.copytree(inputs, whole)
            unbroken[name] = finish(writing, whole), writing.left(whole)
            shutil.rmtree(whole)
        seconds, expected = unbroken[name]
        shutil.copytree(inputs, folder)
        for _ in range(draw.randint(1, KILLS)):
            process = start(writing, folder)
            try:
                process.wait(draw.uniform(0.3, 1.1) * seconds)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                counts["kills"] += 1
            process.communicate()
        stored = {store: rows(folder / store) for store in writing.stores}
        try:
            finish(writing, folder)
            counts["rows lost"] += sum(lost(kept, rows(folder / store)) for store, kept in stored.items())
            counts["as unbroken"] += (same := writing.left(folder) == expected)
            if not same:
                broken.append(f"{name}: another result in {folder}")
        except (AssertionError, OSError, ValueError) as error:
            broken.append(f"{name}: {error}")
        counts["commands"] += 1
        if not broken or str(folder) not in broken[-1]:
            shutil.rmtree(folder)
        print(f"\r{dict(counts)}, {len(broken)} broken", end="", flush=True)
    print("".join(f"\n{line}" for line in broken))
    return len(broken) + counts["rows lost"]


if __name__ == "__main__":
    minutes, seed = float((*sys.argv[1:], "10")[0]), int((*sys.argv[2:], str(time.time_ns() % 10**6))[0])
    print(f"soak of {minutes:g} minutes, seed {seed}")
    sys.exit(bool(soak(minutes, seed)))
