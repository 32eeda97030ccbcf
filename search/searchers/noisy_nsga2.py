"""NSGA-II for noisy costs: survivors by the probability of being efficient, on costs freed of noise (ours).

Letters: n architectures, d genes, m objectives, D one-hot columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from search import pareto
from search.archive import Archive
from search.efficiency import front_probability
from search.searchers.nsga2 import NSGA2, constrained_ranks
from supernet.space import Floats, Genomes, Ints, Rng, SearchSpace


@dataclass(config=ConfigDict(extra="forbid"))
class NoisyNSGA2(NSGA2):
    spread: tuple[float, ...] = ()
    draws: Annotated[int, Field(ge=10)] = 100
    shrink: bool = True
    by: str = "probability"
