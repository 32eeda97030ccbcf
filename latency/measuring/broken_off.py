"""Sittings that were broken off, and how they go on.

A sitting on a device behind a connection can take hours, so it goes on where it was broken off: the same
rounds are gone through again, and visits that the store holds are not made a second time. A sitting of other
networks closes it, and what it measured counts from then on.
"""

import hashlib
import json
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from latency.measuring.place import Place
from latency.measuring.store import END, Sitting, Store, Visit
from latency.target import Target

JOBS = "jobs"  # the fact that identifies what a sitting measures


class Earlier:
    """The visits that were made before a sitting was broken off; each is taken once."""

    def __init__(self, visits: Sequence[Visit] = ()) -> None:
        self._left: dict[tuple[int, str], deque[Visit]] = {}
        for visit in visits:
            self._left.setdefault((visit.round, visit.architecture), deque()).append(visit)
        self._names = {visit.architecture for visit in visits}

    def has(self, name: str) -> bool:
        """Whether the network was visited."""
        return name in self._names

    def take(self, round: int, name: str) -> Visit | None:
        """The next visit of a network in a round."""
        left = self._left.get((round, name))
        return left.popleft() if left else None

    def failure(self, round: int, name: str) -> Visit | None:
        """The row that says why a network could not be prepared after this round."""
        left = self._left.get((round, name))
        return left.popleft() if left and left[0].error is not None and len(left) == 1 else None


def go_on(
    store: Store, target: Target, place: Place, names: Sequence[str], facts: Mapping[str, Any]
) -> tuple[Sitting, Earlier]:
    """The sitting of these networks that was broken off with its visits, or a new one."""
    if not place.resumes:
        return Sitting.begin(target, place.version, facts), Earlier()
    jobs = hashlib.sha256(json.dumps(list(names)).encode()).hexdigest()[:16]
    for sitting in store.sittings(target, place.version):
        visits = store.visits(sitting.id)
        if not is_open(sitting, visits):
            continue
        if sitting.facts[JOBS] == jobs:
            return sitting, Earlier(visits)
        end(store, sitting, place)
    return Sitting.begin(target, place.version, {**facts, JOBS: jobs}), Earlier()


def end(store: Store, sitting: Sitting, place: Place) -> None:
    """Say in the store that a sitting came to its end, where that matters."""
    if place.resumes:
        store.add(sitting, Visit(sitting.id, time.time(), END, END, 0, 0, (), (), None, "the sitting ended"))


def is_open(sitting: Sitting, visits: Sequence[Visit]) -> bool:
    """Whether a sitting was broken off and may go on."""
    return JOBS in sitting.facts and not any(visit.role == END for visit in visits)
