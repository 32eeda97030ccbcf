"""Predictions whose errors are partly shared, and intervals with tails that are not normal."""

import numpy as np
import pytest
from scipy.stats import norm

from search.noisy_axis import Shared
from search.objective import Objective, axis
from supernet import prediction
from supernet.prediction import CONFIDENCES, NORMAL, Prediction, Tails
from supernet.space import get_space
from supernet.surrogates.training_cost import TrainingCost

HEAVY = Tails((0.6, 1.2, 1.7, 2.3, 3.5))


@pytest.mark.parametrize("confidence", [0.01, 0.3, *CONFIDENCES, 0.97, 0.999])
def test_normal_tails_are_those_of_the_normal_distribution(confidence):
    assert NORMAL.half_width(confidence) == pytest.approx(norm.ppf(0.5 + confidence / 2))


def test_tails_meet_their_half_widths_and_rise_in_between():
    assert [HEAVY.half_width(c) for c in CONFIDENCES] == pytest.approx(HEAVY.half_widths)
    widths = [HEAVY.half_width(c) for c in np.linspace(0, 0.9999, 200)]
    assert (np.diff(widths) > 0).all()
    assert widths[0] == 0
    assert HEAVY.quantile(0.5) == 0
    assert HEAVY.quantile(0.95) == pytest.approx(1.7)  # the upper end of the central 90%
    assert HEAVY.quantile(0.05) == pytest.approx(-1.7)


@pytest.mark.parametrize("widths", [(1.0, 2.0), (1.0, 1.1, 0.9, 1.2, 1.3), (0.0, 1.0, 2.0, 3.0, 4.0)])
def test_half_widths_must_make_sense(widths):
    with pytest.raises(ValueError, match="must be 5 positive numbers that do not fall"):
        Tails(widths)


def test_bounds_of_intervals_and_of_limits_follow_the_tails():
    predicted = Prediction(np.array([10.0, 20.0]), np.array([1.0, 2.0]), tails=HEAVY)
    low, high = predicted.interval(0.90)
    assert low == pytest.approx([8.3, 16.6])
    assert high == pytest.approx([11.7, 23.4])
    at_most = Objective("latency_ms", "ms", lambda genomes: predicted, limit=23.0, confidence=0.95)
    assert at_most.bound(predicted) == pytest.approx([11.7, 23.4])
    assert at_most.violation(predicted) == pytest.approx([0, 0.4 / 23])
    at_least = Objective("accuracy", "", lambda genomes: predicted, maximize=True, confidence=0.95)
    assert at_least.bound(predicted) == pytest.approx([8.3, 16.6])


def test_the_shared_part_is_contained_in_the_whole():
    predicted = Prediction(np.ones(2), np.array([5.0, 13.0]), np.array([[3.0, 0.0], [3.0, 4.0]]))
    assert predicted.own == pytest.approx([4, 12])
    double = predicted.scaled(2)
    assert double.own == pytest.approx([8, 24])
    assert predicted.take(np.array([1])).own == pytest.approx([12])


def test_predictions_of_two_models_share_nothing_with_each_other():
    first = Prediction(np.array([1.0, 2.0, 3.0]), np.full(3, 2.0), np.full((3, 1), 1.0), HEAVY)
    second = Prediction(np.array([7.0, 8.0, 9.0]), np.full(3, 4.0), np.full((3, 2), 2.0))
    both = prediction.where(np.array([True, False, True]), first, second)
    assert both.mean.tolist() == [1, 8, 3]
    assert both.shared.tolist() == [[1, 0, 0], [0, 2, 2], [1, 0, 0]]
    assert both.own == pytest.approx([np.sqrt(3), np.sqrt(8), np.sqrt(3)])
    assert both.tails.half_widths == tuple(np.maximum(HEAVY.half_widths, NORMAL.half_widths))
    exact = prediction.exact(np.ones(3))
    assert prediction.where(np.array([True, False, False]), exact, exact).shared is None


def test_drawn_errors_have_the_covariance_of_the_loadings():
    """Var = diag(own^2) + loadings loadings', which a draw of 200,000 meets within its error."""
    loadings = np.array([[1.0, 0.5], [1.0, -0.5], [0.2, 0.0]])
    std = np.sqrt((loadings**2).sum(axis=1) + 0.3**2)
    latency = Prediction(np.array([4.0, 5.0, 6.0]), std, loadings)
    drawn = axis("latency_ms", latency, np.arange(3), unit="ms", maximize=False).draw(0, 0, 200_000)
    expected = loadings @ loadings.T + 0.3**2 * np.eye(3)
    assert np.cov(drawn.T) == pytest.approx(expected, abs=0.02)
    assert drawn.mean(axis=0) == pytest.approx([4, 5, 6], abs=0.02)
    assert Shared(loadings).draw(np.random.default_rng(0), 7).shape == (7, 3)


def test_training_costs_are_off_by_one_factor(rng):
    space = get_space("ofa_mbv3_w1.0")
    hours = TrainingCost().usd(space, space.sample(20, rng))
    assert (hours.own == 0).all()
    assert np.allclose(hours.shared[:, 0], hours.std)
