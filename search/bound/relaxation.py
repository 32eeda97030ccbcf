"""Upper bounds on the accuracy of one setting: messages between parts, prices for what is limited.

Letters: P parts, K states of a part, v columns, m limits.

The limits move into the objective with a price each (Lagrange multipliers; Geoffrion, 1974), and what every
pair of parts adds is bounded by itself: with shares a_st(x_s) of a part's own accuracy that sum to it,

    accuracy <= constant + price.budget + sum_{s<t} max_{x,y} [pair_st(x, y) + a_st(x) + a_ts(y)].

A round gives each part in turn the shares at which its pairs agree about it, which never raises the bound:
the max-product linear programming of Globerson and Jaakkola (2007), on parts instead of single variables.
What the bound is with a part in one state comes along, and states that cannot be part of a better network
than the incumbent are dropped.
"""

from collections.abc import Callable, Sequence
from copy import copy
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search.bound.program import HIGHEST, Program, Setting
from supernet.arrays import Floats, Ints

VALUES_AT_ONCE = 400_000  # of a table of two parts: they stay in the cache
MOST_DOUBLE = 1_000_000  # tables of more values are made in single precision, twice as fast
HALVINGS = 30  # of an interval that holds a price


class Pairs:
    """What pairs of parts add, about a centre: most of it then belongs to single parts."""

    def __init__(self, program: Program, centre: Sequence[Floats]) -> None:
        self.count = len(program.parts)
        parts = range(self.count)
        self.centred = [part.change - middle for part, middle in zip(program.parts, centre, strict=True)]
        coupling = {(s, t): program.coupling(s, t) for s in parts for t in parts if s != t}
        self.slopes = {(s, t): self.centred[s] @ matrix for (s, t), matrix in coupling.items()}
        self.moved = [
            np.sum([program.parts[s].change @ (coupling[s, t] @ centre[t]) for t in parts if t != s], axis=0)
            for s in parts
        ]
        self.constant = -float(sum(centre[s] @ coupling[s, t] @ centre[t] for s, t in coupling if s < t))


