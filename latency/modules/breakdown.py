"""Where the time of a network goes: its latency by module, with an interval for the whole.

Letters: m modules.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from latency.modules.kinds.module_kind import Module
from latency.modules.predictor import ModulesLatency
from latency.target import Target
from supernet.arrays import Floats
from supernet.prediction import Prediction

STAND_IN_ERROR = 0.5  # relative standard deviation of a module that stands in for another operation (ours)


@dataclass(frozen=True, eq=False)
class Breakdown:
    """The (m,) ms of the modules of a network under one target; their sum is its latency.

    On a GPU's data sheet the modules are kernels.
    """

    modules: tuple[Module, ...]
    ms: Floats
    target: Target
    relative_std: float  # of the sum, if no module were a stand-in

    @cached_property
    def latency(self) -> Prediction:
        """(1,) the latency of the network. What operations are stood in for widens it."""
        total = float(self.ms.sum())
        std = np.hypot(self.relative_std * total, STAND_IN_ERROR * sum(self.stand_ins.values()))
        return Prediction(np.array([total]), np.array([std]))

    @cached_property
    def stand_ins(self) -> dict[str, float]:
        """ms by the operations that no measured module is, the longest first."""
        ms: Counter[str] = Counter()
        for module, own in zip(self.modules, self.ms.tolist(), strict=True):
            if module.stands_for:
                ms[module.stands_for] += own
        return dict(ms.most_common())

    @cached_property
    def by_kind(self) -> dict[str, tuple[int, float]]:
        """{kind: (number of modules, ms)}, the longest first."""
        count, ms = Counter(module.kind for module in self.modules), Counter[str]()
        for module, own in zip(self.modules, self.ms.tolist(), strict=True):
            ms[module.kind] += own
        return {kind: (count[kind], own) for kind, own in ms.most_common()}


def of(predictor: ModulesLatency, modules: Sequence[Module], target: Target) -> Breakdown:
    """The breakdown of a network on a target that the predictor answers for; ValueError for another."""
    there = predictor if target.key == predictor.target.key else predictor.at(target)
    there.spread.check(there.condition)
    ms = there.module_ms(modules)
    total, some = float(ms.sum()), ms.clip(min=0)  # a correction may take more from a module than it has
    return Breakdown(tuple(modules), some * (total / some.sum()), target, there.relative_std)


def describe(module: Module) -> str:
    """The inputs of a module in a few words.

    >>> describe(Module("linear", {"cin": 64.0, "cout": 10.0, "rows": 1.0}))
    'cin=64 cout=10 rows=1'
    """
    return " ".join(f"{name}={value:.4g}" for name, value in module.inputs.items())


def rows(breakdown: Breakdown) -> list[dict[str, Any]]:
    """A row per module, in the order they run."""
    total = breakdown.ms.sum()
    return [
        {
            "layer": module.layer or str(place),
            "kind": module.kind,
            "ms": float(ms),
            "share": float(ms / total),
            "inputs": describe(module),
            "stands_for": module.stands_for,
        }
        for place, (module, ms) in enumerate(zip(breakdown.modules, breakdown.ms, strict=True))
    ]
