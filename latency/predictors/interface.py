"""Latency predictors: one file here and one YAML in `configs/learner`.

A predictor is fitted (`fit(data)` returns it) and then answers `predict(genomes, target)`; `adapt(data)`
returns a new one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from latency.data import LatencyData
from latency.target import Target
from supernet.arrays import Genomes
from supernet.files import artifact
from supernet.prediction import Prediction
from supernet.space import SearchSpace, get_space


class LatencyModel(Protocol):
    """What a search asks for latencies: a fitted predictor, or one for each precision (`ByPrecision`)."""

    @property
    def target(self) -> Target: ...
    @property
    def resolutions(self) -> tuple[int, int]: ...
    @property
    def relative_std(self) -> float: ...
    @property
    def facts(self) -> Mapping[str, Any]: ...
    def predict(self, genomes: Genomes, target: Target) -> Prediction: ...


class LatencyPredictor(LatencyModel, Protocol):
    """A fitted predictor, which can be adapted and saved."""

    def adapt(self, data: LatencyData) -> LatencyPredictor: ...
    def save(self, path: str | Path) -> None: ...


class Learner(Protocol):
    """What `configs/learner` builds: a method with its options."""

    def fit(self, data: LatencyData) -> LatencyPredictor: ...


@runtime_checkable
class AnyTarget(Protocol):
    """A predictor that answers for other targets too, as module predictors do for every batch and space."""

    def at(self, target: Target) -> LatencyPredictor: ...


Fitted = TypeVar("Fitted", bound=LatencyPredictor)


def with_facts(predictor: Fitted, facts: Mapping[str, Any]) -> Fitted:
    """The same predictor, any frozen dataclass, with more facts about it (scores, protocol)."""
    known: Any = predictor
    more: Fitted = replace(known, facts={**known.facts, **facts})
    return more


def space_of(predictor: LatencyPredictor, genomes: Genomes, target: Target) -> SearchSpace:
    """The space of a predictor; ValueError for another target than its own and for unknown resolutions."""
    mine = predictor.target
    if target.key != mine.key:
        raise ValueError(f"this predictor was fitted for {mine.name}, not for {target.name}")
    space = get_space(mine.space)
    space.check_resolutions(genomes, predictor.resolutions, f"the latency of {mine.name}")
    return space


NETWORK_SUFFIX = ".safetensors"
MODULES = {  # which module reads an `.npz` of this kind
    "latency predictor": "latency.predictors.slots",
    "gpu data-sheet predictor": "latency.predictors.gpu_spec",
    "maple predictor": "latency.predictors.maple",
    "ensemble latency predictor": "latency.predictors.ensemble",
    "module latency predictor": "latency.modules.predictor",
}


def load(path: Path) -> LatencyPredictor:
    """A saved predictor of any method (.npz, or .safetensors of a network).

    ValueError that names the file when it is damaged or something else.
    """
    is_network = path.suffix == NETWORK_SUFFIX
    module = "latency.predictors.neural" if is_network else MODULES[artifact.load(path, *MODULES)[1]["kind"]]
    found: LatencyPredictor = import_module(module).load(path)
    return found


def suffix(predictor: LatencyPredictor) -> str:
    """What the file of a predictor ends in."""
    return NETWORK_SUFFIX if type(predictor).__module__ == "latency.predictors.neural" else ".npz"
