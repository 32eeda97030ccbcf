"""Several devices in one search: objectives, limits and the table of regrets."""

import csv

import numpy as np
import pytest

from latency.zoo import catalogue
from search import command, models, pareto, problem
from search.report import devices
from search.run import Search
from search.searchers.nsga2 import NSGA2
from tests.e2e.browser import drawn

PHONE, CARD = "note10_lut", "v100_b64"


@pytest.fixture(scope="module")
def both():
    predictors = [catalogue.predictor(PHONE), catalogue.predictor(CARD)]
    return models.several(models.choose(latency=predictors[0]), predictors)


def test_a_latency_stands_for_one_on_each_device(both):
    asked = problem.build(["accuracy", "latency_ms"], both, limits={f"latency_ms@{PHONE}": 22, "params": 7e6})
    names = [objective.name for objective in asked.evaluator.asked]
    assert names == ["accuracy", f"latency_ms@{PHONE}", f"latency_ms@{CARD}", "params"]
    genomes = asked.space.sample(20, np.random.default_rng(0))
    costs, violation = asked.evaluator(genomes)
    for column, name in ((1, PHONE), (2, CARD)):
        expected = catalogue.predictor(name).predict(genomes, catalogue.target(name))
        assert np.allclose(costs[:, column], expected.mean)
        if name == PHONE:
            late = np.maximum(expected.upper(0.9) / 22 - 1, 0)
    heavy = np.maximum(asked.evaluator.constraints[0].of(genomes).mean / 7e6 - 1, 0)
    assert np.allclose(violation, late + heavy)
    everywhere = problem.build(["accuracy"], both, limits={"latency_ms": 22})
    assert len(everywhere.evaluator.constraints) == 2


def test_throughput_is_images_per_second(both):
    asked = problem.build(["accuracy", f"throughput@{CARD}"], both)
    genomes = asked.space.sample(50, np.random.default_rng(1))
    predicted = asked.evaluator.objectives[1].of(genomes)
    latency = catalogue.predictor(CARD).predict(genomes, catalogue.target(CARD))
    assert np.allclose(predicted.mean, 64 / (latency.mean / 1000))
    assert np.allclose(predicted.std / predicted.mean, latency.std / latency.mean)
    alone = models.choose(target=catalogue.target(CARD))
    limited = problem.build(["accuracy", "throughput"], alone, limits={"throughput": 4000.0})
    holds = limited.evaluator(genomes)[1] == 0
    low = 4000 * (1 + 1.2816 * latency.std / latency.mean)  # a lower bound that is 4,000
    assert (holds == (predicted.mean * (1 - 1.2816 * latency.std / latency.mean) >= 4000)).all()
    assert holds[predicted.mean > 1.01 * low].all()


def test_the_worst_latency_is_the_larger_share_of_a_limit(both):
    limits = {f"latency_ms@{PHONE}": 20.0, f"latency_ms@{CARD}": 15.0}
    asked = problem.build(["accuracy", "worst_latency"], both, limits=limits)
    genomes = asked.space.sample(200, np.random.default_rng(2))
    shares = np.stack(
        [asked.models.objective(name).of(genomes).mean / limit for name, limit in limits.items()], axis=1
    )
    assert np.allclose(asked.evaluator(genomes)[0][:, 1], shares.max(axis=1))
    assert len(np.unique(shares.argmax(axis=1))) == 2
    with pytest.raises(ValueError, match=f"give targets= and a limit for each.*latency_ms@{PHONE}=20"):
        problem.build(["accuracy", "worst_latency"], both, limits={f"latency_ms@{CARD}": 15.0})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (f"latency_ms@{PHONE}x", f"Did you mean 'latency_ms@{PHONE}'"),
        (f"macs@{PHONE}", "unknown objective 'macs@"),
    ],
)
def test_unknown_devices_are_named(both, name, message):
    with pytest.raises(ValueError, match=message):
        problem.build(["accuracy", name], both)


def test_devices_must_differ_and_fit(both):
    one = catalogue.predictor(PHONE)
    with pytest.raises(ValueError, match="two different targets"):
        models.several(both, [one, one])
    with pytest.raises(ValueError, match="not comparable"):
        models.several(both, [one, catalogue.predictor("p40_b64_w1.0")])


