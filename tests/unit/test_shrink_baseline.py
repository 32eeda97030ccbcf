"""What a shrunk model beats: dominance over accuracy, bytes and latency."""

import pytest

from search.ranking.shrink_baseline import dominated
from supernet import registry
from supernet.deploy import shrink


def test_dominance_needs_every_quantity_and_one_gain():
    mine = {"top1": 0.80, "file_bytes": 100.0, "latency_ms": 2.0}
    others = {
        "mine": mine,
        "worse in all": {"top1": 0.79, "file_bytes": 110.0, "latency_ms": 2.1},
        "as good, but larger": {**mine, "file_bytes": 101.0},
        "more accurate": {"top1": 0.81, "file_bytes": 110.0, "latency_ms": 2.1},
        "the same": dict(mine),
    }
    assert dominated(others, "mine", list(others)) == ["worse in all", "as good, but larger"]


def test_without_latencies_the_others_decide():
    cards = {"a": {"top1": 0.8, "file_bytes": 1.0, "latency_ms": 9.0}, "b": {"top1": 0.8, "file_bytes": 2.0}}
    assert dominated(cards, "a", ["b"]) == ["b"]


@pytest.mark.parametrize("name", registry.names("shrink"))
def test_recipes_build(name):
    recipe = registry.build(registry.load("shrink", name))
    assert isinstance(recipe, shrink.Recipe)
    assert recipe.steps
