"""Which subnets to measure: the ones that tell most about those that a search will return.

Without a search in view samples are random. Greedy designs of least variance, kernel herding and the most
balanced of 300 random draws were tried on HELP's latencies (twelve targets, whole GPU left out, 3 to 50
samples) and are not better there beyond the noise of the seeds.

Letters: n samples, p subnets in a pool.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from latency.predictors.sources import Source
from latency.target import Target
from supernet import slot_table
from supernet.arrays import Floats, Genomes, Ints, Rng
from supernet.space import SearchSpace

POOL = 600  # random subnets that samples are chosen from, half of them tilted
TILT = 2.0  # logarithm of the strongest lean
NOISE = 0.1  # variance of a measurement in units of the prior variance
FEW = 5  # samples, up to which none lies near a frontier
FRONT_POPULATION, FRONT_ROUNDS, FRONT_MUTATION = 200, 15, 0.02  # of the search for typical front members

Values = Callable[[Genomes], Floats]  # (n,) of (n, d) genomes


@dataclass(frozen=True, eq=False)
class Search:
    """What a search on a target will trade for latency."""

    target: Target
    quality: Values  # higher is better
    space: SearchSpace  # where the quality is known


def for_search(space: SearchSpace, n: int, rng: Rng, sources: Sequence[Source], search: Search) -> Genomes:
    """(n, d) different subnets that tell most about what the search will return.

    Members of a frontier are no random networks: small kernels, shallow first stages, low resolutions. So
    every second sample lies on the frontier between the quality and the latency of known devices like the
    target, evenly spaced; the others are random. Up to `FEW` samples are those of `choose`.
    """
    if n <= FEW:
        return draw(space, n, rng)
    latency = _mean_of_similar(space, rng, sources, search.target)
    front = _different(near_front(search.space, n // 2, rng, latency, search.quality))
    others = draw(space, n, rng)
    others = others[~(others[:, None] == front).all(axis=2).any(axis=1)][: n - len(front)]
    order = np.argsort(np.concatenate([np.linspace(0, 1, len(others)), np.linspace(0.01, 0.99, len(front))]))
    return np.concatenate([others, front])[order]


def near_front(space: SearchSpace, n: int, rng: Rng, cost: Values, quality: Values) -> Genomes:
    """(n, d) networks at even ranks of a frontier of cost and quality, from a short evolutionary search."""
    half = FRONT_POPULATION // 2
    genomes = np.concatenate([space.network(space.sample(half, rng)), tilted(space, half, rng)])
    for _ in range(FRONT_ROUNDS):
        mother, father = (genomes[rng.integers(len(genomes), size=FRONT_POPULATION)] for _ in "ab")
        children = space.mutate(space.crossover(mother, father, rng), rng, FRONT_MUTATION)
        genomes = np.unique(np.concatenate([genomes, space.network(children)]), axis=0)
        costs, qualities = cost(genomes), quality(genomes)
        front = first = _front(costs, qualities)
        rest = np.setdiff1d(np.arange(len(genomes)), front)
        while len(front) < FRONT_POPULATION and len(rest):
            layer = rest[_front(costs[rest], qualities[rest])]
            front, rest = np.concatenate([front, layer]), np.setdiff1d(rest, layer)
        members, genomes = genomes[first], genomes[front[:FRONT_POPULATION]]
    return members[np.linspace(0, len(members) - 1, n).round().astype(int)]


def _front(costs: Floats, qualities: Floats) -> Ints:
    """Rows that no other beats in both, from the cheapest to the best."""
    order = np.lexsort((-qualities, costs))
    best = np.maximum.accumulate(qualities[order])
    return order[np.append(True, best[1:] > best[:-1])]


def _mean_of_similar(space: SearchSpace, rng: Rng, sources: Sequence[Source], target: Target) -> Values:
    """The mean latency of known devices, each in units of its own: of the kind and batch size of the target,
    or else of its kind, of its batch size, or all."""
    timed = [(source, source.target) for source in sources if source.target is not None]
    alike = [[s for s, t in timed if t.spec.kind == target.spec.kind and t.batch == target.batch]]
    alike.append([s for s, t in timed if t.spec.kind == target.spec.kind])
    alike.append([s for s, t in timed if t.batch == target.batch])
    chosen = next((group for group in alike if group), [s for s, _ in timed] or list(sources))
    probe = space.sample(POOL, rng)
    units = [np.exp(np.log(source.table.evaluate(space, probe)).mean()) for source in chosen]
    table = slot_table.combine(zip(1 / np.array(units), (source.table for source in chosen), strict=True))
    return lambda genomes: table.evaluate(space, genomes)


def draw(space: SearchSpace, n: int, rng: Rng) -> Genomes:
    """(n, d) different random subnets of the space (as restricted): the baseline."""
    pool = _different(space.network(space.sample(max(POOL, 2 * n), rng)))
    _check(n, len(pool))
    return pool[:n]


def greedy(prior: Floats, n: int) -> Ints:
    """(n,) rows of a (p, p) covariance, each chosen to lower the summed variance of all rows most."""
    _check(n, len(prior))
    covariance = prior.copy()
    noise = NOISE * float(np.median(np.diag(prior)))
    rows: list[int] = []
    for _ in range(n):
        gain = (covariance**2).sum(axis=0) / (np.diag(covariance) + noise)
        gain[rows] = -np.inf  # repeats are the business of the timing protocol
        best = int(np.argmax(gain))
        rows.append(best)
        covariance -= np.outer(covariance[:, best], covariance[best]) / (covariance[best, best] + noise)
    return np.array(rows, np.int64)


def tilted(space: SearchSpace, n: int, rng: Rng) -> Genomes:
    """(n, d) random subnets from the smallest to the largest.

    Each leans to low or to high levels in all genes but the resolution. Uniform genes give
    networks of medium size only, but searches end at the edges of the space.
    """
    lean = np.exp(rng.uniform(-TILT, TILT, (n, 1)))
    place = rng.beta(np.broadcast_to(lean, (n, space.d)), np.broadcast_to(1 / lean, (n, space.d)))
    if "r" in space.index:
        place[:, space.index["r"]] = rng.random(n)
    places = np.minimum((place * space.width).astype(np.int64), space.width - 1)
    return space.network(space.at(places))


def _different(genomes: Genomes) -> Genomes:
    """Each network once, in the order they came."""
    _, first = np.unique(genomes, axis=0, return_index=True)
    return genomes[np.sort(first)]


def _check(n: int, available: int) -> None:
    if not 1 <= n <= available:
        raise ValueError(f"{n} subnets cannot be chosen from {available}; ask for 1 to {available}")
