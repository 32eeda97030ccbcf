"""Plain subnets of a supernet trained here, as what a shrunk model has to beat."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from search.pareto import is_front
from supernet import footprint
from supernet.measures import MEASURES
from supernet.training import measured_accuracy
from supernet.training.measured_accuracy import SupernetAccuracy

COMPARED = ("top1", "file_bytes", "latency_ms")


def plain_front(accuracy: SupernetAccuracy, candidates: int, count: int, seed: int) -> list[str]:
    """Names of `count` subnets of a supernet, spread over the front of validation accuracy and
    parameters of `candidates` random subnets, the largest and the smallest among them."""
    if not count:
        return []
    space = accuracy.trained.space.restrict("r", *accuracy.resolutions)
    genomes = measured_accuracy.sample(space, candidates, seed)
    params = footprint.compute(space, genomes, "params")
    front = np.flatnonzero(is_front(np.stack([-accuracy.predict(genomes).mean, params], axis=1)))
    front = front[np.argsort(params[front], kind="stable")]
    chosen = np.unique(np.linspace(0, len(front) - 1, min(count, len(front))).round().astype(int))
    return space.format(genomes[front[chosen]])


def dominated(cards: Mapping[str, Mapping[str, Any]], name: str, others: Sequence[str]) -> list[str]:
    """The `others` that the model `name` dominates: at least as good in accuracy, bytes and (where both cards
    have one) latency, and better in one of them."""
    return [other for other in others if _dominates(cards[name], cards[other])]


def _dominates(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    shared = [measure for measure in COMPARED if measure in one and measure in other]
    signs = [-1 if MEASURES[measure].maximize else 1 for measure in shared]
    gains = [sign * (other[m] - one[m]) for sign, m in zip(signs, shared, strict=True)]
    return min(gains) >= 0 and max(gains) > 0
