"""Ten measured subnets of a device, adapted to as `make adapt` does, beside the two simplest ways.

The devices are those measured by us for MAPLE (engines, precisions, instruction sets and batch sizes of one
machine), or all targets of a store: `test_rows=` takes the store itself or what `make measure` exports of it
(`export_csv=`). Of each target, `TESTS` networks judge, the same in every draw, and ten of the others are
drawn at random. It is done twice: without what is known of the target's own engine, which was measured on a
machine like the one in question, and with it. Where the operators of the target were timed, MAPLE judges too,
by the other devices measured for it.
"""

import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.protocols import protocol
from latency.data import LatencyData
from latency.measuring import summary
from latency.measuring.store import Store
from latency.predictors.maple import Maple
from latency.predictors.sources import common_resolutions, sources_of
from latency.predictors.transfer import Transfer
from latency.zoo import devices
from supernet.space import get_space

SAMPLES, TESTS = 10, 50
METHOD, SIMPLE = "transfer", ("MACs line", "closest device x factor")
OWN = {"own engine unknown": False, "own engine known": True}


def run(setting: protocol.Setting) -> Iterator[protocol.Row]:
    for data in setting.some(list(_measured(setting.test_rows))):
        space = get_space(data.target.space)
        everything = sources_of(space)
        if "r" in space.index:
            low, high = common_resolutions(everything)
            sides = space.column(data.genomes, "r")
            data = data.take(np.flatnonzero((sides >= low) & (sides <= high)))
        order = np.random.default_rng(0).permutation(len(data))
        tests, others = np.split(order, [min(TESTS, len(order) // 2)])
        rows: list[protocol.Row] = []
        for part, known in OWN.items():
            sources = [
                s for s in everything if known or s.target is None or s.target.engine != data.target.engine
            ]
            for seed, rng in setting.draws():
                samples = data.take(rng.choice(others, SAMPLES, replace=False))
                ways = {METHOD: protocol.fitting(Transfer().fit_from, sources, samples)}
                ways |= protocol.simple(sources, samples)
                ways |= _by_operators(samples, known)
                row = protocol.Row("ten_samples", "", data.target.name, SAMPLES, seed, part, {})
                rows += protocol.compare(row, ways, data.take(tests))
        *first, last = rows
        yield from first
        yield replace(last, note=_verdict(data.target.name, rows))


def _by_operators(samples: LatencyData, own_engine: bool) -> dict[str, protocol.Fit]:
    """MAPLE by the devices whose operators ship, other than the target; empty where it is none of them."""
    target, shipped = samples.target, [devices.load(name) for name in devices.names()]
    if not any(data.target.key == target.key for data, _ in shipped):
        return {}
    known, descriptor = devices.by_operators(target)
    kept = [one for one in known if own_engine or one.data.target.engine != target.engine]
    return {"MAPLE by operators": protocol.fitting(Maple().fit_from, kept, samples, descriptor)}


def _measured(path: Path | None) -> Iterator[LatencyData]:
    """The latencies of each target of a store, or of our own devices; at least twice the samples."""
    if path is None:
        yield from (devices.load(name)[0] for name in devices.names())
        return
    with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "store.sqlite") as copy:
        if path.suffix != ".sqlite":
            copy.import_csv(path)
            yield from _stored(copy)
            return
    with Store(path) as store:
        yield from _stored(store)


def _stored(store: Store) -> Iterator[LatencyData]:
    targets = {(s.target.key, s.engine_version): s for s in store.sittings()}
    for sitting in targets.values():
        data, _ = summary.stored_latencies(store, sitting.target, sitting.engine_version)
        if len(data) >= 2 * SAMPLES:
            yield data


def _verdict(target: str, rows: Iterable[protocol.Row]) -> str:
    """How transfer compares with the better simple way, and its worst coverage in a draw."""
    mape, coverage = defaultdict(list), defaultdict(list)
    for row in rows:
        mape[row.rows, row.method].append(row.scores["mape"])
        coverage[row.rows, row.method].append(row.scores["coverage_90"])
    parts = []
    for part in OWN:
        simple = min(np.mean(mape[part, way]) for way in SIMPLE)
        ratio, least = np.mean(mape[part, METHOD]) / simple, min(coverage[part, METHOD])
        parts.append(f"{part} {ratio:.2f} of the better simple way, 90% intervals cover {least:.0f}% or more")
    return f"{target}: " + "; ".join(parts) + "."
