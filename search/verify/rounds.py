"""Search and measure in turns: after each part of the search, the members of the front with most at stake are
measured, and the search goes on with predictors that were fitted again with them.

Predictions are then fitted where they are used. Letters: v networks measured, d genes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from latency.data import LatencyData
from latency.measuring import session, summary
from latency.measuring.known import Known, Wander
from latency.measuring.remote.fleet import together
from latency.predictors.by_precision import ByPrecision
from latency.predictors.interface import LatencyModel, energy_of
from latency.target import Target
from search import shortlist
from search.archive import Archive
from search.objective import networks
from search.problem import Problem
from search.verify import latency as latencies
from search.verify.latency import KnownLatency
from supernet.arrays import Floats, Genomes, Ints
from supernet.files import artifact
from supernet.space import get_space

KIND = "round of measurements"
CONFIDENCE = 0.90  # of the intervals that are compared with the measurements
# The share of the evaluations before the first measurements: later turns start from its archive.
FIRST_SEARCH = 0.6
# Each turn but the last measures a sixth: enough to correct a predictor, and the final front decides.
EARLY = 6


class Bench(Protocol):
    """Where networks are timed and remembered: `latency.measuring.known.Bench`."""

    def known(self, target: Target) -> Known: ...
    def time(self, target: Target, networks: Genomes) -> session.Timed: ...


@dataclass(frozen=True, eq=False)
class Part:
    """v networks of one precision: what was predicted of them, and all that is known after measuring.

    `energy` is the same of those of them whose energy was measured, mJ in place of ms.
    """

    networks: Genomes  # (v, d) of the target's space
    mean: Floats  # (v,) ms as predicted
    low: Floats  # (v,), (v,) interval of the prediction at CONFIDENCE, for a later sitting
    high: Floats
    known: Known  # holds all v networks, on the scale of the sitting they were measured in
    facts: Mapping[str, Any]  # seconds, drift, engine, adapted_with
    energy: "Part | None" = None

    def stored(self, name: str) -> tuple[artifact.Arrays, dict[str, Any]]:
        """Its arrays, each with `name` before it, and its JSON."""
        data = self.known.data
        arrays: artifact.Arrays = {f"{name}.{one}": getattr(self, one) for one in ARRAYS}
        arrays |= {f"{name}.known_{one}": getattr(data, one) for one in KNOWN}
        known = {"engine": self.known.engine, "anchors_ms": dict(self.known.anchors_ms)}
        facts = {**known, "wander": self.known.wander.facts, "facts": dict(self.facts)}
        if self.energy is not None:
            more, facts["energy"] = self.energy.stored(f"{name}.energy")
            arrays |= more
        return arrays, facts

    @classmethod
    def restored(cls, name: str, target: Target, arrays: artifact.Arrays, about: Mapping[str, Any]) -> "Part":
        """The inverse; KeyError where something is missing."""
        data = LatencyData(target, *(arrays[f"{name}.known_{one}"] for one in KNOWN))
        energy = None
        if "energy" in about:
            energy = cls.restored(f"{name}.energy", target, arrays, about["energy"])
        known = Known(data, about["engine"], about["anchors_ms"], Wander.from_facts(about["wander"]))
        known = replace(known, energy=None if energy is None else energy.known)
        own = {one: arrays[f"{name}.{one}"] for one in ARRAYS}
        return cls(known=known, facts=about["facts"], energy=energy, **own)

    @property
    def ms(self) -> Floats:
        """(v,) as measured."""
        return self.known.data.ms[self.known.rows(self.networks)]

    @property
    def iqr(self) -> Floats:
        """(v,) interquartile range of the visits, ms."""
        return self.known.data.spread_ms[self.known.rows(self.networks)]


@dataclass(frozen=True, eq=False)
class Round:
    """What was measured between two parts of a search, and the reason of each failure. Its parts are by the
    names of `latencies.parts_of`: precisions of one target, or several targets."""

    parts: Mapping[str, Part]
    failed: Mapping[str, str]

    def save(self, path: Path) -> None:
        arrays: artifact.Arrays = {}
        facts = {}
        for precision, part in self.parts.items():
            more, facts[precision] = part.stored(precision)
            arrays |= more
        artifact.save(path, KIND, arrays, {"parts": facts, "failed": dict(self.failed)})

    @classmethod
    def load(cls, path: Path, targets: Mapping[str, Target]) -> "Round":
        """A saved round; ValueError that names the file when it is damaged or of other targets."""
        arrays, facts = artifact.load(path, KIND)
        with artifact.usable(path, KIND, "left as it is, choose another out="):
            parts = {
                precision: Part.restored(precision, targets[precision], arrays, about)
                for precision, about in facts["parts"].items()
            }
            return cls(parts, facts["failed"])


ARRAYS, KNOWN = ("networks", "mean", "low", "high"), ("genomes", "ms", "spread_ms")


@dataclass(frozen=True)
class Rounds:
    """`count` networks of the front are measured in `rounds` turns.

    `refit` makes a predictor of everything that is known of a target, from the one that the search began
    with. A round stops early when no member of the front promises to add to the verified one.
    """

    bench: Bench
    refit: Callable[[LatencyModel, Known], LatencyModel]
    count: int = 24
    rounds: int = 3

    def __post_init__(self) -> None:
        if self.count < 1 or self.rounds < 1:
            raise ValueError(
                f"verify={self.count} and rounds={self.rounds} must be at least 1; verify=0 measures no front"
            )

    def begin(self, problem: Problem) -> Problem:
        """The problem whose latencies are those of a later sitting."""
        return latencies.changed(problem, lambda _, part: KnownLatency(part))

    def targets(self, problem: Problem) -> dict[str, Target]:
        """By the names of parts."""
        return {name: part.target for name, part in latencies.parts_of(problem).items()}

    def apply(self, problem: Problem, beginning: Problem, measured: Round) -> Problem:
        """The problem after a round; `beginning` is the one that the search began with."""
        first = latencies.parts_of(beginning)

        def change(name: str, part: LatencyModel) -> LatencyModel:
            if name not in measured.parts:
                return part
            known, predictor = measured.parts[name].known, first[name]
            assert isinstance(predictor, KnownLatency)
            return KnownLatency(self.refit(predictor.predictor, known), known)

        return latencies.changed(problem, change)

    def measure(self, problem: Problem, archive: Archive, turn: int, before: Sequence[Round]) -> Round | None:
        """Measure the members of the front with most at stake; None when none has.

        What the bench knows already is not measured again, as after a kill. ValueError when nothing could be
        measured.
        """
        rows = archive.front()
        genomes, costs = archive.genomes[rows], archive.costs[rows]
        if failed := {name for earlier in before for name in earlier.failed}:
            kept = np.array([name not in failed for name in timed_as(problem, genomes)])
            genomes, costs = genomes[kept], costs[kept]
        count = max if problem.models.devices else sum  # each network is measured on every device
        done = sum(count(len(part.networks) for part in earlier.parts.values()) for earlier in before)
        owner = networks(problem.space, genomes)
        for i, (_, _, mine) in enumerate(split(problem, genomes)):
            owner[mine] += i * (len(owner) + 1)  # each precision of a network is measured by itself
        verified = np.flatnonzero(is_measured(problem, genomes))
        left = self.count - done
        # What will be measured is chosen for all turns that are left, and again in the next one: members that
        # were chosen to stand alone would stand in the way of the best choice of all.
        chosen = most_at_stake(costs, owner, verified, archive.reference, left)
        pool = np.concatenate([verified, chosen])
        before_all = np.arange(len(verified))
        share = self.share(turn, left)
        now = most_at_stake(costs[pool], owner[pool], before_all, archive.reference, share)
        return self._time(problem, genomes[pool[now]]) if len(now) else None

    def until(self, turn: int, budget: int) -> int:
        """How many of `budget` evaluations are made before the measurements of a turn (0, 1, ..)."""
        if turn + 1 == self.rounds:
            return budget
        return int(budget * (FIRST_SEARCH + (1 - FIRST_SEARCH) * turn / (self.rounds - 1)))

    def share(self, turn: int, left: int) -> int:
        """How many of the `left` networks are measured in a turn."""
        if turn + 1 == self.rounds:
            return left
        return min(left, max(1, self.count // max(self.rounds, EARLY)))

    def _time(self, problem: Problem, genomes: Genomes) -> Round:
        """Measure these members, each precision in its own sitting, and several devices at the same time."""
        parts, failed = {}, {}
        names = np.array(timed_as(problem, genomes))
        asked = split(problem, genomes)
        networks = [_bare(problem, part, genomes[mine]) for _, part, mine in asked]
        sittings = together(
            [partial(self._sit, part, rows) for (_, part, _), rows in zip(asked, networks, strict=True)],
            at_once=bool(problem.models.devices),
        )
        for (name, part, mine), picked, (seconds, reasons) in zip(asked, networks, sittings, strict=True):
            known = self.bench.known(part.target)
            there = known.rows(picked) >= 0
            for one in names[mine[~there]].tolist():
                failed[one] = reasons.get(one.rpartition(", ")[0], "it could not be visited often enough")
            if there.any():
                parts[name] = _part(part, picked[there], known, seconds)
        if not parts:
            raise ValueError("; ".join(dict.fromkeys(failed.values())))
        return Round(parts, failed)

    def _sit(self, part: LatencyModel, picked: Genomes) -> tuple[float, dict[str, str]]:
        """Measure what is not known yet; the seconds that took, and the reason of each failure."""
        target, known = part.target, self.bench.known(part.target)
        fresh = known.rows(picked) < 0
        if energy_of(part) is not None:
            fresh |= known.energy is None or known.energy.rows(picked) < 0
        if not fresh.any():
            return 0.0, {}
        try:
            timed = self.bench.time(target, picked[fresh])
        except ValueError as error:
            return 0.0, dict.fromkeys(get_space(target.space).format(picked), str(error))
        return timed.seconds, dict(timed.failed)


def most_at_stake(costs: Floats, owner: Ints, verified: Ints, reference: Floats, count: int) -> Ints:
    """A member of each of up to `count` networks: those that add most to the hypervolume of the verified
    front, below `reference` (m,).

    `costs` (f, m) are as far as they are known, `owner` (f,) is the network of a member, and `verified` are
    the members that were measured. Members that add nothing are left out.
    """
    must, chosen = verified.tolist(), list[int]()
    while len(chosen) < count:
        kept = shortlist.choose(costs, reference, len(must) + count - len(chosen), must)
        new = np.setdiff1d(kept, must)
        if not len(new):
            break
        chosen += new[np.unique(owner[new], return_index=True)[1]].tolist()
        must = [*must, *np.setdiff1d(np.flatnonzero(np.isin(owner, owner[new])), must).tolist()]
    return np.array(chosen, np.int64)


def _part(part: LatencyModel, picked: Genomes, known: Known, seconds: float) -> Part:
    predicted = part.predict(picked, part.target)
    low, high = predicted.interval(CONFIDENCE)
    facts = {
        "seconds": round(seconds, 1),
        "drift": summary.relative_scale(known.anchors_ms, part.facts.get("anchors_ms", {})),
        "engine": known.engine,
        "adapted_with": part.facts.get("engine", known.engine),
    }
    energy, model = None, energy_of(part)
    if model is not None and known.energy is not None and (there := known.energy.rows(picked) >= 0).any():
        energy = _part(model, picked[there], known.energy, seconds)
    return Part(picked, predicted.mean, low, high, known, facts, energy)


def split(problem: Problem, genomes: Genomes) -> list[tuple[str, LatencyModel, Ints]]:
    """The parts of the latency with their names and the rows they answer for: the precision of each network,
    where that is a gene, or all rows on each of several devices."""
    parts = latencies.parts_of(problem)
    model = problem.models.latency
    everyone = [np.ones(len(genomes), bool)] * len(parts)
    masks = [mask for _, mask in model.parts(genomes)] if isinstance(model, ByPrecision) else everyone
    return [
        (name, part, np.flatnonzero(mask))
        for (name, part), mask in zip(parts.items(), masks, strict=True)
        if mask.any()
    ]


def _bare(problem: Problem, part: LatencyModel, genomes: Genomes) -> Genomes:
    """The networks of a part's target that these genomes are."""
    space = get_space(part.target.space)
    return space.network(problem.space.embed(genomes, space.name))


def timed_as(problem: Problem, genomes: Genomes) -> list[str]:
    """(n,) the name of the network that is timed for each genome, and its precision."""
    names = np.empty(len(genomes), object)
    for _, part, mine in split(problem, genomes):
        bare = get_space(part.target.space).format(_bare(problem, part, genomes[mine]))
        names[mine] = [f"{name}, {part.target.precision}" for name in bare]
    return list(names.tolist())


def rows_known(problem: Problem, genomes: Genomes) -> list[tuple[str, KnownLatency, Ints, Ints]]:
    """Per part its name, its model, the rows it answers for, and their rows in what is known (-1:
    unmeasured)."""
    by_part = []
    for name, part, mine in split(problem, genomes):
        assert isinstance(part, KnownLatency)
        bare = _bare(problem, part, genomes[mine])
        known = np.full(len(mine), -1) if part.known is None else part.known.rows(bare)
        by_part.append((name, part, mine, known))
    return by_part


def is_measured(problem: Problem, genomes: Genomes) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """(n,) whether the latency of a genome was measured, on every device."""
    measured = np.ones(len(genomes), bool)
    for _, _, mine, known in rows_known(problem, genomes):
        measured[mine] &= known >= 0
    return measured
