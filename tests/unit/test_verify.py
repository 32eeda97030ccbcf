"""Verification of a front by measurements that are known."""

from types import SimpleNamespace

import numpy as np
import pytest

from latency.data import LatencyData
from latency.measuring import session
from latency.zoo import catalogue
from search import front_table, models, problem, verify
from search.archive import Archive
from supernet.space import get_space


@pytest.fixture
def asked():
    return problem.build(
        ["accuracy", "latency_ms"],
        models.choose(latency=catalogue.predictor("v100_b64")),
        limits={"latency_ms": 25.0},
    )


def searched(asked, rng):
    genomes = asked.space.sample(3000, rng)
    costs, violation = asked.evaluator(genomes)
    archive = Archive(asked.space, ["accuracy", "latency_ms"], costs.max(axis=0))
    archive.add(genomes, costs, violation)
    return archive


def measured_as(monkeypatch, ms_of, failing=0, drift=1.0):
    """Measurements that follow `ms_of`; the first `failing` networks cannot be run."""

    def fake(target, genomes, *, store, watch=None):
        space = get_space(target.space)
        names = space.format(genomes[:failing])
        ms = ms_of(genomes[failing:], target) * drift
        data = LatencyData(target, genomes[failing:], ms, 0.01 * ms)
        return SimpleNamespace(
            data=data,
            failed=dict.fromkeys(names, "RuntimeError: no"),
            anchors_ms={"a": 2.0 * drift},
            seconds=1.0,
            facts={"sitting": "s", "engine": "e 1"},
        )

    monkeypatch.setattr(session, "measure", fake)


def predicted(genomes, target):
    return catalogue.predictor("v100_b64").predict(genomes, target).mean


def test_right_predictions_keep_the_front(asked, rng, monkeypatch):
    measured_as(monkeypatch, predicted)
    archive = searched(asked, rng)
    table = front_table.table(archive, asked.evaluator)
    found = verify.verifier(None, 6)(asked, archive, table)
    assert found.summary["networks"] == 6
    assert found.summary["mape"] == pytest.approx(0, abs=1e-9)
    assert found.summary["covered"] == found.summary["holds"] == 6
    measured = np.array([value is not None for value in found.table.columns["latency_ms_measured"]])
    on = np.array(found.table.columns["on_verified_front"], object)
    assert all(on[measured])
    assert all(value is None for value in on[~measured])
    latency = np.array(found.table.columns["latency_ms"])
    assert {latency.min(), latency.max(), latency[table.knee]} <= set(latency[measured])


def test_slow_members_leave_the_front_and_break_the_limit(asked, rng, monkeypatch):
    measured_as(monkeypatch, lambda genomes, target: 1.5 * predicted(genomes, target))
    archive = searched(asked, rng)
    found = verify.verifier(None, 8)(asked, archive, front_table.table(archive, asked.evaluator))
    rows = found.table.rows()
    holds = {
        row["architecture"] for row in rows if row["latency_ms_measured"] and row["latency_ms_measured"] <= 25
    }
    kept = {row["architecture"] for row in rows if row["on_verified_front"]}
    assert kept == holds  # slower by one factor: none dominates another
    assert found.summary["holds"] < 8
    assert set(found.front.columns["architecture"]) == kept
    assert found.summary["covered"] == 0
    assert "holds for" in "\n".join(found.lines())


def test_dominated_members_leave_the_verified_front(asked, rng, monkeypatch):
    """When all networks turn out equally fast, only the most accurate one is left."""
    measured_as(monkeypatch, lambda genomes, target: np.full(len(genomes), 10.0))
    archive = searched(asked, rng)
    found = verify.verifier(None, 7)(asked, archive, front_table.table(archive, asked.evaluator))
    kept = [row for row in found.table.rows() if row["on_verified_front"]]
    measured = [row for row in found.table.rows() if row["latency_ms_measured"]]
    best = max(row["accuracy"] for row in measured)
    assert [row["accuracy"] for row in kept] == [best] * len(kept)


def test_failed_members_are_left_out_and_named(asked, rng, monkeypatch):
    measured_as(monkeypatch, predicted, failing=2)
    archive = searched(asked, rng)
    found = verify.verifier(None, 6)(asked, archive, front_table.table(archive, asked.evaluator))
    assert found.summary["networks"] == 4
    assert "\n".join(found.lines()).count("failed: ofa_mbv3_w1.2") == 2


def test_drift_of_the_machine_is_no_error_of_the_prediction(rng, monkeypatch):
    from latency.predictors.interface import with_facts

    known = with_facts(catalogue.predictor("v100_b64"), {"anchors_ms": {"a": 2.0}})
    asked = problem.build(["accuracy", "latency_ms"], models.choose(latency=known))
    measured_as(monkeypatch, predicted, drift=1.2)
    archive = searched(asked, rng)
    found = verify.verifier(None, 5)(asked, archive, front_table.table(archive, asked.evaluator))
    assert found.summary["drift"] == pytest.approx(1.2)
    assert found.summary["mape_raw"] == pytest.approx(100 * (1 - 1 / 1.2))
    assert "20.0% slower" in "\n".join(found.lines())
    assert found.summary["mape"] == pytest.approx(0, abs=1e-6)


def test_nothing_to_verify_is_refused(rng):
    with pytest.raises(ValueError, match="verify=0 turns it off"):
        verify.verifier(None, 0)
