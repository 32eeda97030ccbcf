"""Options and files that make no sense: each is refused in a line that names it and says what to do; none
ends in a traceback or hangs.

`fuzzing.WRONG` and `fuzzing_files.NONSENSE` are the written list of what may not be accepted. A sample that
changes from day to day runs with the usual tests; all options with the slow ones, all files with PROOFS=all.
FUZZ_SEED=N draws the sample N again.
"""

import importlib
import os
import random
import re
import shutil
import signal
import sys
import time
from contextlib import contextmanager

import fuzzing
import fuzzing_files
import good_files
import pytest
from fuzzing import OptionCase
from fuzzing_files import NONSENSE, FileCase
from good_files import READERS

from search import command
from tests.e2e.commands import call
from tests.faults.clock import known_timings

SEED = int(os.environ.get("FUZZ_SEED", time.time() // 86400))
ALL = os.environ.get("PROOFS") in ("all", "every")
LONGEST = 10  # seconds
# What is allowed, or what to do.
ADVICE = re.compile(
    r"must|allowed|give |choose|Did you mean|Known|leave|use |write|name |rename|keep|expected|needed|say "
    r"|there (is|are) |at least|mend |set |remove|repeat|fit |make |install|no (file|folder|run)|takes|holds"
    r"|belong|should be|example"
)


@contextmanager
def limited(seconds: float):
    """TimeoutError in a block that computes, or on an idle machine takes, longer than that."""

    def stop(*_):
        raise TimeoutError(f"not over after {seconds} s")

    clocks = {
        signal.SIGPROF: (signal.ITIMER_PROF, seconds),
        signal.SIGALRM: (signal.ITIMER_REAL, 6 * seconds),
    }
    before = {name: signal.signal(name, stop) for name in clocks}
    try:
        for clock, after in clocks.values():
            signal.setitimer(clock, after)
        yield
    finally:
        for name, (clock, _) in clocks.items():
            signal.setitimer(clock, 0)
            signal.signal(name, before[name])


def problem_of_option(case: OptionCase) -> str:
    """What is wrong with how an option is refused; empty if nothing is."""
    try:
        with limited(LONGEST):
            fuzzing.give(case)
    except command.OURS as error:
        said = command.explain(error)
        plain = case.value.strip("'{}").rpartition(":")[2]
        return "" if (case.option in said or plain in said) and ADVICE.search(said) else f"says only: {said}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "accepted"


def problem_of_file(case: FileCase, folder) -> str:
    """What is wrong with how a command takes a changed file among good ones; empty if nothing is."""
    case.change(folder / case.file)
    sys.modules.pop("net", None)  # of the good files: as in a process of its own
    importlib.invalidate_caches()
    try:
        with limited(LONGEST), known_timings():
            code, _, said = call(*case.words, cwd=folder)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    if code == 0:
        return f"accepted {NONSENSE[case.nonsense]}" if case.nonsense else ""
    lines = [line for line in said.splitlines() if not line.startswith("warning: ")]
    if len(lines) != 1 or not lines[0].startswith("error: "):
        return f"not one line: {said}"
    return "" if names(lines[0], case, folder) and ADVICE.search(lines[0]) else f"says only: {lines[0]}"


def names(line: str, case: FileCase, folder) -> bool:
    """Whether a message names the file, its folder, a word that was typed, or what the file has."""
    path = folder / case.file
    typed = {word.rpartition("=")[2] for word in case.words[1:]}
    told = {case.file, path.name, path.parent.name, *(word for word in typed if len(word) > 4)}
    text = path.read_bytes().decode(errors="replace") if path.is_file() else ""
    quoted = {value for pair in re.findall(r"'([^']+)'|(\w+)=(\S*)", line) for value in pair}
    return any(name in line for name in told) or any(value and value in text for value in quoted)


def report(problems: dict[str, str], of: int) -> None:
    listed = "\n".join(f"{case}\n    {problem}" for case, problem in problems.items() if problem)
    assert not listed, f"FUZZ_SEED={SEED}, {of} inputs:\n{listed}"


def test_a_sample_of_todays_options():
    sample = random.Random(SEED).sample(fuzzing.option_cases(), 200)
    report({str(case): problem_of_option(case) for case in sample}, len(sample))


@pytest.mark.slow
def test_every_option_refuses_nonsense():
    cases = fuzzing.option_cases()
    assert len(cases) >= 4000
    report({str(case): problem_of_option(case) for case in cases}, len(cases))


@pytest.fixture(scope="module")
def files(trained_folder, tmp_path_factory):
    """A folder of good files."""
    folder = tmp_path_factory.mktemp("good") / "files"
    folder.mkdir()
    good_files.make(folder, trained_folder)
    return folder


def problem_in_a_copy(case: FileCase, files, folder) -> str:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(files, folder)
    return problem_of_file(case, folder)


@pytest.mark.slow
@pytest.mark.skipif(not ALL, reason="PROOFS=all tries files: making good ones takes half a minute")
def test_a_sample_of_todays_files(files, tmp_path):
    sample = random.Random(SEED).sample(fuzzing_files.file_cases(files), 30)
    report({str(case): problem_in_a_copy(case, files, tmp_path / "x") for case in sample}, len(sample))


@pytest.mark.slow
@pytest.mark.skipif(not ALL, reason="PROOFS=all tries files: making good ones takes half a minute")
@pytest.mark.parametrize("name", READERS)
def test_every_changed_file_is_refused_or_read(name, files, tmp_path):
    cases = fuzzing_files.file_cases(files, name)
    report({str(case): problem_in_a_copy(case, files, tmp_path / "x") for case in cases}, len(cases))


@pytest.mark.slow
@pytest.mark.skipif(not ALL, reason="PROOFS=all tries files: making good ones takes half a minute")
def test_the_good_files_are_read_and_every_nonsense_is_tried(files, tmp_path):
    cases = fuzzing_files.file_cases(files)
    assert len(cases) >= 1500
    assert {case.nonsense for case in cases} == {*NONSENSE, ""}
    for words in dict.fromkeys(words for readers in READERS.values() for words in readers):
        if "weights=weights.pth" not in words:  # of no network
            shutil.rmtree(tmp_path / "x", ignore_errors=True)
            shutil.copytree(files, tmp_path / "x")
            with known_timings():
                code, _, said = call(*words, cwd=tmp_path / "x")
            assert code == 0, (words, said)
