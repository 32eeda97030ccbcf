"""Prediction: a mean and a standard deviation per architecture, and the intervals that follow."""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from supernet.arrays import Floats

QUANTILE = NormalDist().inv_cdf  # of the standard normal distribution; scipy's takes .2 s to import


@dataclass(frozen=True)
class Prediction:
    """Normal predictive distribution of what a measurement would show, noise of the measurement included."""

    mean: Floats  # (n,) in the unit of what is predicted
    std: Floats  # (n,) same unit

    def upper(self, confidence: float) -> Floats:
        """(n,) value that the measurement stays below with this probability."""
        return self.mean + QUANTILE(confidence) * self.std

    def interval(self, confidence: float) -> tuple[Floats, Floats]:
        """(n,), (n,) central interval that holds the measurement with this probability."""
        half = QUANTILE(0.5 + confidence / 2) * self.std
        return self.mean - half, self.mean + half

    def scaled(self, factor: float) -> "Prediction":
        """The same in another unit."""
        return Prediction(self.mean * factor, self.std * factor)


def exact(values: Floats) -> Prediction:
    """A prediction without uncertainty: quantities that follow from the architecture alone."""
    return Prediction(values, np.zeros_like(values))


def where(mask: NDArray[np.bool_], first: Prediction, second: Prediction) -> Prediction:
    """`first` for the architectures in the (n,) mask, `second` for the others."""
    return Prediction(np.where(mask, first.mean, second.mean), np.where(mask, first.std, second.std))
