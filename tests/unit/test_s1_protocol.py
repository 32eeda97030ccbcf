"""The protocol of arXiv 2101.00732: its learners are those of the command line, and its claim is checked."""

from benchmarks.protocols import protocol, s1
from supernet import registry


def test_learners_are_those_of_the_command_line():
    whole, small = protocol.Setting(), protocol.Setting(small=True)
    assert s1.learner(whole, "s1") == registry.get("learner", "s1")
    assert s1.learner(whole, "fine_tune", layers="head") == registry.get(
        "learner", "fine_tune", layers="head"
    )
    assert s1.learner(small, "s1").training.epochs == 1
    assert s1.learner(small, "fine_tune", layers="head").head.epochs == 1


def test_the_claim_ends_at_the_first_count_that_misses_it():
    errors = {
        ("gpu", "good"): {10: [90.0, 70.0], 50: [52.0, 50.0], 100: [60.0, 30.0], 700: [80.0, 80.0]},
        ("gpu", "never"): {10: [49.0], 50: [90.0]},
    }
    (row,) = s1.lasting(errors)
    assert (row.target, row.n, row.scores[s1.BELOW]) == ("gpu", 50, 51.0)
    assert row.method.startswith("good")
