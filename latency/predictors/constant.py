"""The mean of what was measured, whatever the network: what every predictor has to beat."""

from __future__ import annotations

import numpy as np
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from latency.conformal import relative_std
from latency.data import LatencyData
from latency.predictors.slots import SlotLatency
from supernet import slot_table
from supernet.slot_table import SlotTable
from supernet.space import get_space


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Constant:
    """No options."""

    def fit(self, data: LatencyData) -> SlotLatency:
        """The predictor of the mean; ValueError for fewer than 2 measurements."""
        space = get_space(data.target.space)
        resolutions, mean = slot_table.resolution_count(space), float(data.ms.mean())
        shape = (resolutions, len(space.slots), space.slot_radix[1])
        sides = space.axis("r").values if "r" in space.index else (0,)
        residuals = (mean - data.ms) * len(data) / max(len(data) - 1, 1) / data.ms  # each left out in turn
        return SlotLatency(
            target=data.target,
            table=SlotTable(np.zeros(shape), np.full(resolutions, mean)),
            relative_std=relative_std(residuals),
            resolutions=(sides[0], sides[-1]),
            facts={
                "method": "constant",
                "rows": len(data),
                "left_out_mape": float(100 * np.abs(residuals).mean()),
            },
        )
