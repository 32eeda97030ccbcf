"""From visits to latencies: which visits count, the drift of rounds removed, quartiles per subnet."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from latency.data import LatencyData
from latency.measuring.broken_off import is_open
from latency.measuring.conditions import BUSY
from latency.measuring.jobs import Rounds
from latency.measuring.store import END, Store, Visit
from latency.target import Target
from supernet.arrays import Floats
from supernet.space import get_space

MIN_VISITS = 3  # fewer tell nothing: such a measurement was cut short
AGREEMENT = 0.008  # relative standard error of a subnet's visits at which it is done
LONG_ROUNDS = (5, 7)
SLOW = 1.05  # a round that took this much longer than the others does not count
FULL_SPEED = 0.95  # share of the highest frequency below which a visit does not count
POLISHES = 5
ON_PROCESSOR = ("cpu", "mobile", "embedded")  # kinds of devices whose networks run in our process


def _runs_ms(visit: Visit, target: Target) -> list[float]:
    """CPU times where they are the latency, else wall times; without readings of a clock that stood still.

    Benchmark programs tell no CPU times.
    """
    on_host = target.threads == 1 and target.spec.kind in ON_PROCESSOR and not target.utilisation
    return [ms for ms in (visit.cpu_ms if on_host and visit.cpu_ms else visit.wall_ms) if ms > 0]


def burst_ms(visit: Visit, target: Target) -> float:
    """The latency of one visit: the least of its runs (under a background load their mean is one)."""
    return min(_runs_ms(visit, target))


def throttled(visits: Sequence[Visit]) -> list[bool]:
    """Of the visits of one block, which ran at a frequency below the usual one: a device that was too hot.

    The highest frequency of the block is the usual one. Visits without a frequency are none of them.
    """
    usual = max((visit.mhz for visit in visits if visit.mhz is not None), default=0.0)
    return [visit.mhz is not None and visit.mhz < FULL_SPEED * usual for visit in visits]


def counts(visit: Visit, target: Target) -> bool:
    """Whether a visit tells the latency: it ran, and with several threads the machine was free."""
    if visit.error or not _runs_ms(visit, target):
        return False
    return bool(target.utilisation) or target.threads == 1 or visit.others is None or visit.others <= BUSY


def _polished(visits: Sequence[Visit], target: Target) -> dict[str, Floats]:
    """Per subnet of one block its latencies (ms) in the rounds that count, freed of the drift of the rounds.

    Median polish of log latency = subnet + round (Tukey): all subnets of a block tell how slow a round was.
    """
    names = list(dict.fromkeys(visit.architecture for visit in visits))
    rounds = sorted({visit.round for visit in visits})
    row, column = {n: i for i, n in enumerate(names)}, {r: j for j, r in enumerate(rounds)}
    logs = np.full((len(names), len(rounds)), np.nan)
    for visit, slow in zip(visits, throttled(visits), strict=True):
        if counts(visit, target) and not slow:
            cell = row[visit.architecture], column[visit.round]
            logs[cell] = np.nanmean([logs[cell], np.log(burst_ms(visit, target))])  # anchors come twice
    logs = logs[:, np.isfinite(logs).any(axis=0)]
    heard = np.isfinite(logs).any(axis=1)
    kept = logs[heard]
    drift = np.zeros(kept.shape[1])
    for _ in range(POLISHES):
        subnet = np.nanmedian(kept - drift, axis=1, keepdims=True)
        drift = np.nanmedian(kept - subnet, axis=0)
        drift -= np.median(drift) if len(drift) else 0.0
    usual = drift <= np.log(SLOW)
    freed = np.exp(kept[:, usual] - drift[usual])
    values = [values[np.isfinite(values)] for values in freed]
    return {names[i]: v for i, v in zip(np.flatnonzero(heard), values, strict=True) if len(v)}


def agreed(visits: Sequence[Visit], names: Sequence[str], target: Target, rounds: Rounds) -> list[str]:
    """The names whose visits in one block agree."""
    polished = _polished(visits, target)
    return [name for name in names if name in polished and _is_done(polished[name], rounds)]


def _is_done(values: Floats, rounds: Rounds) -> bool:
    long = bool(np.median(values) >= rounds.long_ms)
    if len(values) < (LONG_ROUNDS[0] if long else rounds.fewest):
        return False
    # The standard error of a median, from the interquartile range of a normal sample.
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    error = 1.2533 * (high - low) / 1.349 / np.sqrt(len(values)) / middle
    return bool(error <= AGREEMENT) or (long and len(values) >= LONG_ROUNDS[1])


def summarise(visits: Sequence[Visit], target: Target) -> tuple[dict[str, Floats], dict[str, float]]:
    """Quartiles (ms) of all that was measured in one sitting, and the medians of its anchors.

    Blocks are brought to the common scale of their anchors. What broke down once, or was visited fewer than
    MIN_VISITS times (a sitting that was cut short), is left out.
    """
    broken = {visit.architecture for visit in visits if visit.error}
    blocks: dict[int, list[Visit]] = {}
    for visit in visits:
        if visit.role != END:
            blocks.setdefault(visit.block, []).append(visit)
    polished = [
        {n: ms for n, ms in _polished(block, target).items() if len(ms) >= MIN_VISITS and n not in broken}
        for block in blocks.values()
    ]
    usual = {}
    for name in sorted({visit.architecture for visit in visits if visit.role == "anchor"}):
        if medians := [np.median(block[name]) for block in polished if name in block]:
            usual[name] = float(np.median(medians))
    scaled: dict[str, list[Floats]] = {}
    for block in polished:
        scale = relative_scale({name: float(np.median(ms)) for name, ms in block.items()}, usual)
        for name, ms in block.items():
            scaled.setdefault(name, []).append(ms / scale)
    return {name: np.quantile(np.concatenate(ms), (0.25, 0.5, 0.75)) for name, ms in scaled.items()}, usual


def as_energies(visits: Sequence[Visit]) -> list[Visit]:
    """The visits with millijoules in place of milliseconds, for everything here.

    A meter counts what other processes take as well, so visits beside them are left out.
    """
    return [
        replace(visit, wall_ms=() if visit.energy_mj is None else (visit.energy_mj,), cpu_ms=())
        for visit in visits
        if visit.others is None or visit.others <= BUSY
    ]


def latencies(target: Target, quartiles_ms: Mapping[str, Floats]) -> LatencyData:
    table = np.array(list(quartiles_ms.values())).reshape(-1, 3)
    return LatencyData(
        target, get_space(target.space).parse(quartiles_ms), table[:, 1], table[:, 2] - table[:, 0]
    )


def relative_scale(anchors_ms: Mapping[str, float], reference: Mapping[str, float]) -> float:
    """How much slower one sitting was than another, by the anchors of both."""
    shared = [ms / reference[name] for name, ms in anchors_ms.items() if name in reference]
    return float(np.median(shared)) if shared else 1.0


Sitting = tuple[LatencyData, dict[str, float]]  # what was measured in it, and the medians of its anchors


def stored_latencies(
    store: Store, target: Target, engine_version: str
) -> tuple[LatencyData, dict[str, float]]:
    """All subnets measured on this target with this version of its engine, on the scale of the last sitting,
    and the anchors of that sitting. A subnet measured in several sittings has the median.
    """
    return on_one_scale(target, stored_sittings(store, target, engine_version))


def stored_sittings(store: Store, target: Target, engine_version: str) -> list[Sitting]:
    """The sittings of this target with this version of its engine that measured anything, oldest first; none
    that was broken off and may go on."""
    return measured(target, stored_visits(store, target, engine_version))


def stored_visits(store: Store, target: Target, engine_version: str) -> list[list[Visit]]:
    """The visits of each sitting of a target, none of one that was broken off and may go on."""
    everything = ((one, store.visits(one.id)) for one in store.sittings(target, engine_version))
    return [visits for sitting, visits in everything if not is_open(sitting, visits)]


def measured(target: Target, sittings_visits: Sequence[Sequence[Visit]]) -> list[Sitting]:
    """What was measured in each sitting of these visits, where anything was."""
    sittings = []
    for visits in sittings_visits:
        quartiles, usual = summarise(visits, target)
        subnets = {name: q for name, q in quartiles.items() if name.startswith(target.space)}
        if subnets and usual:
            sittings.append((latencies(target, subnets), usual))
    return sittings


def on_one_scale(target: Target, sittings: Sequence[Sitting]) -> tuple[LatencyData, dict[str, float]]:
    """The same as `stored_latencies`, of these sittings."""
    if not sittings:
        return latencies(target, {}), {}
    last = sittings[-1][1]
    scales = [relative_scale(usual, last) for _, usual in sittings]
    genomes = np.concatenate([data.genomes for data, _ in sittings])
    times = np.concatenate(
        [
            np.stack([data.ms, data.spread_ms]) / scale
            for (data, _), scale in zip(sittings, scales, strict=True)
        ],
        axis=1,
    )
    distinct, owner = np.unique(genomes, axis=0, return_inverse=True)
    rows = [owner.ravel() == i for i in range(len(distinct))]
    ms, spread = np.array([np.median(times[:, of], axis=1) for of in rows]).T
    return LatencyData(target, distinct, ms, spread), last
