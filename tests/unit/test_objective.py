"""Objectives, limits, and problems whose parts do not fit together."""

from dataclasses import replace

import numpy as np
import pytest

from latency.zoo import catalogue
from search import models, objective, problem
from search.objective import Evaluator, InfeasibleError, Objective
from supernet.files import tables
from supernet.prediction import Prediction, exact
from supernet.space import get_space
from supernet.surrogates import accuracy

SPACE = get_space("compofa_fixed")
RESNET, FBNET = (models.choose(space=get_space(name)) for name in ("ofa_resnet50", "fbnet"))


def depth(genomes):
    total = sum(SPACE.column(genomes, f"d{s}") for s in range(5)).astype(float)
    return Prediction(total, np.ones(len(genomes)))


def test_costs_and_limits_by_hand(rng):
    genomes = SPACE.sample(30, rng)
    mean = depth(genomes).mean
    more = Objective("depth", "blocks", depth, maximize=True, limit=12.0, confidence=0.9)
    less = Objective("depth", "blocks", depth, limit=15.0, confidence=0.9)
    costs, violation = Evaluator((more, less))(genomes)
    assert (costs[:, 0] == -mean).all()
    assert (costs[:, 1] == mean).all()
    quantile = 1.2815515655446004
    expected = np.maximum(12 - (mean - quantile), 0) / 12 + np.maximum(mean + quantile - 15, 0) / 15
    assert np.allclose(violation, expected)


@pytest.mark.parametrize(
    ("name", "unit", "label"),
    [
        ("latency_ms", "ms", "latency_ms"),
        ("training_kwh", "kWh", "training_kwh"),
        ("steps", "s", "steps (s)"),
        ("ratio", "", "ratio"),
    ],
)
def test_labels_say_the_unit_once(name, unit, label):
    assert Objective(name, unit, depth).label == label


def test_extremes_are_found(rng):
    low, value = objective.extreme(Objective("depth", "blocks", depth, confidence=0.5), SPACE, rng)
    assert value == pytest.approx(10)
    assert SPACE.column(low, "d3")[0] == 2
    _, value = objective.extreme(
        Objective("depth", "blocks", depth, maximize=True, confidence=0.5), SPACE, rng
    )
    assert value == pytest.approx(20)


def test_extreme_of_a_latency_is_the_exact_minimum(rng):
    """Against the smallest sum of table cells, found slot by slot."""
    predictor = catalogue.predictor("titan_rtx_b64")
    space = get_space("ofa_mbv3_w1.2")
    latency = Objective("latency_ms", "ms", lambda g: predictor.predict(g, predictor.target), confidence=0.5)
    _, found = objective.extreme(latency, space, rng)
    cells = np.where(predictor.table.cells == 0, np.inf, predictor.table.cells).min(axis=2)
    by_stage = cells.reshape(len(cells), 5, 4)
    at_depth = np.cumsum(by_stage, axis=2)[:, :, 1:]  # depths 2, 3, 4
    assert found == pytest.approx((predictor.table.base + at_depth.min(axis=2).sum(axis=1)).min(), rel=1e-6)


def test_impossible_limits_name_the_best_there_is():
    limit = Objective("depth", "blocks", depth, limit=9.0, confidence=0.5)
    with pytest.raises(InfeasibleError, match=r"depth <= 9 blocks: .* is 10 blocks, of compofa_fixed r"):
        Evaluator((limit,)).check_limits(SPACE)
    limit = Objective("depth", "blocks", depth, maximize=True, limit=21.0, confidence=0.5)
    with pytest.raises(InfeasibleError, match="depth >= 21 blocks: the highest lower bound"):
        Evaluator((limit,)).check_limits(SPACE)


@pytest.mark.parametrize(("field", "value"), [("limit", -1.0), ("limit", float("nan")), ("confidence", 1.0)])
def test_senseless_limits_are_refused(field, value):
    with pytest.raises(ValueError, match=str(value)):
        Objective("depth", "blocks", depth, **{field: value})


def test_default_problem_fills_in_what_belongs_together():
    found = problem.build(["accuracy", "latency_ms", "training_hours"])
    assert found.space.name == "ofa_mbv3_w1.2"
    assert found.models.latency.target.name == "v100_b64"
    assert found.models.accuracy.space == "ofa_mbv3_w1.2"
    r = found.space.column(found.space.sample(300, np.random.default_rng(0)), "r")
    assert (r.min(), r.max()) == (128, 224)


def test_widths_are_never_mixed():
    with pytest.raises(
        ValueError, match=r"timed on ofa_mbv3_w1.2 .* Targets that fit ofa_mbv3_w1.0: 2080ti_b64_w1.0, "
    ):
        problem.build(
            ["latency_ms"],
            models.choose(space=get_space("ofa_mbv3_w1.0"), target=catalogue.target("v100_b64")),
        )
    with pytest.raises(
        ValueError, match=r"accuracy surrogate is of ofa_mbv3_w1.0, the space is ofa_mbv3_w1.2"
    ):
        problem.build(
            ["accuracy", "latency_ms"],
            models.choose(accuracy=accuracy.load("ofa_mbv3_w1.0"), target=catalogue.target("v100_b64")),
        )


def test_accuracy_alone_says_which_space_is_searched():
    found = problem.build(["accuracy", "latency_ms"], models.choose(accuracy=accuracy.load("ofa_mbv3_w1.0")))
    assert (found.space.name, found.models.latency.target.space) == ("ofa_mbv3_w1.0", "ofa_mbv3_w1.0")


