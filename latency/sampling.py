"""Which subnets to measure: the ones that tell most about all others.

Letters: n samples, p subnets in the pool, d sources.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from latency.predictors.transfer import Source
from supernet.space import Floats, Genomes, Ints, Rng, SearchSpace

POOL = 600  # random subnets that samples are chosen from
NOISE = 0.1  # variance of a measurement in units of the prior variance


def choose(space: SearchSpace, n: int, rng: Rng, sources: Sequence[Source]) -> Genomes:
    """(n, d) different subnets of the space (as restricted), chosen greedily from a random pool.

    Greedy variance reduction: each time the subnet whose measurement would lower the summed variance of the
    pool most, for a Gaussian process with an RBF kernel over the principal components of the log latencies on
    the sources (RESEARCH, recipe 4). Its width is the spread of the first component. The first n of a longer
    choice are the choice of n, so that samples can be added later.
    """
    pool = _pool(space, rng)
    logs = np.log(np.stack([source.table.of(space, pool) for source in sources], axis=1))
    left, size, _ = np.linalg.svd(logs - logs.mean(axis=0), full_matrices=False)
    place = left * size / max(float((left[:, 0] * size[0]).std()), 1e-12)
    squared = (place**2).sum(axis=1)
    distance = squared[:, None] + squared - 2 * place @ place.T
    return pool[greedy(np.exp(-0.5 * np.maximum(distance, 0)), _checked(n, len(pool)))]


def draw(space: SearchSpace, n: int, rng: Rng) -> Genomes:
    """(n, d) different random subnets of the space (as restricted): the baseline."""
    pool = _pool(space, rng)
    return pool[: _checked(n, len(pool))]


def greedy(kernel: Floats, n: int) -> Ints:
    """(n,) rows of a (p, p) covariance, each chosen to lower the summed variance of all rows most."""
    covariance = kernel.copy()
    noise = NOISE * float(np.median(np.diag(kernel)))
    rows: list[int] = []
    for _ in range(n):
        gain = (covariance**2).sum(axis=0) / (np.diag(covariance) + noise)
        gain[rows] = -np.inf  # repeats are the business of the timing protocol
        best = int(np.argmax(gain))
        rows.append(best)
        covariance -= np.outer(covariance[:, best], covariance[best]) / (covariance[best, best] + noise)
    return np.array(rows, np.int64)


def _pool(space: SearchSpace, rng: Rng) -> Genomes:
    """Different random networks, in the order they were drawn."""
    drawn = space.network(space.sample(POOL, rng))
    _, first = np.unique(drawn, axis=0, return_index=True)
    return drawn[np.sort(first)]


def _checked(n: int, available: int) -> int:
    if not 1 <= n <= available:
        raise ValueError(f"{n} subnets cannot be chosen from {available} different ones; ask for 1 to {available}")
    return n
