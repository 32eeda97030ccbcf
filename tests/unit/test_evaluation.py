"""Measured accuracy: calibration, the store, the CSV."""

import sqlite3
from dataclasses import replace

import numpy as np
import pytest

from supernet.files import tables
from supernet.surrogates import accuracy_fit
from supernet.training import measured_accuracy
from supernet.training.accuracy_store import AccuracyStore, Measured
from supernet.training.measured_accuracy import SupernetAccuracy
from supernet.weights import network
from supernet.weights.images import Images


@pytest.fixture(scope="module")
def measured(trained_folder, tmp_path_factory):
    store = tmp_path_factory.mktemp("store") / "accuracies.sqlite"
    return SupernetAccuracy(folder=trained_folder, store=store)


def genomes_of(measured, count=4):
    return measured_accuracy.sample(measured.trained.space.restrict("r", 16, 20), count, seed=1)


def test_accuracy_is_that_of_the_calibrated_subnet(measured):
    """Against a forward pass over the validation images written here, with OFA's own recalibration."""
    import torch
    from ofa.imagenet_classification.elastic_nn.utils import set_running_statistics

    genomes = genomes_of(measured)
    predicted = measured.predict(genomes)
    assert measured.space == "ofa_small"
    assert measured.resolutions == (16, 20)
    data, space = measured.data, measured.trained.space
    for i in range(2):
        subnet = network.extract(measured.trained.module, space, genomes[i : i + 1])
        side = network.resolution(space, genomes[i : i + 1])
        set_running_statistics(subnet, data.batches("calibration", side, 128))
        subnet.eval()
        with torch.no_grad():
            right = [(subnet(x).argmax(1) == y).float() for x, y in data.batches("val", side, 100)]
        assert predicted.mean[i] == pytest.approx(torch.cat(right).mean().item(), abs=2 / 300)
    p = predicted.mean[0]
    assert predicted.std[0] == pytest.approx(np.sqrt(p * (1 - p) / 300), rel=0.05)
    assert (predicted.std > 0).all()


def test_calibration_matters(measured):
    """A supernet's own statistics are of a mixture of subnets: without calibration subnets lose most."""
    genomes = genomes_of(measured, 6)
    without = replace(measured, calibrated=False).predict(genomes).mean
    assert np.mean(measured.predict(genomes).mean - without) > 0.1


def test_nothing_is_measured_twice(measured, monkeypatch):
    genomes = genomes_of(measured)
    before = measured.predict(genomes)
    again = SupernetAccuracy(folder=measured.folder, store=measured.store)
    monkeypatch.setattr(SupernetAccuracy, "evaluate", lambda *_: pytest.fail("measured again"))
    order = np.array([3, 1, 0, 2, 1])
    assert (again.predict(genomes[order]).mean == before.mean[order]).all()
    with pytest.raises(pytest.fail.Exception):
        replace(again, part="test").predict(genomes)
    with pytest.raises(pytest.fail.Exception):
        replace(again, images=100).predict(genomes)
    other_side, space = genomes[:1].copy(), measured.trained.space
    other_side[:, space.index["r"]] = 1 + (other_side[:, space.index["r"]] == 1)
    with pytest.raises(pytest.fail.Exception):
        again.predict(other_side)


def test_foreign_genomes_are_refused(measured):
    space = measured.trained.space
    with pytest.raises(ValueError, match="known for resolutions 16 to 20"):
        measured.predict(network.largest(space))
    with pytest.raises(ValueError, match="no run folder"):
        Images.from_run_folder(measured.folder.parent)


def test_the_store_only_grows(tmp_path):
    store = AccuracyStore(tmp_path / "a.sqlite")
    facts = {"supernet": "x", "images": 10}
    store.add(facts, "net", Measured(7, 10, 0.5))
    store.add(facts, "net", Measured(9, 10, 0.5))  # first come, first kept
    assert AccuracyStore(tmp_path / "a.sqlite").values(facts) == {"net": Measured(7, 10, 0.5)}
    assert store.values({**facts, "images": 11}) == {}
    with sqlite3.connect(tmp_path / "a.sqlite") as database:
        for statement in ("UPDATE accuracies SET correct = 10", "DELETE FROM accuracies"):
            with pytest.raises(sqlite3.Error, match="only grows"):
                database.execute(statement)
    database.close()
    (tmp_path / "b.sqlite").write_text("not a database, but long enough to be taken for one " * 50)
    with pytest.raises(ValueError, match=r"b.sqlite cannot be used as the accuracy store"):
        AccuracyStore(tmp_path / "b.sqlite")


def test_csv_is_what_a_surrogate_is_fitted_on(measured, tmp_path):
    genomes = genomes_of(measured)
    counts = measured.measure(genomes)
    assert measured_accuracy.write_csv(tmp_path / "rows.csv", measured) >= 4
    columns = tables.read_columns(tmp_path / "rows.csv")
    space = measured.trained.space
    read = space.encode(columns)
    for genome, count in zip(genomes, counts, strict=True):
        row = int(np.flatnonzero((read == genome).all(axis=1))[0])
        assert columns["top1"][row] == pytest.approx(count / 300, abs=1e-6)
        assert columns["macs"][row] == space.layers(genome[None]).macs()[0]


def test_sample_has_the_ends_and_no_network_twice():
    from supernet.space import get_space

    space = get_space("ofa_small").restrict("r", 16, 16)
    found = measured_accuracy.sample(space, 50, seed=3)
    assert len(np.unique(found, axis=0)) == 50
    assert (found[0] == network.largest(space)[0]).all()
    assert (found[1] == network.smallest(space)[0]).all()
    assert (measured_accuracy.sample(space, 20, seed=3) == found[:20]).all()


def test_workers_give_the_same_values(measured, tmp_path):
    pytest.importorskip("ray", reason="the extra ray is not installed")
    genomes = genomes_of(measured)
    many = replace(measured, store=tmp_path / "ray.sqlite", workers=2)
    assert (many.measure(genomes) == measured.measure(genomes)).all()


def test_sample_curve_predicts_rows_left_out(rng):
    """Top-1 that is linear in the genes, with known noise: more rows, better ranks; intervals cover."""
    from supernet.space import get_space

    space = get_space("ofa_small").restrict("r", 16, 16)
    genomes = measured_accuracy.sample(space, 150, seed=0)
    hot = space.one_hot(genomes)
    top1 = 0.7 + hot @ rng.normal(0, 0.01, hot.shape[1]) + rng.normal(0, 0.002, len(hot))
    curve = accuracy_fit.sample_curve(space, genomes, top1, [15, 100], seeds=2)
    error = {n: np.abs(predicted.mean - truth).mean() for n, (predicted, truth) in curve.items()}
    assert error[100] < 0.6 * error[15]
    assert error[100] < 0.005
    assert all(len(truth) == 60 for _, truth in curve.values())
    with pytest.raises(ValueError, match="between 10 and 120"):
        accuracy_fit.sample_curve(space, genomes, top1, [130])
