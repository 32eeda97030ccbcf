"""Every searcher: new architectures only, resumable, deterministic, ends when a space is exhausted."""

from dataclasses import replace

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from search.archive import Archive
from supernet import registry
from supernet.space import get_space

ALL = registry.names("searcher")
SPACE = get_space("nasbench201")


@pytest.fixture(autouse=True)
def one_thread():
    """As the search loop does: threads of BLAS that wait for small matrices cost more than they save."""
    with threadpool_limits(1):
        yield


def costs_of(genomes):
    """Two made-up objectives that disagree, and a limit."""
    values = SPACE.values(genomes).astype(float)
    cost = np.stack(
        [values.sum(axis=1) + values[:, 0] / 7, (4 - values).sum(axis=1) + values[:, 1] / 5], axis=1
    )
    return cost, np.maximum(values[:, 2] - 3, 0)


def steps(searcher, archive, rng, count):
    for _ in range(count):
        genomes = searcher.ask(archive.space, archive, rng)
        archive.space.check(genomes)
        assert archive.unseen(genomes).all()
        cost, violation = costs_of(genomes)
        searcher.tell(genomes, cost, violation)
        archive.add(genomes, cost, violation)
    return archive


def build(name):
    node = registry.complete(registry.load("searcher", name))
    small = {"population": 20, "batch": 20}
    return registry.build({key: small.get(key, value) for key, value in node.items()})


@pytest.mark.parametrize("name", ALL)
def test_resumed_searcher_asks_the_same(name):
    whole = steps(build(name), Archive(SPACE, ["a", "b"], np.ones(2)), np.random.default_rng(3), 8)
    searcher, rng = build(name), np.random.default_rng(3)
    half = steps(searcher, Archive(SPACE, ["a", "b"], np.ones(2)), rng, 4)
    other, again = build(name), np.random.default_rng(99)
    other.restore({key: value.copy() for key, value in searcher.state().items()})
    again.bit_generator.state = rng.bit_generator.state
    resumed = steps(other, half, again, 4)
    assert (resumed.genomes == whole.genomes).all()


@pytest.mark.parametrize("name", ALL)
def test_small_spaces_are_exhausted_without_hanging(name):
    tiny = replace(SPACE, axes=tuple(replace(axis, values=axis.values[:2]) for axis in SPACE.axes))
    archive = Archive(tiny, ["a", "b"], np.ones(2))
    searcher, rng = build(name), np.random.default_rng(0)
    for _ in range(200):
        genomes = searcher.ask(tiny, archive, rng)
        if not len(genomes):
            break
        searcher.tell(genomes, *costs_of(genomes))
        archive.add(genomes, *costs_of(genomes))
    else:
        pytest.fail("never ran out of architectures")
    assert len(archive) == tiny.count() == 64


def test_nsga2_beats_random_on_the_same_budget():
    found = {}
    for name in ("nsga2", "random"):
        archive = Archive(SPACE, ["a", "b"], np.array([40.0, 40.0]))
        found[name] = steps(build(name), archive, np.random.default_rng(0), 30).hypervolume()
    assert found["nsga2"] > found["random"]


def test_nsga2_keeps_feasible_networks():
    searcher = build("nsga2")
    steps(searcher, Archive(SPACE, ["a", "b"], np.ones(2)), np.random.default_rng(0), 20)
    assert (searcher.state()["violation"] <= 0).all()
