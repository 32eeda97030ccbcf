"""The most accurate network within limits as an integer program: parts of the network in one of their states,
accuracies of parts and of pairs of parts, costs of parts.

Letters: n networks, P parts, K states of a part, v one-hot columns, m limits, d genes.

Accuracy is a quadratic form in the one-hot of the genes, a limited cost is a sum over slots. Genes that act
on one place of the network, or that a depth switches on and off together, form a part (a stage of an OFA
network); the others, like the resolution and the recipe of fine-tuning, are the setting, which is chosen
first. In one setting

    accuracy = constant + sum_s unary_s(x_s) + sum_{s<t} change_s(x_s)' C_st change_t(x_t)
    cost_i   = sum_s cost_is(x_s), at most budget_i

where `change` is how the one-hot differs from that of the part's first state.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np

from supernet.arrays import Floats, Genomes, Ints
from supernet.slot_table import SlotTable
from supernet.space import SearchSpace, get_space
from supernet.surrogates.accuracy import AccuracySurrogate

MOST_STATES = 20_000  # of a part: a round of messages is quadratic in them
MOST_SETTINGS = 20_000
JOINED_STATES = 8000  # neighbouring parts are joined up to here: fewer parts give tighter bounds
CHECKED = 256  # random networks on which the program must agree with its models
SINGLE_PRECISION = 1e-6  # of accuracy (a fraction), in which surrogates predict


@dataclass(frozen=True, eq=False)
class Limit:
    """A sum over the slots of the space named `space` that may be at most `most`."""

    name: str
    table: SlotTable
    space: str
    most: float

    def of(self, genomes: Genomes, space: SearchSpace) -> Floats:
        """(n,) the cost of canonical genomes of `space`."""
        owner = get_space(self.space)
        return self.table.evaluate(owner, space.embed(genomes, self.space))


@dataclass(frozen=True, eq=False)
class Part:
    """Genes that are chosen together. `levels` (K, genes) are its states, `change` (K, v) how the `columns` (v,)
    of the surrogate's one-hot differ from those of the first state; `curved` (K,) what that adds by itself."""

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


class Program:
    """Accuracy and limits on the networks of a space as restricted; ValueError where they do not fit.

    The surrogate must be the quadratic form it says and the costs sums over parts: both are checked on random
    networks, so that nothing is proven about another function than the one that a search optimises.
    """

    def __init__(self, space: SearchSpace, accuracy: AccuracySurrogate, limits: Sequence[Limit]) -> None:
        self.space, self.accuracy, self.limits = space, accuracy, tuple(limits)
        setting_genes, groups = _groups(space)
        counts = [len(space.choices[j]) for j in setting_genes]
        if (settings := int(np.prod(counts))) > MOST_SETTINGS:
            raise ValueError(
                f"{space.name} has {settings:,} combinations of "
                f"{', '.join(space.axes[j].name for j in setting_genes)}, at most {MOST_SETTINGS:,} can be "
                "bounded: restrict the space, for instance genes.finetune_epochs=[75]"
            )
        first = space.at(np.zeros((1, space.d), np.int64))
        levels = list(product(*(space.choices[j] for j in setting_genes)))
        self.settings = np.repeat(first, len(levels), axis=0)
        self.settings[:, setting_genes] = levels
        states = _join([_states(space, genes, first) for genes in groups])
        self.parts = tuple(self._part(genes, states_of, first) for genes, states_of in states)
        self._known: dict[bytes, tuple[tuple[Floats, ...], Floats]] = {}
        self._check()

    def _one_hot(self, genomes: Genomes) -> Floats:
        own = get_space(self.accuracy.space)
        return own.one_hot(self.space.embed(genomes, self.accuracy.space))

    def _part(self, genes: Ints, levels: Genomes, first: Genomes) -> Part:
        x = self._one_hot(_with(first, genes, levels))
        columns = np.flatnonzero((x != x[0]).any(axis=0))
        change = x[:, columns] - x[0, columns]
        curved = np.einsum("ij,ij->i", change @ self.accuracy.quadratic[np.ix_(columns, columns)], change)
        return Part(genes, levels, columns, change, curved)

    def coupling(self, s: int, t: int) -> Floats:
        """(v_s, v_t) matrix C with which two parts together add change_s' C change_t to the accuracy."""
        return 2 * self.accuracy.quadratic[np.ix_(self.parts[s].columns, self.parts[t].columns)]

    def setting(self, number: int) -> Setting:
        """The setting of this number, in the order of `settings`."""
        genome = self.settings[[number]]
        q = self.accuracy.quadratic
        x = self._one_hot(genome)[0]
        slope = self.accuracy.linear + 2 * q @ x
        costs, budget = self._costs(genome)
        return Setting(
            genome,
            float(self.accuracy.constant + self.accuracy.linear @ x + x @ q @ x),
            tuple(part.change @ slope[part.columns] + part.curved for part in self.parts),
            costs,
            budget,
        )

    def _costs(self, genome: Genomes) -> tuple[tuple[Floats, ...], Floats]:
        """Costs of the parts and what is left for them; the same for all recipes of a network."""
        key = self.space.network(genome).tobytes()
        if key not in self._known:
            batches = [_with(genome, part.genes, part.levels) for part in self.parts]
            at = np.cumsum([len(part) for part in self.parts])[:-1]
            values = [limit.of(np.concatenate(batches), self.space) for limit in self.limits]
            base = np.array([value[0] for value in values])
            relative = np.array(values).reshape(len(values), -1) - base[:, None]
            most = np.array([limit.most for limit in self.limits])
            self._known[key] = tuple(np.split(relative, at, axis=1)), most - base
        return self._known[key]

    def genome(self, setting: Setting, states: Sequence[int]) -> Genomes:
        """(1, d) the network with these states of the parts."""
        genome = setting.genome.copy()
        for part, state in zip(self.parts, states, strict=True):
            genome[:, part.genes] = part.levels[state]
        return genome

    def value(self, setting: Setting, states: Ints) -> Floats:
        """(n,) accuracy of the networks in these states (n, P)."""
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
        for number, rows in zip(which, np.split(states, len(which)), strict=True):
            setting = self.setting(int(number))
            genomes = np.concatenate([self.genome(setting, row) for row in rows.tolist()])
            off = np.abs(self.value(setting, rows) - self.accuracy.predict(genomes, self.space).mean).max()
            if off > SINGLE_PRECISION:
                raise ValueError(
                    f"the accuracy surrogate of {self.accuracy.space} is no quadratic form of the genes: its "
                    f"predictions are up to {off:.2g} away from that of its coefficients; no optimum can be "
                    "proven"
                )
            costs = self.cost(setting, rows)
            for i, limit in enumerate(self.limits):
                value = limit.of(genomes, self.space) - (limit.most - setting.budget[i])
                if not np.allclose(value, costs[i], rtol=1e-9, atol=1e-9 * abs(limit.most)):
                    raise ValueError(f"{limit.name} is no sum over the parts of {self.space.name}")


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
    links += [(first, second) for slot in space.slots for first, second in zip(slot, slot[1:], strict=False)]
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
        if (count := int(np.prod([len(levels) for levels in free], dtype=np.float64))) > MOST_STATES:
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

