"""How far off a module predictor is under each condition, and under which conditions it was measured at all.

Beside a background load and on several threads modules are timed and predicted worse than on an idle core.
By how much follows from modules left out of the fits: the 90% quantile of the logarithm of the size of their
errors is a line in the condition, with a level of its own for each utilisation that is measured, because
beside half a load errors have the longest tail. Errors of whole networks are in proportion (measured networks
set the scale).

Letters: n modules or networks, c conditions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from latency.modules.data import CONDITIONS
from supernet.arrays import Floats, Ints

SMALLEST = 0.005  # log error below which a size says nothing
QUANTILE = 0.9  # of the sizes that the line goes through, as intervals are judged
RIDGE, ROUNDS, NEAR = 1.0, 60, 0.02  # of the line: a quantile by re-weighted least squares
LEVELS, APART = (0.25, 0.5, 0.75), 0.25  # utilisations with a level of their own, linear in between
SLACK = 0.1  # utilisation (of others: the share) outside of the measured range that is not told from it
OCTAVES = {"batch": 2.0, "threads": 1.0}  # beyond what was measured, up to which there is an answer
WIDER = 1.6  # factor of an interval per octave beyond: kernels of one engine fitted on batch 1 to 4 or 1 to 2
# and asked at the next batches were 1.2 to 1.8 times as far off as inside, two octaves beyond 1.7 to 4 times


@dataclass(frozen=True)
class ErrorSpread:
    """The size of errors by condition, relative to one idle thread at batch 1, and the measured ranges.

    `weights` are of `_terms`; without weights the size is everywhere the same, without ranges nothing is
    refused.
    """

    names: tuple[str, ...] = CONDITIONS
    lowest: tuple[float, ...] = ()  # of each condition
    highest: tuple[float, ...] = ()
    weights: tuple[float, ...] = ()

    @classmethod
    def fit(cls, names: Sequence[str], conditions: Floats, errors: Floats, owner: Ints) -> "ErrorSpread":
        """From the (n,) log errors of left-out modules of kinds `owner` (n,) under (n, c) conditions.

        The line runs through the QUANTILE of the logarithms of their sizes; each kind has a level of its own.
        """
        size = np.log(np.maximum(np.abs(errors), SMALLEST))
        terms = _terms(names, conditions)
        level = (owner[:, None] == np.unique(owner)).astype(float)
        both = np.concatenate([terms, level], axis=1)
        hold = np.diag([RIDGE] * terms.shape[1] + [0.0] * level.shape[1])
        trust = np.ones(len(size))
        for _ in range(ROUNDS):
            held = both * trust[:, None]
            line = np.linalg.solve(both.T @ held + hold, held.T @ size)
            above = size - both @ line
            trust = np.where(above > 0, QUANTILE, 1 - QUANTILE) / np.maximum(np.abs(above), NEAR)
        weights = line[: terms.shape[1]]
        lowest, highest = conditions.min(axis=0).tolist(), conditions.max(axis=0).tolist()
        return cls(tuple(names), tuple(lowest), tuple(highest), tuple(weights.tolist()))

    def factor(self, conditions: Floats) -> Floats:
        """(n,) size of the errors under (n, c) conditions; WIDER times as large per octave outside."""
        weights = np.array(self.weights)  # fewer of a file of an earlier version
        size = _terms(self.names, conditions)[:, : len(weights)] @ weights
        octaves = np.zeros(len(conditions))
        for j in self._limited():
            if self.names[j] in OCTAVES:
                octaves += self._octaves(j, conditions[:, j])
        return np.asarray(np.exp(size) * WIDER**octaves)

    def check(self, conditions: Floats) -> None:
        """ValueError for (n, c) conditions too far from what was measured to answer for."""
        for j in self._limited():
            name, values, low, high = self.names[j], conditions[:, j], self.lowest[j], self.highest[j]
            if name in OCTAVES:
                most = OCTAVES[name]
                outside, near = self._octaves(j, values) > most, (low / 2**most, high * 2**most)
            else:
                slack = SLACK if name == "utilisation" else SLACK * max(abs(low), abs(high))
                near = low - slack, high + slack
                outside = (values < near[0]) | (values > near[1])
            if outside.any():
                option = {"batch": "batches", "threads": "threads", "utilisation": "utilisations"}.get(name)
                raise ValueError(
                    f"{name}={values[outside][0]:g} is too far from what was measured, {name} {low:g} to "
                    f"{high:g}: ask for {max(near[0], 0):g} to {near[1]:g} (intervals widen beyond the "
                    f"measured), or measure modules there (make modules, design.{option or 'declared'})"
                )

    def _limited(self) -> range:
        """The conditions whose range is known."""
        return range(len(self.lowest))

    def _octaves(self, j: int, values: Floats) -> Floats:
        """(n,) by how many doublings condition j is outside of its range."""
        outside = np.maximum(np.log2(values / self.highest[j]), np.log2(self.lowest[j] / values))
        return np.asarray(outside.clip(min=0))


def _terms(names: Sequence[str], conditions: Floats) -> Floats:
    """(n, 8) what the logarithm of the size of errors is linear in; 0 for one idle thread at batch 1."""
    batch, threads, busy = (conditions[:, list(names).index(name)] for name in CONDITIONS)
    more = np.log2(threads)
    levels = [np.maximum(1 - np.abs(busy - level) / APART, 0) for level in LEVELS]
    return np.stack([(busy > 0).astype(float), busy, more, busy * more, np.log2(batch), *levels], axis=1)
