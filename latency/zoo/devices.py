"""Devices measured by us, each with a descriptor, and MAPLE's learner, which learns from them.

`measured/maple/NAME.csv.gz` holds the latencies of the same subnets on each, `NAME.json` the target and its
operators (`benchmarks/measure_devices.py` makes both).
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path

import numpy as np

from latency.data import LatencyData, read_csv
from latency.descriptors import Descriptor, KnownDevice, specification
from latency.measuring.operators import Operators, describe
from latency.predictors.interface import LatencyPredictor
from latency.predictors.maple import Maple, MaplePredictor
from latency.target import Target
from latency.zoo import catalogue
from supernet.arrays import Rng
from supernet.files import artifact
from supernet.options import options
from supernet.space import get_space

FOLDER = Path(__file__).parent / "measured" / "maple"
SHEET = "data sheet"  # the name of this part of a descriptor
POOL = 200  # random subnets whose latencies stand for a shipped predictor


def save(target: Target, operators: Operators) -> None:
    """The JSON file of a device beside its latencies."""
    artifact.write_json(
        FOLDER / f"{target.name}.json", {"target": asdict(target), "operators": asdict(operators)}
    )


@cache
def names() -> tuple[str, ...]:
    """The measured devices."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.json")))


@cache
def load(name: str) -> tuple[LatencyData, Operators]:
    """The latencies and operators of a measured device."""
    facts = json.loads((FOLDER / f"{name}.json").read_text())
    target = Target(**facts["target"])
    return read_csv(FOLDER / f"{name}.csv.gz", target, "lat_ms"), Operators(**facts["operators"])


@options
class ZooMaple(Maple):
    """MAPLE that learns from the shipped predictors of the space, by reference latencies and data sheets.

    With `operators` it learns from the devices measured by us, by operator latencies, and times the operators
    on this machine.
    """

    operators: bool = False  # True: time operators here and learn from the devices measured by us
    counters: str = "perf"  # or cachegrind, or a folder of recorded files: where hardware events come from

    def fit(self, data: LatencyData) -> MaplePredictor:
        """The predictor of the target of these samples, 2 or more."""
        if self.operators:
            devices, descriptor = by_operators(data.target, self.counters)
        else:
            devices, descriptor = by_specification(data.target, np.random.default_rng(self.seed))
        return self.fit_from(devices, data, descriptor)


def by_operators(target: Target, counters: str = "perf") -> tuple[list[KnownDevice], Descriptor]:
    """The measured devices of the target's space but itself, and the target's descriptor: timed now, unless
    it is one of them.

    ValueError when there are none, or the target is not this machine.
    """
    measured = {name: load(name) for name in names()}
    devices = [
        KnownDevice(data, operators.descriptor())
        for data, operators in measured.values()
        if data.target.space == target.space and data.target.key != target.key
    ]
    if not devices:
        raise ValueError(f"no device with operators has timed {target.space}: leave operators=true out")
    own = [operators for data, operators in measured.values() if data.target.key == target.key]
    return devices, (own[0] if own else describe(target, counters)).descriptor()


def by_specification(target: Target, rng: Rng) -> tuple[list[KnownDevice], Descriptor]:
    """The shipped predictors of the target's space, each by its latencies of the same random subnets, and
    the data sheet of the target."""
    shipped = [catalogue.predictor(name) for name in catalogue.targets_of(target.space)]
    others = [predictor for predictor in shipped if predictor.target.key != target.key]
    if len(others) < 2:
        raise ValueError(f"{len(others)} shipped device(s) have timed {target.space}, MAPLE needs 2 or more")
    devices = [
        KnownDevice(data, {SHEET: specification(data.target.spec)}) for data in latencies_by(others, rng)
    ]
    return devices, {SHEET: specification(target.spec)}


def latencies_by(predictors: Sequence[LatencyPredictor], rng: Rng) -> list[LatencyData]:
    """What predictors of one space say of the same random subnets, of input sides that all of them know."""
    space = get_space(predictors[0].target.space)
    if "r" in space.index:
        low = max(predictor.resolutions[0] for predictor in predictors)
        space = space.restrict("r", low, min(predictor.resolutions[1] for predictor in predictors))
    genomes = space.network(space.sample(POOL, rng))
    unknown = np.full(len(genomes), np.nan)
    return [
        LatencyData(each.target, genomes, each.predict(genomes, each.target).mean, unknown)
        for each in predictors
    ]
