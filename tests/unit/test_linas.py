"""LINAS: its first batch, how it chooses, and that it asks for nothing but what it proposes."""

from itertools import product

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from search.archive import Archive
from search.objective import Evaluator, Objective
from search.searchers.linas import LINAS, choose, spread
from search.searchers.nsga2 import NSGA2
from supernet import footprint
from supernet.prediction import Prediction, exact
from supernet.space import get_space

SPACE = get_space("ofa_mbv3_w1.0").restrict("r", 224, 224).restrict("finetune_epochs", 0, 0)
SMALL = dict(population=40, generations=8)


@pytest.fixture(autouse=True)
def one_thread():
    """As the search loop does: threads of BLAS that wait for small matrices cost more than they save."""
    with threadpool_limits(1):
        yield


def top1(genomes):
    """Grows with the logarithm of MACs; large kernels late are worth more than they cost."""
    late = sum(SPACE.column(genomes, f"ks{b}") for b in range(12, 20)) / 56
    return exact(0.5 + 0.05 * np.log(footprint.compute(SPACE, genomes, "macs") / 1e8) + 0.03 * late)


class Counted:
    """A measured objective that keeps what it was asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, genomes):
        self.asked += [row.tobytes() for row in genomes]
        return top1(genomes)


def evaluator(of, **limits):
    accuracy = Objective(
        "accuracy",
        "top-1",
        of,
        maximize=True,
        measured="made up",
        limit=limits.get("accuracy"),
        confidence=0.5,
    )
    macs = Objective("macs", "MACs", lambda genomes: exact(footprint.compute(SPACE, genomes, "macs")))
    return Evaluator((accuracy, macs))


def go(searcher, asked, budget, seed=0):
    archive = Archive(SPACE, ["accuracy", "macs"], np.array([-0.5, 6e8]))
    rng = np.random.default_rng(seed)
    if hasattr(searcher, "inform"):
        searcher.inform(asked)
    while len(archive) < budget:
        genomes = searcher.ask(SPACE, archive, rng)[: budget - len(archive)]
        assert archive.unseen(genomes).all()
        archive.add(genomes, *asked(genomes))
        searcher.tell(genomes, *asked(genomes))
    return archive


def test_only_proposals_are_measured():
    of = Counted()
    archive = go(LINAS(**SMALL), evaluator(of), 50)
    assert set(of.asked) == {row.tobytes() for row in archive.genomes}


def test_forty_evaluations_beat_two_hundred_of_nsga2():
    of = evaluator(top1)
    ours = go(LINAS(**SMALL), of, 40).hypervolume()
    assert ours > go(NSGA2(population=20), of, 200).hypervolume()


def test_limits_of_measured_objectives_are_learnt():
    archive = go(LINAS(**SMALL), evaluator(top1, accuracy=0.56), 60)
    assert (archive.violation[:20] > 0).mean() > 0.2
    assert (archive.violation[20:] <= 0).mean() > 0.8


def test_limits_of_measured_constraints_are_learnt():
    """Accuracy only limits: its values are not in the archive, and are asked again of what was evaluated."""
    of = Counted()
    accuracy, macs = evaluator(of, accuracy=0.56).objectives
    params = Objective("params", "params", lambda genomes: exact(footprint.compute(SPACE, genomes, "params")))
    searcher, asked = LINAS(**SMALL), Evaluator((macs, params), (accuracy,))
    archive, rng = Archive(SPACE, ["macs", "params"], np.array([6e8, 8e6])), np.random.default_rng(0)
    searcher.inform(asked)
    for _ in range(4):
        genomes = searcher.ask(SPACE, archive, rng)
        archive.add(genomes, *asked(genomes))
    assert (archive.violation[20:] <= 0).mean() > 0.5
    assert set(of.asked) == {row.tobytes() for row in archive.genomes}


def test_first_batch_goes_from_the_smallest_to_the_largest(rng):
    found = spread(SPACE, 20, rng)
    assert len(np.unique(found, axis=0)) == 20
    SPACE.check(found)
    size = np.log(footprint.compute(SPACE, found, "macs"))
    assert (found[:2] == SPACE.extremes()).all()
    assert size[0] == size.min()
    assert size[1] == size.max()
    gaps = np.diff(np.sort(size))
    assert gaps.max() < 2.5 * (size[1] - size[0]) / 19
    two = SPACE
    for axis in SPACE.axes:
        if axis.name not in ("r", "d0", "finetune_epochs"):
            two = two.restrict(axis.name, axis.values[0], axis.values[0])
    assert len(spread(two, 20, rng)) == two.count() == 3


def test_choice_against_brute_force(rng):
    """Two candidates for two draws: every pair in order, hypervolume by counting cells of a grid."""
    costs = rng.integers(0, 8, (2, 6, 2)).astype(float)
    known = np.array([[6.0, 3.0], [3.0, 6.0]])
    reference = np.array([8.0, 8.0])

    def area(points):
        cells = np.array(list(product(range(8), range(8)))) + 0.5
        return (points[None] < cells[:, None]).all(axis=2).any(axis=1).sum()

    picked = choose(costs, known, reference)
    first = [area(np.vstack([known, costs[0, [i]]])) for i in range(6)]
    assert first[picked[0]] == max(first)
    second = [area(np.vstack([known, costs[1, [picked[0], i]]])) if i != picked[0] else -1 for i in range(6)]
    assert second[picked[1]] == max(second)


def test_choice_is_of_different_candidates_even_where_none_helps():
    draws = np.ones((3, 3, 2))
    assert sorted(choose(draws, np.zeros((1, 2)), np.array([2.0, 2.0]))) == [0, 1, 2]
    assert sorted(choose(draws, np.empty((0, 2)), np.array([2.0, 2.0]))) == [0, 1, 2]


@pytest.mark.parametrize("objectives", [1, 3])
def test_any_number_of_objectives(objectives):
    names = ["macs", "params", "peak_bytes"][:objectives]
    asked = Evaluator(
        tuple(
            Objective(
                name, "", lambda g, name=name: exact(footprint.compute(SPACE, g, name)), measured="made up"
            )
            for name in names
        )
    )
    archive, rng = Archive(SPACE, names, np.full(objectives, 1e9)), np.random.default_rng(0)
    searcher = LINAS(**SMALL)
    searcher.inform(asked)
    for _ in range(3):
        genomes = searcher.ask(SPACE, archive, rng)
        archive.add(genomes, *asked(genomes))
    assert len(archive) == 40


def test_noise_of_measurements_does_not_matter_to_what_is_exact(rng):
    """MACs are taken as they are: no candidate is chosen by a guess of them."""
    searcher, asked = (
        LINAS(**SMALL),
        evaluator(lambda genomes: Prediction(top1(genomes).mean, np.ones(len(genomes)))),
    )
    archive = go(searcher, asked, 30)
    model, processes = searcher._model(
        SPACE, archive.objectives, archive.genomes, archive.costs, archive.violation
    )
    genomes = SPACE.sample(10, rng)
    assert list(processes) == [0]
    assert (model(genomes)[0][:, 1] == footprint.compute(SPACE, genomes, "macs")).all()
