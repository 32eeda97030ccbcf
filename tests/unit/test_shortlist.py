"""Few members for all of a front: against the best subset by brute force, and on the front of a search."""

from itertools import combinations

import numpy as np
import pytest

from search import pareto, problem, shortlist
from search.run import Search
from search.searchers.nsga2 import NSGA2
from supernet.space import get_space


def front(rng, count, objectives):
    """Points on a sphere around the reference point: none dominates another."""
    points = np.abs(rng.normal(size=(count, objectives)))
    return -points / np.linalg.norm(points, axis=1, keepdims=True), np.zeros(objectives)


@pytest.mark.parametrize(("objectives", "seed"), [(2, 0), (2, 1), (3, 2), (3, 3), (4, 4)])
def test_nearly_as_good_as_the_best_subset(objectives, seed):
    costs, reference = front(np.random.default_rng(seed), 14, objectives)
    rows = shortlist.choose(costs, reference, 4)
    best = max(pareto.hypervolume(costs[list(c)], reference) for c in combinations(range(14), 4))
    assert len(rows) == 4
    assert pareto.hypervolume(costs[rows], reference) >= 0.99 * best
    for row in rows:  # no exchange gains
        rest = np.setdiff1d(rows, row)
        others = [pareto.hypervolume(costs[[*rest, other]], reference) for other in range(14)]
        assert max(others) <= pareto.hypervolume(costs[rows], reference) * (1 + 1e-6)


@pytest.mark.parametrize(("objectives", "count"), [(1, 3), (2, 12), (3, 20), (4, 9), (5, 6)])
def test_what_rows_add_is_the_hypervolume_that_comes_with_them(objectives, count):
    """Some chosen rows dominate others, some lie outside the reference."""
    rng = np.random.default_rng(count)
    costs, chosen = rng.random((30, objectives)), rng.random((count, objectives)) * 1.2
    reference = np.full(objectives, 0.9)
    before = pareto.hypervolume(chosen, reference)
    after = [pareto.hypervolume(np.concatenate([chosen, row[None]]), reference) for row in costs]
    assert shortlist.additions(costs, chosen, reference) == pytest.approx(np.array(after) - before)


def test_what_must_be_in_is_in_and_what_adds_nothing_is_not():
    costs, reference = front(np.random.default_rng(5), 30, 3)
    weakest = int(np.argmin(np.prod(-costs, axis=1)))
    rows = shortlist.choose(costs, reference, 5, [weakest, 3])
    assert {weakest, 3} <= set(rows.tolist())
    assert len(rows) == 5
    assert (np.diff(rows) > 0).all()
    twice = np.concatenate([costs[:2], costs[:2]])
    assert len(shortlist.choose(twice, reference, 4)) == 2
    assert shortlist.share(costs, reference, range(30)) == 1


@pytest.mark.parametrize("limits", [{}, {"latency_ms": 20.0}, {"latency_ms": 25.0, "params": 7e6}])
def test_ten_keep_nine_tenths_of_a_front_and_the_best_within_the_limits(limits, tmp_path):
    asked = problem.build(["accuracy", "latency_ms", "training_hours"], limits=limits)
    result = Search(asked, NSGA2(), budget=8000, seed=7, out=tmp_path / "run").run()
    archive, table = result.archive, result.front
    costs, rows = archive.costs[archive.front()], table.shortlist()
    assert len(rows) <= 10
    kept = pareto.hypervolume(costs[rows], archive.reference)
    assert kept >= 0.9 * pareto.hypervolume(costs, archive.reference)
    assert table.knee in rows
    holds = np.ones(len(costs), bool)
    genomes = archive.genomes[archive.front()]
    for objective in asked.evaluator.limited:
        holds &= objective.of(genomes).upper(0.9) <= limits[objective.name]
    most_accurate = -costs[holds, 0].min()
    if limits:
        assert max(table.columns["accuracy"][row] for row in rows) == pytest.approx(most_accurate)
        assert table.columns["accuracy"][table.chosen] == pytest.approx(most_accurate)
    else:
        assert table.chosen == table.knee
    header = (tmp_path / "run" / "front.csv").read_text().splitlines()[0]
    assert "shortlist" in header.split(",")


def test_the_export_command_names_the_chosen_network(tmp_path):
    out = tmp_path / "my run"
    asked = problem.build(["accuracy", "latency_ms"], limits={"latency_ms": 30.0}, genes={"kernel": [3]})
    result = Search(asked, NSGA2(population=20), budget=200, seed=0, out=out).run()
    name = result.front.columns["architecture"][result.front.best]
    words = f"weights=random architecture='{name}' out='{out / 'export'}'"
    assert result.export_command("random", out / "export") == f'make export ARGS="{words}"'
    assert get_space("ofa_mbv3_w1.2").parse([name]).shape == (1, 47)
