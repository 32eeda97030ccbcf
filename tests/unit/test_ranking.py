"""Views, devices and bands of a ranking; the front of a search under the uncertainty of its predictors."""

import csv
import io
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import kendalltau

from search import front_table, pareto, problem
from search.archive import Archive
from search.noisy_axis import NoisyAxis, Normal
from search.ranking import rank
from search.ranking.efficiency import Comparison
from search.searchers.nsga2 import NSGA2


def make(rng, n=30, k=3, spread=0.05):
    names = tuple(f"model {i}, {'<b>' if i == 0 else ''}" for i in range(n))
    return Comparison(
        names,
        tuple(
            NoisyAxis(
                f"axis{j}", j == 0, "log", rng.random(n) + 0.5, (Normal(np.full(n, spread), np.arange(n)),)
            )
            for j in range(k)
        ),
    )


def test_every_subset_of_axes_is_a_view(rng):
    found = rank.rank(make(rng), draws=50)
    assert list(found.views) == ["all", "axis0+axis1", "axis0+axis2", "axis1+axis2"]
    assert found.main.axes == ("axis0", "axis1", "axis2")
    assert len(rank.subsets("abcd")) == 11
    assert list(rank.subsets("abcdef").values())[1:] == [
        tuple(x for x in "abcdef" if x != y) for y in "fedcba"
    ]


def test_devices_agree_as_kendall_says(rng):
    models = make(rng)
    devices = {"one": ["axis0", "axis1"], "two": ["axis0", "axis2"], "again": ["axis1", "axis0"]}
    found = rank.rank(replace(models, devices=devices), draws=400).devices
    assert found.agreement[0, 1] == kendalltau(found.of["one"].rank, found.of["two"].rank).statistic
    assert found.agreement[0, 2] == pytest.approx(1)
    assert (found.everywhere <= found.worst + 1e-12).all()
    assert (found.worst == np.minimum(found.of["one"].probability, found.of["two"].probability)).all()
    assert found.mean_rank == pytest.approx(np.mean([each.rank for each in found.of.values()], axis=0))


def test_table_is_in_order_and_whole(rng):
    models = replace(make(rng), devices={"one": ["axis0", "axis1"]})
    found = rank.rank(models, weights={"axis1": 1.0}, draws=100)
    rows = list(csv.DictReader(io.StringIO(found.table().csv())))
    assert [row["model"] for row in rows] == [models.names[i] for i in found.main.order]
    p = [float(row["p_efficient"]) for row in rows]
    assert p == sorted(p, reverse=True)
    assert {"p_preferred", "p_axis0+axis1", "p_on_one", "p_on_every_device", "axis2"} <= set(rows[0])
    assert "30 models by axis0, axis1, axis2" in found.findings()[0]


def test_weights_must_be_axes_of_the_main_view(rng):
    models = replace(make(rng), views={"main": ["axis0", "axis1"]})
    with pytest.raises(ValueError, match=r"unknown axis 'axis2'\. Did you mean"):
        rank.rank(models, weights={"axis2": 1.0}, draws=10)


def test_band_is_what_the_draws_reach(rng):
    """At a corner of the level p at least p percent of the drawn frontiers attain it, and not much more."""
    models = make(rng, n=12, k=2, spread=0.1)
    found = rank.band(*models.axes, draws=200)
    drawn = models.draw(0, 0, 200)
    for level in (5.0, 50.0, 95.0):
        corners = found.levels[level]
        costs = np.stack([-np.log(corners[:, 0]), np.log(corners[:, 1])], axis=1)
        reached = np.mean([[(d <= c + 1e-9).all(axis=1).any() for c in costs] for d in drawn], axis=0)
        assert (reached >= level / 100 - 1e-9).all()
        assert reached.min() < level / 100 + 0.01
    assert 0 < found.deviation < 0.5
    certain = rank.band(*make(rng, n=12, k=2, spread=0.0).axes, draws=20)
    assert certain.deviation == pytest.approx(0, abs=1e-9)
    assert (certain.levels[5.0] == certain.levels[95.0]).all()


@pytest.fixture(scope="module")
def searched():
    objectives = ["accuracy", "latency_ms", "training_hours"]
    asked = problem.build(objectives)
    archive, searcher, rng = (
        Archive(asked.space, objectives, np.ones(3)),
        NSGA2(population=50),
        np.random.default_rng(0),
    )
    for _ in range(12):
        genomes = searcher.ask(asked.space, archive, rng)
        costs, violation = asked.evaluator(genomes)
        searcher.tell(genomes, costs, violation)
        archive.add(genomes, costs, violation)
    return asked, archive


def test_front_members_get_the_probability_to_be_efficient(searched):
    asked, archive = searched
    found = archive.efficiency(asked.evaluator, draws=100)
    assert found.shape == (archive.front_size,)
    assert (found == archive.efficiency(asked.evaluator, draws=100)).all()
    assert 0 < found.min() < 0.9
    assert found.max() <= 1
    table = front_table.table(archive, asked.evaluator)
    assert table.columns["p_efficient"] == pytest.approx(archive.efficiency(asked.evaluator), abs=1e-6)


def test_archive_efficiency_against_a_plain_loop(searched):
    """All rows compete; recipes of one network share its own errors, all networks the common ones."""
    asked, archive = searched
    found, rng = archive.efficiency(asked.evaluator, draws=400), np.random.default_rng(1)
    predicted = [objective.of(archive.genomes) for objective in asked.evaluator.objectives]
    networks = np.unique(archive.space.network(archive.genomes), axis=0, return_inverse=True)[1].ravel()
    count = np.zeros(len(archive))
    for _ in range(400):
        drawn = np.empty((len(archive), len(predicted)))
        for j, told in enumerate(predicted):
            drawn[:, j] = told.mean + told.own * rng.standard_normal(networks.max() + 1)[networks]
            if told.shared is not None:
                drawn[:, j] += told.shared @ rng.standard_normal(told.shared.shape[1])
        count += pareto.is_front(drawn * [-1, 1, 1])
    apart = found - count[archive.front()] / 400
    assert np.abs(apart).max() < 0.15
    assert np.abs(apart).mean() < 0.03


def test_exact_objectives_leave_no_doubt():
    asked = problem.build(["macs", "params"])
    archive = Archive(asked.space, ["macs", "params"], np.ones(2))
    genomes = asked.space.sample(300, np.random.default_rng(0))
    archive.add(genomes, *asked.evaluator(genomes))
    assert (archive.efficiency(asked.evaluator, draws=20) == 1).all()
