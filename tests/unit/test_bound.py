"""Proven optima against brute force: shrunken spaces, of which every network is asked."""

import math
from dataclasses import dataclass, field, replace
from itertools import product

import numpy as np
import pytest

from latency.zoo import catalogue
from search import models, problem
from search.bound import program, solver
from search.bound.optimum import best_within, most_accurate
from search.objective import InfeasibleError
from supernet.prediction import Prediction
from supernet.slot_table import SlotTable
from supernet.space import get_space
from supernet.surrogates import accuracy

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
    quadratic = rng.normal(0, 0.003, surrogate.quadratic.shape)
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
