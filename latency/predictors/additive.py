"""Additive predictor: robust ridge regression on per-block features, collapsed into a slot table.

Letters: n measurements, S slots, R resolutions, C slot codes, p features.

A network's latency is a sum over its blocks (ours). For block variant c in
slot s at side a (feature map side of the slot over its largest):  t = u + v a + w a^2;  plus, because
libraries switch algorithms with the resolution, an offset per resolution and an amount per block and
resolution for all blocks of a stage. The offsets are piecewise linear between the resolutions seen. Ridge on
the *relative* error, Cauchy weights on residuals: public tables have rows that are 50-150% off.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from latency.data import LatencyData
from latency.predictors.slots import SlotLatency
from supernet import slot_table
from supernet.arrays import Floats, Ints
from supernet.fits import folds, robust
from supernet.slot_table import SlotTable
from supernet.space import SearchSpace, get_space

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
FOLDS = 5


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Additive:
    """With `ridge` None the best of RIDGES on the `validation` rows (first, past the last) is taken.

    Without `validation` every fifth row judges.
    """

    ridge: Annotated[float, Field(gt=0)] | None = None
    rounds: Annotated[int, Field(ge=1)] = 8  # of re-weighting; the weights settle after 5
    validation: tuple[int, int] | None = None

    def fit(self, data: LatencyData) -> SlotLatency:
        """The fitted predictor. Its `relative_std` comes from five folds left out of the fit."""
        if len(data) < 2 * FOLDS:
            raise ValueError(
                f"{len(data)} measurements are too few to fit; give at least {2 * FOLDS}, or adapt a "
                "predictor"
            )
        space = get_space(data.target.space)
        basis = _Basis.build(space, data)
        design = basis.rows(space, data)
        ridge = self._choose(design, data.ms) if self.ridge is None else self.ridge

        def predict(kept: Ints, out: Ints) -> Floats:
            return design[out] @ _robust_ridge(design[kept], data.ms[kept], ridge, self.rounds)

        held_out = folds.left_out(folds.random_folds(len(data), FOLDS), predict)
        relative = np.abs(held_out / data.ms - 1)
        table = basis.table(_robust_ridge(design, data.ms, ridge, self.rounds))
        r = space.column(data.genomes, "r") if "r" in space.index else np.zeros(1, np.int64)
        return SlotLatency(
            target=data.target,
            table=table,
            relative_std=float(np.quantile(relative, 0.90) / 1.6449),
            resolutions=(int(r.min()), int(r.max())),
            facts={
                "method": "additive",
                "rows": len(data),
                "ridge": ridge,
                "left_out_mape": float(100 * relative.mean()),
            },
        )

    def _choose(self, design: Floats, ms: Floats) -> float:
        rows = np.arange(len(ms))
        if self.validation is None:
            judged = rows % FOLDS == 0
        else:
            judged = (rows >= self.validation[0]) & (rows < self.validation[1])
        if not judged.any() or judged.all():
            raise ValueError(
                f"validation rows {self.validation} of {len(ms)} leave nothing to fit or nothing to judge"
            )
        error = [
            np.abs(
                design[judged] @ _robust_ridge(design[~judged], ms[~judged], ridge, self.rounds) / ms[judged]
                - 1
            ).mean()
            for ridge in RIDGES
        ]
        return RIDGES[int(np.argmin(error))]


def _robust_ridge(design: Floats, ms: Floats, ridge: float, rounds: int) -> Floats:
    """(p,) weights w that minimise sum c_i (yhat_i / y_i - 1)^2 + ridge |w|^2, with Cauchy weights c_i.

    The first column is the constant and is not penalised. Weights are in units of the mean latency.
    """
    unit = ms.mean()
    scaled = design * (unit / ms)[:, None]
    penalty = np.full(design.shape[1], ridge)
    penalty[0] = 1e-9
    trust = np.ones(len(ms))
    for _ in range(rounds):
        weighted = scaled * trust[:, None]
        weights = np.linalg.solve(scaled.T @ weighted + np.diag(penalty), weighted.sum(axis=0))
        residual = scaled @ weights - 1
        trust = robust.cauchy_weights(residual, robust.spread(residual - np.median(residual), floor=1e-6))
    return np.asarray(weights * unit)


class _Basis:
    """The features of a space at the resolutions of some data, and their collapse into a table."""

    def __init__(
        self, side: Floats, stage: NDArray[np.int64], present: NDArray[np.bool_], hats: Floats
    ) -> None:
        self.side = side  # (R, S) relative side of the feature map of each slot
        self.stage = stage  # (S,) slots whose side runs alike
        self.present = present  # (S, C) variants that occur
        self.hats = hats  # (R, K) piecewise-linear functions of the resolution, one per resolution seen

    @classmethod
    def build(cls, space: SearchSpace, data: LatencyData) -> _Basis:
        codes = space.slot_codes(data.genomes)
        present = np.zeros((len(space.slots), space.slot_radix[1]), bool)
        for s in range(len(space.slots)):
            present[s, np.unique(codes[:, s])] = True
        present[:, 0] = False
        values = np.array(space.axis("r").values if "r" in space.index else (0,))
        knots = values[np.unique(slot_table.resolution_level(space, data.genomes))]
        hats = np.stack([np.interp(values, knots, np.eye(len(knots))[k]) for k in range(len(knots))], axis=1)
        return cls(slot_table.sides(space), slot_table.stages(space), present, hats)

    def _shapes(self) -> Floats:
        """(R, S, 3 or 1) functions of the side that every variant of a slot is multiplied with."""
        ones = np.ones_like(self.side)
        return np.stack([ones, self.side, self.side**2], axis=2) if len(self.hats) > 1 else ones[:, :, None]

    def rows(self, space: SearchSpace, data: LatencyData) -> Floats:
        """(n, p) features: constant; hats; hats x area of the blocks of each stage; variants x shapes."""
        level = slot_table.resolution_level(space, data.genomes)
        codes = space.slot_codes(data.genomes)
        blocks = [np.ones((len(data), 1))]
        if self.hats.shape[1] > 1:
            hats = self.hats[level]
            area = np.where(codes > 0, self.side[level] ** 2, 0)
            blocks.append(hats)
            for stage in range(self.stage.max() + 1):
                in_stage = self.stage == stage
                blocks.append(hats * area[:, in_stage].sum(axis=1, keepdims=True) / in_stage.sum())
        slots, variants = np.nonzero(self.present)
        on = codes[:, slots] == variants
        shapes = self._shapes()[level]
        blocks += [on * shapes[:, slots, k] for k in range(shapes.shape[2])]
        return np.concatenate(blocks, axis=1)

    def table(self, weights: Floats) -> SlotTable:
        """The slot table with the same values as `rows(...) @ weights`.

        Variants never seen get their slot's mean.
        """
        resolutions, slots = self.side.shape
        at = 1
        base = np.full(resolutions, weights[0])
        cells = np.zeros((resolutions, slots, self.present.shape[1]))
        knots = self.hats.shape[1]
        if knots > 1:
            base = base + self.hats @ weights[at : at + knots]
            at += knots
            for stage in range(self.stage.max() + 1):
                in_stage = np.flatnonzero(self.stage == stage)
                amount = self.hats @ weights[at : at + knots] / len(in_stage)
                cells[:, in_stage, 1:] += (amount[:, None] * self.side[:, in_stage] ** 2)[:, :, None]
                at += knots
        where, variants = np.nonzero(self.present)
        shapes = self._shapes()
        for k in range(shapes.shape[2]):
            part = weights[at : at + len(where)]
            cells[:, where, variants] += part * shapes[:, where, k]
            at += len(where)
        assert at == len(weights)
        seen = self.present.sum(axis=1).clip(min=1)
        mean = np.where(self.present, cells, 0).sum(axis=2) / seen
        unseen = ~self.present
        unseen[:, 0] = False
        return SlotTable(np.where(unseen, mean[:, :, None], cells), base)
