"""What all known GPUs say of one that was never measured: the fitted numbers, as they ship."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from latency.gpu import parameters
from latency.gpu.chip import Chip, chip
from latency.gpu.predictor import HOST, Errors, GpuLatency
from latency.gpu.times import KernelTimes
from latency.target import Target
from supernet import slot_table
from supernet.arrays import Floats
from supernet.files import artifact
from supernet.layers import LayerTable
from supernet.space import get_space

MODEL_KIND = "model of GPU time"


@dataclass(frozen=True, eq=False)
class GpuModel:
    """Fitted parameters by name, and how far a GPU that was left out of the fit was off.

    `predictor` applies it to a GPU of its own choice or an unseen one.
    """

    values: Mapping[str, float]
    errors: Errors  # of a GPU, its software and its host, of which nothing is known
    facts: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def generations(self) -> list[str]:
        """Those that were measured."""
        names = [name.split(".")[1] for name in self.values if name.startswith("generation.")]
        return list(dict.fromkeys(names))

    def times(self, chip: Chip, source: str = "") -> KernelTimes:
        """The times of kernels on a GPU with the software of a source, or with one that is not known."""
        return KernelTimes.from_values(self.values, chip, source)

    def parts(self, target: Target, table: LayerTable) -> Floats:
        """(n, 4) ms of the three parts on the GPU of a target and of its host, of a table of networks."""
        times = self.times(chip(target.spec, target.precision))
        return np.asarray(times.parts(table, target.batch).sum(axis=1))

    def predictor(self, target: Target) -> GpuLatency:
        """The predictor of a GPU target from its data sheet alone.

        ValueError for another kind of device, for an unknown precision, and for a space whose networks are
        no sums of blocks.
        """
        times, space = self.times(chip(target.spec, target.precision)), get_space(target.space)
        tables = slot_table.tabulate_many(space, lambda table: times.parts(table, target.batch))
        if tables is None:
            raise ValueError(
                f"the networks of {target.space} are no sums of blocks, which a prediction from a data sheet "
                "needs: measure some on the GPU and use make fit"
            )
        sides = space.axis("r").values if "r" in space.index else (0,)
        return GpuLatency(
            target=target,
            parts=tables,
            errors=self._errors(target),
            resolutions=(sides[0], sides[-1]),
            facts={**self.facts, "method": "gpu data sheet", "samples": 0},
        )

    def _errors(self, target: Target) -> Errors:
        """Wider for a generation that was never measured, by the spread of generations."""
        if target.spec.generation in self.generations:
            return self.errors
        more = np.zeros_like(self.errors.covariance)
        more[:HOST, :HOST] = parameters.GENERATION**2
        more[range(HOST), range(HOST)] += parameters.GENERATION_KIND**2
        return replace(self.errors, covariance=self.errors.covariance + more)

    def save(self, path: Path) -> None:
        """`.npz`, some KB."""
        arrays, noise = self.errors.stored()
        arrays["values"] = np.array(list(self.values.values()))
        facts = {"names": list(self.values), "noise": noise, "facts": dict(self.facts)}
        artifact.save(path, MODEL_KIND, arrays, facts)


def load(path: Path) -> GpuModel:
    """The model in a file; ValueError that names the file when it is damaged or something else."""
    arrays, facts = artifact.load(path, MODEL_KIND)
    values = dict(zip(facts["names"], arrays["values"].tolist(), strict=True))
    return GpuModel(values, Errors.restored(arrays, facts["noise"]), facts["facts"])