class Relaxation:
    """The states of one setting that may still be part of the best network, and the shares that bound it."""

    def __init__(self, pairs: Pairs, setting: Setting, price: Floats, alive: Sequence[Ints]) -> None:
        self.pairs, self.setting, self.price = pairs, setting, price
        self.alive = list(alive)
        self.parts = range(pairs.count)
        weight = 1 / (pairs.count - 1)
        own = [self.unary(s)[rows] for s, rows in enumerate(alive)]
        self.share = {(s, t): own[s] * weight for s in self.parts for t in self.parts if s != t}
        self.agreed = [np.full(len(rows), np.inf) for rows in alive]  # sums of all tables that hold a part
        self.top = {(s, t): np.inf for s in self.parts for t in self.parts if s < t}
        self.upper = np.inf

    def unary(self, s: int) -> Floats:
        """(K,) what a state of part s adds by itself, its costs paid, over all states."""
        setting = self.setting
        return setting.unary[s] + self.pairs.moved[s] - self.price @ setting.costs[s]

    @property
    def constant(self) -> float:
        return self.setting.constant + self.pairs.constant + float(self.price @ self.setting.budget)

    @property
    def accuracy(self) -> float:
        """The accuracy that `upper`, a value of the quadratic form, means."""
        if not np.isfinite(self.upper):
            return self.upper
        return float(self.setting.scale(np.array([min(self.upper, HIGHEST)]))[0])

    @property
    def size(self) -> float:
        """Number of networks that are left."""
        return float(np.prod([len(rows) for rows in self.alive], dtype=np.float64))

    def best_partner(self, s: int, t: int) -> tuple[Floats, float]:
        """(K_s,) the largest pair_st(x, y) + a_ts(y) over y, and what rounding can hide in it."""
        slopes, centred = self.pairs.slopes[s, t][self.alive[s]], self.pairs.centred[t][self.alive[t]]
        share = self.share[t, s]
        shift = float(share.max())  # kept out of the sums: rounding goes with their size
        kind: type[np.floating[Any]] = np.float64 if len(slopes) * len(centred) <= MOST_DOUBLE else np.float32
        left: NDArray[Any] = np.column_stack([slopes, np.ones(len(slopes))]).astype(kind)
        right: NDArray[Any] = np.column_stack([centred, share - shift]).astype(kind).T
        best = np.empty(len(left))
        step = max(1, VALUES_AT_ONCE // len(centred))
        for start in range(0, len(left), step):
            best[start : start + step] = (left[start : start + step] @ right).max(axis=1)
        size = np.abs(left[:, :-1]).sum(axis=1).max() * np.abs(centred).max(initial=0) + np.ptp(share)
        return best + shift, float(len(right) * np.finfo(kind).eps * size)

    def update(self, s: int) -> Floats:
        """Let the pairs of part s agree about it; (K_s,) the bound with part s in each of its states."""
        others = [t for t in self.parts if t != s]
        own = np.sum([self.share[s, t] for t in others], axis=0)
        messages = {t: self.best_partner(s, t) for t in others}
        total = own + np.sum([best for best, _ in messages.values()], axis=0)
        for t, (best, rounding) in messages.items():
            self.share[s, t] = total / len(others) - best
            self.top[min(s, t), max(s, t)] = float(total.max()) / len(others) + rounding
        self.agreed[s] = total
        slack = sum(rounding for _, rounding in messages.values())
        bounds = self.constant + total + slack + sum(top for pair, top in self.top.items() if s not in pair)
        self.upper = min(self.upper, float(bounds.max()))
        return np.asarray(bounds)

    def keep(self, s: int, rows: Ints) -> None:
        """Drop all other states of part s."""
        self.alive[s], self.agreed[s] = self.alive[s][rows], self.agreed[s][rows]
        for t in self.parts:
            if t != s:
                self.share[s, t] = self.share[s, t][rows]

    def drop_worse(self, incumbent: float) -> None:
        """One round; states whose bound is not above the incumbent go, perhaps all of them."""
        for s in self.parts:
            bounds = self.update(s)
            if not (better := bounds > incumbent).all():
                self.keep(s, np.flatnonzero(better))
            if not better.any():
                self.upper = -np.inf
                return

    def agreed_states(self) -> list[int]:
        """The state of each part that its pairs rate best."""
        return [int(rows[np.argmax(total)]) for rows, total in zip(self.alive, self.agreed, strict=True)]

    def stars(self) -> list[Floats]:
        """(K,) of each part: half of what all pairs add that hold it, each at its best partner.

        Their sum over the parts is at least the sum of all pairs, for any choice of states.
        """
        stars = []
        for s in self.parts:
            best = [self.best_partner(s, t) for t in self.parts if t != s]
            own = np.sum([self.share[s, t] for t in self.parts if t != s], axis=0)
            stars.append((own + sum(values + rounding for values, rounding in best)) / 2)
        return stars

    def reprice(self) -> None:
        """Prices at which the bound is least while pairs stay as they agree now; the next round says what the
        bound is then."""
        costs = [cost[:, rows] for cost, rows in zip(self.setting.costs, self.alive, strict=True)]
        free = [agreed / 2 + self.price @ cost for agreed, cost in zip(self.agreed, costs, strict=True)]
        price = best_price(free, costs, self.setting.budget, self.price)
        shifts = [(self.price - price) @ cost / (len(self.parts) - 1) for cost in costs]
        for s, t in self.share:
            self.share[s, t] = self.share[s, t] + shifts[s]
        self.top = {(s, t): top + shifts[s].max() + shifts[t].max() for (s, t), top in self.top.items()}
        self.price = price

    def moved_to(self, setting: Setting, price: Floats, alive: Sequence[Ints], upper: float) -> "Relaxation":
        """The shares of this relaxation, of all states, in another setting that keeps the states `alive`."""
        moved = Relaxation(self.pairs, setting, price, alive)
        for s, t in self.share:
            by_setting = (moved.unary(s) - self.unary(s)) / (len(self.parts) - 1)
            moved.share[s, t] = (self.share[s, t] + by_setting)[alive[s]]
        moved.upper = upper
        return moved

    def restricted(self, s: int, rows: Ints) -> "Relaxation":
        """The same with part s in some of its states."""
        child = copy(self)
        child.alive, child.agreed = list(self.alive), list(self.agreed)
        child.share, child.top = dict(self.share), dict(self.top)
        child.keep(s, rows)
        return child

    def above(self, incumbent: float, most: int) -> Ints | None:
        """(n, P) the states of all networks whose bound is above the incumbent; None if it takes more than
        `most` sums to list them.

        Networks are put together part by part, and what is bounded by the incumbent is left.
        """
        tables = {
            (s, t): self.pairs.slopes[s, t][self.alive[s]] @ self.pairs.centred[t][self.alive[t]].T
            + self.share[s, t][:, None]
            + self.share[t, s]
            for s, t in self.share
            if len(self.alive[s]) * len(self.alive[t]) <= most
        }
        if len(tables) < len(self.share):
            return None
        best = {pair: table.max(axis=1) for pair, table in tables.items()}
        order = sorted(self.parts, key=lambda s: len(self.alive[s]))
        rows, bound = np.zeros((1, 0), np.int64), np.array([self.constant])
        bound += sum(float(table.max()) for (s, t), table in tables.items() if s < t)
        for place, t in enumerate(order):
            before, after = order[:place], order[place + 1 :]
            own = np.zeros(len(self.alive[t]))
            for u in after:
                own += best[t, u] - best[t, u].max()
            if (most := most - len(rows) * len(own)) < 0:
                return None
            total = bound[:, None] + own
            for column, s in enumerate(before):
                total += (tables[s, t] - best[s, t][:, None])[rows[:, column]]
            kept, states = np.nonzero(total > incumbent)
            rows, bound = np.column_stack([rows[kept], states]), total[kept, states]
        chosen = [self.alive[s][rows[:, order.index(s)]] for s in self.parts]
        return np.stack(chosen, axis=1)


def best_price(values: Sequence[Floats], costs: Sequence[Floats], budget: Floats, start: Floats) -> Floats:
    """(m,) prices p >= 0 that make sum_s max_x [values_s - p.costs_s] + p.budget least: each in turn."""
    price = start.copy()
    for _ in range(1 if len(price) == 1 else 3):
        for i in range(len(price)):
            paid = [
                value - price @ cost + price[i] * cost[i] for value, cost in zip(values, costs, strict=True)
            ]
            own = [cost[i] for cost in costs]
            price[i] = _root(_excess(paid, own, float(budget[i])), max(price[i], 1e-9))
    return price


def _excess(values: Sequence[Floats], costs: Sequence[Floats], budget: float) -> Callable[[float], float]:
    """What the best states cost beyond the budget, by price: it falls with the price."""

    def excess(price: float) -> float:
        chosen = [int(np.argmax(value - price * cost)) for value, cost in zip(values, costs, strict=True)]
        return float(sum(cost[x] for cost, x in zip(costs, chosen, strict=True))) - budget

    return excess


def _root(excess: Callable[[float], float], guess: float) -> float:
    """The price >= 0 at which the excess is no longer positive."""
    if excess(0.0) <= 0:
        return 0.0
    low, high = 0.0, guess
    for _ in range(HALVINGS):
        if excess(high) <= 0:
            break
        low, high = high, 4 * high
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return high
