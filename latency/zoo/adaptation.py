"""A predictor for a device on the desk: choose subnets, time them, adapt what is known of other devices.

Letters: n samples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from latency.conformal import relative_std
from latency.data import LatencyData
from latency.measuring import session
from latency.measuring.jobs import anchor_subnets
from latency.measuring.known import Bench, Known
from latency.measuring.session import Watcher
from latency.measuring.store import Store
from latency.predictors import baselines, sampling
from latency.predictors.interface import LatencyPredictor, Learner, energy_of, load_as, with_facts
from latency.predictors.slots import SlotLatency
from latency.predictors.sources import Source, common_resolutions
from latency.predictors.transfer import Transfer
from latency.scores import scores
from latency.target import Target
from supernet import registry
from supernet.arrays import Genomes, Rng
from supernet.space import SearchSpace, get_space
from supernet.surrogates import training_cost
from supernet.surrogates.training_cost import Steps, StepTime

MIN_SAMPLES = 2  # of a predictor
MIN_STEPS = 5  # training steps; one is left out of the fit of four coefficients
SAMPLE_COUNTS = (3, 5, 10, 20, 50, 100)  # rows of the table of scores


@dataclass(frozen=True)
class Adaptation:
    """How many subnets are measured, which, and what is made of them.

    The `learner` adapts with `samples` (0, or 2 and more); `tests` are random others that only judge. Samples
    are `chosen` to tell most about what a search returns (`sampling.for_search`), or else, and where no
    accuracy of the space is known, drawn at random, from the input sides `resolution` (lowest and highest).
    After `seconds` no further subnet is measured.
    """

    samples: int = 10
    tests: int = 0
    seed: int = 0
    chosen: bool = True
    resolution: tuple[int, int] | None = None
    seconds: float | None = None
    learner: Transfer = field(default_factory=Transfer)
    energy: bool = False  # whether the energies of so many samples must be known too

    def __post_init__(self) -> None:
        if self.samples < 0 or self.samples == 1 or self.tests < 0:
            raise ValueError(f"samples={self.samples} must be 0 or at least 2, tests={self.tests} 0 or more")


@dataclass(frozen=True, eq=False)
class Adapted:
    """`samples` are the `earlier` ones of the store, then those of this sitting. `table` holds scores on the
    tests by method and number of samples; empty without tests. `energies` are what is known
    of any network, mJ in place of ms."""

    predictor: LatencyPredictor
    samples: LatencyData
    tests: LatencyData
    failed: Mapping[str, str]
    seconds: float
    table: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    earlier: int = 0
    energies: LatencyData | None = None
    energy: str = ""  # what the meter said, in one line


def plan(target: Target, how: Adaptation) -> tuple[SearchSpace, list[Source]]:
    """The space to sample, restricted to what all sources know (and to `resolution`), and the sources."""
    space = get_space(target.space)
    sources = how.learner.sources(space)
    if "r" not in space.index:
        return space, sources
    low, high = common_resolutions(sources)
    if how.resolution is not None:
        if how.resolution[0] < low or how.resolution[1] > high:
            sides = f"[{how.resolution[0]},{how.resolution[1]}]"
            raise ValueError(
                f"resolution={sides} goes beyond what all sources know: {low} to {high}; "
                f"learner.resolutions={sides} leaves out those that do not reach"
            )
        low, high = how.resolution
    return space.restrict("r", low, high), sources


def adapt(target: Target, how: Adaptation, *, store: Store, watch: Watcher | None = None) -> Adapted:
    """Measure samples and tests on the target in one sitting, and fit its predictor on the samples.

    Networks of the target that the store already holds are samples too, unless they are tests now, on the
    scale of this sitting; the new samples are others. So two calls with three samples say what one call with
    six says; another store begins anew. Without samples nothing is measured, and the predictor follows from
    data sheets. When the seconds are over or when subnets fail, the predictor is fitted on what was measured;
    fewer than two samples are a ValueError.

    >>> with Store("runs/latencies.sqlite") as store:
    ...     adapted = adapt(registry.build(registry.load("target", "here")), Adaptation(), store=store)
    """
    space, sources = plan(target, how)
    nothing = space.parse([])
    if not how.samples and not how.tests:
        empty = LatencyData(target, nothing, np.empty(0), np.empty(0))
        return Adapted(how.learner.from_specification(target), empty, empty, {}, 0.0)
    known = _stored_samples(target, space, store) if how.samples else nothing
    rng = np.random.default_rng(how.seed)
    picked = choose_samples(target, how, space, sources, rng, known) if how.samples else nothing
    others = _tests(space, how.tests, np.random.default_rng((how.seed, 1)), picked)
    measured = session.measure(
        target, np.concatenate([picked, others]), store=store, seconds=how.seconds, watch=watch
    )
    tests = _rows_of(measured.data, others)
    known = _without(known, others)
    everything = Bench(store).known(target)
    samples = _rows_of(everything.data, np.concatenate([known, _rows_of(measured.data, picked).genomes]))
    if how.samples and len(samples) < MIN_SAMPLES:
        raise ValueError(
            f"only {len(samples)} of {how.samples} subnets could be measured, too few to adapt: "
            + ("; ".join(measured.failed.values()) or f"give more than seconds={how.seconds:g}")
        )
    fitted = how.learner.fit_from(sources, samples) if how.samples else how.learner.from_specification(target)
    table = _table(sources, how.learner, samples, tests) if len(tests) else {}
    facts = {key: measured.facts[key] for key in ("engine", "sitting")}
    facts |= {"anchors_ms": dict(measured.anchors_ms), "seconds": round(measured.seconds, 1)}
    facts |= everything.wander.facts
    fitted = with_facts(fitted, facts)
    energies = None if everything.energy is None else everything.energy.data
    if everything.energy is not None and len(mine := _rows_of(everything.energy.data, samples.genomes)) > 1:
        about = {**everything.energy.facts, **measured.facts.get("energy", {})}
        energy = with_facts(how.learner.fit_from(sources, mine), about)
        fitted = replace(fitted, energy=energy)
        if len(judged := _rows_of(everything.energy.data, tests.genomes)):
            predicted = energy.predict(judged.genomes, target)
            table = {**table, f"energy (mJ), {len(mine)} samples": scores(predicted, judged.ms)}
    counts = measured.seconds, table, len(known)
    return Adapted(fitted, samples, tests, measured.failed, *counts, energies, measured.describe_energy())


def adapt_to_rows(data: LatencyData, learner: Learner, *, store: Store, source: str) -> Adapted:
    """Fit the predictor of a target on latencies that were measured elsewhere, and on those of earlier calls.

    The store remembers them: two calls with three rows say what one call with six says. Of a network in both
    the later latency counts. Nothing is remembered that cannot be fitted.
    """
    earlier = store.latencies(data.target)
    samples = earlier.followed_by(data)
    fitted = learner.fit(samples)
    store.add_latencies(data, source)
    return Adapted(fitted, samples, data.take(slice(0)), {}, 0.0, {}, len(samples) - len(data))


def _stored_samples(target: Target, space: SearchSpace, store: Store) -> Genomes:
    """The networks of the space that the store holds for a target, without the anchors of every sitting."""
    genomes = _inside(space, Bench(store).known(target).data).genomes
    return _without(genomes, anchor_subnets(get_space(target.space)))


def _without(genomes: Genomes, others: Genomes) -> Genomes:
    """The networks that are not among the others, in their order."""
    taken = {row.tobytes() for row in others}
    return genomes[[row.tobytes() not in taken for row in genomes]]


def choose_samples(
    target: Target,
    how: Adaptation,
    space: SearchSpace,
    sources: Sequence[Source],
    rng: Rng,
    known: Genomes | None = None,
) -> Genomes:
    """The (samples, d) subnets that will be measured, none of which is known; of the space and sources of
    `plan`.

    They are a random part of a choice that is longer by what is known.
    """
    known = space.parse([]) if known is None else known
    wanted = how.samples + len(known)
    if how.chosen and space.name in registry.names("accuracy"):
        surrogate = registry.build(registry.load("accuracy", space.name))
        inside = space if "r" not in space.index else space.restrict("r", *surrogate.resolutions)
        search = sampling.Search(target, lambda genomes: surrogate.predict(genomes, space).mean, inside)
        picked = sampling.for_search(space, wanted, rng, sources, search)
    else:
        picked = sampling.draw(space, wanted, rng)
    others = _without(picked, known)
    return others[rng.permutation(len(others))[: how.samples]] if len(known) else others


def known_or_adapt(
    target: Target, how: Adaptation, *, store: Store, watch: Watcher | None = None
) -> SlotLatency:
    """The predictor of this machine from everything the store holds for it; measures first if that is less
    than the samples asked for."""
    bench = Bench(store, watch)
    known, space = bench.known(target), plan(target, how)[0]
    parts = [known, known.energy] if how.energy else [known]
    if any(part is None or len(_inside(space, part.data)) < how.samples for part in parts):
        adapt(target, how, store=store, watch=watch)
        known = bench.known(target)
    return from_known(how, known)


def from_known(how: Adaptation, known: Known) -> SlotLatency:
    """The predictor of a target from all that was measured of it, with what is known of the machine's
    drift."""
    space, sources = plan(known.data.target, how)
    fitted = with_facts(how.learner.fit_from(sources, _inside(space, known.data)), known.facts)
    energy = known.energy
    if energy is None or len(_inside(space, energy.data)) < MIN_SAMPLES:
        return fitted
    return replace(fitted, energy=from_known(how, energy))


def corrected(predictor: Any, known: Known) -> Any:
    """A predictor of this target adapted to what was measured of it, at least two networks that it knows the
    resolutions of."""
    space, data = get_space(known.data.target.space), known.data
    if "r" in space.index:
        low, high = predictor.resolutions
        sides = space.column(data.genomes, "r")
        data = data.take(np.flatnonzero((sides >= low) & (sides <= high)))
    if len(data) < MIN_SAMPLES:
        return predictor
    adapted, energy = with_facts(predictor.adapt(data), known.facts), energy_of(predictor)
    if energy is None:
        return adapted
    return replace(adapted, energy=energy if known.energy is None else corrected(energy, known.energy))


def for_run(
    target: Target, kept: Path, how: Adaptation, *, store: Store, watch: Watcher | None = None
) -> SlotLatency:
    """The predictor that a run was started with, in the file `kept`, or a new one, which is kept there.

    ValueError when that file is of another target.
    """
    if not kept.exists():
        adapted = known_or_adapt(target, how, store=store, watch=watch)
        if not kept.exists():  # another process may have started the same run meanwhile
            adapted.save(kept)
    predictor = load_as(SlotLatency, kept)
    if predictor.target.key != target.key:
        different = predictor.target.differences(target)
        raise ValueError(f"{kept} is for another target ({different}): choose another out=")
    return predictor


def _inside(space: SearchSpace, data: LatencyData) -> LatencyData:
    """The measurements within the resolutions that the space is restricted to."""
    if "r" not in space.index:
        return data
    gene = space.index["r"]
    return data.take(np.flatnonzero(np.isin(data.genomes[:, gene], space.choices[gene])))


def _tests(space: SearchSpace, count: int, rng: np.random.Generator, picked: Genomes) -> Genomes:
    if not count:
        return space.parse([])
    drawn = sampling.draw(space, count + len(picked), rng)
    taken = {row.tobytes() for row in picked}
    return drawn[[row.tobytes() not in taken for row in drawn]][:count]


def _rows_of(data: LatencyData, genomes: Genomes) -> LatencyData:
    """The measurements of these subnets, in their order."""
    row = {genome.tobytes(): i for i, genome in enumerate(data.genomes)}
    rows = [row[genome.tobytes()] for genome in genomes if genome.tobytes() in row]
    return data.take(np.array(rows, np.int64))


def _table(
    sources: list[Source], learner: Transfer, samples: LatencyData, tests: LatencyData
) -> dict[str, dict[str, float]]:
    """Scores on the tests: ours with a growing number of samples, and simpler ways with all of them."""
    table = {}
    for n in sorted({n for n in SAMPLE_COUNTS if n < len(samples)} | ({len(samples)} - {0})):
        predicted = learner.fit_from(sources, samples.take(slice(0, n))).predict(tests.genomes, tests.target)
        table[f"transfer, {n} samples"] = scores(predicted, tests.ms)
    others = [source for source in sources if source.target is None or source.target.key != tests.target.key]
    if len(samples) and len(others) < len(sources):  # this very target is known: what if it were not?
        predicted = learner.fit_from(others, samples).predict(tests.genomes, tests.target)
        table[f"transfer, {len(samples)} samples, this target unknown"] = scores(predicted, tests.ms)
    if len(samples):
        for name, predicted in baselines.from_samples(sources, samples, tests.genomes).items():
            table[f"{name}, {len(samples)} samples"] = scores(predicted, tests.ms)
    try:
        guess = learner.from_specification(tests.target).predict(tests.genomes, tests.target)
        table["specification, 0 samples"] = scores(guess, tests.ms)
    except ValueError:
        pass  # nothing of this space was ever timed: there is no such row
    return table


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
