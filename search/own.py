"""Objectives of the user's own: functions of genomes from Python, from YAML, or from an installed package.

Letters: n architectures.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from search.objective import Objective
from supernet import registry
from supernet.arrays import Genomes
from supernet.files import append_only
from supernet.prediction import Prediction, exact
from supernet.space import SearchSpace

STORE = "objective_values.sqlite"  # what was measured, in the run folder
TABLES = {
    "objective_values": (
        "name TEXT NOT NULL, measured TEXT NOT NULL, architecture TEXT NOT NULL, mean REAL NOT NULL, "
        "std REAL NOT NULL, PRIMARY KEY (name, measured, architecture)"
    )
}


def find(names: Iterable[str], nodes: Mapping[str, Any], space: SearchSpace) -> dict[str, Objective]:
    """The objectives among these names that the nodes describe, `{name: node}`.

    What is built is an `Objective`; where its function takes `space`, it gets the space of the search.
    ValueError for anything else.
    """
    made = {}
    for name in (name for name in dict.fromkeys(names) if name in nodes):
        node = dict(nodes[name])
        if "_target_" not in node:
            raise ValueError(
                f"objective.{name} names no function: write objective/{name}.yaml with its _target_ in a "
                "folder, and give the folder as --config-dir"
            )
        takes_space = "space" in registry.defaults(registry.locate(node["_target_"]))
        built = registry.build(node | {"space": space} if takes_space else node)
        if not isinstance(built, Objective):
            raise ValueError(
                f"the objective {name} is a {type(built).__name__}, not a search.objective.Objective"
            )
        made[name] = replace(built, name=name)
    return made


def prepared(objective: Objective, space: SearchSpace, path: Path | None = None) -> Objective:
    """The objective with answers that are checked: `of` may return an array (n,) in place of a prediction.

    What is measured is asked once for each architecture and remembered, in the file `path` as well.
    """
    if isinstance(objective.of, _Checked | _Remembered):
        return objective
    checked = _Checked(objective.name, objective.of)
    if objective.measured is None:
        return replace(objective, of=checked)
    return replace(objective, of=_Remembered(checked, objective.measured, space, path))


@dataclass(frozen=True)
class _Checked:
    name: str
    of: Callable[[Genomes], Any]

    def __call__(self, genomes: Genomes) -> Prediction:
        answer = self.of(genomes)
        predicted = answer if isinstance(answer, Prediction) else exact(np.asarray(answer, np.float64))
        for values in (predicted.mean, predicted.std):
            if np.shape(values) != (len(genomes),) or not np.isfinite(values).all():
                raise ValueError(
                    f"the objective {self.name} must give one finite number for each of {len(genomes)} "
                    f"architectures; it gave {np.shape(values)} with {values!r:.80}"
                )
        return predicted


@dataclass(frozen=True)
class _Remembered:
    """Asks for each architecture once; the values of a run that was killed are read from its file."""

    ask: _Checked
    measured: str
    space: SearchSpace
    path: Path | None
    known: dict[str, tuple[float, float]] = field(default_factory=dict)

    def __call__(self, genomes: Genomes) -> Prediction:
        if not len(genomes):
            return exact(np.empty(0))
        if self.path is not None and not self.known and self.path.exists():
            self._read(self.path)
        names = self.space.format(genomes)
        rows = [row for row, name in enumerate(names) if name not in self.known and names.index(name) == row]
        if rows:
            answers = self.ask(genomes[rows])
            new = {
                names[row]: (float(mean), float(std))
                for row, mean, std in zip(rows, answers.mean, answers.std, strict=True)
            }
            self.known.update(new)
            if self.path is not None:
                self._write(self.path, new)
        mean, std = np.array([self.known[name] for name in names]).T
        return Prediction(mean, std)

    def _file(self, path: Path) -> append_only.Database:
        return append_only.Database(path, "objective", TABLES)

    def _read(self, path: Path) -> None:
        query = "SELECT architecture, mean, std FROM objective_values WHERE name = ? AND measured = ?"
        with self._file(path).opened() as database:
            rows = database.execute(query, (self.ask.name, self.measured)).fetchall()
        self.known.update({architecture: (mean, std) for architecture, mean, std in rows})

    def _write(self, path: Path, values: Mapping[str, tuple[float, float]]) -> None:
        about = {"name": self.ask.name, "measured": self.measured}
        with self._file(path).opened() as database:
            for architecture, (mean, std) in values.items():
                row = about | {"architecture": architecture, "mean": mean, "std": std}
                append_only.insert(database, "objective_values", row)
