"""SlotLatency: a fitted latency as a table over block variants and resolutions.

What additive predictors collapse into.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from latency.data import LatencyData
from latency.predictors import interface
from latency.predictors.interface import check_samples, space_of
from latency.target import Target
from supernet.arrays import Genomes
from supernet.prediction import Prediction
from supernet.slot_table import SlotTable
from supernet.space import get_space


@dataclass(frozen=True, eq=False)
class SlotLatency:
    """Milliseconds of one batch on one target: more than 1,000,000 subnets/s on one core."""

    target: Target
    table: SlotTable
    relative_std: float  # of a single new measurement, from rows left out of the fit
    resolutions: tuple[int, int]  # lowest and highest input side it was fitted on
    facts: Mapping[str, Any] = field(default_factory=dict)  # scores, fit command, number of rows

    def predict(self, genomes: Genomes, target: Target) -> Prediction:
        """(n,) ms of canonical genomes; ValueError for another target or unknown resolutions."""
        space = space_of(self, genomes, target)
        mean = self.table.evaluate(space, genomes)
        return Prediction(mean, self.relative_std * mean)

    def adapt(self, data: LatencyData) -> "SlotLatency":
        """The same table times one factor, the median ratio of the samples, for another device of its space.

        The simplest transfer there is (ours): the baseline that better ones have to beat. The spread of the
        ratios becomes the new relative deviation.
        """
        check_samples(data, self.target, 2)
        ratio = data.ms / self.predict(data.genomes, self.target).mean
        scale = float(np.median(ratio))
        spread = float(np.sqrt(np.mean((ratio / scale - 1) ** 2) * len(data) / (len(data) - 1)))
        return replace(
            self,
            target=data.target,
            table=self.table.times(scale),
            relative_std=max(spread, self.relative_std),
            facts={"adapted_from": self.target.name, "samples": len(data)},
        )

    def check(self) -> None:
        """ValueError unless the table is one of the space of the target."""
        self.table.check(get_space(self.target.space))

    save = interface.save
