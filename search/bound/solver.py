"""Branch and bound over the settings and parts of a program.

1. Local search in each setting gives an incumbent.
2. In the incumbent's setting all parts keep all their states for two rounds of messages. The result bounds
   every other setting at once: parts differ there by sums over states only (`Relaxation.stars`).
3. What is left of the settings is taken in the order of the bounds. Rounds of messages drop states. Where
   they no longer help, what is left is listed, or split by the values of one gene.
"""

import heapq
import time
from collections.abc import Iterator

import numpy as np

from search.bound.local import Incumbent
from search.bound.program import Program
from search.bound.relaxation import Pairs, Relaxation, best_price
from supernet.arrays import Floats

TOLERANCE = 1e-7  # of accuracy (a fraction): what is not better by more is as good as the incumbent
STARTS = 200  # settings in which local search starts
SOFTNESS = 0.002  # of accuracy: states that are worse by less have a say in the centre of a part
SMALL_STEP = 0.1  # share of the gap that a round must close
MOST_SUMS = 3_000_000  # to list what is left, rather than to split it


class Solver:
    """Finds the best network of a program, until it is proven or a deadline (`time.perf_counter`) passes."""

    def __init__(self, program: Program, deadline: float) -> None:
        self.program, self.deadline = program, deadline
        self.parts = range(len(program.parts))
        self.incumbent = Incumbent(program)
        self.upper = np.inf
        self.nodes = 0

    @property
    def late(self) -> bool:
        return time.perf_counter() > self.deadline

    @property
    def target(self) -> float:
        """What a network must be above to be better."""
        return self.incumbent.value + TOLERANCE

    def run(self) -> None:
        """Afterwards `incumbent` is the best network that was found and `upper` bounds all."""
        queue: list[tuple[float, int, Relaxation]] = []
        for number, node in enumerate(self._settings()):
            heapq.heappush(queue, (-node.accuracy, number, node))
        count = len(queue)
        while queue and -queue[0][0] > self.target and not self.late:
            _, _, node = heapq.heappop(queue)
            self.nodes += 1
            for child in self._explore(node):
                count += 1
                heapq.heappush(queue, (-child.accuracy, count, child))
        left = max((-bound for bound, _, _ in queue), default=-np.inf)
        self.upper = left if left > self.target else self.incumbent.value

    def start(self) -> tuple[int, Floats]:
        """Local search in the settings; the number of the best one, and its prices."""
        numbers = np.arange(len(self.program.settings))
        if len(numbers) > STARTS:
            numbers = np.random.default_rng(0).choice(numbers, STARTS, replace=False)
        best, price = int(numbers[0]), np.zeros(len(self.program.limits))
        for number in numbers.tolist():
            before = self.incumbent.value
            its_price = self.incumbent.start(self.program.setting(number))
            if self.incumbent.value > before or number == best:
                best, price = number, its_price
        return best, price

    def _settings(self) -> Iterator[Relaxation]:
        """What is left of each setting after the bounds that all share."""
        reference = self._reference(*self.start())
        stars, base = reference.stars(), [reference.unary(s) for s in self.parts]
        for number in range(len(self.program.settings)):
            yield from self._left(number, reference, stars, base)

    def _reference(self, number: int, price: Floats) -> Relaxation:
        setting = self.program.setting(number)
        inc = self.incumbent
        states = inc.states or inc.ascend(setting, [0 for _ in self.parts])
        centre = []
        for s, part in enumerate(self.program.parts):
            value = setting.unary[s] + part.change @ inc.slope(s, states) - price @ setting.costs[s]
            weight = np.exp((value - value.max()) / SOFTNESS)
            centre.append(weight / weight.sum() @ part.change)
        full = [np.arange(len(part)) for part in self.program.parts]
        reference = Relaxation(Pairs(self.program, centre), setting, price, full)
        for _ in range(2):
            for s in self.parts:
                reference.update(s)
            reference.reprice()
        return reference

    def _left(
        self, number: int, reference: Relaxation, stars: list[Floats], base: list[Floats]
    ) -> Iterator[Relaxation]:
        setting = self.program.setting(number)
        if (np.sum([cost.min(axis=1) for cost in setting.costs], axis=0) > setting.budget).any():
            return
        moved = reference.pairs.moved
        free = [star + setting.unary[s] + moved[s] - base[s] for s, star in enumerate(stars)]
        price = best_price(free, setting.costs, setting.budget, reference.price)
        paid = [value - price @ cost for value, cost in zip(free, setting.costs, strict=True)]
        upper = setting.constant + reference.pairs.constant + float(price @ setting.budget)
        upper += sum(float(value.max()) for value in paid)
        if upper > (target := setting.form(self.target)):
            alive = [np.flatnonzero(upper - value.max() + value > target) for value in paid]
            yield reference.moved_to(setting, price, alive, upper)

    def _explore(self, node: Relaxation) -> list[Relaxation]:
        """What is left of a node, in parts; nothing where it holds no better network than the incumbent."""
        rounds = 0
        while not self.late:
            before = node.upper
            node.drop_worse(node.setting.form(self.target))
            rounds += 1
            if node.upper <= node.setting.form(self.target):
                return []
            self.incumbent.improve(node.setting, node.agreed_states(), node.price)
            target = node.setting.form(self.target)
            if rounds > 1 and before - node.upper < SMALL_STEP * (before - target):
                listed = node.above(target, MOST_SUMS)
                if listed is None:
                    return self._split(node)
                self.incumbent.offer(node.setting, listed)
                return []
            node.reprice()
        return [node]

    def _split(self, node: Relaxation) -> list[Relaxation]:
        """The node with the values of one gene apart: the one that lowers the bounds of most states most."""
        best, choice = -1.0, None
        for s, part in enumerate(self.program.parts):
            levels = part.levels[node.alive[s]]
            fall = node.agreed[s].max() - node.agreed[s]
            for column in levels.T:
                values, which, counts = np.unique(column, return_inverse=True, return_counts=True)
                if len(values) > 1:
                    share = counts / counts.sum()
                    falls = [fall[which == i].min() for i in range(len(values))]
                    gain = (np.mean(falls) + 1e-4) * -(share * np.log(share)).sum() * np.log(len(column))
                    if gain > best:
                        best, choice = gain, (s, [np.flatnonzero(which == i) for i in range(len(values))])
        assert choice is not None  # a network alone is listed
        s, groups = choice
        return [node.restricted(s, rows) for rows in groups]
