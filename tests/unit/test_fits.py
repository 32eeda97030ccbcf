"""Statistics that predictors share, against closed forms."""

import numpy as np
import pytest

from supernet.fits import folds, robust


def test_the_spread_is_the_standard_deviation_of_normal_residuals_and_ignores_outliers():
    residuals = np.random.default_rng(0).normal(0, 0.3, 100_001)
    assert robust.spread(residuals) == pytest.approx(0.3, rel=0.01)
    residuals[:10_000] = 1e6
    assert robust.spread(residuals) < 0.4
    assert robust.spread(np.zeros(3), floor=1e-6) == 1e-6


def test_a_residual_at_the_cutoff_counts_half():
    weights = robust.cauchy_weights(np.array([0.0, -2.0, 6.0]), spread=1.0)
    np.testing.assert_allclose(weights, [1, 0.5, 0.1])
    np.testing.assert_allclose(robust.cauchy_weights(np.array([3.0]), 1.0, cutoff=3.0), [0.5])


def test_reweighting_finds_the_line_that_a_third_of_the_rows_does_not_follow():
    rng = np.random.default_rng(1)
    x = rng.uniform(1, 2, 60)
    y, weights = 3 * x + rng.normal(0, 0.01, 60), np.ones(60)
    y[:20] += 5
    for _ in range(20):
        slope = (weights * x) @ y / ((weights * x) @ x)
        residuals = y - slope * x
        weights = robust.cauchy_weights(residuals, robust.spread(residuals, 1e-6))
    assert slope == pytest.approx(3, abs=0.02)


@pytest.mark.parametrize(("n", "count", "sizes"), [(23, 5, {4, 5}), (5, 5, {1}), (3, 5, {1})])
def test_folds_are_nearly_equal_and_never_empty(n, count, sizes):
    fold = folds.random_folds(n, count)
    assert set(np.bincount(fold)) == sizes
    assert (fold == folds.random_folds(n, count)).all()


def test_few_rows_are_left_out_one_by_one():
    assert sorted(folds.random_folds(20, 10, singly_up_to=20)) == list(range(20))
    assert folds.random_folds(21, 10, singly_up_to=20).max() == 9


def test_left_out_predictions_come_back_in_the_order_of_the_rows():
    values = np.random.default_rng(0).normal(size=17)
    fold = folds.random_folds(17, 17)
    means = folds.left_out(fold, lambda kept, out: np.full(len(out), values[kept].mean()))
    np.testing.assert_allclose(means, (values.sum() - values) / 16)  # the closed form of leave-one-out means
    both = folds.left_out(folds.random_folds(17, 3), lambda kept, out: np.stack([values[out], -values[out]]))
    np.testing.assert_array_equal(both, np.stack([values, -values]))
