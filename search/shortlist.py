"""The few members of a front that stand for all of it.

Letters: f members of the front, m objectives.
"""

from collections.abc import Sequence
from heapq import heapify, heappop, heappush

import numpy as np

from search import pareto
from supernet.arrays import Floats, Ints

PASSES = 5  # of exchanges; most fronts need three
WORTH = 1e-9  # relative gain below which an exchange is rounding


def choose(costs: Floats, reference: Floats, size: int, must: Sequence[int] = ()) -> Ints:
    """Up to `size` rows of a front (f, m), in ascending order, that keep as much of its hypervolume below
    `reference` (m,) as can be found: the rows of `must`, those that greedy selection adds, and exchanges of
    the latter for others as long as they gain (greedy and local search of hypervolume subsets: Guerreiro,
    Fonseca and Paquete, 2016; Basseur et al., 2016).

    Rows that add nothing are left out. On fronts of 1,000 members the exchanges add about half a percent.

    >>> costs = np.array([[0.0, 4.0], [1.0, 3.9], [2.0, 2.0], [4.0, 0.0]])
    >>> choose(costs, np.array([5.0, 5.0]), 3)
    array([0, 2, 3])
    """
    must = list(dict.fromkeys(must))
    alone = np.prod(np.maximum(reference - costs, 0), axis=1)  # most that a row can add
    chosen = _greedy(costs, reference, alone, size, must)
    for _ in range(PASSES):
        before = list(chosen)
        for row in before[len(must) :]:
            chosen.remove(row)
            chosen.append(_best_addition(costs, reference, alone, chosen, row))
        if chosen == before:
            break
    return np.sort(np.array(chosen, np.int64))


def _greedy(costs: Floats, reference: Floats, alone: Floats, size: int, must: list[int]) -> list[int]:
    """The rows of `must` and those that add most, one after the other.

    What a row adds never grows as others are chosen, so its last known gain is an upper bound: a row is
    computed anew only while that bound is the largest.
    """
    chosen, volume = list(must), pareto.hypervolume(costs[must], reference)
    bounds = [(-float(gain), row, -1) for row, gain in enumerate(alone) if row not in must]
    heapify(bounds)  # (minus the largest possible gain, row, how many were chosen when it was computed)
    while bounds and len(chosen) < size:
        bound, row, when = heappop(bounds)
        if bound == 0:
            break
        if when == len(chosen):
            chosen.append(row)
            volume = pareto.hypervolume(costs[chosen], reference)
        else:
            gain = pareto.hypervolume(costs[[*chosen, row]], reference) - volume
            heappush(bounds, (-max(gain, 0.0), row, len(chosen)))
    return chosen


def _best_addition(costs: Floats, reference: Floats, alone: Floats, others: list[int], row: int) -> int:
    """The row that adds most to the others; `row` itself unless another one adds more."""
    volume = pareto.hypervolume(costs[others], reference)
    best, most = row, pareto.hypervolume(costs[[*others, row]], reference) - volume
    for candidate in np.argsort(-alone, kind="stable").tolist():
        if alone[candidate] <= most:
            break
        if candidate not in others:
            gain = pareto.hypervolume(costs[[*others, candidate]], reference) - volume
            if gain > most + WORTH * volume:
                best, most = candidate, gain
    return best


def share(costs: Floats, reference: Floats, rows: Sequence[int]) -> float:
    """The share of the hypervolume of a front that some of its rows keep; 1 where it has none."""
    whole = pareto.hypervolume(costs, reference)
    return pareto.hypervolume(costs[list(rows)], reference) / whole if whole > 0 else 1.0
