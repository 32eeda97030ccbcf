"""The default searcher: resumes byte for byte wherever it was killed, keeps to limits, and beats NSGA-II."""

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from latency.zoo import catalogue
from search import models, pareto, problem
from search.archive import Archive
from search.searchers.effects import Effects
from search.searchers.local import Local, slopes
from search.searchers.nsga2 import NSGA2
from search.searchers.random import RandomSearch
from supernet.files import artifact
from supernet.space import get_space


@pytest.fixture(autouse=True)
def one_thread():
    with threadpool_limits(1):
        yield


def asked(objectives=("accuracy", "latency_ms"), **options):
    return problem.build(objectives, models.choose(target=catalogue.target("titan_xp_b64")), **options)


def go_on(task, searcher, archive, rng, budget):
    while len(archive) < budget:
        genomes = searcher.ask(task.space, archive, rng)[: budget - len(archive)]
        task.space.check(genomes)
        assert archive.unseen(genomes).all()
        told = task.evaluator(genomes)
        searcher.tell(genomes, *told)
        archive.add(genomes, *told)
        yield archive


def search(task, searcher, budget, seed=0):
    archive = Archive(
        task.space, [o.name for o in task.evaluator.objectives], task.evaluator.reference(task.space)[0]
    )
    for _ in go_on(task, searcher, archive, np.random.default_rng(seed), budget):
        pass
    return archive


def small():
    return Local(population=30, start=4, members=2, samples=12)


def test_resumes_byte_for_byte_where_it_was_killed(tmp_path):
    """At 20 random batches: through a file, as a checkpoint does."""
    task, budget = asked(), 1500
    empty = Archive(task.space, ["accuracy", "latency_ms"], np.array([0.0, 1e3]))
    searcher, rng, kept = small(), np.random.default_rng(5), []
    for archive in go_on(task, searcher, empty, rng, budget):
        path = tmp_path / f"{len(kept)}.npz"
        artifact.save(path, "state", searcher.state(), {})
        kept.append((path, len(archive), rng.bit_generator.state))
    whole = empty.arrays()
    chosen = np.random.default_rng(0).choice(len(kept), 20, replace=False)
    for path, count, state in [kept[i] for i in chosen]:
        other, again = small(), np.random.default_rng(99)
        other.restore(artifact.load(path, "state")[0])
        again.bit_generator.state = state
        half = {key: value[:count] for key, value in whole.items() if key != "reference"}
        resumed = Archive(task.space, ["accuracy", "latency_ms"], whole["reference"])
        resumed.add(half["genomes"], half["costs"], half["violation"])
        for _ in go_on(task, other, resumed, again, min(count + 300, budget)):
            pass
        for key, value in resumed.arrays().items():
            expected = whole[key] if key == "reference" else whole[key][: len(resumed)]
            assert value.tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("objectives", "budget"),
    [(("accuracy", "latency_ms"), 10_000), (("accuracy", "latency_ms", "training_hours"), 16_000)],
)
def test_beats_nsga2_on_the_same_budget(objectives, budget):
    task = asked(objectives)
    assert search(task, Local(), budget).hypervolume() > search(task, NSGA2(), budget).hypervolume()


@pytest.mark.parametrize(
    "objectives", [("accuracy",), ("accuracy", "latency_ms", "macs", "params", "training_hours")]
)
def test_any_number_of_objectives(objectives):
    task = asked(objectives)
    assert search(task, small(), 1500).hypervolume() > search(task, RandomSearch(), 1500).hypervolume()


def test_limits_cost_few_evaluations():
    """Under a limit on something that is no objective either, most of what is asked is feasible."""
    task = asked(limits={"latency_ms": 30.0, "params": 5.5e6})
    archive = search(task, Local(), 6000)
    assert (archive.violation[3000:] <= 0).mean() > 0.4
    assert archive.hypervolume() > search(task, NSGA2(), 6000).hypervolume()


def test_effects_are_taken_over_from_the_nearest_network():
    """Of an additive cost they are exact after one network was explored."""
    space = get_space("nasbench201")
    weights = np.random.default_rng(0).random((space.d, 6))

    def cost(genomes):
        return np.stack([weights[np.arange(space.d), genomes].sum(axis=1), np.zeros(len(genomes))], axis=1)

    first, second = space.sample(2, np.random.default_rng(1))[:, None]
    effects = Effects(space, 2)
    rows = effects.add(first)
    _, values = np.nonzero(effects.movable(first))
    moved = np.repeat(first, len(values), axis=0)
    moved[np.arange(len(values)), effects.gene[values]] = effects.level[values]
    effects.learn(np.repeat(rows, len(values)), values, cost(moved) - cost(first))
    _, changes = effects.of(effects.add(second))
    moved = np.repeat(second, len(effects.gene), axis=0)
    moved[np.arange(len(moved)), effects.gene] = effects.level
    assert changes[0] == pytest.approx(cost(moved) - cost(second), abs=1e-6)


def test_effects_outgrow_their_first_rows():
    """Rows are added beyond the first ones, and the state brings all of them back."""
    space, rng = get_space("nasbench201"), np.random.default_rng(0)
    effects = Effects(space, 2)
    rows = np.concatenate([effects.add(space.sample(700, rng)) for _ in range(3)])
    effects.learn(rows[-1:], np.array([3]), np.array([[1.0, 2.0]]))
    again = Effects(space, 2)
    again.restore(effects.state())
    assert len(set(rows)) == 2100
    assert again.of(rows)[1][-1, 3].tolist() == [1.0, 2.0]
    for before, after in zip(effects.of(rows), again.of(rows), strict=True):
        np.testing.assert_array_equal(before, after)


def test_slopes_of_a_plane():
    """Members of 2 a + 3 b + c = 6 are equally good under the weights 2, 3, 1."""
    rng = np.random.default_rng(0)
    front = rng.random((300, 3))
    front[:, 2] = 6 - 2 * front[:, 0] - 3 * front[:, 1]
    weights = slopes(front, front[:5])
    assert weights / weights[:, [2]] == pytest.approx(np.tile([2.0, 3.0, 1.0], (5, 1)), rel=0.2)


@pytest.mark.parametrize("m", [1, 2, 3, 5])
def test_dominated_against_brute_force(m):
    rng = np.random.default_rng(m)
    costs, front = rng.integers(0, 4, (200, m)) / 4, rng.integers(0, 4, (30, m)) / 4
    expected = [any(all(a <= b for a, b in zip(one, point, strict=True)) for one in front) for point in costs]
    assert pareto.dominated(costs, front).tolist() == expected
    assert not pareto.dominated(costs, front[:0]).any()
