"""Additive predictor: robust ridge regression on per-block features, collapsed into a slot table.

Letters: n measurements, S slots, R resolutions, C slot codes, p features.

A network's latency is a sum over its blocks (ours). For block variant c in
slot s at side a (feature map side of the slot over its largest):  t = u + v a + w a^2;  plus, because
libraries switch algorithms with the resolution, an offset per resolution and an amount per block and
resolution for all blocks of a stage. The offsets are piecewise linear between the resolutions seen. Ridge on
the *relative* error, Cauchy weights on residuals: public tables have rows that are 50-150% off.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from latency.conformal import mape
from latency.data import LatencyData, held_out
from latency.predictors.slots import SlotLatency
from supernet import slot_table
from supernet.arrays import Floats, Ints
from supernet.fits import folds, robust
from supernet.options import NonNegativeInt, PositiveFloat, PositiveInt, options
from supernet.slot_table import SlotTable
from supernet.space import SearchSpace, get_space

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
FOLDS = 5


@options
class Additive:
    """With `ridge` None the best of RIDGES on the `validation` rows (first, past the last) is taken.

    Without `validation` every fifth row judges.
    """

    ridge: PositiveFloat | None = None
    rounds: PositiveInt = 8  # of re-weighting; the weights settle after 5
    validation: tuple[NonNegativeInt, NonNegativeInt] | None = None

    def fit(self, data: LatencyData) -> SlotLatency:
        """The fitted predictor. Its `relative_std` comes from five folds left out of the fit."""
        if len(data) < 2 * FOLDS:
            raise ValueError(
                f"{len(data)} measurements are too few: give {2 * FOLDS} or more, or adapt a predictor"
            )
        space = get_space(data.target.space)
        codes, level = space.slot_codes(data.genomes), slot_table.resolution_level(space, data.genomes)
        present = np.zeros((len(space.slots), space.slot_radix[1]), bool)
        present[np.arange(len(space.slots)), codes] = True
        present[:, 0] = False
        parts = _parts(space, level, present)
        design = np.stack([part.at(codes, level) for part in parts], axis=1)
        ridge = self._choose(design, data.ms) if self.ridge is None else self.ridge

        def predict(kept: Ints, out: Ints) -> Floats:
            return design[out] @ _robust_ridge(design[kept], data.ms[kept], ridge, self.rounds)

        relative = np.abs(folds.left_out(folds.random_folds(len(data), FOLDS), predict) / data.ms - 1)
        weights = _robust_ridge(design, data.ms, ridge, self.rounds)
        return SlotLatency(
            target=data.target,
            table=_with_unseen(slot_table.combine(zip(weights, parts, strict=True)), present),
            relative_std=float(np.quantile(relative, 0.90) / 1.6449),
            resolutions=space.resolution_range(data.genomes),
            facts={"method": "additive", "rows": len(data), "ridge": ridge, "left_out_mape": mape(relative)},
        )

    def _choose(self, design: Floats, ms: Floats) -> float:
        judged = held_out(len(ms), slice(*self.validation) if self.validation else slice(0, None, FOLDS))

        def error(ridge: float) -> float:
            weights = _robust_ridge(design[~judged], ms[~judged], ridge, self.rounds)
            return mape(design[judged] @ weights / ms[judged] - 1)

        return min(RIDGES, key=error)


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


def _parts(space: SearchSpace, level: Ints, present: NDArray[np.bool_]) -> Sequence[SlotTable]:
    """The tables whose weighted sum is fitted: a constant; offsets of the resolutions and, for each stage, of
    its blocks; and the (S, C) variants that are present, times each function of the side."""
    shape = resolutions, _, codes = slot_table.shape_of(space)
    side, stage = slot_table.sides(space), slot_table.stages(space)
    values = np.array(space.axis("r").values if "r" in space.index else (0,))
    knots = values[np.unique(level)]
    hats = [np.interp(values, knots, hat) for hat in np.eye(len(knots))] if len(knots) > 1 else []
    none = np.zeros(resolutions)
    parts = [SlotTable(np.zeros(shape), base) for base in (np.ones(resolutions), *hats)]
    for mask in np.eye(stage.max() + 1, dtype=bool)[:, stage]:
        area = (side**2 * mask / mask.sum())[:, :, None] * (np.arange(codes) > 0)
        parts += [SlotTable(hat[:, None, None] * area, none) for hat in hats]
    for power in range(3 if resolutions > 1 else 1):
        for slot, code in np.argwhere(present):
            cells = np.zeros(shape)
            cells[:, slot, code] = side[:, slot] ** power
            parts.append(SlotTable(cells, none))
    return parts


def _with_unseen(table: SlotTable, present: NDArray[np.bool_]) -> SlotTable:
    """The table whose variants that never occurred have the mean of their slot."""
    mean = np.where(present, table.cells, 0).sum(axis=2, keepdims=True) / present.sum(axis=1)[:, None].clip(1)
    unseen = ~present & (np.arange(present.shape[1]) > 0)
    return replace(table, cells=np.where(unseen, mean, table.cells))
