"""Evolution, then Pareto local search on batches, restarted from a shaken front: the default.

Letters: n architectures, d genes, m objectives, k explored members, v values of all genes, s samples.

Ours. NSGA-II gives the first front. From then on two steps alternate. *Explore*: members of the front whose
neighbours were not asked for yet get all networks one gene away that could lie on the front, by what is known
of the nearest explored network. *Combine*: the changes of single genes, taken as additive, propose networks
many genes away: per network drawn weights of the objectives around the slope of the front there, of each gene
the best value under them, and some of the best genes together. When all members are explored the front is a
local optimum; all of it is then shaken, and a new front grows from there, while the archive keeps the best
of all. (Paquete et al., 2004, doi 10.1007/978-3-642-17144-4_7, for Pareto local search.)
"""

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from search import pareto
from search.archive import Archive
from search.searchers.effects import Effects
from search.searchers.nsga2 import NSGA2
from supernet.arrays import Floats, Genomes, Ints, Rng
from supernet.options import CONFIG, NonNegativeFloat, PositiveFraction, PositiveInt
from supernet.space import SearchSpace

EVOLVE, EXPLORE, COMBINE, SHAKE = range(4)
NEIGHBOURS = 12  # members of the front that the slope around one of them is estimated from
MEMORY = 0.9  # of the running error of predicted changes
UNKNOWN = 1e9  # cost of a change that is not known
SHAKEN = 400  # members of the front, at most
PATIENT = 2  # shakes; later rounds explore with twice the caution, which costs less time and finds more
TRIES = 20  # steps without a new network before evolution takes over


