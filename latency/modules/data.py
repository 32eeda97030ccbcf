"""Measured modules, and the file that keeps them.

A *condition* is what a module runs under: batch, threads, utilisation (the share of the machine that others
use), and whatever else the user declares as a number.

Letters: n modules, p inputs of a kind, c conditions.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latency.target import Target
from supernet.arrays import Floats
from supernet.files import artifact

FILE_KIND = "module data"
CONDITIONS = ("batch", "threads", "utilisation")
COLUMNS = ("rows", "conditions", "ms", "spread_ms")


@dataclass(frozen=True, eq=False)
class ModuleData:
    """Measurements of one module kind on one engine: parallel arrays."""

    name: str
    rows: Floats  # (n, p) inputs of the kind
    conditions: Floats  # (n, c) in the order of `condition_names`
    condition_names: tuple[str, ...]
    ms: Floats  # (n,) of one batch
    spread_ms: Floats  # (n,) interquartile range

    def __len__(self) -> int:
        return len(self.ms)

    def check(self) -> None:
        """ValueError unless there is a positive latency, and all that belongs to it, in each row."""
        n, width = len(self.ms), len(self.condition_names)
        if self.rows.shape[:1] != (n,) or self.conditions.shape != (n, width) or self.spread_ms.shape != (n,):
            raise ValueError(f"{self.name}: its columns are not of {n} rows each")
        if not (np.isfinite(self.ms) & (self.ms > 0)).all():
            raise ValueError(f"{self.name}: latencies must be positive milliseconds")
        for name in ("rows", "conditions"):
            if not np.isfinite(getattr(self, name)).all():
                raise ValueError(f"{self.name}: {name} holds NaN or infinite numbers")

    def take(self, rows: NDArray[Any]) -> "ModuleData":
        """The measurements of some rows."""
        return replace(self, **{column: getattr(self, column)[rows] for column in COLUMNS})

    def under(self, names: Sequence[str]) -> tuple[Floats, Floats]:
        """(n, p) inputs, and (n, c) conditions in the order of `names`; ValueError for other names."""
        if set(names) != set(self.condition_names):
            raise ValueError(f"modules were measured under {self.condition_names}, not under {tuple(names)}")
        return self.rows, self.conditions[:, [self.condition_names.index(name) for name in names]]


def save(path: Path, target: Target, data: Mapping[str, ModuleData]) -> None:
    """Write the measured modules of a target to one file, for `load`."""
    arrays = {
        f"{name}/{column}": getattr(modules, column).astype("float32")
        for name, modules in data.items()
        for column in COLUMNS
    }
    names = {name: list(modules.condition_names) for name, modules in data.items()}
    artifact.save(path, FILE_KIND, arrays, {"target": asdict(target), "condition_names": json.dumps(names)})


def load(path: Path) -> tuple[Target, dict[str, ModuleData]]:
    """Target and modules by kind of a saved file; ValueError that names the file if it is none."""
    arrays, facts = artifact.load(path, FILE_KIND)
    with artifact.usable(path, FILE_KIND):
        data = {}
        for name, conditions in json.loads(facts["condition_names"]).items():
            columns = {column: arrays[f"{name}/{column}"].astype("float64") for column in COLUMNS}
            data[name] = ModuleData(name, condition_names=tuple(conditions), **columns)
            data[name].check()
        return Target(**facts["target"]), data
