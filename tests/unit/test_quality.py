"""Quality of logits against torch, scikit-learn and cases worked out by hand."""

import numpy as np
import pytest
import torch

from supernet.weights import quality


def of_logits(logits, labels):
    batch = torch.zeros(len(labels), 3, 1, 1), torch.from_numpy(labels)
    return quality.evaluate(lambda images: logits, [batch])


def test_accuracies_and_loss_agree_with_scikit_learn(rng):
    from sklearn.metrics import log_loss, top_k_accuracy_score

    logits, labels = rng.normal(0, 2, (200, 8)), rng.integers(0, 8, 200)
    found = of_logits(logits, labels)
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert found.top1 == pytest.approx(top_k_accuracy_score(labels, logits, k=1, labels=range(8)))
    assert found.top5 == pytest.approx(top_k_accuracy_score(labels, logits, k=5, labels=range(8)))
    assert found.loss == pytest.approx(log_loss(labels, chances, labels=range(8)))


def test_calibration_error_of_two_bins():
    """Three images at confidence .9, two of them right, and a wrong one at .6: (3 |2/3 - .9| + .6) / 4."""
    chances = np.array([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.6, 0.4]])
    found = of_logits(np.log(chances), np.array([0, 0, 1, 1]))
    assert found.ece == pytest.approx((3 * abs(2 / 3 - 0.9) + 0.6) / 4)


def test_large_logits_do_not_overflow():
    found = of_logits(np.array([[1e4, 0.0], [0.0, 1e4]]), np.array([0, 0]))
    assert found.loss == pytest.approx(5e3)
    assert (found.top1, found.top5, found.ece) == (0.5, 1.0, 0.5)


def test_labels_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="1 labels"):
        of_logits(np.zeros((2, 3)), np.array([0]))
    with pytest.raises(ValueError, match=r"0\.\.2"):
        of_logits(np.zeros((1, 3)), np.array([3]))
