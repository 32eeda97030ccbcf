"""The latency of networks whose precision is a gene: a predictor for each precision, of one machine."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latency.predictors.interface import LatencyModel, energy_of
from latency.target import Target
from supernet.arrays import Genomes
from supernet.prediction import Prediction, where
from supernet.space import SearchSpace


@dataclass(frozen=True)
class ByPrecision:
    """Asks `int8` for the networks of `space` whose precision gene says int8, and `fp32` for the others.

    >>> space = get_space("ofa_mbv3_w1.0_int8")
    >>> latency = ByPrecision(catalogue.predictor("epyc_ort"), catalogue.find("int8.npz"), space)
    >>> latency.predict(space.sample(10, np.random.default_rng(0)), latency.target).mean
    """

    fp32: LatencyModel
    int8: LatencyModel
    space: SearchSpace

    def __post_init__(self) -> None:
        base = self.space.parent
        if "precision" not in self.space.index or base is None:
            raise ValueError(f"{self.space.name} has no precision gene: leave int8_predictor= out")
        if self.fp32.target.precision != "fp32":
            raise ValueError(f"the predictor is of {self.fp32.target}: it must be of fp32, as b32 says")
        wanted = replace(self.fp32.target, precision="int8")
        if self.int8.target.key != wanted.key:
            raise ValueError(
                f"int8_predictor is of {self.int8.target}: it must be int8 on the device, engine, batch, "
                f"threads and space of the other, {wanted}"
            )
        if base.name != wanted.space:
            raise ValueError(
                f"the predictors are of {wanted.space} networks, the space is {self.space.name}, whose "
                f"networks are those of {base.name}"
            )

    @cached_property
    def target(self) -> Target:
        """The target of `fp32`, for networks of both precisions."""
        return replace(self.fp32.target, space=self.space.name, precision="fp32 or int8")

    @property
    def resolutions(self) -> tuple[int, int]:
        """The resolutions that both predictors know."""
        low, high = zip(self.fp32.resolutions, self.int8.resolutions, strict=True)
        return max(low), min(high)

    @property
    def relative_std(self) -> float:
        """The larger one of both predictors."""
        return max(self.fp32.relative_std, self.int8.relative_std)

    @property
    def facts(self) -> Mapping[str, Any]:
        """The facts of both predictors, by precision."""
        return {"fp32": self.fp32.facts, "int8": self.int8.facts}

    @property
    def energy(self) -> "ByPrecision | None":
        """The energy in both precisions, where both are known."""
        fp32, int8 = energy_of(self.fp32), energy_of(self.int8)
        return None if fp32 is None or int8 is None else ByPrecision(fp32, int8, self.space)

    def parts(self, genomes: Genomes) -> list[tuple[LatencyModel, NDArray[np.bool_]]]:
        """Each predictor, and the (n,) networks that it answers for."""
        in_int8 = self.space.column(genomes, "precision") == 8
        return [(self.fp32, ~in_int8), (self.int8, in_int8)]

    def predict(self, genomes: Genomes, target: Target) -> Prediction:
        """(n,) ms of one batch, each network in its own precision."""
        if target.key != self.target.key:
            raise ValueError(f"this predictor is of {self.target}, not of {target}")
        (fp32, _), (int8, in_int8) = self.parts(genomes)
        bare = self.space.embed(genomes, fp32.target.space)
        return where(in_int8, int8.predict(bare, int8.target), fp32.predict(bare, fp32.target))
