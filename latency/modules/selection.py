"""Auto-selection of arXiv 2312.06440: one regression model per module kind, accurate at little time and size.

The paper leaves the optimisation open. Ours is exact: a multiple-choice knapsack over accuracies, times and
bytes that were measured on validation rows. With limits it is a mixed-integer program (HiGHS in scipy); the
whole trade-off against time or against bytes comes from merging the kinds one by one and dropping what is
dominated, which loses nothing because all three are sums.

>>> choose(fits.candidates(), max_ms=5.0).models
{'activation': 'polynomial', 'attention': 'gp', ...}

Letters: t module kinds, m models of a kind, f members of a front.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from supernet.arrays import Floats


@dataclass(frozen=True)
class Candidate:
    """A model of one module kind: accuracy in percent, ms for 100 predictions, bytes as stored."""

    model: str
    accuracy: float
    ms: float
    bytes: int


Candidates = Mapping[str, Sequence[Candidate]]


@dataclass(frozen=True)
class Selection:
    """A model per module kind; accuracy is the mean over kinds, ms and bytes are sums."""

    models: Mapping[str, str]
    accuracy: float
    ms: float
    bytes: int


def single(candidates: Candidates, model: str) -> Selection:
    """The scheme that uses one model everywhere; ValueError when a kind lacks it."""
    picked = {}
    for name, options in candidates.items():
        by_model = {each.model: each for each in options}
        if model not in by_model:
            raise ValueError(f"module {name} has no {model}; it has {', '.join(by_model)}")
        picked[name] = by_model[model]
    return _selection(picked)


def choose(
    candidates: Candidates, *, max_ms: float | None = None, max_bytes: float | None = None
) -> Selection:
    """The most accurate selection within the limits; among equals a fast one.

    ValueError that names the least there is when no selection meets the limits.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    flat = [(name, each) for name, options in candidates.items() for each in options]
    names = list(candidates)
    member = np.array([[float(name == other) for other, _ in flat] for name in names])
    ms, size = np.array([each.ms for _, each in flat]), np.array([float(each.bytes) for _, each in flat])
    for limit, cost, unit in ((max_ms, ms, "ms per 100 predictions"), (max_bytes, size, "bytes")):
        least = float(np.where(member > 0, cost, np.inf).min(axis=1).sum())
        if limit is not None and limit < least:
            raise ValueError(f"no selection takes at most {limit:g} {unit}; the least is {least:.6g}")
    constraints = [LinearConstraint(member, 1, 1)]
    constraints += [LinearConstraint(ms / max_ms, -np.inf, 1)] if max_ms is not None else []
    constraints += [LinearConstraint(size / max_bytes, -np.inf, 1)] if max_bytes is not None else []
    tie = 1e-6 * ms / ms.sum()
    cost = tie - np.array([each.accuracy for _, each in flat]) / len(names)
    options = {"mip_rel_gap": 0.0}
    solution = milp(cost, integrality=1, bounds=Bounds(0, 1), constraints=constraints, options=options)
    if solution.x is None:
        raise ValueError(f"no selection meets max_ms={max_ms} and max_bytes={max_bytes} together")
    return _selection({name: each for (name, each), x in zip(flat, solution.x, strict=True) if x > 0.5})


def front(candidates: Candidates, cost: str = "ms") -> list[Selection]:
    """All selections that none beats in accuracy and `cost` ("ms" or "bytes"), cheapest first."""
    if cost not in ("ms", "bytes"):
        raise ValueError(f"cost={cost} must be ms or bytes")
    values, picks = np.zeros((1, 2)), np.zeros((1, 0), np.int64)
    for options in candidates.values():
        added = np.array([[getattr(each, cost), -each.accuracy] for each in options])
        merged = (values[:, None] + added).reshape(-1, 2)
        kept = _cheapest_first(merged)
        values = merged[kept]
        picks = np.concatenate([picks[kept // len(options)], (kept % len(options))[:, None]], axis=1)
    return [
        _selection({name: options[i] for (name, options), i in zip(candidates.items(), row, strict=True)})
        for row in picks
    ]


def _cheapest_first(costs: Floats) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """(f,) the non-dominated of (n, 2) costs in the order of the first."""
    order = np.lexsort((costs[:, 1], costs[:, 0]))
    second = costs[order, 1]
    best_before = np.concatenate([[np.inf], np.minimum.accumulate(second)[:-1]])
    return order[second < best_before]


def _selection(picked: Mapping[str, Candidate]) -> Selection:
    models = {name: each.model for name, each in picked.items()}
    accuracy = float(np.mean([each.accuracy for each in picked.values()]))
    total = sum(each.ms for each in picked.values())
    return Selection(models, accuracy, total, sum(each.bytes for each in picked.values()))
