"""Which subnets to measure: the ones that tell most about all others.

Letters: n samples, p subnets in the pool, d sources.
"""

from collections.abc import Sequence

import numpy as np

from latency.features import squared_distance
from latency.predictors.sources import Source
from supernet.arrays import Floats, Genomes, Ints, Rng
from supernet.space import SearchSpace

POOL = 600  # random subnets that samples are chosen from, half of them tilted
TILT = 2.0  # logarithm of the strongest lean
NOISE = 0.1  # variance of a measurement in units of the prior variance


def choose(space: SearchSpace, n: int, rng: Rng, sources: Sequence[Source]) -> Genomes:
    """(n, d) different subnets of the space (as restricted), chosen greedily from a random pool that
    reaches to the smallest and the largest.

    Greedy variance reduction: each time the subnet whose measurement would lower the summed variance of the
    pool most, for a Gaussian process with an RBF kernel over the principal components of the log latencies on
    the sources. Its width is the spread of the first component. The first n of a longer
    choice are the choice of n, so that samples can be added later.
    """
    even = space.network(space.sample(POOL // 2, rng))
    pool = _different(np.concatenate([even, tilted(space, POOL - POOL // 2, rng)]))
    return pool[greedy(kernel(space, pool, sources), n)]


def draw(space: SearchSpace, n: int, rng: Rng) -> Genomes:
    """(n, d) different random subnets of the space (as restricted): the baseline."""
    pool = _different(space.network(space.sample(max(POOL, 2 * n), rng)))
    _check(n, len(pool))
    return pool[:n]


def kernel(space: SearchSpace, genomes: Genomes, sources: Sequence[Source]) -> Floats:
    """(p, p) prior covariance of the latencies of these subnets, up to a factor; see `choose`."""
    logs = np.log(np.stack([source.table.evaluate(space, genomes) for source in sources], axis=1))
    left, size, _ = np.linalg.svd(logs - logs.mean(axis=0), full_matrices=False)
    place = left * size / max(float((left[:, 0] * size[0]).std()), 1e-12)
    return np.exp(-0.5 * place.shape[1] * squared_distance(place, place))


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
