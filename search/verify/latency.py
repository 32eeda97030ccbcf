"""Latencies on this machine as far as they are known: measured where they were measured, predicted elsewhere.

Letters: n networks.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from latency.measuring.known import Known, Wander
from latency.predictors.by_precision import ByPrecision
from latency.predictors.interface import LatencyModel, energy_of
from latency.target import Target
from search.problem import Problem
from supernet.arrays import Genomes
from supernet.prediction import Prediction
from supernet.space import get_space


@dataclass(frozen=True, eq=False)
class KnownLatency:
    """A predictor of this machine, and what was measured on it.

    Both speak of a later sitting: the machine's drift between sittings is an error that all networks share.
    """

    predictor: LatencyModel
    known: Known | None = None  # None: nothing that is to be preferred to the predictor

    @property
    def target(self) -> Target:
        return self.predictor.target

    @property
    def resolutions(self) -> tuple[int, int]:
        return self.predictor.resolutions

    @property
    def relative_std(self) -> float:
        return self.predictor.relative_std

    @property
    def facts(self) -> Mapping[str, Any]:
        return self.predictor.facts

    @property
    def energy(self) -> "KnownLatency | None":
        """The energy of the same networks, mJ in place of ms, as far as it is known."""
        energy = energy_of(self.predictor)
        return None if energy is None else KnownLatency(energy, self.known and self.known.energy)

    @property
    def wander(self) -> Wander:
        """How sittings differ, as far as it was known when the predictor was made."""
        return Wander.from_facts(self.facts) if self.known is None else self.known.wander

    def predict(self, genomes: Genomes, target: Target) -> Prediction:
        """(n,) ms of one batch in a later sitting; measured networks with their own repeatability only."""
        predicted = self.predictor.predict(genomes, target)
        mean, own, wander = predicted.mean, predicted.std, self.wander
        shared = predicted.shared if predicted.shared is not None else np.zeros((len(mean), 0))
        if self.known is not None and len(self.known.data):
            rows = self.known.rows(get_space(target.space).network(genomes))
            measured = rows >= 0
            mean = np.where(measured, self.known.data.ms[rows], mean)
            own = np.where(measured, wander.repeat * mean, own)
            shared = np.where(measured[:, None], 0.0, shared)
        drift = wander.drift * mean
        shared = np.concatenate([shared, drift[:, None]], axis=1)
        return replace(predicted, mean=mean, std=np.sqrt(own**2 + drift**2), shared=shared)


def parts_of(problem: Problem) -> dict[str, LatencyModel]:
    """{the name of a target, or the precision on the only one: the model of its latency}."""
    if problem.models.devices:
        return dict(problem.models.devices)
    if problem.models.latency is None:
        raise ValueError("nothing to verify: no objective or limit is a latency")
    return {part.target.precision: part for part in parts(problem.models.latency)}


def changed(problem: Problem, change: Callable[[str, LatencyModel], LatencyModel]) -> Problem:
    """The problem with every part of its latency changed, which `change` also gets the name of."""
    if problem.models.devices:
        return problem.with_devices({name: change(name, one) for name, one in parts_of(problem).items()})
    assert problem.models.latency is not None
    return problem.with_latency(
        by_part(problem.models.latency, lambda part: change(part.target.precision, part))
    )


def by_part(latency: LatencyModel, change: Callable[[LatencyModel], LatencyModel]) -> LatencyModel:
    """The model with its part for each precision, or itself, changed."""
    if isinstance(latency, ByPrecision):
        return replace(latency, fp32=change(latency.fp32), int8=change(latency.int8))
    return change(latency)


def parts(latency: LatencyModel) -> list[LatencyModel]:
    """The part for each precision, or the model itself."""
    return [latency.fp32, latency.int8] if isinstance(latency, ByPrecision) else [latency]
