"""Prediction: a mean and a standard deviation per architecture, the errors that architectures share, and the
intervals that follow.

Letters: n architectures, k errors common to all networks.
"""

from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from supernet.arrays import Floats, Ints

QUANTILE = NormalDist().inv_cdf  # of the standard normal distribution; scipy's takes .2 s to import
CONFIDENCES = (0.50, 0.80, 0.90, 0.95, 0.99)  # of intervals that are calibrated and judged
_NORMAL_HALF_WIDTHS = tuple(QUANTILE(0.5 + confidence / 2) for confidence in CONFIDENCES)


@dataclass(frozen=True)
class Tails:
    """Half widths of the central intervals at `CONFIDENCES`, in standard deviations.

    In between, a half width is interpolated on the scale of normal quantiles; beyond the last it grows in
    proportion to them. ValueError unless the widths are positive and do not fall.

    >>> Tails((0.6, 1.2, 1.7, 2.2, 3.4)).half_width(0.90)
    1.7
    """

    half_widths: tuple[float, ...] = _NORMAL_HALF_WIDTHS

    def __post_init__(self) -> None:
        widths = np.array(self.half_widths)
        if len(widths) != len(CONFIDENCES) or not (widths > 0).all() or (np.diff(widths) < 0).any():
            raise ValueError(
                f"half_widths={self.half_widths} must be {len(CONFIDENCES)} positive numbers that do not "
                f"fall, of the central intervals at {CONFIDENCES}"
            )

    def half_width(self, confidence: float) -> float:
        """Of the central interval that holds a measurement with this probability, in standard deviations."""
        normal, last = QUANTILE(0.5 + confidence / 2), _NORMAL_HALF_WIDTHS[-1]
        if normal > last:
            return self.half_widths[-1] * normal / last
        return float(np.interp(normal, (0.0, *_NORMAL_HALF_WIDTHS), (0.0, *self.half_widths)))

    def quantile(self, probability: float) -> float:
        """What a measurement stays below with this probability, in standard deviations from the mean."""
        half = self.half_width(abs(2 * probability - 1))
        return half if probability >= 0.5 else -half


NORMAL = Tails()


@dataclass(frozen=True)
class Prediction:
    """What a measurement would show, noise of the measurement included.

    `shared` says how one standard deviation of each of k independent errors, which are the same for all
    networks, moves each network; its part of the variance is contained in `std`. None: errors of different
    networks are independent.
    """

    mean: Floats  # (n,) in the unit of what is predicted
    std: Floats  # (n,) same unit, of the whole error
    shared: Floats | NDArray[np.float32] | None = None  # (n, k) same unit
    tails: Tails = NORMAL

    @property
    def own(self) -> Floats:
        """(n,) standard deviation of the part of the error that no other network has."""
        if self.shared is None:
            return self.std
        return np.asarray(np.sqrt(np.maximum(self.std**2 - (self.shared**2).sum(axis=1), 0)))

    def upper(self, confidence: float) -> Floats:
        """(n,) value that the measurement stays below with this probability."""
        return self.mean + self.tails.quantile(confidence) * self.std

    def interval(self, confidence: float) -> tuple[Floats, Floats]:
        """(n,), (n,) central interval that holds the measurement with this probability."""
        half = self.tails.half_width(confidence) * self.std
        return self.mean - half, self.mean + half

    def scaled(self, factor: float) -> "Prediction":
        """The same in another unit."""
        shared = None if self.shared is None else self.shared * factor
        return replace(self, mean=self.mean * factor, std=self.std * factor, shared=shared)

    def take(self, rows: Ints | NDArray[np.bool_]) -> "Prediction":
        """The predictions of these rows."""
        shared = None if self.shared is None else self.shared[rows]
        return replace(self, mean=self.mean[rows], std=self.std[rows], shared=shared)


def exact(values: Floats) -> Prediction:
    """A prediction without uncertainty: quantities that follow from the architecture alone."""
    return Prediction(values, np.zeros_like(values))


def where(mask: NDArray[np.bool_], first: Prediction, second: Prediction) -> Prediction:
    """`first` for the architectures in the (n,) mask, `second` for the others.

    They are of two models, whose shared errors are independent. Where their tails differ, intervals take the
    wider ones.
    """
    columns = [
        np.where(own[:, None], one.shared, 0)
        for own, one in ((mask, first), (~mask, second))
        if one.shared is not None
    ]
    widest = np.maximum(first.tails.half_widths, second.tails.half_widths).tolist()
    return Prediction(
        np.where(mask, first.mean, second.mean),
        np.where(mask, first.std, second.std),
        np.concatenate(columns, axis=1) if columns else None,
        first.tails if first.tails == second.tails else Tails(tuple(widest)),
    )
