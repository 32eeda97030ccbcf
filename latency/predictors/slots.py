"""SlotLatency: a fitted latency as a table over block variants and resolutions.

What additive predictors collapse into.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from latency.data import LatencyData
from latency.predictors.interface import space_of
from latency.target import Target
from supernet import slot_table
from supernet.arrays import Genomes
from supernet.files import artifact
from supernet.prediction import Prediction
from supernet.slot_table import SlotTable
from supernet.space import get_space

KIND = "latency predictor"


@dataclass(frozen=True, eq=False)
class SlotLatency:
    """Milliseconds of one batch on one target: more than 1,000,000 subnets/s on one core."""

    target: Target
    table: SlotTable
    relative_std: float  # of a single new measurement, from rows left out of the fit
    resolutions: tuple[int, int]  # lowest and highest input side it was fitted on
    facts: Mapping[str, Any] = field(default_factory=dict)  # scores, fit command, number of rows

    def predict(self, genomes: Genomes, target: Target) -> Prediction:
        """(n,) ms of canonical genomes of `target.space`.

        ValueError for another target or unknown resolutions.
        """
        space = space_of(self, genomes, target)
        mean = self.table.of(space, genomes)
        return Prediction(mean, self.relative_std * mean)

    def adapt(self, data: LatencyData) -> SlotLatency:
        """The same table for another device of the same space: one scale factor, the median ratio of the
        samples.

        The simplest transfer there is (ours): the baseline that better ones have to beat. The spread of the
        ratios becomes the new relative deviation.
        """
        if data.target.space != self.target.space:
            raise ValueError(
                f"samples of {data.target.space} cannot adapt a predictor of {self.target.space}"
            )
        if len(data) < 2:
            raise ValueError(f"{len(data)} sample(s) are too few to adapt: measure at least 2 subnets")
        ratio = data.ms / self.predict(data.genomes, self.target).mean
        scale = float(np.median(ratio))
        spread = float(np.sqrt(np.mean((ratio / scale - 1) ** 2) * len(data) / (len(data) - 1)))
        table = SlotTable(self.table.cells * scale, self.table.base * scale)
        return replace(
            self,
            target=data.target,
            table=table,
            relative_std=max(spread, self.relative_std),
            facts={"adapted_from": self.target.name, "samples": len(data)},
        )

    def save(self, path: str | Path) -> None:
        arrays = {"cells": self.table.cells.astype(np.float32), "base": self.table.base.astype(np.float32)}
        facts = dict(
            target=asdict(self.target),
            relative_std=self.relative_std,
            resolutions=list(self.resolutions),
            facts=dict(self.facts),
        )
        artifact.save(Path(path), KIND, arrays, facts)


def load(path: Path) -> SlotLatency:
    """A saved predictor; ValueError that names the file when it is damaged or something else."""
    arrays, facts = artifact.load(path, KIND)
    try:
        target, (low, high) = Target(**facts["target"]), facts["resolutions"]
        loaded = SlotLatency(
            target=target,
            table=slot_table.restored(get_space(target.space), arrays),
            relative_std=float(facts["relative_std"]),
            resolutions=(low, high),
            facts=facts["facts"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no usable latency predictor ({error}); left as it is") from error
    return loaded
