"""Conditioning and evidence against the textbook formulas, with plain inverses and one row at a time."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from supernet.fits import gaussian


@pytest.fixture
def rows(rng):
    """Covariance of 12 known values (noise included), of 4 new ones with them, of these; the values."""
    x = rng.standard_normal((16, 3))
    joint = np.exp(-((x[:, None] - x) ** 2).sum(axis=2))
    return joint[:12, :12] + 0.1 * np.eye(12), joint[12:, :12], joint[12:, 12:], rng.standard_normal(12)


def test_posterior_and_evidence_are_the_textbook_ones(rows):
    known, cross, own, values = rows
    process = gaussian.condition(known, values)
    inverse = np.linalg.inv(known)
    assert np.allclose(process.mean(cross), cross @ inverse @ values)
    assert np.allclose(process.variance(np.diag(own), cross), np.diag(own - cross @ inverse @ cross.T))
    assert np.allclose(process.inverse(), inverse)
    assert np.allclose(process.solve(cross.T), inverse @ cross.T)
    assert np.allclose(process.factor @ process.factor.T, known)
    other = known + np.eye(12)
    gain = gaussian.condition(other, values).log_evidence - process.log_evidence
    logs = [multivariate_normal(np.zeros(12), covariance).logpdf(values) for covariance in (known, other)]
    assert gain == pytest.approx(logs[1] - logs[0])


def test_left_out_residuals_are_those_of_fits_without_the_row(rows):
    known, _, _, values = rows
    left_out = gaussian.condition(known, values).left_out()
    for i in range(12):
        rest = np.arange(12) != i
        without = gaussian.condition(known[np.ix_(rest, rest)], values[rest])
        assert left_out[i] == pytest.approx(values[i] - without.mean(known[i, rest]))


@pytest.mark.parametrize("prior", [None, (np.array([0.5, -1.0]), np.array([0.3, 2.0]))])
def test_the_most_likely_scale_and_noise(rows, prior, rng):
    """A kernel of one parameter: the gradient by differences; the optimum beats its neighbours."""
    shape = rows[0] - 0.1 * np.eye(12)
    values = np.linalg.cholesky(4 * shape + 0.3 * np.eye(12)) @ rng.standard_normal(12)

    def kernel(theta):
        return np.exp(theta[0]) * shape, lambda slope: np.array([np.exp(theta[0]) * (slope * shape).sum()])

    def cost(theta):
        return gaussian.negative_log_posterior(theta, kernel, values, prior)

    start = np.array([0.3, -0.7])
    for step in 1e-5 * np.eye(2):
        slope = (cost(start + step)[0] - cost(start - step)[0]) / 2e-5
        assert cost(start)[1] @ step == pytest.approx(1e-5 * slope, rel=1e-4)
    bounds = [(-9.0, 9.0), (-6.0, 2.0)]
    best = gaussian.most_likely(kernel, values, start, bounds=bounds, iterations=100, prior=prior)
    for step in 0.1 * np.vstack([np.eye(2), -np.eye(2)]):
        assert cost(np.clip(best + step, -6, 9))[0] >= cost(best)[0]
