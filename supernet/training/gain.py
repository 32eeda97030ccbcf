"""Accuracy after fine-tuning, predicted from the accuracy before it: what a few fine-tuned subnets tell of
the others.

A Bayesian line through (before, after), ours: fine-tuning brings weak subnets nearer to the strong ones, so
the slope is expected between 0 (all end alike) and 1 (all gain alike).

Letters: n subnets, k fine-tuned ones.
"""

from dataclasses import dataclass

import numpy as np

from supernet.arrays import Floats
from supernet.prediction import QUANTILE, Prediction

FEWEST = 3  # subnets that tell a line and how far they are off it
SLOPE, SLOPE_STD = 0.5, 0.5  # prior
ROUNDS = 10  # of the spread about the line, which the weight of the prior depends on
CHANCE = 2  # further subnets that are off by no more than the sampling of images: a few can agree by chance
QUANTILE_OF = 0.95  # of Student's distribution, where the normal one is made as wide


@dataclass(frozen=True, eq=False)
class Gain:
    """after = level + slope (before - centre), in fractions of top-1."""

    centre: float  # mean accuracy before
    line: Floats  # (2,) level and slope
    loadings: Floats  # (2, 2) what one standard deviation of two independent errors does to level and slope
    spread: float  # of a subnet about the line

    def after(self, before: Floats) -> Prediction:
        """(n,) accuracy after fine-tuning; the errors of the line are shared by all subnets."""
        rows = np.stack([np.ones_like(before), before - self.centre], axis=1)
        shared = rows @ self.loadings
        std = np.sqrt(self.spread**2 + (shared**2).sum(axis=1))
        return Prediction(np.clip(rows @ self.line, 0, 1), std, shared)

    def describe(self) -> str:
        """The gain at the centre with the 90% interval of one more subnet, and its slope."""
        middle = self.after(np.array([self.centre]))
        gain, half = 100 * (middle.mean[0] - self.centre), 100 * QUANTILE(0.95) * middle.std[0]
        return (
            f"{gain:+.2f} points (+-{half:.2f}) at {100 * self.centre:.1f}% before, "
            f"{self.line[1] - 1:+.2f} per point more"
        )


def fit(before: Floats, after: Floats, images: int) -> Gain:
    """The line through the accuracies (k,) before and after, both on so many images.

    `spread` follows from the residuals, with `CHANCE` more of the size of the sampling error; it and the
    uncertainty of the line are widened as Student's distribution of so few subnets is wider than the normal
    one. ValueError for fewer than `FEWEST` subnets.

    >>> gain = fit(np.array([0.60, 0.64, 0.68]), np.array([0.66, 0.69, 0.72]), images=10_000)
    >>> gain.after(np.array([0.62])).mean.round(3)
    array([0.675])
    """
    from scipy.special import stdtrit

    if len(before) < FEWEST:
        raise ValueError(f"{len(before)} fine-tuned subnets are too few to predict others: at least {FEWEST}")
    rows = np.stack([np.ones_like(before), before - before.mean()], axis=1)
    precision, expected = np.diag([0.0, SLOPE_STD**-2]), np.array([0.0, SLOPE])
    shrunk = (images * after.mean() + 1) / (images + 2)
    chance = shrunk * (1 - shrunk) / images
    variance = chance
    for _ in range(ROUNDS):
        covariance = np.linalg.inv(rows.T @ rows / variance + precision)
        line = covariance @ (rows.T @ after / variance + precision @ expected)
        used = float(np.einsum("ij,jk,ik->", rows, covariance, rows)) / variance  # degrees of freedom
        left = len(before) - used + CHANCE
        variance = (((after - rows @ line) ** 2).sum() + CHANCE * chance) / left
    wider = float(stdtrit(left, QUANTILE_OF)) / QUANTILE(QUANTILE_OF)
    loadings = wider * np.linalg.cholesky(covariance)
    return Gain(float(before.mean()), line, loadings, wider * float(np.sqrt(variance)))
