"""A predictor for a device on the desk: choose subnets, time them, adapt what is known of other devices.

Letters: n samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from latency.conformal import relative_std
from latency.data import LatencyData
from latency.measuring import session, summary
from latency.measuring.session import Timed, Watcher
from latency.measuring.store import Store
from latency.predictors import sampling
from latency.predictors.interface import load_as, with_facts
from latency.predictors.slots import SlotLatency
from latency.predictors.sources import Source, common_resolutions
from latency.predictors.transfer import Transfer
from latency.scores import scores
from latency.target import Target
from supernet import footprint
from supernet.arrays import Genomes
from supernet.prediction import Prediction
from supernet.space import SearchSpace, get_space
from supernet.surrogates import training_cost
from supernet.surrogates.training_cost import Steps, StepTime

MIN_STEPS = 5  # training steps; one is left out of the fit of four coefficients
SAMPLE_COUNTS = (3, 5, 10, 20, 50, 100)  # rows of the table of scores


@dataclass(frozen=True, eq=False)
class Adapted:
    """`table` holds scores on the tests by method and number of samples; empty without tests."""

    predictor: SlotLatency
    samples: LatencyData
    tests: LatencyData
    failed: Mapping[str, str]
    seconds: float
    table: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def plan(
    target: Target, learner: Transfer, resolution: tuple[int, int] | None
) -> tuple[SearchSpace, list[Source]]:
    """The space to sample, restricted to what all sources know (and to `resolution`), and the sources."""
    space = get_space(target.space)
    known = learner.sources(space)
    if "r" not in space.index:
        return space, known
    low, high = common_resolutions(known)
    if resolution is not None:
        if resolution[0] < low or resolution[1] > high:
            raise ValueError(
                f"resolution=[{resolution[0]},{resolution[1]}] goes beyond what all sources know: {low} "
                f"to {high}; learner.resolutions=[{resolution[0]},{resolution[1]}] leaves out those that do "
                "not reach"
            )
        low, high = resolution
    return space.restrict("r", low, high), known


def adapt(
    target: Target,
    *,
    store: Store,
    samples: int = 10,
    tests: int = 0,
    seed: int = 0,
    learner: Transfer | None = None,
    chosen: bool = True,
    resolution: tuple[int, int] | None = None,
    seconds: float | None = None,
    watch: Watcher | None = None,
) -> Adapted:
    """Measure `samples` chosen (or random) subnets and `tests` random others in one sitting, and adapt.

    With `samples=0` nothing is measured and the predictor follows from specifications. With a budget of
    `seconds`, or when subnets fail, it adapts with what there is, if that is at least 2.
    """
    learner = learner or Transfer()
    if samples < 0 or samples == 1 or tests < 0:
        raise ValueError(f"samples={samples} must be 0 or at least 2, and tests={tests} not negative")
    space, known = plan(target, learner, resolution)
    if samples == 0:
        nothing = LatencyData(target, space.parse([]), np.empty(0), np.empty(0))
        if tests == 0:
            return Adapted(learner.from_specification(target), nothing, nothing, {}, 0.0)
    rng = np.random.default_rng(seed)
    picked = space.parse([])
    if samples:
        picked = sampling.choose(space, samples, rng, known) if chosen else sampling.draw(space, samples, rng)
    others = _tests(space, tests, np.random.default_rng((seed, 1)), picked)
    found = session.measure(
        target, np.concatenate([picked, others]), store=store, seconds=seconds, watch=watch
    )
    sampled, tested = _rows_of(found.data, picked), _rows_of(found.data, others)
    if samples and len(sampled) < 2:
        raise ValueError(
            f"only {len(sampled)} of {samples} subnets could be measured, too few to adapt: "
            + ("; ".join(found.failed.values()) or f"give more than seconds={seconds:g}")
        )
    predictor = learner.fit_from(known, sampled) if samples else learner.from_specification(target)
    predictor = with_facts(predictor, _facts(found))
    table = _table(known, learner, sampled, tested) if len(tested) else {}
    return Adapted(predictor, sampled, tested, found.failed, found.seconds, table)


def known_or_adapt(
    target: Target,
    *,
    store: Store,
    samples: int,
    learner: Transfer | None = None,
    watch: Watcher | None = None,
) -> SlotLatency:
    """The predictor of this machine from everything the store holds for it; measures first if that is less
    than `samples` subnets."""
    engine = session.engine_of(target)
    learner = learner or Transfer()
    space, known = plan(target, learner, None)
    data, anchors = summary.stored_latencies(store, target, engine.version)
    if len(_inside(space, data)) < samples:
        adapt(target, store=store, samples=samples, learner=learner, watch=watch)
        data, anchors = summary.stored_latencies(store, target, engine.version)
    facts = {"engine": engine.version, "anchors_ms": anchors}
    return with_facts(learner.fit_from(known, _inside(space, data)), facts)


def for_run(
    target: Target, kept: Path, *, store: Store, samples: int, watch: Watcher | None = None
) -> SlotLatency:
    """The predictor that a run was started with, in the file `kept`, or a new one, which is kept there.

    ValueError when that file is of another target.
    """
    if not kept.exists():
        known_or_adapt(target, store=store, samples=samples, watch=watch).save(kept)
    # Read also the first time: a file holds fewer digits, and a resumed run reads it.
    predictor = load_as(SlotLatency, kept)
    if predictor.target.key != target.key:
        raise ValueError(
            f"{kept} is for another target ({predictor.target.differences(target)}): choose another out="
        )
    return predictor


def _inside(space: SearchSpace, data: LatencyData) -> LatencyData:
    """The measurements within the resolutions that the space is restricted to."""
    if "r" not in space.index:
        return data
    gene = space.index["r"]
    low, high = space.allowed[gene]
    return data.take(np.flatnonzero((data.genomes[:, gene] >= low) & (data.genomes[:, gene] <= high)))


def _facts(found: Timed) -> dict[str, Any]:
    return {
        "engine": found.facts["engine"],
        "sitting": found.facts["sitting"],
        "anchors_ms": dict(found.anchors_ms),
        "seconds": round(found.seconds, 1),
    }


def _tests(space: SearchSpace, count: int, rng: np.random.Generator, picked: Genomes) -> Genomes:
    if not count:
        return space.parse([])
    drawn = sampling.draw(space, count + len(picked), rng)
    taken = {row.tobytes() for row in picked}
    return drawn[[row.tobytes() not in taken for row in drawn]][:count]


def _rows_of(data: LatencyData, genomes: Genomes) -> LatencyData:
    """The measurements of these subnets, in their order."""
    row = {genome.tobytes(): i for i, genome in enumerate(data.genomes)}
    found = [row[genome.tobytes()] for genome in genomes if genome.tobytes() in row]
    return data.take(np.array(found, np.int64))


def _table(
    known: list[Source], learner: Transfer, samples: LatencyData, tests: LatencyData
) -> dict[str, dict[str, float]]:
    """Scores on the tests: ours with a growing number of samples, and simpler ways with all of them."""
    table = {}
    counts = sorted({n for n in SAMPLE_COUNTS if n < len(samples)} | ({len(samples)} - {0}))
    for n in counts:
        predicted = learner.fit_from(known, samples.take(slice(0, n))).predict(tests.genomes, tests.target)
        table[f"transfer, {n} samples"] = scores(predicted, tests.ms)
    others = [source for source in known if source.target is None or source.target.key != tests.target.key]
    if len(samples) and len(others) < len(known):  # this very target is known: what if it were not?
        predicted = learner.fit_from(others, samples).predict(tests.genomes, tests.target)
        table[f"transfer, {len(samples)} samples, this target unknown"] = scores(predicted, tests.ms)
    if len(samples):
        for name, predicted in baselines(known, samples, tests.genomes).items():
            table[f"{name}, {len(samples)} samples"] = scores(predicted, tests.ms)
    try:
        guess = learner.from_specification(tests.target).predict(tests.genomes, tests.target)
        table["specification, 0 samples"] = scores(guess, tests.ms)
    except ValueError:
        pass  # nothing of this space was ever timed: there is no such row
    return table


def baselines(known: Sequence[Source], samples: LatencyData, genomes: Genomes) -> dict[str, Prediction]:
    """What ours has to beat, from the same samples: a line in multiply-accumulates, and the closest known
    device times one factor."""
    space = get_space(samples.target.space)
    found = {"MACs line": _line(space, samples, genomes)}
    if any(source.target is not None for source in known):
        nearest = closest(known, samples)
        ratio = np.log(samples.ms / nearest.table.of(space, samples.genomes))
        mean = float(np.exp(np.median(ratio))) * nearest.table.of(space, genomes)
        found["closest device x factor"] = Prediction(mean, max(float(np.std(ratio)), 1e-3) * mean)
    return found


def closest(known: Sequence[Source], samples: LatencyData) -> Source:
    """The known device whose latencies are most nearly proportional to the samples."""
    space = get_space(samples.target.space)
    devices = [source for source in known if source.target is not None]
    spreads = [np.std(np.log(samples.ms / source.table.of(space, samples.genomes))) for source in devices]
    return devices[int(np.argmin(spreads))]


def _line(space: SearchSpace, samples: LatencyData, genomes: Genomes) -> Prediction:
    """a + b MACs by least squares of the relative error."""
    macs = footprint.of(space, samples.genomes, "macs") / 1e8
    design = np.stack([np.ones(len(macs)), macs], axis=1)
    weights = np.linalg.lstsq(design / samples.ms[:, None], np.ones(len(macs)), rcond=None)[0]
    spread = float(np.std(design @ weights / samples.ms - 1, ddof=min(2, len(macs) - 1)))
    mean = weights[0] + weights[1] * footprint.of(space, genomes, "macs") / 1e8
    return Prediction(mean, max(spread, 1e-3) * np.abs(mean))


def step_time(data: LatencyData) -> StepTime:
    """Milliseconds per image of a training step, fitted on measured steps in the form of `training_cost`.

    `relative_std` is that of steps left out of the fit. ValueError for fewer than MIN_STEPS.
    """
    if len(data) < MIN_STEPS:
        raise ValueError(f"{len(data)} training steps are too few to fit; measure at least {MIN_STEPS}")
    steps = Steps.from_genomes(get_space(data.target.space), data.genomes, data.target.batch)
    ms = data.ms / data.target.batch
    left_out = training_cost.left_out_error(steps, ms, np.arange(len(data)))
    return replace(training_cost.fit(steps, ms), relative_std=relative_std(left_out))
