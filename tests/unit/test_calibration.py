"""Calibration of accuracies: the line in the logarithm of the error, and its fit to few networks."""

from dataclasses import replace

import numpy as np
import pytest

from supernet.files.tables import read_columns
from supernet.prediction import Prediction
from supernet.space import get_space
from supernet.surrogates import accuracy, calibration_fit
from supernet.surrogates.calibration import Calibration
from supernet.surrogates.calibration_fit import Difference, Networks

COEFFICIENTS = np.array([[0.0, 0.0, -0.3], [-0.02, -0.2, -0.3], [-0.045, -0.2, -0.3]])
DIFFERENCES = {"own": Difference("one"), "wider": Difference("one", offset=(-0.08, 0.1))}


@pytest.fixture
def calibration():
    loadings = 0.01 * np.random.default_rng(0).standard_normal((3, 3, 2))
    return Calibration(COEFFICIENTS, loadings, np.array([[0.0, 0.02], [0.005, 0.0], [0.005, 0.0]]))


def some_networks(n=200, noise=0.004, seed=0):
    """Networks of two supernets whose accuracies follow known lines."""
    rng = np.random.default_rng(seed)
    wider, recipe = rng.integers(0, 2, n), rng.integers(0, 3, n)
    side, base = rng.choice(np.arange(128, 261, 4), n), rng.uniform(0.70, 0.78, n)
    u, rho = np.log((1 - base) / 0.24), np.log(side / 224)
    c = COEFFICIENTS[recipe]
    log_error = np.log(1 - base) + c[:, 0] + c[:, 1] * u + c[:, 2] * rho - 0.08 * wider
    top1 = 1 - np.exp(log_error + noise * rng.standard_normal(n))
    names = np.array(["own", "wider"])[wider]
    device = np.array([f"device {i % 5}" for i in range(n)])
    return Networks(names, device, recipe, side, top1, base, np.full(n, 1e-4), np.eye(n, dtype=bool))


def test_one_network_at_a_time_by_the_formula(calibration):
    base = Prediction(np.array([0.70, 0.76, 0.78]), np.array([0.001, 0.002, 0.0005]))
    got = calibration.apply(base, np.array([0, 1, 2]), np.array([128, 224, 260]))
    for i, side in enumerate((128, 224, 260)):
        error = 1 - base.mean[i]
        line = np.array([1.0, np.log(error / 0.24), np.log(side / 224)])
        after = error * np.exp(COEFFICIENTS[i] @ line)
        assert got.mean[i] == pytest.approx(1 - after)
        own = calibration.own[i, 0] ** 2 + (calibration.own[i, 1] * line[2]) ** 2
        own += ((1 + COEFFICIENTS[i, 1]) * base.std[i] / error) ** 2
        shared = line @ calibration.loadings[i]
        assert got.std[i] == pytest.approx(after * np.sqrt(own + shared @ shared))
        assert got.own[i] == pytest.approx(after * np.sqrt(own))


def test_a_shared_error_moves_networks_as_a_change_of_the_coefficients_does(calibration):
    base = Prediction(np.linspace(0.68, 0.77, 12), np.full(12, 0.001))
    recipe, side = np.arange(12) % 3, np.linspace(128, 260, 12)
    told, small = calibration.apply(base, recipe, side), 1e-4
    for k in range(2):
        moved = replace(calibration, coefficients=COEFFICIENTS + small * calibration.loadings[:, :, k])
        change = (moved.apply(base, recipe, side).mean - told.mean) / small
        assert np.allclose(change, told.shared[:, k], atol=1e-6)


def test_strong_networks_lose_nothing_by_fine_tuning(calibration):
    base = Prediction(np.array([0.70, 0.80, 0.85, 0.90]), np.full(4, 0.001))
    before, after = (calibration.apply(base, np.full(4, t), np.full(4, 224)).mean for t in (0, 1))
    assert after[0] > before[0]
    assert (after >= before).all()
    assert after[-1] == before[-1]


def test_side_can_be_left_to_the_surrogate(calibration):
    base, recipe = Prediction(np.full(3, 0.75), np.full(3, 0.001)), np.arange(3)
    here, there = (calibration.at_any_side().apply(base, recipe, np.full(3, r)) for r in (128, 224))
    assert (here.mean == there.mean).all()
    assert (here.std == there.std).all()


def test_arrays_restore_it_and_nothing_else(calibration):
    again = Calibration.from_arrays(calibration.arrays())
    assert (again.coefficients == calibration.coefficients).all()
    assert (again.loadings == calibration.loadings).all()
    assert Calibration.from_arrays({}) is None
    with pytest.raises(ValueError, match="its calibration has the shapes"):
        replace(calibration, own=np.zeros((2, 2)))


def test_the_fit_finds_the_lines_of_many_networks():
    fitted = calibration_fit.fit(some_networks(), DIFFERENCES)
    own, wider = fitted.calibration("own"), fitted.calibration("wider")
    assert np.allclose(own.coefficients, COEFFICIENTS, atol=0.02)
    assert np.allclose((wider.coefficients - own.coefficients)[:, 0], -0.08, atol=0.005)
    assert 0.003 < fitted.deviation["one"] < 0.005
    assert (own.coefficients[0, :2] == 0).all()  # measured in itself


def test_intervals_for_new_networks_hold():
    """Twelve networks are fitted, 200 others judged; 20 times."""
    inside = []
    for seed in range(20):
        fitted = calibration_fit.fit(some_networks(12, seed=seed), DIFFERENCES)
        new = some_networks(200, seed=100 + seed)
        low, high = fitted.predict(new).interval(0.9)
        inside.append(((low <= new.top1) & (new.top1 <= high)).mean())
    assert 0.85 <= np.mean(inside) <= 0.97


def test_what_is_left_out_does_not_tell():
    networks = some_networks(30)
    mine = networks.device == "device 2"
    first = calibration_fit.left_out(networks, DIFFERENCES)
    other = replace(networks, top1=np.where(mine, 0.5, networks.top1))
    second = calibration_fit.left_out(other, DIFFERENCES)
    assert np.allclose(first.mean[mine], second.mean[mine], atol=1e-9)
    assert not np.allclose(first.mean[~mine], second.mean[~mine], atol=1e-4)


def test_the_same_network_twice_is_not_two_witnesses():
    """Two sides of one network share what the surrogate has wrong of it, so they say less of an offset."""
    networks = replace(some_networks(2), supernet=np.array(["wider"] * 2), base_std=np.full(2, 0.01))
    same = replace(networks, same=np.ones((2, 2), bool))
    j = (fitted := calibration_fit.fit(networks, DIFFERENCES)).names.index("wider offset")
    twice = calibration_fit.fit(same, DIFFERENCES)
    assert twice.covariance[j, j] > 1.1 * fitted.covariance[j, j]


def test_published_sides_beyond_the_search_have_an_accuracy(data):
    rows = read_columns(data / "ofa_published_nets.csv")
    wide = {name: values[rows["space"] == "ofa_mbv3_w1.2"] for name, values in rows.items()}
    predicted = accuracy.load("ofa_mbv3_w1.2").predict(get_space("ofa_mbv3_w1.2").encode(wide))
    assert (wide["r"] > 224).any()
    assert np.abs(100 * predicted.mean - wide["top1"]).max() < 0.25
