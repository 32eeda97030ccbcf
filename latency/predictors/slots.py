"""SlotLatency: a fitted latency as a table over block variants and resolutions.

What additive predictors collapse into.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latency.data import LatencyData
from latency.predictors import interface
from latency.predictors.interface import History, check_samples, space_of, with_history
from latency.target import Target
from supernet import slot_table
from supernet.arrays import Genomes
from supernet.prediction import Prediction, Tails
from supernet.slot_table import SlotTable, SlotTables
from supernet.space import get_space


@dataclass(frozen=True, eq=False)
class SharedErrors:
    """What a fit of few samples leaves open: r independent errors that all networks share, and the rest."""

    tables: SlotTables  # ms that one standard deviation of each error adds
    own: float  # relative standard deviation of what each network adds by itself
    typical: float  # relative standard deviation of the whole error of usual networks
    tails: Tails

    def times(self, factor: float) -> "SharedErrors":
        """The errors of latencies multiplied by a factor."""
        return replace(self, tables=SlotTables(self.tables.cells * factor, self.tables.base * factor))

    def stored(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Its arrays and its numbers, for a file."""
        numbers = {"own": self.own, "typical": self.typical, "tails": list(self.tails.half_widths)}
        return {"error_cells": self.tables.cells, "error_base": self.tables.base}, numbers

    @classmethod
    def restored(cls, arrays: Mapping[str, NDArray[Any]], numbers: Mapping[str, Any]) -> "SharedErrors":
        """From the arrays and numbers of a file; ValueError where they are not its own."""
        tables = SlotTables(arrays["error_cells"], arrays["error_base"])
        tails = Tails(tuple(float(width) for width in numbers["tails"]))
        return cls(tables, float(numbers["own"]), float(numbers["typical"]), tails)


@dataclass(frozen=True, eq=False)
class SlotLatency:
    """Milliseconds of one batch on one target: more than 1,000,000 subnets/s on one core."""

    target: Target
    table: SlotTable
    relative_std: float  # of a single new measurement, from rows left out of the fit
    resolutions: tuple[int, int]  # lowest and highest input side it was fitted on
    facts: Mapping[str, Any] = field(default_factory=dict)  # scores, fit command, number of rows
    errors: SharedErrors | None = None  # None: errors are of one relative size and independent
    history: History | None = None  # of `adapt`
    energy: "SlotLatency | None" = None  # the same of mJ, where the device has a meter

    def predict(self, genomes: Genomes, target: Target) -> Prediction:
        """(n,) ms of canonical genomes; ValueError for another target or unknown resolutions."""
        space = space_of(self, genomes, target)
        codes, level = space.slot_codes(genomes), slot_table.resolution_level(space, genomes)
        mean = self.table.at(codes, level)
        if self.errors is None:
            return Prediction(mean, self.relative_std * mean)
        shared = self.errors.tables.at(codes, level)
        variance = (self.errors.own * mean) ** 2 + np.einsum("nr,nr->n", shared, shared)
        return Prediction(mean, np.sqrt(variance), shared, self.errors.tails)

    @with_history
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
            errors=None,
            energy=None,
            facts={"adapted_from": self.target.name, "samples": len(data)},
        )

    def check(self) -> None:
        """ValueError unless the tables are of the space of the target."""
        space = get_space(self.target.space)
        self.table.check(space)
        if self.resolutions[0] > self.resolutions[1]:
            raise ValueError(f"resolutions={self.resolutions} must be the lowest and the highest")
        if self.errors is not None:
            self.errors.tables.check(space, self.errors.tables.base.shape[-1])

    def stored(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Its arrays and its JSON, as the energy of another one."""
        return interface.nested("energy", self)

    @classmethod
    def restored(cls, arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]) -> "SlotLatency":
        """From those of a whole file; ValueError where they are not its own."""
        energy = interface.unnested("energy", dict(arrays), facts)
        if not isinstance(energy, cls):
            raise ValueError(f"its energy is a {facts['kind']}")
        return energy

    save = interface.save
