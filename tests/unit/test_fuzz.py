"""Options that make no sense: each is refused before work starts, in words that name value and remedy; none
ends in a traceback or hangs.

`fuzzing` has the written list of what may not be accepted. A sample that changes from day to day runs with
the usual tests, all of them with the slow ones. FUZZ_SEED=N draws the sample N again.
"""

import os
import random
import re
import signal
import time
from contextlib import contextmanager

import fuzzing
import pytest
from fuzzing import OptionCase

from search import command

SEED = int(os.environ.get("FUZZ_SEED", time.time() // 86400))
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
