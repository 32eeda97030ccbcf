"""The parameters of the formula of GPU kernels: names, priors, and which of them a GPU and a source use."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latency.gpu.chip import Chip
from latency.gpu.formula import TILES
from latency.gpu.kernels import MATRIX, Kind
from latency.gpu.measurements import NEUSIGHT
from supernet.arrays import Floats

log = math.log
SINGLE = {  # prior mean and standard deviation of a logarithm or an exponent
    **{f"tile.{i}": (m, 0.3) for i, m in enumerate((log(0.9), log(0.85), log(0.75), log(0.6), log(0.35)))},
    "fill": (log(0.5), 1.0),  # multiprocessors that idle for want of tiles
    "depth": (log(30.0), 1.0),  # of a product, at which half of its time is overhead
    "winograd4": (log(0.6), 0.4),
    "winograd4.traffic": (0.0, 0.4),
    "winograd2": (log(0.7), 0.4),
    "winograd2.traffic": (0.0, 0.4),
    "winograd.slow": (0.7, 0.3),  # share of what low clocks and power cost other products
    "cache.gain": (0.5, 0.5),
    "cache.size": (log(0.5), 0.7),
    "ecc": (0.1, 0.1),  # what checks of the memory cost
    "clock": (0.3, 0.3),
    "power": (0.4, 0.3),
    "aligned": (-0.5, 0.4),
    "depthwise": (log(0.3), 0.5),
    "depthwise.old": (0.5, 0.5),  # how much longer before Volta
    "depthwise.window": (0.3, 0.5),
    "depthwise.stride": (0.3, 0.4),
    "start": (log(0.005), 0.5),  # ms of a kernel that does nothing
    "single": (log(0.012), 0.5),  # ms that a kernel measured alone takes more
    "launch": (log(0.008), 0.5),  # ms of the host per kernel
    **{f"launch.{kind.name}": (0.0, 0.4) for kind in Kind},
    **{f"{what}.{kind.name}": (0.0, 0.5) for what in ("fill", "depth") for kind in MATRIX},
}
BY_KIND = ("launch", "fill", "depth")  # that have a deviation for each kind
SHARE = dict.fromkeys(Kind, (log(0.75), 0.3)) | dict.fromkeys(
    (Kind.ELEMENTWISE, Kind.NORM, Kind.POOL, Kind.COPY), (log(0.85), 0.08)
)
RATE = dict.fromkeys((Kind.CONV, Kind.POINTWISE, Kind.LINEAR, Kind.BATCHED), (0.0, 0.2))
TENSOR = dict.fromkeys(RATE, (log(0.6), 0.3))  # what tensor cores keep of it
FAMILY = {
    Kind.CONV: 0.1, Kind.POINTWISE: 0.2, Kind.DEPTHWISE: 0.15, Kind.LINEAR: 0.15, Kind.BATCHED: 0.05,
    Kind.ELEMENTWISE: 0.08, Kind.NORM: 0.15, Kind.ROWS: 0.15, Kind.POOL: 0.1, Kind.COPY: 0.1,
}  # fmt: skip
GENERATION, GENERATION_KIND = 0.07, 0.1
ALONE = (NEUSIGHT,)  # sources that measured single kernels
NETWORK = 0.2  # of kernels in networks against the same measured alone
GPU, SOURCE, SOURCE_KIND, HOST = 0.1, 0.2, 0.15, 0.4


@dataclass(frozen=True, eq=False)
class Layout:
    """The parameters of some groups in a vector."""

    names: tuple[str, ...]
    mean: Floats  # (P,)
    spread: Floats  # (P,)
    index: Mapping[str, int]

    def named(self, vector: Any) -> dict[str, Any]:
        """The formula's parameters from a (P + 1,) vector whose last number is 0."""
        single = {name: vector[self.index[name]] for name in SINGLE if name not in BY_KIND}
        single["tile"] = vector[[self.index[f"tile.{i}"] for i in range(len(TILES))]]
        for what in ("share", "rate", "tensor", *BY_KIND):
            single[what] = vector[[self.index.get(f"{what}.{kind.name}", -1) for kind in Kind]]
        return single | {what: single[what] + vector[self.index[what]] for what in BY_KIND}

    def places(self, groups: Sequence[tuple[Chip, str]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(g, kinds, f) places of the factors of each group and kind, (g,) those of the hosts."""
        none = len(self.names)
        factors = [
            [[self.index.get(name, none) for name in factor_names(*group, kind)] for kind in Kind]
            for group in groups
        ]
        hosts = [self.index.get(host_name(*group), none) for group in groups]
        return np.array(factors), np.array(hosts)


def factor_names(chip: Chip, source: str, kind: Kind) -> list[str]:
    """The factors of a kind of kernel."""
    generation = f"generation.{chip.generation}"
    names = [generation, f"{generation}.{kind.name}"]
    names += [f"gpu.{chip.name}"] if chip.name else [""]
    names += [f"source.{source}", f"source.{source}.{kind.name}"] if source else ["", ""]
    names += [f"family.{kind.name}"] if chip.before_volta else [""]
    names += [""] if source in ALONE else [f"network.{kind.name}"]
    return names


def host_name(chip: Chip, source: str) -> str:
    """The host of a GPU of a source."""
    return f"host.{chip.name}@{source}" if source else ""


def layout(groups: Sequence[tuple[Chip, str]]) -> Layout:
    """The parameters that some groups need."""
    prior = dict(SINGLE)
    for what, by_kind in (("share", SHARE), ("rate", RATE), ("tensor", TENSOR)):
        prior |= {f"{what}.{kind.name}": values for kind, values in by_kind.items()}
    for chip, source in groups:
        for kind in Kind:
            spreads = (GENERATION, GENERATION_KIND, GPU, SOURCE, SOURCE_KIND, FAMILY[kind], NETWORK)
            for name, spread in zip(factor_names(chip, source, kind), spreads, strict=True):
                if name:
                    prior[name] = (0.0, spread)
        if source:
            prior[host_name(chip, source)] = (0.0, HOST)
    names = tuple(prior)
    mean, spread = np.array(list(prior.values())).T
    return Layout(names, mean, spread, {name: i for i, name in enumerate(names)})
