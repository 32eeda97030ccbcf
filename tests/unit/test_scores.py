"""Scores and prediction intervals against hand-computed values."""

import numpy as np
import pytest
from scipy.stats import norm

from latency.scores import markdown, scores
from supernet.prediction import Prediction


def test_scores_by_hand():
    measured = np.array([10.0, 20.0, 30.0, 40.0])
    predicted = Prediction(np.array([10.4, 18.0, 33.6, 40.0]), np.array([1.0, 1.0, 1.0, 1.0]))
    row = scores(predicted, measured)
    assert " ".join(row) == "n mae rmse mape median_ape within_5 within_10 spearman kendall coverage_90"
    assert row["n"] == 4
    assert row["mae"] == pytest.approx((0.4 + 2 + 3.6 + 0) / 4)
    assert row["rmse"] == pytest.approx(np.sqrt((0.16 + 4 + 12.96) / 4))
    assert row["mape"] == pytest.approx((4 + 10 + 12 + 0) / 4)
    assert row["median_ape"] == pytest.approx(7)
    assert row["within_5"] == 50
    assert row["within_10"] == 75
    assert row["spearman"] == row["kendall"] == pytest.approx(1)
    assert row["coverage_90"] == 50
    assert markdown({"x": row}).count("\n") == 2


def test_ranks_are_tie_aware():
    """tau-b of (1,1,2) against (1,2,3): 2 concordant, 1 tied pair in one: 2 / sqrt(3 * 2)."""
    row = scores(Prediction(np.array([1.0, 1.0, 2.0]), np.ones(3)), np.array([1.0, 2.0, 3.0]))
    assert row["kendall"] == pytest.approx(2 / np.sqrt(6))
    constant = scores(Prediction(np.ones(3), np.ones(3)), np.array([1.0, 2.0, 3.0]))
    assert np.isnan(constant["spearman"])


def test_score_needs_as_many_predictions_as_measurements():
    with pytest.raises(ValueError, match="2 predictions for 3"):
        scores(Prediction(np.ones(2), np.ones(2)), np.ones(3))


def test_intervals_of_the_normal_distribution():
    predicted = Prediction(np.array([5.0]), np.array([2.0]))
    low, high = predicted.interval(0.9)
    assert norm.cdf(high, 5, 2) - norm.cdf(low, 5, 2) == pytest.approx(0.9)
    assert norm.cdf(predicted.upper(0.8), 5, 2) == pytest.approx(0.8)
