"""Proven optima against brute force: shrunken spaces, of which every network is asked."""

import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from latency.zoo import catalogue
from search import models, problem
from search.bound import program, solver
from search.bound.optimum import best_within, most_accurate, search_gap
from search.objective import InfeasibleError, Objective
from supernet.prediction import Prediction, exact
from supernet.space import get_space
from supernet.surrogates import accuracy

RECIPES = {"finetune_epochs": [0]}
MOST = 6000  # networks that brute force lists
SPACES = {
    "ofa_mbv3_w1.0": "p40_b64_w1.0",
    "ofa_mbv3_w1.2": "note10_lut",
    "compofa_elastic": "p40_b64_w1.0",
    "compofa_fixed": "epyc_ort",
}


def shrunken(name, rng, most=MOST):
    """A space with random values of random genes, of at most so many networks."""
    space = get_space(name).restrict("r", 160, 224)
    for j in rng.permutation(space.d):
        axis = space.axes[j].name
        values = rng.permutation(space.allowed(axis))
        keep = 1 if rng.random() < 0.6 else rng.integers(1, len(values) + 1)
        space = space.keep(axis, values[:keep].tolist())
    for j in rng.permutation(space.d):
        while space.count() > most and len(space.choices[j]) > 1:
            space = space.keep(space.axes[j].name, space.allowed(space.axes[j].name)[:-1])
    return space


def listed(space):
    """Every network of a small space."""
    assert math.prod(space.width.tolist()) <= 3_000_000
    rows = np.array(list(product(*space.choices)), np.int8)
    return np.unique(space.canonical(rows), axis=0)


def entangled(surrogate, rng):
    """A surrogate whose pairs of genes matter as much as the genes themselves."""
    quadratic = rng.normal(0, 0.0003, surrogate.quadratic.shape)
    return replace(surrogate, quadratic=quadratic + quadratic.T)


def shipped(space, rng=None):
    surrogate = accuracy.load(space.owner.name)
    return surrogate if rng is None else entangled(surrogate, rng)


@pytest.fixture(params=["many parts", "as shipped"])
def parts(request, monkeypatch):
    """Small spaces have one or two parts of thousands of states; of many small parts all steps are taken."""
    if request.param == "many parts":
        monkeypatch.setattr(program, "JOINED_STATES", 12)
        monkeypatch.setattr(solver, "MOST_SUMS", 100)


@pytest.mark.parametrize("seed", range(24))
def test_brute_force_finds_nothing_better(seed, parts):
    rng = np.random.default_rng(seed)
    name = list(SPACES)[seed % len(SPACES)]
    space = shrunken(name, rng)
    surrogate = shipped(space, rng if seed % 3 else None)
    latency = catalogue.predictor(SPACES[name])
    genomes = listed(space)
    upper = latency.predict(space.embed(genomes, latency.target.space), latency.target).upper(0.9)
    limit = float(np.quantile(upper, rng.uniform(0.02, 1)))
    best = best_within(surrogate, latency, limit, space=space)
    truth = surrogate.predict(genomes[upper <= limit], space).mean.max()
    assert best.proven
    assert best.upper == best.accuracy == pytest.approx(truth, abs=1e-6)
    assert (genomes == best.genome).all(axis=1)[upper <= limit].any()


@pytest.mark.parametrize("seed", range(6))
def test_several_limits_and_recipes(seed, parts):
    rng = np.random.default_rng(100 + seed)
    space = shrunken("ofa_mbv3_w1.2", rng)
    latency = catalogue.predictor("v100_b64")
    chosen = models.choose(space=space, latency=latency, accuracy=shipped(space, rng))
    names = ["latency_ms", "macs", "training_hours"]
    genomes = listed(space)
    bounds = [chosen.objective(name).bound(chosen.objective(name).of(genomes)) for name in names]
    limits = {name: float(np.quantile(bound, 0.6)) for name, bound in zip(names, bounds, strict=True)}
    asked = problem.build(["accuracy"], chosen, limits=limits)
    holds = asked.evaluator(genomes)[1] <= 0
    if not holds.any():
        with pytest.raises(InfeasibleError, match="proven"):
            most_accurate(asked)
        return
    best = most_accurate(asked)
    assert best.proven
    assert best.accuracy == pytest.approx(chosen.accuracy.predict(genomes[holds]).mean.max(), abs=1e-6)


