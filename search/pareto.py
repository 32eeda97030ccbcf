"""Pareto sets of cost arrays (lower is better), thin over moocore.

Letters: n points, m objectives.
"""

import moocore
import numpy as np
from numpy.typing import NDArray

from supernet.arrays import Floats, Ints

Mask = NDArray[np.bool_]
COMPARED_AT_ONCE = 200_000  # pairs of points


def is_front(costs: Floats) -> Mask:
    """(n,) points that no other point dominates; equal points all count.

    O(n log n) for up to three objectives.
    """
    return np.asarray(moocore.is_nondominated(costs, keep_weakly=True), bool)


def ranks(costs: Floats) -> Ints:
    """(n,) dominance depth: 0 for the front, 1 for the front of the rest, and so on."""
    return np.asarray(moocore.pareto_rank(costs), np.int64)


def crowding(costs: Floats, rank: Ints) -> Floats:
    """(n,) crowding distance within each rank (Deb et al., 2002); infinite for the extremes of a rank."""
    n, m = costs.shape
    distance = np.zeros(n)
    for j in range(m):
        order = np.lexsort((costs[:, j], rank))
        values, group = costs[order, j], rank[order]
        first = np.r_[True, group[1:] != group[:-1]]
        last = np.r_[first[1:], True]
        starts, ends = np.flatnonzero(first), np.flatnonzero(last)
        width = np.repeat(values[ends] - values[starts], ends - starts + 1)
        gap = np.r_[values[1:], np.inf] - np.r_[-np.inf, values[:-1]]
        gap = np.where(first | last, np.inf, np.divide(gap, width, out=np.zeros(n), where=width > 0))
        distance[order] += gap
    return distance


def hypervolume(costs: Floats, reference: Floats) -> float:
    """Volume that the points dominate below `reference` (m,), in the product of the objectives' units."""
    inside = (costs < reference).all(axis=1)
    return float(moocore.hypervolume(costs[inside], ref=reference)) if inside.any() else 0.0


def knee(costs: Floats) -> int:
    """Index of the point nearest to the ideal one after scaling the points of a front to [0, 1] per
    objective."""
    width = np.ptp(costs, axis=0)
    scaled = (costs - costs.min(axis=0)) / np.where(width > 0, width, 1)
    return int(np.argmin((scaled**2).sum(axis=1)))


def dominated(costs: Floats, front: Floats) -> Mask:
    """(n,) points that some point of a front (f, m) dominates or equals.

    >>> dominated(np.array([[1.0, 2.0], [0.5, 0.5]]), np.array([[1.0, 1.0]]))
    array([ True, False])
    """
    if not len(front) or not len(costs):
        return np.zeros(len(costs), bool)
    if costs.shape[1] == 2:
        order = np.lexsort(front.T[::-1])
        lowest = np.minimum.accumulate(front[order, 1])
        place = np.searchsorted(front[order, 0], costs[:, 0], side="right") - 1
        return np.asarray((place >= 0) & (lowest[np.maximum(place, 0)] <= costs[:, 1]))
    blocks = np.array_split(costs, -(-len(costs) * len(front) // COMPARED_AT_ONCE))
    return np.concatenate([_dominated_in_all(block, front) for block in blocks])


def _dominated_in_all(costs: Floats, front: Floats) -> Mask:
    below = front[:, 0] <= costs[:, [0]]  # column by column: five times faster than all(axis=2)
    for j in range(1, costs.shape[1]):
        below &= front[:, j] <= costs[:, [j]]
    return np.asarray(below.any(axis=1))
