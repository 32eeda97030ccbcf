"""Accuracy after fine-tuning, predicted from a few subnets that were fine-tuned."""

import numpy as np
import pytest

from supernet.training import gain


def test_many_subnets_give_the_line_of_least_squares(rng):
    before = rng.uniform(0.6, 0.7, 400)
    after = 0.75 + 0.3 * (before - 0.65) + rng.normal(0, 0.004, 400)
    line = gain.fit(before, after, images=100_000)
    slope, level = np.polyfit(before, after, 1)
    predicted = line.after(np.array([0.62, 0.66, 0.69]))
    assert predicted.mean == pytest.approx(level + slope * np.array([0.62, 0.66, 0.69]), abs=1e-4)
    assert predicted.std == pytest.approx(0.004, rel=0.1)
    assert (np.linalg.norm(predicted.shared, axis=1) < 0.001).all()


@pytest.mark.parametrize("count", [3, 6])
def test_intervals_hold_with_few_subnets(rng, count):
    """Slopes as the prior expects them, 300 supernets of which a few subnets were fine-tuned."""
    inside = []
    for _ in range(300):
        slope, spread = rng.uniform(0, 1), rng.uniform(0.002, 0.01)
        before = rng.normal(0.7, 0.02, count + 20)
        after = 0.8 + slope * (before - 0.7) + rng.normal(0, spread, count + 20)
        line = gain.fit(before[:count], after[:count], images=10_000)
        low, high = line.after(before[count:]).interval(0.90)
        inside.append(((low <= after[count:]) & (after[count:] <= high)).mean())
    assert 0.86 < np.mean(inside) < 0.97


def test_equal_accuracies_tell_no_slope():
    line = gain.fit(np.full(4, 0.9), np.array([0.95, 0.96, 0.95, 0.96]), images=1000)
    assert line.line == pytest.approx([0.955, gain.SLOPE])
    assert "+5.50 points" in line.describe()
    far, near = line.after(np.array([0.5, 0.9])).std
    assert far > 0.1 > near


def test_accuracies_stay_fractions():
    line = gain.fit(np.array([0.2, 0.5, 0.9]), np.array([0.5, 0.8, 0.99]), images=100)
    assert (line.after(np.array([0.0, 1.0])).mean <= 1).all()
    with pytest.raises(ValueError, match="2 fine-tuned subnets are too few"):
        gain.fit(np.array([0.5, 0.6]), np.array([0.6, 0.7]), images=100)
