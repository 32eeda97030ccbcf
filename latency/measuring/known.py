"""What was measured of a target so far: latencies on one scale, and how the machine's speed wanders.

Letters: n networks, k sittings, a anchors.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from latency.data import LatencyData
from latency.measuring import session, summary
from latency.measuring.session import Watcher
from latency.measuring.store import Store, Visit
from latency.target import Target
from supernet.arrays import Genomes, Ints

# What is assumed before sittings of a target can be compared, and counts as much as PRIOR_SITTINGS more of
# them: on a shared virtual machine, sittings minutes apart differed by 4-6%, single networks by 1%.
PRIOR_DRIFT, PRIOR_REPEAT, PRIOR_SITTINGS = 0.05, 0.01, 2
ROUNDS = 50  # of least squares by turns; one is exact where each sitting has the same anchors


@dataclass(frozen=True)
class Wander:
    """How a later sitting will differ from the last one, as standard deviations of log latency: `drift` of
    the machine, common to all networks, and `repeat` of each network about it."""

    sittings: int = 0  # that were compared
    drift: float = PRIOR_DRIFT
    repeat: float = PRIOR_REPEAT

    @property
    def facts(self) -> dict[str, Any]:
        """As JSON, for the facts of a predictor."""
        return {"sittings": self.sittings, "drift_std": self.drift, "repeat_std": self.repeat}

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> "Wander":
        """The inverse; what is assumed where the facts say nothing."""
        stated = (facts.get(name) for name in ("sittings", "drift_std", "repeat_std"))
        return cls(*(value for value in stated if value is not None))

    def line(self, confidence: float) -> str:
        """What a limit means on a machine whose speed wanders, in one sentence."""
        seen = f"as {self.sittings} sittings differed" if self.sittings > 1 else "assumed: one sitting so far"
        return (
            f"the speed of this machine wanders by {self.drift:.1%} between sittings (standard deviation, "
            f"{seen}): a limit holds if a later sitting stays within it with {confidence:.0%} probability"
        )


def wander(anchors_ms: Sequence[Mapping[str, float]]) -> Wander:
    """How sittings with these latencies of their anchors differ.

    Log latency of an anchor in a sitting = anchor + sitting + rest. Two sittings differ by twice the variance
    of one, in the drift as in the rest.
    """
    if not anchors_ms:
        return Wander()
    names = sorted(set().union(*anchors_ms))
    logs = np.log([[sitting.get(name, np.nan) for name in names] for sitting in anchors_ms])
    rest, level = logs, np.zeros((len(logs), 1))
    for _ in range(ROUNDS):
        rest = rest - np.nanmean(rest, axis=0)
        shift = np.nanmean(rest, axis=1, keepdims=True)
        rest, level = rest - shift, level + shift
    k, a = logs.shape
    drift = _std(float(((level - level.mean()) ** 2).sum()), k - 1, PRIOR_DRIFT)
    freedom = max(int(np.isfinite(logs).sum()) - k - a + 1, 0)  # a sitting may lack anchors
    return Wander(k, drift, _std(float(np.nansum(rest**2)), freedom, PRIOR_REPEAT))


def _std(squares: float, freedom: int, prior: float) -> float:
    """Standard deviation of a difference, from the sum of squares about the mean and the prior."""
    return float(np.sqrt((2 * squares + PRIOR_SITTINGS * prior**2) / (freedom + PRIOR_SITTINGS)))


@dataclass(frozen=True, eq=False)
class Known:
    """The latencies of n networks on the scale of the last sitting, and the anchors of that sitting.

    `energy` is the same of their energies, mJ in place of ms, where some were measured.
    """

    data: LatencyData
    engine: str = ""  # its version
    anchors_ms: Mapping[str, float] = field(default_factory=dict)
    wander: Wander = field(default_factory=Wander)
    energy: "Known | None" = None

    @classmethod
    def from_visits(cls, target: Target, engine: str, sittings_visits: Sequence[Sequence[Visit]]) -> "Known":
        """What the visits of these sittings tell."""
        sittings = summary.measured(target, sittings_visits)
        data, anchors = summary.on_one_scale(target, sittings)
        return cls(data, engine, anchors, wander([usual for _, usual in sittings]))

    @property
    def facts(self) -> dict[str, Any]:
        """For a predictor that was fitted with it, as JSON."""
        return {"engine": self.engine, "anchors_ms": dict(self.anchors_ms), **self.wander.facts}

    def rows(self, networks: Genomes) -> Ints:
        """The row of each of these networks of the target's space; -1 for those that were not measured."""
        place = {genome.tobytes(): row for row, genome in enumerate(self.data.genomes)}
        return np.array([place.get(genome.tobytes(), -1) for genome in networks], np.int64)


@dataclass(frozen=True)
class Bench:
    """Where networks are timed and remembered: this machine and its store."""

    store: Store
    watch: Watcher | None = None

    def known(self, target: Target) -> Known:
        """Everything that the store holds of this target with the engine's present version.

        A network that was measured in several sittings has the median.
        """
        engine = session.engine_version(target)
        with Store(self.store.path) if target.unit else nullcontext(self.store) as store:
            visits = summary.stored_visits(store, target, engine)
        energy = Known.from_visits(target, engine, [summary.as_energies(sitting) for sitting in visits])
        known = Known.from_visits(target, engine, visits)
        return replace(known, energy=energy) if len(energy.data) else known

    def time(self, target: Target, networks: Genomes) -> session.Timed:
        """Time them in one sitting; errors as `session.measure`.

        Threads that measure on devices of their own open the store each for itself.
        """
        if not target.unit:
            return session.measure(target, networks, store=self.store, watch=self.watch)
        with Store(self.store.path) as store:
            return session.measure(target, networks, store=store, watch=self.watch)
