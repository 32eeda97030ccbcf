"""The fitted formula on one GPU: times of kernels, of layers and of networks.

Letters: n networks, L layers, m measurements.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from latency.gpu import formula, parameters
from latency.gpu.chip import Chip
from latency.gpu.kernels import PART_OF, PARTS, Kernels, of_layers
from latency.gpu.measurements import Group
from supernet.arrays import Floats
from supernet.layers import LayerTable


@dataclass(frozen=True, eq=False)
class KernelTimes:
    """The formula with its parameters on one GPU of which nothing was measured, nor of its host.

    `alone` kernels are timed one by one, as in a benchmark of kernels.
    """

    chip: Chip
    values: Mapping[str, Any]  # parameters as `formula.body` takes them
    factors: Floats  # (kinds,) logarithms
    alone: bool = False

    @classmethod
    def from_values(cls, values: Mapping[str, float], chip: Chip, source: str = "") -> "KernelTimes":
        """From fitted parameters by name; those that no measurement told have their prior mean.

        `source` is whose software runs, "" for software of which nothing is known.
        """
        group = (replace(chip, name=""), source)
        own = parameters.layout([group])
        vector = np.array([values.get(n, m) for n, m in zip(own.names, own.mean, strict=True)] + [0.0])
        factors, _ = own.places([group])
        return cls(chip, own.named(vector), vector[factors[0]].sum(axis=1), source in parameters.ALONE)

    def ms(self, kernels: Kernels) -> Floats:
        """Milliseconds on the GPU of kernels of any shape, all their runs together."""
        flat = kernels.ravel()
        features = formula.features(flat, [self.chip], np.zeros(len(flat.kind), np.int64))
        body = np.empty(len(flat.kind))
        body[features.order] = formula.body(np, self.values, features)
        start = np.exp(self.values["start"]) + (np.exp(self.values["single"]) if self.alone else 0)
        each = np.exp(body + self.factors[flat.kind]) + start
        return np.asarray((each * flat.count).reshape(kernels.kind.shape))

    def launches(self, kernels: Kernels) -> Floats:
        """Milliseconds of the host for the same kernels."""
        return np.asarray(kernels.count * np.exp(self.values["launch"])[kernels.kind])

    def parts(self, table: LayerTable, batch: int) -> Floats:
        """(n, L, 4) milliseconds of each layer: its kernels of each of `PARTS` on the GPU, and the host."""
        total = np.zeros((*table.live.shape, len(PARTS) + 1))
        for kernels in of_layers(table):
            at = np.nonzero(kernels.count)
            some = kernels.at_batch(batch).take(at)
            rows, places = at  # each once
            total[rows, places, PART_OF[some.kind]] += self.ms(some)
            total[rows, places, len(PARTS)] += self.launches(some)
        return total

    def parts_of(self, group: Group) -> Floats:
        """(m, 4) the same of measured networks."""
        parts = PART_OF[group.kernels.kind[group.kernel]]
        device, host = (
            group.count * ms[group.kernel] for ms in (self.ms(group.kernels), self.launches(group.kernels))
        )
        columns = [device * (parts == part) for part in range(len(PARTS))]
        sums = [np.bincount(group.network, column, len(group)) for column in (*columns, host)]
        return np.stack(sums, axis=1)
