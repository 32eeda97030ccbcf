"""Latency predictors: one file here and one YAML in `configs/learner`.

A predictor is fitted (`fit(data)` returns it) and then answers `predict(genomes, target)`; `adapt(data)`
returns a new one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from latency.data import LatencyData
from latency.target import Target
from supernet.prediction import Prediction
from supernet.space import Genomes


class LatencyPredictor(Protocol):
    """What a search needs of a fitted predictor."""

    @property
    def target(self) -> Target: ...
    @property
    def resolutions(self) -> tuple[int, int]: ...
    @property
    def relative_std(self) -> float: ...
    @property
    def facts(self) -> Mapping[str, Any]: ...
    def predict(self, genomes: Genomes, target: Target) -> Prediction: ...
    def adapt(self, data: LatencyData) -> LatencyPredictor: ...
    def save(self, path: str | Path) -> None: ...


class Learner(Protocol):
    """What `configs/learner` builds: a method with its options."""

    def fit(self, data: LatencyData) -> LatencyPredictor: ...
