"""The latency predictor of ProxylessNAS (arXiv 1812.00332), S1's comparison: a time per operator, summed.

Here the times of the operators are learned from whole networks, as in S1. One entry per slot and variant,
which grows with the area of the slot's feature map, hence for any resolution, and a constant; least squares
with times that are not negative, and a little ridge, since a hundred networks do not determine a hundred
entries.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from latency.conformal import relative_std
from latency.data import LatencyData
from latency.predictors.slots import SlotLatency
from supernet import slot_table
from supernet.arrays import Floats, Ints
from supernet.fits import folds
from supernet.slot_table import SlotTable
from supernet.space import get_space

FOLDS = 5


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class OperatorTable:
    """`ridge` in units of the mean latency."""

    ridge: Annotated[float, Field(gt=0)] = 1e-3

    def fit(self, data: LatencyData) -> SlotLatency:
        """The table of the target; ValueError for fewer than 5 networks."""
        if len(data) < FOLDS:
            raise ValueError(f"{len(data)} measurements are too few for a table; give at least {FOLDS}")
        space = get_space(data.target.space)

        def predict(kept: Ints, out: Ints) -> Floats:
            return self._table(data.take(kept)).of(space, data.genomes[out])

        left_out = folds.left_out(folds.random_folds(len(data), FOLDS), predict) / data.ms - 1
        sides = space.axis("r").values if "r" in space.index else (0,)
        facts = {
            "method": "operator table",
            "rows": len(data),
            "left_out_mape": float(100 * np.abs(left_out).mean()),
        }
        return SlotLatency(
            data.target, self._table(data), relative_std(left_out), (sides[0], sides[-1]), facts
        )

    def _table(self, data: LatencyData) -> SlotTable:
        from scipy.optimize import nnls

        space = get_space(data.target.space)
        area = slot_table.sides(space) ** 2  # (R, S)
        codes, level = space.slot_codes(data.genomes), slot_table.resolution_level(space, data.genomes)
        slots, variants = len(space.slots), space.slot_radix[1]
        on = codes[:, :, None] == np.arange(1, variants)
        design = (on * area[level][:, :, None]).reshape(len(data), -1)
        seen = on.any(axis=0).ravel()
        unit = float(data.ms.mean())
        columns: Floats = np.concatenate([np.ones((len(data), 1)), design[:, seen]], axis=1)
        penalty = np.sqrt(self.ridge) * np.eye(columns.shape[1])
        wished = np.concatenate([data.ms / unit, np.zeros(columns.shape[1])])
        found = unit * nnls(np.concatenate([columns, penalty]), wished)[0]
        times = np.zeros(slots * (variants - 1))
        times[seen] = found[1:]
        cells = np.zeros((*area.shape, variants))
        cells[:, :, 1:] = times.reshape(slots, -1) * area[:, :, None]
        return SlotTable(cells, np.full(len(area), found[0]))
