"""The most accurate network within limits as an integer program: parts of the network in one of their states,
accuracies of parts and of pairs of parts, costs of parts.

Letters: n networks, P parts, K states of a part, v one-hot columns, m limits, d genes.

Accuracy is a quadratic form in the one-hot of the genes, a limited cost is a sum over slots. Genes that act
on one place of the network, or that a depth switches on and off together, form a part (a stage of an OFA
network); the others, like the resolution and the recipe of fine-tuning, are the setting, which is chosen
first. In one setting

    accuracy = scale(form), form = constant + sum_s unary_s(x_s) + sum_{s<t} change_s(x_s)' C_st change_t(x_t)
    cost_i   = sum_s cost_is(x_s), at most budget_i

where `change` is how the one-hot differs from that of the part's first state.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations, pairwise, product

import numpy as np
from numpy.typing import NDArray

from search.objective import Objective
from supernet.arrays import Floats, Genomes, Ints
from supernet.space import SearchSpace, get_space
from supernet.surrogates.accuracy import AccuracySurrogate

MOST_STATES = 20_000  # of a part: a round of messages is quadratic in them
MOST_SETTINGS = 20_000
KEPT_SETTINGS = 100  # are not computed again
JOINED_STATES = 8000  # neighbouring parts are joined up to here: fewer parts give tighter bounds
CHECKED = 256  # random networks on which the program must agree with its models
LOWEST, HIGHEST, HALVINGS = -1.0, 1.0 - 1e-9, 50  # values of the quadratic form that scales are asked for
SINGLE_PRECISION = 1e-6  # of accuracy (a fraction), in which surrogates predict


@dataclass(frozen=True, eq=False)
class Limit:
    """An objective whose bound must meet its limit, as a cost that is a sum over the parts of a network.

    Where all networks share errors, the deviation sqrt(own^2 + sum_k shared_k^2) of a prediction is no sum.
    For any direction of length 1, direction.(own, shared) is at most as large, and it is one: a limit on it
    admits all networks that meet the true one, and hardly any other near the network that gave the direction.
    """

    objective: Objective
    direction: Floats | None = None  # (1 + k,); None: the deviation as it is

    @property
    def most(self) -> float:
        """The cost that the limit allows."""
        assert self.objective.limit is not None
        return float(self.objective.cost(np.array(self.objective.limit)))

    def true(self, genomes: Genomes) -> Floats:
        """(n,) the cost that is compared with the limit."""
        return self.objective.cost(self.objective.bound(self.objective.of(genomes)))

    def additive(self, genomes: Genomes) -> Floats:
        """(n,) the sum that is at most the true cost."""
        if self.direction is None:
            return self.true(genomes)
        predicted = self.objective.of(genomes)
        assert predicted.shared is not None  # it gave the direction
        deviation = np.column_stack([predicted.own, predicted.shared]).astype(np.float64) @ self.direction
        width = predicted.tails.quantile(self.objective.confidence)
        return np.asarray(self.objective.cost(predicted.mean) + width * deviation)

    def about(self, genome: Genomes) -> "Limit":
        """The sum that is nearest to the true cost about a (1, d) network."""
        predicted = self.objective.of(genome)
        if predicted.shared is None:
            return self
        deviation = np.concatenate([predicted.own, predicted.shared[0]])
        return replace(self, direction=deviation / max(float(np.linalg.norm(deviation)), 1e-300))


@dataclass(frozen=True, eq=False)
class Part:
    """Genes that are chosen together. `levels` (K, genes) are its states, `change` (K, v) how the `columns`
    (v,) of the surrogate's one-hot differ from those of the first state, `curved` (K,) what that adds by
    itself."""

    genes: Ints
    levels: Genomes
    columns: Ints
    change: Floats
    curved: Floats

    def __len__(self) -> int:
        return len(self.levels)


@dataclass(frozen=True, eq=False)
class Setting:
    """One choice of the genes that belong to no part: what accuracy and costs are then."""

    genome: Genomes  # (1, d) all parts in their first state
    constant: float
    unary: tuple[Floats, ...]  # (K,) of each part
    costs: tuple[Floats, ...]  # (m, K) of each part
    budget: Floats  # (m,)
    scale: Callable[[Floats], Floats]  # accuracies by values of the quadratic form: does not fall

    def form(self, accuracy: float) -> float:
        """The value of the quadratic form up to which the accuracy is at most this."""
        if accuracy >= float(self.scale(np.array([HIGHEST]))[0]):
            return np.inf
        low, high = LOWEST, HIGHEST
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            below = float(self.scale(np.array([middle]))[0]) <= accuracy
            low, high = (middle, high) if below else (low, middle)
        return low


class Program:
    """The accuracy that is maximised and the limits, on the networks of a space as restricted.

    `accuracy` must be a scale, of each setting its own, of the quadratic form of the surrogate, and the costs
    sums over parts. Both are checked on random networks, so that nothing is proven about another
    function than the one that a search optimises: ValueError otherwise.
    """

    def __init__(
        self,
        space: SearchSpace,
        surrogate: AccuracySurrogate,
        accuracy: Callable[[Genomes], Floats],
        scale: Callable[[Genomes], Callable[[Floats], Floats]],
        limits: Sequence[Limit],
    ) -> None:
        self.space, self.surrogate, self.accuracy, self.limits = space, surrogate, accuracy, tuple(limits)
        self.scale = scale  # of the accuracy in the setting of a (1, d) network
        setting_genes, groups = _groups(space)
        if (settings := math.prod(len(space.choices[j]) for j in setting_genes)) > MOST_SETTINGS:
            raise ValueError(
                f"{space.name} has {settings:,} combinations of "
                f"{', '.join(space.axes[j].name for j in setting_genes)}, at most {MOST_SETTINGS:,} can be "
                "bounded: restrict the space, for instance by resolution=192"
            )
        first = space.at(np.zeros((1, space.d), np.int64))
        self.settings = np.repeat(first, settings, axis=0)
        self.settings[:, setting_genes] = list(product(*(space.choices[j] for j in setting_genes)))
        states = _join([_states(space, genes, first) for genes in groups])
        self.parts = tuple(self._part(genes, levels, first) for genes, levels in states)
        self.setting = lru_cache(KEPT_SETTINGS)(self._setting)
        self._check()

    def _one_hot(self, genomes: Genomes) -> Floats:
        own = get_space(self.surrogate.space)
        inside = np.minimum(self.space.embed(genomes, self.surrogate.space), own.levels).astype(np.int8)
        return own.one_hot(inside)  # the effect of sides beyond is a matter of the scale

    def _part(self, genes: Ints, levels: Genomes, first: Genomes) -> Part:
        x = self._one_hot(_with(first, genes, levels))
        columns = np.flatnonzero((x != x[0]).any(axis=0))
        change = x[:, columns] - x[0, columns]
        curved = np.einsum("ij,ij->i", change @ self.surrogate.quadratic[np.ix_(columns, columns)], change)
        return Part(genes, levels, columns, change, curved)

    def coupling(self, s: int, t: int) -> Floats:
        """(v_s, v_t) matrix C with which two parts together add change_s' C change_t to the accuracy."""
        return 2 * self.surrogate.quadratic[np.ix_(self.parts[s].columns, self.parts[t].columns)]

    def _setting(self, number: int) -> Setting:
        """The setting of this number, in the order of `settings`."""
        genome = self.settings[[number]]
        form, x = self.surrogate, self._one_hot(genome)[0]
        slope = form.linear + 2 * form.quadratic @ x
        constant = float(form.constant + form.linear @ x + x @ form.quadratic @ x)
        batches = [_with(genome, part.genes, part.levels) for part in self.parts]
        genomes = np.concatenate(batches)
        values = np.array([limit.additive(genomes) for limit in self.limits]).reshape(-1, len(genomes))
        at = np.cumsum([len(part) for part in self.parts])[:-1]
        most = np.array([limit.most for limit in self.limits])
        return Setting(
            genome,
            constant,
            tuple(part.change @ slope[part.columns] + part.curved for part in self.parts),
            tuple(np.split(values - values[:, :1], at, axis=1)),
            most - values[:, 0],
            self.scale(genome),
        )

    def genomes(self, setting: Setting, states: Ints) -> Genomes:
        """(n, d) the networks with these states (n, P) of the parts."""
        genomes = np.repeat(setting.genome, len(states), axis=0)
        for s, part in enumerate(self.parts):
            genomes[:, part.genes] = part.levels[states[:, s]]
        return genomes

    def locate(self, genome: Genomes) -> tuple[int, Ints]:
        """The number of the setting of a (d,) network of the space, and the (1, P) states of its parts."""
        base, states = genome.copy(), []
        for part in self.parts:
            base[part.genes] = self.settings[0, part.genes]
            states.append(int(np.argmax((part.levels == genome[part.genes]).all(axis=1))))
        return int(np.argmax((self.settings == base).all(axis=1))), np.array([states])

    def hidden(self, setting: Setting, states: Ints) -> Floats:
        """(m,) by how much each true cost of the network in these states (1, P) is above its sum."""
        genome = self.genomes(setting, states)
        return np.array([float((limit.true(genome) - limit.additive(genome))[0]) for limit in self.limits])

    def within(self, setting: Setting, states: Ints) -> NDArray[np.bool_]:
        """(n,) which of the networks in these states (n, P) meet all limits."""
        holds = np.asarray((self.cost(setting, states) <= setting.budget[:, None]).all(axis=0))
        for limit in self.limits:
            if limit.direction is not None and holds.any():
                holds[holds] = limit.true(self.genomes(setting, states[holds])) <= limit.most
        return holds

    def value(self, setting: Setting, states: Ints) -> Floats:
        """(n,) quadratic form of the networks in these states (n, P)."""
        chosen = [part.change[states[:, s]] for s, part in enumerate(self.parts)]
        total = setting.constant + np.sum([u[states[:, s]] for s, u in enumerate(setting.unary)], axis=0)
        for s, t in combinations(range(len(self.parts)), 2):
            total = total + np.einsum("ij,ij->i", chosen[s] @ self.coupling(s, t), chosen[t])
        return np.asarray(total)

    def cost(self, setting: Setting, states: Ints) -> Floats:
        """(m, n) costs of the networks in these states (n, P)."""
        return np.sum([cost[:, states[:, s]] for s, cost in enumerate(setting.costs)], axis=0)

    def _check(self) -> None:
        rng = np.random.default_rng(0)
        states = np.stack([rng.integers(0, len(part), CHECKED) for part in self.parts], axis=1)
        which = rng.integers(0, len(self.settings), CHECKED // 32)
        for number, rows in zip(which.tolist(), np.split(states, len(which)), strict=True):
            setting = self.setting(number)
            for row in range(0, len(rows) * (len(self.limits) > 0), 2):  # half of them of extreme states
                cost = row // 2 % len(self.limits)
                ends = [(one[cost].argmin(), one[cost].argmax()) for one in setting.costs]
                rows[row] = [end[rng.integers(2)] for end in ends]
            genomes = self.genomes(setting, rows)
            off = float(np.abs(setting.scale(self.value(setting, rows)) - self.accuracy(genomes)).max())
            if not off <= SINGLE_PRECISION:
                raise ValueError(
                    f"the accuracy of {self.space.name} is not the quadratic form of its surrogate "
                    f"({off:.2g} apart): no optimum can be proven"
                )
            for limit, cost, budget in zip(
                self.limits, self.cost(setting, rows), setting.budget, strict=True
            ):
                total = limit.additive(genomes)
                if not np.allclose(
                    total, cost + limit.most - budget, rtol=1e-9, atol=1e-9 * np.abs(total).max()
                ):
                    raise ValueError(
                        f"{limit.objective.name} is no sum over the blocks of {self.space.name}: no optimum "
                        "within a limit on it can be proven"
                    )


def _with(genome: Genomes, genes: Ints, levels: Genomes) -> Genomes:
    """(K, d) a genome with these levels of some genes."""
    genomes = np.repeat(genome, len(levels), axis=0)
    genomes[:, genes] = levels
    return genomes


def _groups(space: SearchSpace) -> tuple[list[int], list[Ints]]:
    """The genes of the setting, and those of each part.

    A part is what gates and slots connect. Genes outside both, and genes without gate that several slots
    share (the widths of a ResNet's stages), belong to the setting.
    """
    controllers = {gate.controller for gate in space.gates}
    gated = {gate.axis for gate in space.gates}
    uses = np.bincount([j for slot in space.slots for j in slot], minlength=space.d)
    acting = [j for j in range(space.d) if uses[j] or j in controllers]
    shared = {j for j in acting if uses[j] > 1 and j not in controllers | gated}
    owner = {j: j for j in acting if j not in shared}
    links = [(gate.controller, gate.axis) for gate in space.gates]
    links += [(first, second) for slot in space.slots for first, second in pairwise(slot)]
    for a, b in links:
        if a in owner and b in owner and owner[a] != owner[b]:
            owner |= {j: owner[a] for j, mine in owner.items() if mine == owner[b]}
    groups: dict[int, list[int]] = {}
    for j, mine in owner.items():
        groups.setdefault(mine, []).append(j)
    parts = sorted(groups.values(), key=lambda genes: (space.axes[genes[0]].stage, genes))
    return [j for j in range(space.d) if j not in owner], [np.array(genes) for genes in parts]


def _states(space: SearchSpace, genes: Ints, first: Genomes) -> tuple[Ints, Genomes]:
    """The genes, and the (K, genes) levels of each different state."""
    controllers = {gate.controller: gate for gate in space.gates}
    blocks = []
    for choice in product(*(space.choices[j] if j in controllers else (0,) for j in genes)):
        genome = first.copy()
        genome[0, genes] = np.where(np.array(choice) > 0, choice, genome[0, genes])
        live = space.canonical(genome)[0, genes] > 0
        free = [
            (chosen,) if chosen else space.choices[j] if on else (0,)
            for j, on, chosen in zip(genes, live, choice, strict=True)
        ]
        if (count := math.prod(len(levels) for levels in free)) > MOST_STATES:
            names = ", ".join(space.axes[j].name for j in genes)
            raise ValueError(
                f"{space.name}: the genes {names} have {count:,} states together, at most {MOST_STATES:,} "
                "can be bounded: restrict the space"
            )
        blocks.append(np.array(list(product(*free)), np.int8))
    return genes, np.concatenate(blocks)


def _join(parts: list[tuple[Ints, Genomes]]) -> list[tuple[Ints, Genomes]]:
    """Small parts joined to larger ones; at least two, the second perhaps of no genes and one state."""
    joined: list[tuple[Ints, Genomes]] = []
    for genes, levels in parts:
        if joined and len(joined[-1][1]) * len(levels) <= JOINED_STATES:
            before, states = joined[-1]
            rows = np.indices((len(states), len(levels))).reshape(2, -1)
            joined[-1] = np.concatenate([before, genes]), np.hstack([states[rows[0]], levels[rows[1]]])
        else:
            joined.append((genes, levels))
    while len(joined) < 2:
        joined.append((np.empty(0, np.int64), np.empty((1, 0), np.int8)))
    return joined
