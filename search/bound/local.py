"""Good networks within the limits, quickly: coordinate ascent over the parts of a program, then over pairs.

Letters: P parts, K states of a part, m limits, c candidates.
"""

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from search.bound.program import Program, Setting
from supernet.arrays import Floats, Ints

SWEEPS = 30  # of coordinate ascent, at most
CANDIDATES = 150  # states of each part that are tried in pairs
BISECTIONS = 14  # for the price at which the best network is as costly as allowed


class Incumbent:
    """The best network so far of a program, and the ways to better ones."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.parts = range(len(program.parts))
        self.coupling = {(s, t): program.coupling(s, t) for s in self.parts for t in self.parts if s != t}
        self.value = -np.inf
        self.reserve = np.zeros(len(program.limits))  # of the budgets, for what sums do not count
        self.setting: Setting | None = None
        self.states: list[int] = []

    def offer(self, setting: Setting, states: Ints) -> bool:
        """Take the best of the networks in these states (n, P) if it meets the limits and is better."""
        holds = self.program.within(setting, states)
        if not holds.any():
            if len(states) == 1:
                self.reserve = np.maximum(self.reserve, self.program.hidden(setting, states))
            return False
        states = states[holds]
        values = setting.scale(self.program.value(setting, states))
        best = int(np.argmax(values))
        if values[best] <= self.value:
            return False
        self.value, self.setting, self.states = float(values[best]), setting, states[best].tolist()
        return True

    def improve(self, setting: Setting, states: Sequence[int], price: Floats) -> None:
        """Offer the local optimum near these states, which need not meet the limits."""
        states = self.ascend(setting, states)
        if not self.offer(setting, np.array([states])) and self.reserve.any():
            states = self.ascend(setting, states)
            self.offer(setting, np.array([states]))
        while self.offer(setting, self._best_pairs(setting, states, price)):
            states = self.ascend(setting, self.states)
            self.offer(setting, np.array([states]))

    def start(self, setting: Setting) -> Floats:
        """(m,) prices of the limits about which the best networks meet them; these networks are offered."""
        steepest = max(float(np.ptp(unary)) for unary in setting.unary)
        dearest = np.max([np.ptp(cost, axis=1) for cost in setting.costs], axis=0)
        scale = 16 * steepest / np.maximum(dearest, 1e-12)
        states = [int(np.argmax(unary)) for unary in setting.unary]
        low, high, factor = 0.0, 1.0, 0.0
        for _ in range(BISECTIONS):
            states = self.ascend(setting, states, scale * factor)
            cost = self.program.cost(setting, np.array([states]))[:, 0]
            if (cost <= setting.budget).all():
                high = factor
                self.offer(setting, np.array([self.ascend(setting, states)]))
            else:
                low = factor
            if high == 0.0:
                break
            factor = (low + high) / 2
        self.improve(setting, states, scale * high)
        return scale * high

    def slope(self, s: int, states: Sequence[int]) -> Floats:
        """(v_s,) what a column of part s adds beside these states of the other parts."""
        changes = [
            self.coupling[s, t] @ self.program.parts[t].change[states[t]] for t in self.parts if t != s
        ]
        return np.asarray(np.sum(changes, axis=0))

    def ascend(self, setting: Setting, states: Sequence[int], price: Floats | None = None) -> list[int]:
        """Each part in turn takes its best state: its costs paid at a price, or without one, within the
        limits (as near to them as the part alone can come)."""
        states = list(states)
        for _ in range(SWEEPS):
            before = list(states)
            for s in self.parts:
                value = setting.unary[s] + self.program.parts[s].change @ self.slope(s, states)
                if price is None:
                    others = [setting.costs[t][:, states[t]] for t in self.parts if t != s]
                    free = setting.budget - self.reserve - np.sum(others, axis=0)
                    excess = self._excess(setting.costs[s] - free[:, None])
                    value = np.where(excess <= excess.min(), value, -np.inf)
                else:
                    value = value - price @ setting.costs[s]
                states[s] = int(np.argmax(value))
            if states == before:
                break
        return states

    def _excess(self, over: Floats) -> Floats:
        """(...) sum over the limits of what goes beyond them (m, ...), each as a share of its limit."""
        most = np.array([limit.most for limit in self.program.limits]).reshape(-1, *[1] * (over.ndim - 1))
        return np.asarray((np.maximum(over, 0) / np.maximum(np.abs(most), 1e-12)).sum(axis=0))

    def _best_pairs(self, setting: Setting, states: Sequence[int], price: Floats) -> Ints:
        """(pairs, P) for each two parts the best states within the limits, beside these of the others."""
        parts = self.program.parts
        gains = [
            setting.unary[s] + parts[s].change @ self.slope(s, states) - price @ setting.costs[s]
            for s in self.parts
        ]
        tried = [np.argsort(-gain, kind="stable")[:CANDIDATES] for gain in gains]
        moved = []
        for s, t in combinations(self.parts, 2):
            change = [parts[k].change[tried[k]] - parts[k].change[states[k]] for k in (s, t)]
            paid = [price @ setting.costs[k][:, tried[k]] for k in (s, t)]
            value = (gains[s][tried[s]] + paid[0])[:, None] + (gains[t][tried[t]] + paid[1])
            value += change[0] @ self.coupling[s, t] @ change[1].T
            others = [setting.costs[k][:, states[k]] for k in self.parts if k not in (s, t)]
            free = setting.budget - self.reserve - np.sum(others, axis=0)
            cost = setting.costs[s][:, tried[s], None] + setting.costs[t][:, None, tried[t]]
            value[self._excess(cost - free[:, None, None]) > 0] = -np.inf
            first, second = np.unravel_index(int(np.argmax(value)), value.shape)
            pair = list(states)
            pair[s], pair[t] = int(tried[s][first]), int(tried[t][second])
            moved.append(pair)
        return np.array(moved)
