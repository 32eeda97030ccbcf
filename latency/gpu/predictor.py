"""Latency of a GPU that was never measured, from its data sheet, and of one of which a few subnets were.

Letters: n architectures, k parts (three of the GPU, then the host), e errors.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from latency.data import LatencyData
from latency.gpu import formula
from latency.predictors import interface
from latency.predictors.interface import History, space_of, with_history
from latency.target import Target
from supernet.arrays import Floats, Genomes
from supernet.files.artifact import Arrays
from supernet.prediction import Prediction
from supernet.slot_table import SlotTables
from supernet.space import get_space

HOST = 3  # place of the host among the parts
TRUST = 10  # rows of one's own, until which the noise of other GPUs counts more


@dataclass(frozen=True, eq=False)
class Errors:
    """How far a GPU and its host are off what is expected of them, in logarithms, and how well that is known.

    `shift` (k,) are the factors of the parts (0 until something is measured), `covariance` (k, k) is theirs,
    `noise` that of a single network which the GPU limits, and of one that its host limits.
    """

    shift: Floats
    covariance: Floats
    noise: tuple[float, float]

    def seen(self, parts: Floats) -> Floats:
        """(n,) ms, from (n, k) ms of the parts."""
        return self.mean_and_shares(parts)[0]

    def mean_and_shares(self, parts: Floats) -> tuple[Floats, Floats]:
        """(n,) ms, and (n, k) by how much of itself it grows with each part, from (n, k) ms of the parts."""
        scaled = parts * np.exp(self.shift)
        device = scaled[:, :HOST].sum(axis=1)
        mean = formula.seen(device, scaled[:, HOST])
        host = (scaled[:, HOST] / mean) ** formula.SEEN
        own = scaled[:, :HOST] * ((1 - host) / device)[:, None]
        return mean, np.column_stack([own, host])

    def prediction(self, parts: Floats) -> Prediction:
        """(n,) of networks from (n, k) ms of the parts. What nothing was measured of, the software and the
        clocks, is an error that all networks share."""
        mean, shares = self.mean_and_shares(parts)
        shared = shares @ np.linalg.cholesky(self.covariance)  # (n, e)
        variance = (shared**2).sum(axis=1) + self.rows_noise(shares) ** 2
        return Prediction(mean, np.sqrt(variance) * mean, shared * mean[:, None])

    def rows_noise(self, shares: Floats) -> Floats:
        """(n,) of the logarithm of each network's latency around the formula."""
        device, host = self.noise
        return np.asarray(np.sqrt(device**2 * (1 - shares[:, HOST]) + host**2 * shares[:, HOST]))

    def adapted(self, parts: Floats, ms: Floats) -> "Errors":
        """With n measured latencies (1 is enough): mode and covariance of the posterior, robustly."""
        from scipy.optimize import least_squares

        root = np.linalg.cholesky(self.covariance)
        noise = self.rows_noise(self.mean_and_shares(parts)[1])

        def at(white: Floats) -> Errors:
            return replace(self, shift=self.shift + root @ white)

        def residuals(white: Floats) -> Floats:
            mean, _ = at(white).mean_and_shares(parts)
            off = np.log(mean / ms) / noise
            return np.concatenate([np.sign(off) * np.sqrt(2 * (np.sqrt(1 + off**2) - 1)), white])

        best = least_squares(residuals, np.zeros(len(root)))
        moved = at(best.x)
        mean, shares = moved.mean_and_shares(parts)
        slope = shares @ root / noise[:, None]
        covariance = root @ np.linalg.inv(np.eye(len(root)) + slope.T @ slope) @ root.T
        left = np.log(mean / ms) / noise
        wider = math.sqrt((left @ left + TRUST) / (len(ms) + TRUST))
        device, host = self.noise
        return Errors(moved.shift, covariance, (wider * device, wider * host))

    def stored(self) -> tuple[Arrays, Any]:
        """Its arrays and its numbers, for a file."""
        return {"shift": self.shift, "covariance": self.covariance}, list(self.noise)

    @classmethod
    def restored(cls, arrays: Mapping[str, Any], noise: Any) -> "Errors":
        """From the arrays and numbers of a file; ValueError where they are not its own."""
        shift, covariance = (arrays[name].astype(float) for name in ("shift", "covariance"))
        if shift.shape != (HOST + 1,) or covariance.shape != (HOST + 1, HOST + 1):
            raise ValueError(f"its covariance has the shape {covariance.shape}, not {(HOST + 1, HOST + 1)}")
        device, host = (float(value) for value in noise)
        return cls(shift, covariance, (device, host))


@dataclass(frozen=True, eq=False)
class GpuLatency:
    """Milliseconds of one batch on one target: one table of four parts, a million subnets/s on one core."""

    target: Target
    parts: SlotTables  # ms of products, depthwise convolutions and what only moves data, and of the host
    errors: Errors
    resolutions: tuple[int, int]
    facts: Mapping[str, Any] = field(default_factory=dict)
    history: History | None = None  # of `adapt`

    @property
    def relative_std(self) -> float:
        """Of a usual network, were it limited by the GPU itself and not by its host."""
        usual = self.parts.cells.mean(axis=(0, 2)).sum(axis=0)[:HOST].astype(float)
        shares = np.append(usual / usual.sum(), 0.0)
        return float(np.sqrt(shares @ self.errors.covariance @ shares + self.errors.noise[0] ** 2))

    def predict(self, genomes: Genomes, target: Target) -> Prediction:
        """(n,) ms of canonical genomes of `target.space`; ValueError for another target or resolutions."""
        parts = self.parts.evaluate(space_of(self, genomes, target), genomes)
        return self.errors.prediction(parts.astype(np.float64))

    @with_history
    def adapt(self, data: LatencyData) -> "GpuLatency":
        """With the factors that a few measured subnets of the same target (1 is enough) tell of the parts."""
        if data.target.key != self.target.key:
            raise ValueError(f"samples of {data.target.name} cannot adapt a predictor of {self.target.name}")
        if not len(data):
            raise ValueError("no sample to adapt with: measure at least 1 subnet")
        parts = self.parts.evaluate(get_space(self.target.space), data.genomes).astype(np.float64)
        facts = {**self.facts, "method": "gpu data sheet and anchors", "samples": len(data)}
        return replace(self, errors=self.errors.adapted(parts, data.ms), facts=facts)

    def moved(self, shift: float, spread: float) -> "GpuLatency":
        """With a GPU that takes exp(shift) times as long, known no better than by the spread (log)."""
        device = np.append(np.ones(HOST), 0.0)
        covariance = self.errors.covariance + spread**2 * np.outer(device, device)
        return replace(
            self, errors=replace(self.errors, shift=self.errors.shift + shift * device, covariance=covariance)
        )

    def check(self) -> None:
        """ValueError unless its tables are those of the space of the target."""
        self.parts.check(get_space(self.target.space), HOST + 1)

    save = interface.save