def test_targets_that_were_changed_are_refused():
    with pytest.raises(ValueError, match="no predictor was fitted for"):
        problem.build(["latency_ms"], models.choose(target=replace(catalogue.target("v100_b64"), batch=1)))


def epochs_of(asked, rng):
    return set(asked.space.column(asked.space.sample(50, rng), "finetune_epochs").tolist())


def test_recipes_are_searched_only_where_they_cost_something(rng):
    for objectives in (["latency_ms", "params"], ["accuracy", "latency_ms"]):
        bare = problem.build(objectives)
        assert epochs_of(bare, rng) == {bare.recipe} == {0}
    searched = [
        problem.build(["accuracy", "training_usd"]),
        problem.build(["accuracy", "latency_ms"], limits={"training_hours": 5.0}),
    ]
    for full in searched:
        assert full.recipe is None
        assert epochs_of(full, rng) == {0, 25, 75}


def test_a_recipe_can_be_fixed(rng):
    for objectives in (["accuracy", "macs"], ["accuracy", "training_hours"]):
        fixed = problem.build(objectives, genes=problem.recipe_genes(get_space("ofa_mbv3_w1.2"), 25))
        assert epochs_of(fixed, rng) == {fixed.recipe} == {25}
    longest = problem.build(["accuracy"], genes={"finetune_epochs": [75]}).evaluator
    plain = problem.build(["accuracy"]).evaluator
    networks = fixed.space.network(fixed.space.sample(20, rng))
    tuned = networks.copy()
    tuned[:, fixed.space.index["finetune_epochs"]] = 3
    assert (longest(tuned)[0] < plain(networks)[0]).all()
    with pytest.raises(ValueError, match="recipe=30 must be one of 0, 25, 75 epochs"):
        problem.recipe_genes(get_space("ofa_mbv3_w1.2"), 30)
    with pytest.raises(ValueError, match="recipe=0: fbnet has no training recipe, leave recipe= out"):
        problem.recipe_genes(get_space("fbnet"), 0)
    assert problem.build(["macs", "params"], models.choose(space=get_space("fbnet"))).recipe is None


def test_an_objective_of_ones_own_has_recipes_searched_where_it_depends_on_them(rng):
    space = get_space("ofa_mbv3_w1.2")

    def column(name):
        return Objective(name, "", lambda genomes: exact(space.column(genomes, name).astype(float)))

    assert epochs_of(problem.build(["accuracy", column("r")]), rng) == {0}
    assert epochs_of(problem.build(["accuracy", column("finetune_epochs")]), rng) == {0, 25, 75}


def test_fingerprint_tells_models_apart():
    one = problem.build(["latency_ms", "params"])
    same = problem.build(["latency_ms", "params"])
    other = problem.build(["latency_ms", "params"], models.choose(target=catalogue.target("titan_rtx_b64")))
    found = [p.evaluator.fingerprint(p.space) for p in (one, same, other)]
    assert found[0] == found[1] != found[2]


def test_compofa_uses_the_models_of_its_parent(rng):
    found = problem.build(
        ["accuracy", "latency_ms"], models.choose(space=SPACE, target=catalogue.target("p40_b64_w1.0"))
    )
    genomes = found.space.sample(20, rng)
    costs, _ = found.evaluator(genomes)
    inside = SPACE.embed(genomes, "ofa_mbv3_w1.0")
    predictor = catalogue.predictor("p40_b64_w1.0")
    assert (costs[:, 1] == predictor.predict(inside, predictor.target).mean).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(objectives=["latency"]), "Did you mean 'latency_ms'"),
        (dict(objectives=[]), "at least one"),
        (dict(objectives=["macs", "macs"]), "each objective once"),
        (dict(objectives=["accuracy"], models=FBNET), "no accuracy surrogate ships"),
        (dict(objectives=["latency_ms"], models=RESNET), "no target ships for ofa_resnet50"),
        (dict(objectives=["training_hours"], models=FBNET), "no training recipe"),
        (dict(objectives=["latency_ms"], resolution=(100, 130)), "beyond what the models were fitted on"),
        (dict(objectives=["latency_ms"], resolution=(192, 160)), "lower side first"),
        (dict(objectives=["macs"], models=FBNET, resolution=(32, 32)), "has no resolution"),
        (dict(objectives=["macs"], limits={"parms": 3e6}), "Did you mean 'params'"),
    ],
)
def test_what_does_not_work_says_why(arguments, message):
    with pytest.raises(ValueError, match=message):
        problem.build(**arguments)


def test_footprint_objectives_work_for_every_space(rng):
    found = problem.build(
        ["macs", "params", "peak_bytes"],
        RESNET,
        limits={"params": 2e7},
    )
    genomes = found.space.sample(20, rng)
    costs, violation = found.evaluator(genomes)
    table = found.space.layers(genomes)
    assert (costs == np.stack([table.macs(), table.params(), table.peak_bytes()], axis=1)).all()
    assert ((violation > 0) == (table.params() > 2e7)).all()


def test_a_limit_in_percent_is_told_to_be_a_fraction():
    with pytest.raises(
        ValueError, match=r"the limit 80 of accuracy is a fraction .*limits\.accuracy=0\.8 for 80%"
    ):
        problem.build(["accuracy", "latency_ms"], limits={"accuracy": 80})


def test_a_table_in_percent_and_in_fractions_is_refused():
    with pytest.raises(ValueError, match=r"row 1 has 0\.698, the largest is 75"):
        tables.percent({"top1": np.array([70.0, 0.698, 75.0])}, "top1", "a.csv")
    assert tables.percent({"top1": np.array([0.7, 0.75])}, "top1", "a.csv").tolist() == [70, 75]
