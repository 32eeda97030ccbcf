"""Dominance and hypervolume against brute force and against pymoo."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymoo.indicators.hv import HV
from pymoo.operators.survival.rank_and_crowding.metrics import calc_crowding_distance
from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

from search import pareto
from search.searchers.nsga2 import constrained_ranks

clouds = st.tuples(st.integers(1, 60), st.integers(1, 4), st.integers(0, 2**32 - 1), st.booleans())
few = settings(max_examples=40, deadline=None)


def cloud(spec):
    n, m, seed, coarse = spec
    points = np.random.default_rng(seed).random((n, m))
    return points.round(1) if coarse else points  # coarse: many ties


def dominates(a, b):
    return (a <= b).all() and (a < b).any()


@few
@given(clouds)
def test_front_is_what_nobody_dominates(spec):
    points = cloud(spec)
    brute = [not any(dominates(q, p) for q in points) for p in points]
    assert pareto.is_front(points).tolist() == brute


@few
@given(clouds)
def test_ranks_against_pymoo(spec):
    points = np.unique(cloud(spec), axis=0)
    expected = np.empty(len(points), int)
    for depth, front in enumerate(NonDominatedSorting().do(points)):
        expected[front] = depth
    assert (pareto.ranks(points) == expected).all()


@few
@given(st.tuples(st.integers(1, 40), st.integers(1, 3), st.integers(0, 2**32 - 1), st.booleans()))
def test_hypervolume_against_pymoo(spec):
    points = cloud(spec)
    reference = np.full(points.shape[1], 0.9)  # some points lie outside
    inside = points[(points < reference).all(axis=1)]
    expected = HV(ref_point=reference)(inside) if len(inside) else 0.0
    assert pareto.hypervolume(points, reference) == pytest.approx(expected, abs=1e-12)


def test_hypervolume_by_hand():
    points = np.array([[1.0, 3.0], [2.0, 2.0], [3.0, 1.0], [5.0, 0.0]])
    assert pareto.hypervolume(points, np.array([4.0, 4.0])) == pytest.approx(3 + 2 + 1)


def test_crowding_against_pymoo(rng):
    points = rng.random((50, 3))
    front = points[pareto.is_front(points)]
    ours = pareto.crowding(front, np.zeros(len(front), int))
    theirs = calc_crowding_distance(front) * front.shape[1]  # pymoo averages over the objectives
    assert np.allclose(ours, theirs)


def test_crowding_stays_within_its_rank():
    costs = np.array([[0.0, 1.0], [0.5, 0.5], [1.0, 0.0], [5.0, 6.0], [6.0, 5.0]])
    distance = pareto.crowding(costs, np.array([0, 0, 0, 1, 1]))
    assert np.isinf(distance[[0, 2, 3, 4]]).all()
    assert distance[1] == pytest.approx(2.0)


def test_knee_is_nearest_to_the_ideal():
    assert pareto.knee(np.array([[0.0, 10.0], [1.0, 2.0], [10.0, 0.0]])) == 1
    assert pareto.knee(np.array([[3.0, 3.0]])) == 0


def test_feasible_points_rank_before_infeasible_ones():
    costs = np.array([[1.0, 1.0], [2.0, 2.0], [0.0, 0.0], [0.0, 0.0]])
    assert constrained_ranks(costs, np.array([0.0, 0.0, 0.5, 0.1])).tolist() == [0, 1, 3, 2]
    assert constrained_ranks(costs, np.array([0.3, 0.1, 0.5, 0.1])).tolist() == [1, 0, 2, 0]
