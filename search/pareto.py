"""Pareto sets of cost arrays (lower is better), thin over moocore.

Letters: n points, m objectives.
"""

import moocore
import numpy as np
from numpy.typing import NDArray

from supernet.arrays import Floats, Ints

Mask = NDArray[np.bool_]


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
