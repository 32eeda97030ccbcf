"""Devices measured by us, each with a descriptor: what predictors that learn across devices start from.

`measured/maple/NAME.csv.gz` holds the latencies of the same subnets on each, `NAME.json` the target and its
operators (`benchmarks/measure_devices.py` makes both).
"""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import cache
from pathlib import Path

import numpy as np

from latency.data import LatencyData, read_csv
from latency.measuring.operators import Operators, describe
from latency.predictors.maple import Known, specification
from latency.target import Target
from latency.zoo import catalogue
from supernet.arrays import Floats, Rng
from supernet.files import artifact
from supernet.space import get_space

FOLDER = Path(__file__).parent / "measured" / "maple"
POOL = 200  # random subnets whose latencies stand for a shipped predictor


def save(target: Target, operators: Operators) -> None:
    """The JSON file of a device beside its latencies."""
    found = {"target": asdict(target), "operators": asdict(operators)}
    artifact.write_json(FOLDER / f"{target.name}.json", found)


@cache
def names() -> tuple[str, ...]:
    """The measured devices."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.json")))


@cache
def load(name: str) -> tuple[LatencyData, Operators]:
    """The latencies and operators of a measured device."""
    found = json.loads((FOLDER / f"{name}.json").read_text())
    target = Target(**found["target"])
    return read_csv(FOLDER / f"{name}.csv.gz", target, "lat_ms"), Operators(**found["operators"])


def by_operators(target: Target) -> tuple[list[Known], Floats]:
    """The measured devices of the target's space but itself, and the target's descriptor: timed now, unless
    it is one of them.

    ValueError when there are none, or the target is not this machine.
    """
    known, own = [], None
    for name in names():
        data, operators = load(name)
        if data.target.key == target.key:
            own = operators.vector()
        elif data.target.space == target.space:
            known.append(Known(data, operators.vector()))
    if not known:
        raise ValueError(f"no device with operators has timed {target.space}: leave operators=true out")
    return known, describe(target).vector() if own is None else own


def by_specification(target: Target, rng: Rng) -> tuple[list[Known], Floats]:
    """The shipped predictors of the target's space, each by its latencies of the same random subnets, and
    the data sheet of the target."""
    found = [catalogue.predictor(name) for name in catalogue.targets_of(target.space)]
    found = [predictor for predictor in found if predictor.target.key != target.key]
    if len(found) < 2:
        raise ValueError(
            f"{len(found)} shipped device(s) have timed {target.space}, MAPLE learns from 2 or more"
        )
    space = get_space(target.space)
    if "r" in space.index:
        low = max(predictor.resolutions[0] for predictor in found)
        space = space.restrict("r", low, min(predictor.resolutions[1] for predictor in found))
    genomes = space.network(space.sample(POOL, rng))
    unknown = np.full(len(genomes), np.nan)
    known = [
        Known(
            LatencyData(p.target, genomes, p.predict(genomes, p.target).mean, unknown),
            specification(p.target.spec),
        )
        for p in found
    ]
    return known, specification(target.spec)