@dataclass(config=CONFIG)
class Local:
    """NSGA-II with `population` for the first `start` evaluations per gene, then local search.

    With three objectives evolution lasts twice as long, with four three times: their fronts are larger.
    `members` are explored at a time; neighbours count as hopeless when the front dominates what is predicted
    for them by more than `caution` errors, from the second shake on twice as many. `samples` combinations are
    drawn per member, with weights that spread by a factor of exp(`spread`) around the slope of the front and
    effects that are off by `temperature` errors. A local optimum is shaken: each gene is redrawn with
    probability `shake`.
    """

    population: Annotated[int, Field(ge=4)] = 200
    start: PositiveInt = 40  # evaluations by evolution, per gene and objective beyond the first
    members: PositiveInt = 8
    caution: NonNegativeFloat = 2.0
    samples: PositiveInt = 48
    temperature: NonNegativeFloat = 0.1
    spread: NonNegativeFloat = 0.5
    shake: PositiveFraction = 0.2

    def __post_init__(self) -> None:
        self._evolution = NSGA2(population=self.population)
        self._told = 0  # evaluations
        self._shakes = 0
        self._step = EVOLVE
        self._shake = self.shake  # halved while nothing feasible comes out
        self._front: Genomes = np.empty((0, 0), np.int8)  # of this round: since evolution, or the last shake
        self._costs: Floats = np.empty((0, 0))
        self._explored = np.empty(0, bool)
        self._effects: Effects | None = None
        self._restored: Mapping[str, NDArray[Any]] = {}  # of `Effects`, until the space is known
        self._now = np.empty(0, np.int64)  # rows of the members that are explored now
        self._now_costs: Floats = np.empty((0, 0))
        self._error: Floats = np.empty(0)  # (m + 1,) of a predicted change
        self._asked: tuple[Ints, Ints, Floats]  # of the last neighbours: member, value, predicted change

    def ask(self, space: SearchSpace, archive: Archive, rng: Rng) -> Genomes:
        if self._told >= self.start * space.d * max(len(archive.objectives) - 1, 1) and archive.front_size:
            self._prepare(space, len(archive.objectives) + 1)
            for _ in range(TRIES):
                batch = self._next(space, archive, rng)
                if len(batch):
                    return batch
        self._step = EVOLVE
        return self._evolution.ask(space, archive, rng)

    def _prepare(self, space: SearchSpace, columns: int) -> None:
        if self._effects is None:
            self._effects = Effects(space, columns)
            if self._restored:
                self._effects.restore(self._restored)
        if not len(self._error):
            self._error = np.zeros(columns)

    def _next(self, space: SearchSpace, archive: Archive, rng: Rng) -> Genomes:
        """The batch of the next step; empty where it has nothing new."""
        if self._step == EXPLORE:
            self._step = COMBINE
            return self._combinations(space, archive, rng)
        if not self._explored.all():
            self._step = EXPLORE
            return self._neighbours(space, archive, rng)
        self._step = SHAKE
        return self._shaken(space, archive, rng)

    def _shaken(self, space: SearchSpace, archive: Archive, rng: Rng) -> Genomes:
        if not len(self._front):
            self._shake /= 2  # the last shake left nothing feasible
        self._shakes += 1
        rows = archive.front()
        room = pareto.crowding(archive.costs[rows], np.zeros(len(rows), np.int64))
        picked = rows[best_of_two(room, SHAKEN, rng)]
        batch = space.mutate(archive.genomes[picked], rng, self._shake)
        self._front, self._costs, self._explored = self._front[:0], self._costs[:0], self._explored[:0]
        return batch[archive.unseen(batch)]

    def _neighbours(self, space: SearchSpace, archive: Archive, rng: Rng) -> Genomes:
        """(n, d) of some unexplored members: the neighbours that may be on the front."""
        assert self._effects is not None
        share = _share(self._costs)
        unexplored = np.flatnonzero(~self._explored)
        room = pareto.crowding(self._costs, np.zeros(len(self._costs), np.int64))[unexplored]
        members = unexplored[np.unique(best_of_two(room, self.members * share, rng))]
        self._explored[members] = True
        genomes, costs = self._front[members], self._costs[members]
        self._now, self._now_costs = self._effects.add(genomes), costs
        changes = self._effects.of(self._now)[1]
        member, value = np.nonzero(self._effects.movable(genomes))
        change = changes[member, value]
        predicted = costs[member] + change[:, :-1]
        hopeful = np.asarray(np.isnan(change).any(axis=1))
        caution = self.caution * (2 if self._shakes >= PATIENT else 1)
        feasible = change[:, -1] <= caution * self._error[-1]
        if share > 1:
            caution = 0.0  # else hardly anything would be hopeless
        best_case = predicted - caution * self._error[:-1]
        hopeful[~hopeful] = (feasible & ~pareto.dominated(best_case, self._costs))[~hopeful]
        member, value, change = member[hopeful], value[hopeful], change[hopeful]
        batch = genomes[member]
        batch[np.arange(len(batch)), self._effects.gene[value]] = self._effects.level[value]
        batch = space.canonical(batch)
        new = archive.unseen(batch)
        self._asked = member[new], value[new], change[new]
        return batch[new]

    def _combinations(self, space: SearchSpace, archive: Archive, rng: Rng) -> Genomes:
        """(n, d) networks that differ from the members explored now in several genes, and that additive
        effects put on the front."""
        assert self._effects is not None
        genomes, changes = self._effects.of(self._now)
        share = _share(self._costs)
        k, s = len(genomes), -(-self.samples // share)
        unknown = np.isnan(changes).any(axis=2) | ~self._effects.movable(genomes) | (changes[:, :, -1] > 0)
        weights = np.repeat(slopes(self._costs, self._now_costs)[:, None], s, axis=1)
        weights *= np.exp(rng.normal(0, self.spread, weights.shape))
        cost = np.where(unknown[:, :, None], UNKNOWN, changes[:, :, :-1]).astype(np.float32)
        score = weights.astype(np.float32) @ cost.transpose(0, 2, 1)  # (k, s, v)
        noise = self.temperature * (weights @ self._error[:-1])
        score += noise[:, :, None].astype(np.float32) * rng.standard_normal(score.shape, np.float32)
        score = score.reshape(k * s, -1)
        parts = np.split(score, self._effects.first[1:], axis=1)
        value = self._effects.first + np.stack([part.argmin(axis=1) for part in parts], axis=1)  # (k s, d)
        member = np.repeat(np.arange(k), s)
        usable = ~unknown[member[:, None], value]
        gain = np.where(usable, np.take_along_axis(score, value, axis=1), np.inf)
        place = gain.argsort(axis=1).argsort(axis=1)
        count = np.minimum(1 + rng.geometric(0.25, k * s), 12)
        moved = usable & (place < count[:, None])
        batch = np.where(moved, self._effects.level[value], genomes[member])
        change = np.where(moved[:, :, None], changes[member[:, None], value], 0).sum(axis=1)
        predicted = self._now_costs[member] + change[:, :-1]
        batch = space.canonical(batch)
        keep = (moved.sum(axis=1) > 1) & archive.unseen(batch)
        keep[keep] = ~pareto.dominated(predicted[keep], self._costs)
        batch, predicted = batch[keep], predicted[keep]
        return batch[np.argsort(pareto.ranks(predicted), kind="stable")] if len(batch) else batch

    def tell(self, genomes: Genomes, costs: Floats, violation: Floats) -> None:
        self._told += len(genomes)
        if self._step == EVOLVE:
            self._evolution.tell(genomes, costs, violation)
        if self._step == EXPLORE:
            self._learn(np.column_stack([costs, violation]))
        feasible = violation <= 0
        if len(self._front):
            genomes = np.concatenate([self._front, genomes[feasible]])
            costs = np.concatenate([self._costs, costs[feasible]])
        else:
            genomes, costs = genomes[feasible], costs[feasible]
        explored = np.r_[self._explored, np.zeros(len(genomes) - len(self._explored), bool)]
        keep = pareto.is_front(costs) if len(costs) else explored
        self._front, self._costs, self._explored = genomes[keep], costs[keep], explored[keep]

    def _learn(self, columns: Floats) -> None:
        """From the costs and violations of the neighbours asked for: effects, and how far predicted ones were
        off."""
        assert self._effects is not None
        n = len(columns)
        member, value, predicted = self._asked[0][:n], self._asked[1][:n], self._asked[2][:n]
        own = np.column_stack([self._now_costs, np.zeros(len(self._now))])
        seen = columns - own[member]
        off = (seen - predicted)[~np.isnan(predicted).any(axis=1)]
        if len(off):
            square = (off**2).mean(axis=0)
            before = self._error**2 if self._error.any() else square
            self._error = np.sqrt(MEMORY * before + (1 - MEMORY) * square)
        self._effects.learn(self._now[member], value, seen)

    def state(self) -> dict[str, NDArray[Any]]:
        arrays = {f"evolution.{key}": value for key, value in self._evolution.state().items()}
        effects = self._restored if self._effects is None else self._effects.state()
        arrays |= {f"effects.{key}": value for key, value in effects.items()}
        return arrays | {
            "count": np.array([self._told, self._step, self._shakes]),
            "shake": np.array(self._shake),
            "front": self._front,
            "costs": self._costs,
            "explored": self._explored,
            "now": self._now,
            "now_costs": self._now_costs,
            "error": self._error,
        }

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        def part(owner: str) -> dict[str, NDArray[Any]]:
            return {key.removeprefix(owner): value for key, value in state.items() if key.startswith(owner)}

        self._evolution.restore(part("evolution."))
        self._restored, self._effects = part("effects."), None
        self._told, self._step, self._shakes = state["count"].tolist()
        self._shake = float(state["shake"])
        self._front, self._costs, self._explored = state["front"], state["costs"], state["explored"]
        self._now, self._now_costs, self._error = state["now"], state["now_costs"], state["error"]


def _share(costs: Floats) -> int:
    """How much more members, with less effort each, a front gets for its number of objectives: with three it
    has thousands."""
    return max(1, costs.shape[1] - 1)


def best_of_two(score: Floats, n: int, rng: Rng) -> Ints:
    """(n,) winners of binary tournaments, higher scores first."""
    first, second = rng.integers(0, len(score), (2, n))
    return np.where(score[first] >= score[second], first, second)


def slopes(front: Floats, members: Floats) -> Floats:
    """(k, m) weights of the objectives under which the members (k, m) of a front (n, m) are about as good as
    what lies around them: the direction in which the nearest members vary least."""
    width = np.ptp(front, axis=0)
    width[width <= 0] = 1
    scaled, here = front / width, members / width
    count = min(NEIGHBOURS, len(front))
    distance = ((here[:, None] - scaled[None]) ** 2).sum(axis=2)
    near = scaled[np.argpartition(distance, count - 1, axis=1)[:, :count]]
    near = near - near.mean(axis=1, keepdims=True)
    _, axes = np.linalg.eigh(near.transpose(0, 2, 1) @ near)
    normal = np.abs(axes[:, :, 0]) + 0.01
    return normal / normal.sum(axis=1, keepdims=True) / width
