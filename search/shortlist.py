"""The few members of a front that stand for all of it.

Letters: f members of the front, c chosen members, b boxes, m objectives.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from search import pareto
from supernet.arrays import Floats, Ints

PASSES = 5  # of exchanges; most fronts need three
WORTH = 1e-9  # relative gain below which an exchange is rounding
FEW = 8  # rows of which those that others dominate need not be left out first
BOXED = 4  # objectives up to which free space is cut into boxes
ONE_BY_ONE = 8  # rows beyond that between two looks at the bounds
AT_ONCE = 1024  # rows whose additions are computed together


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
    chosen = list(must)
    first = additions(costs, costs[must], reference)
    bounds = first.copy()  # what a row adds never grows as others are chosen
    while len(chosen) < size:
        best, gain = _best_addition(costs, costs[chosen], reference, bounds)
        if gain <= 0:
            break
        chosen.append(best)
    least = WORTH * pareto.hypervolume(costs[chosen], reference)
    for _ in range(PASSES):
        before = list(chosen)
        for row in before[len(must) :]:
            chosen.remove(row)
            own = additions(costs[[row]], costs[chosen], reference)[0]
            best, gain = _best_addition(costs, costs[chosen], reference, first.copy())
            chosen.append(best if gain > own + least else row)
        if chosen == before:
            break
    return np.sort(np.array(chosen, np.int64))


def _best_addition(costs: Floats, chosen: Floats, reference: Floats, bounds: Floats) -> tuple[int, float]:
    """The row that adds most to those that are chosen, and how much.

    `bounds` (f,) are upper bounds of what each row adds; those that were looked at become exact.
    """
    order, gains_of = np.argsort(-bounds, kind="stable"), _gains(chosen, reference)
    step = AT_ONCE if len(reference) <= BOXED else ONE_BY_ONE
    best, most = 0, 0.0
    for start in range(0, len(order), step):
        rows = order[start : start + step]
        if bounds[rows[0]] <= most:
            break
        bounds[rows] = gains = gains_of(costs[rows])
        if gains.max() > most:
            best, most = int(rows[np.argmax(gains)]), float(gains.max())
    return best, most


def additions(costs: Floats, chosen: Floats, reference: Floats) -> Floats:
    """(f,) the hypervolume that each row of `costs` (f, m) adds to that of the rows `chosen` (c, m).

    >>> additions(np.array([[0.0, 0.0], [3.0, 3.0]]), np.array([[1.0, 1.0]]), np.array([2.0, 2.0]))
    array([3., 0.])
    """
    return _gains(chosen, reference)(costs)


def _gains(chosen: Floats, reference: Floats) -> Callable[[Floats], Floats]:
    """What rows add, by the boxes that are free; of many objectives, whose boxes are too many, one by one."""
    if len(reference) <= BOXED:
        return partial(_inside, _free_boxes(chosen, reference))
    before = pareto.hypervolume(chosen, reference)

    def gains(costs: Floats) -> Floats:
        after = [pareto.hypervolume(np.concatenate([chosen, row[None]]), reference) for row in costs]
        return np.maximum(np.array(after) - before, 0)

    return gains


def _inside(boxes: tuple[Floats, Floats], costs: Floats) -> Floats:
    """(f,) the volume of all boxes that each row of `costs` dominates."""
    volume = np.zeros(len(costs))
    for low, high in zip(*boxes, strict=True):
        part = np.maximum(high[0] - np.maximum(costs[:, 0], low[0]), 0)
        for j in range(1, len(low)):  # column by column: three times faster than prod(axis=1)
            part *= np.maximum(high[j] - np.maximum(costs[:, j], low[j]), 0)
        volume += part
    return volume


def _free_boxes(chosen: Floats, reference: Floats) -> tuple[Floats, Floats]:
    """The low and high corners (b, m) of disjoint boxes that make up what no chosen row dominates below
    `reference`: between two rows along the last objective, what the rows before leave free of the others."""
    m = len(reference)
    if m == 1 or not len(chosen):
        return np.full((1, m), -np.inf), np.minimum.reduce([reference, *chosen])[None]
    if len(chosen) > FEW:
        chosen = chosen[pareto.is_front(chosen)]
    chosen = chosen[np.argsort(chosen[:, -1], kind="stable")]
    edges = np.concatenate([[-np.inf], np.minimum(chosen[:, -1], reference[-1]), reference[-1:]])
    lows, highs = [], []
    for i in np.flatnonzero(np.diff(edges) > 0).tolist():
        low, high = _free_boxes(chosen[:i, :-1], reference[:-1])
        lows.append(np.column_stack([low, np.full(len(low), edges[i])]))
        highs.append(np.column_stack([high, np.full(len(high), edges[i + 1])]))
    return np.concatenate(lows), np.concatenate(highs)


def share(costs: Floats, reference: Floats, rows: Sequence[int]) -> float:
    """The share of the hypervolume of a front that some of its rows keep; 1 where it has none."""
    whole = pareto.hypervolume(costs, reference)
    return pareto.hypervolume(costs[list(rows)], reference) / whole if whole > 0 else 1.0
