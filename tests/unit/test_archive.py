"""The archive: append-only, no duplicates, its front, its file."""

import numpy as np
import pytest

from search import pareto
from search.archive import Archive
from supernet.space import get_space

SPACE = get_space("nasbench201")


@pytest.fixture
def filled(rng):
    archive = Archive(SPACE, ["a", "b"], np.array([1.0, 1.0]))
    for _ in range(5):
        genomes = SPACE.sample(40, rng)
        archive.add(genomes, rng.random((40, 2)).round(2), rng.random(40) - 0.7)
    return archive


def test_front_equals_the_front_of_all_feasible_rows(filled):
    feasible = np.flatnonzero(filled.violation <= 0)
    expected = feasible[pareto.is_front(filled.costs[feasible])]
    assert set(filled.front()) == set(expected)
    front = filled.costs[filled.front()]
    assert (np.lexsort(front.T[::-1]) == np.arange(len(front))).all()
    assert filled.knee() in filled.front()
    assert filled.hypervolume() == pytest.approx(pareto.hypervolume(filled.costs[expected], filled.reference))


def test_duplicates_are_not_added_again(filled, rng):
    before, costs = len(filled), filled.costs
    again = np.concatenate([filled.genomes[:7], filled.genomes[:7]])
    assert filled.add(again, rng.random((14, 2)), np.zeros(14)) == 0
    assert len(filled) == before == len(np.unique(filled.genomes, axis=0))
    assert (filled.costs == costs).all()


def test_unseen_marks_the_first_of_equal_rows(filled):
    listed = SPACE.enumerate()
    new = listed[filled.unseen(listed)][:2]
    batch = np.stack([new[0], filled.genomes[0], new[1], new[0], new[1]])
    assert filled.unseen(batch).tolist() == [True, False, True, False, False]
    assert not filled.unseen(batch[:0]).any()


def test_save_and_load_keep_everything(filled, tmp_path):
    filled.save(tmp_path / "a.npz")
    loaded = Archive.load(tmp_path / "a.npz", SPACE)
    loaded.save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert (loaded.front() == filled.front()).all()
    with pytest.raises(ValueError, match="of nasbench201, not of fbnet"):
        Archive.load(tmp_path / "a.npz", get_space("fbnet"))


def test_nothing_feasible_has_no_knee():
    archive = Archive(SPACE, ["a"], np.array([1.0]))
    archive.add(SPACE.enumerate()[:3], np.ones((3, 1)), np.ones(3))
    assert archive.front_size == 0
    assert archive.hypervolume() == 0
    with pytest.raises(ValueError, match="no feasible"):
        archive.knee()


def test_costs_must_be_finite():
    archive = Archive(SPACE, ["a"], np.array([1.0]))
    with pytest.raises(ValueError, match="not finite"):
        archive.add(SPACE.enumerate()[:2], np.array([[1.0], [np.nan]]), np.zeros(2))