def test_regrets_by_hand():
    """Five networks on two devices. The choice of A, c, takes 3 ms on B, where d is as fast and .02 better;
    that of B, d, takes 5 ms on A, where e is faster and .01 better."""
    accuracy = np.array([0.70, 0.72, 0.75, 0.77, 0.78])
    latency = np.array([[1.0, 2.0], [2.0, 1.0], [3.0, 3.0], [5.0, 3.0], [4.5, 9.0]])
    there, regret = devices.regrets(-accuracy, latency, np.array([2, 3]))
    assert there.tolist() == [[3, 3], [5, 3]]
    assert np.allclose(regret, [[0, 0.02], [0.01, 0]])


def test_the_table_of_a_search_is_that_of_brute_force(both, tmp_path):
    limits = {f"latency_ms@{PHONE}": 25.0}
    asked = problem.build(["accuracy", "latency_ms"], both, limits=limits)
    result = Search(asked, NSGA2(), budget=3000, seed=1, out=tmp_path / "run").run()
    accuracy = -result.archive.costs[:, 0]
    ms = {PHONE: result.archive.costs[:, 1], CARD: result.archive.costs[:, 2]}
    bound = catalogue.predictor(PHONE).predict(result.archive.genomes, catalogue.target(PHONE)).upper(0.9)
    knee = np.flatnonzero(pareto.is_front(np.stack([-accuracy, ms[CARD]], axis=1)))
    costs = np.stack([-accuracy, ms[CARD]], axis=1)[knee]
    choice = {
        PHONE: int(np.argmax(np.where(bound <= 25, accuracy, 0))),
        CARD: int(knee[pareto.knee(costs)]),
    }
    with (tmp_path / "run" / "regret.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    for row in rows:
        mine, on = choice[row["chosen_for"]], row["deployed_on"]
        best = max(a for a, t in zip(accuracy, ms[on], strict=True) if t <= ms[on][mine])
        assert float(row["latency_ms"]) == pytest.approx(ms[on][mine], rel=1e-3)
        assert float(row["regret_accuracy"]) == pytest.approx(best - accuracy[mine], abs=1e-6)
        assert (row["limit_holds"] == "True") == (on == CARD or bound[mine] <= 25)
    page = (tmp_path / "run" / "report.html").read_text()
    assert f"on {PHONE} and {CARD}" in page
    assert "chosen for" in page
    assert [one["xlabel"] for one in drawn(page)["devices"]] == [
        f"ms per image on {PHONE}",
        f"ms per batch of 64 on {CARD}",
    ]


def test_the_words_of_the_command_line():
    words = [
        "targets=[note10_lut,2080ti_b64_w1.0]",
        "limits.latency_ms@2080ti_b64_w1.0=9.5",
        "limits.params=7e6",
    ]
    config = command.compose("search", [*words, "limits.params=7e6"])
    limits = {name: limit for name, limit in config["limits"].items() if limit is not None}
    assert limits == {"latency_ms@2080ti_b64_w1.0": 9.5, "params": 7e6}
    assert config["targets"] == ["note10_lut", "2080ti_b64_w1.0"]


def test_the_joint_front_is_as_good_as_one_search_for_each_device(both, tmp_path):
    """Hypervolume of the joint front's projections, against separate searches with half the budget each, in
    a small form of what docs/search.md has for 50,000 evaluations."""
    whole = {"genes": {"finetune_epochs": [0]}}
    joint = _archive(problem.build(["accuracy", "latency_ms"], both, **whole), 8000, tmp_path / "joint")
    for column, name in ((1, PHONE), (2, CARD)):
        alone = _archive(
            problem.build(["accuracy", f"latency_ms@{name}"], both, **whole), 4000, tmp_path / name
        )
        reference = joint.reference[[0, column]]
        projected = pareto.hypervolume(joint.costs[:, [0, column]], reference)
        assert projected >= 0.98 * pareto.hypervolume(alone.costs, reference)


def _archive(asked, budget, out):
    return Search(asked, NSGA2(), budget=budget, seed=3, out=out).run().archive