@pytest.fixture
def small():
    """A problem of a few thousand networks, and all of them."""
    space = shrunken("ofa_mbv3_w1.2", np.random.default_rng(3))
    return models.choose(space=space, latency=catalogue.predictor("note10_lut")), listed(space)


@pytest.mark.parametrize("seed", range(6))
def test_errors_that_networks_share_are_bounded_exactly(seed, small, parts):
    """Their deviation is no sum; the limit is still tested on the true bound."""
    chosen, genomes = small
    rng = np.random.default_rng(seed)
    weights = rng.normal(0, 1, (3, chosen.space.d, 30))
    genes = np.arange(chosen.space.d)

    def of(batch):
        mean = chosen.predict_latency(batch).mean
        shared = np.stack([w[genes, batch].sum(axis=1) for w in weights], axis=1) * 0.4
        return Prediction(mean, np.sqrt((0.02 * mean) ** 2 + (shared**2).sum(axis=1)), shared)

    values = of(genomes).upper(0.9)
    limit = float(np.quantile(values, 0.5))
    own = Objective("mine", "ms", of, limit=limit)
    best = most_accurate(problem.build(["accuracy", own], chosen, genes=RECIPES))
    truth = chosen.accuracy.predict(genomes[values <= limit]).mean.max()
    assert best.accuracy == pytest.approx(truth, abs=1e-6)
    assert best.proven


def test_time_that_ends_too_early_leaves_a_valid_bound(monkeypatch):
    monkeypatch.setattr(program, "JOINED_STATES", 12)
    rng = np.random.default_rng(5)
    space = shrunken("ofa_mbv3_w1.2", rng)
    latency, surrogate, genomes = catalogue.predictor("v100_b64"), shipped(space, rng), listed(space)
    ms = latency.predict(genomes, latency.target).mean
    limit = float(np.quantile(ms, 0.5))
    early = best_within(surrogate, latency, limit, space=space, confidence=0.5, seconds=1e-9)
    truth = surrogate.predict(genomes[ms <= limit]).mean.max()
    assert early.nodes == 0
    assert early.accuracy - 1e-6 <= truth <= early.upper + 1e-6


def test_a_gap_of_a_search_is_that_of_its_best_network(small):
    chosen, _ = small
    asked = problem.build(["accuracy", "latency_ms"], chosen, limits={"macs": 1e9})
    mine = asked.space.at(np.zeros((1, asked.space.d), np.int64))
    weakest = np.concatenate([mine, asked.space.neighbours(mine)[:3]])
    gap = search_gap(asked, weakest)
    assert gap.accuracy == pytest.approx(chosen.accuracy.predict(weakest).mean.max())
    assert gap.points == pytest.approx(100 * (gap.optimum.upper - gap.accuracy))
    assert search_gap(asked, gap.optimum.genome).points == pytest.approx(0, abs=1e-4)


def test_limits_that_are_no_sums_are_refused(small):
    chosen, _ = small
    macs = chosen.objective("macs")
    own = Objective("squared", "", lambda genomes: exact(macs.of(genomes).mean ** 2), limit=1e30)
    with pytest.raises(ValueError, match="squared is no sum over the blocks"):
        most_accurate(problem.build(["accuracy", own], chosen))


def test_that_nothing_meets_the_limits_is_proven(small):
    with pytest.raises(InfeasibleError, match="proven"):
        most_accurate(problem.build(["accuracy"], small[0], limits={"macs": 1.0}))


def test_other_accuracies_than_the_quadratic_form_are_refused(small):
    chosen, _ = small

    class Bent(accuracy.AccuracySurrogate):
        def predict(self, genomes, space=None):
            predicted = super().predict(genomes, space)
            return replace(predicted, mean=predicted.mean + 0.1 * np.sin(100 * predicted.mean))

    bent = Bent(**vars(chosen.accuracy))
    with pytest.raises(ValueError, match="is not the quadratic form"):
        most_accurate(problem.build(["accuracy"], replace(chosen, accuracy=bent), limits={"macs": 1e9}))


@pytest.mark.slow
def test_note_10_within_20_ms_is_proven():
    """Out of the reach of brute force, so only that the proof is finished and the network holds the limit."""
    latency = catalogue.predictor("note10_lut")
    space = get_space("ofa_mbv3_w1.2").keep("finetune_epochs", [0])
    best = best_within(accuracy.load(space.name), latency, 20, space=space, confidence=0.5)
    assert best.proven
    assert latency.predict(best.genome, latency.target).mean <= 20
