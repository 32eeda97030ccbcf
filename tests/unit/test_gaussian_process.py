"""The process over genes against Gaussian process regression written out, and what it is asked for."""

from dataclasses import replace

import numpy as np
import pytest

from search.searchers import gaussian_process
from supernet import footprint
from supernet.fits import gaussian
from supernet.space import get_space

SPACE = get_space("ofa_mbv3_w1.0").restrict("r", 160, 224).restrict("finetune_epochs", 0, 0)


@pytest.fixture(scope="module")
def made_up():
    """300 networks whose value grows with MACs and kernels, with a term of pairs and noise .02."""
    rng = np.random.default_rng(0)
    genomes = SPACE.sample(300, rng)
    size = np.log(footprint.compute(SPACE, genomes, "macs"))
    x = SPACE.one_hot(genomes)
    wavy = np.sin(x @ rng.standard_normal(x.shape[1]) / 4) / 4
    return genomes, size + wavy + 0.02 * rng.standard_normal(300)


@pytest.fixture(scope="module")
def fitted(made_up):
    genomes, values = made_up
    return gaussian_process.fit(SPACE, genomes[:80], values[:80])


def features(process, genomes):
    logs = np.log(
        np.stack(
            [footprint.compute(SPACE, genomes, "macs") + 1, footprint.compute(SPACE, genomes, "params") + 1],
            axis=1,
        )
    )
    return np.hstack(
        [
            SPACE.one_hot(genomes)[:, process.inputs.columns],
            (logs - process.inputs.centre) / process.inputs.width,
        ]
    )


def kernel(process, p, q):
    """One pair of feature rows at a time."""
    smooth = process.bend * np.exp(-sum(process.reach**2 * (p - q) ** 2))
    return 1 + sum(process.pull**2 * p * q) + smooth


def test_posterior_is_the_textbook_one(made_up, fitted):
    genomes, values = made_up
    known, new = features(fitted, genomes[:80]), features(fitted, genomes[80:100])
    gram = np.array([[kernel(fitted, p, q) for q in known] for p in known])
    cross = np.array([[kernel(fitted, p, q) for q in known] for p in new])
    own = np.array([[kernel(fitted, p, q) for q in new] for p in new])
    noisy = gram + (fitted.noise + gaussian.JITTER) * np.eye(80)
    y = (values[:80] - values[:80].mean()) / values[:80].std()
    mean = values[:80].mean() + values[:80].std() * cross @ np.linalg.solve(noisy, y)
    covariance = values[:80].var() * (own - cross @ np.linalg.solve(noisy, cross.T))
    predicted = fitted.predict(genomes[80:100])
    assert np.allclose(fitted.mean(genomes[80:100]), mean)
    assert np.allclose(predicted.mean, mean)
    assert np.allclose(predicted.std**2, np.diag(covariance) + values[:80].var() * fitted.noise)
    draws = fitted.draws(genomes[80:100], np.random.default_rng(0).standard_normal((40_000, 20)))
    assert np.allclose(draws.mean(axis=0), mean, atol=0.03 * np.sqrt(covariance.max()))
    assert np.allclose(np.cov(draws.T), covariance, atol=0.04 * covariance.max())


def test_it_learns_and_knows_how_well(made_up, fitted):
    genomes, values = made_up
    predicted = fitted.predict(genomes[80:])
    error = predicted.mean - values[80:]
    assert np.sqrt(np.mean(error**2)) < 0.6 * values.std()
    low, high = predicted.interval(0.9)
    assert 0.8 < ((low <= values[80:]) & (values[80:] <= high)).mean() < 0.98


def test_gradient_against_differences(made_up, fitted):
    genomes, values = made_up
    x = features(fitted, genomes[:40])
    kernel, prior = gaussian_process.grouped_kernel(x, fitted.inputs.groups())
    theta = prior[0] + 0.3 * np.random.default_rng(0).standard_normal(len(prior[0]))
    target = (values[:40] - values[:40].mean()) / values[:40].std()
    _, gradient = gaussian.negative_log_posterior(theta, kernel, target, prior)
    for j in range(len(theta)):
        step = 1e-5 * np.eye(len(theta))[j]
        above, _ = gaussian.negative_log_posterior(theta + step, kernel, target, prior)
        below, _ = gaussian.negative_log_posterior(theta - step, kernel, target, prior)
        assert gradient[j] == pytest.approx((above - below) / 2e-5, rel=1e-3, abs=1e-4)


def test_the_kernel_that_is_fitted_is_the_one_that_predicts(made_up, fitted):
    x, groups = features(fitted, made_up[0][:20]), fitted.inputs.groups()
    kernel, _ = gaussian_process.grouped_kernel(x, groups)
    first = [int(np.flatnonzero(groups == g)[0]) for g in range(groups.max() + 1)]
    theta = np.concatenate(
        [np.log(fitted.pull[first]), 2 * np.log(fitted.reach[first]), [0.5 * np.log(fitted.bend)]]
    )
    expected = gaussian_process.covariance(x, x, fitted.pull, fitted.reach, fitted.bend)
    assert np.allclose(kernel(theta)[0], expected)


def test_many_rows_are_all_known_to_it(made_up):
    """Hyper-parameters come from 200 of 300 rows, predictions from all: it nearly knows each of them."""
    genomes, values = made_up
    process = gaussian_process.fit(SPACE, genomes, values)
    assert len(process.rows) == 300
    left = process.mean(genomes) - values
    assert np.abs(left).max() < 4 * process.scale * np.sqrt(process.noise) + 1e-9


def test_what_never_varies_is_predicted_as_it_is(rng):
    genomes = SPACE.sample(12, rng)
    same = gaussian_process.fit(SPACE, genomes, np.full(12, 0.3))
    assert np.allclose(same.mean(SPACE.sample(5, rng)), 0.3)
    one = replace(SPACE, axes=tuple(replace(axis, values=axis.values[:1]) for axis in SPACE.axes))
    with pytest.raises(ValueError, match="1 known architectures are too few"):
        gaussian_process.fit(one, one.sample(1, rng), np.ones(1))
