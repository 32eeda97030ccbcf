"""Auto-selection of arXiv 2312.06440: one regression model per module kind, accurate at little time and size.

The paper leaves the optimisation open. Ours is exact: a multiple-choice knapsack over accuracies, times and
bytes that were measured on validation rows. With limits it is a mixed-integer program (HiGHS in scipy); the
whole trade-off against time or against bytes comes from merging the kinds one by one and dropping what is
dominated, which loses nothing because all three are sums. By default no more time and size is paid than one
standard error of the most accurate selection can tell apart (Breiman et al., 1984, for trees).

>>> choose(fits.validation, max_ms=5.0).models
{'activation': 'polynomial', 'attention': 'gp', ...}

Letters: t module kinds, m models of a kind, f members of a front.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from supernet.arrays import Floats


@dataclass(frozen=True)
class Score:
    """How good a model is: accuracy, mape and share of rows within 10% in percent, ms for 100 predictions,
    bytes as stored. `error` is the standard error of the accuracy, over the rows that it is a mean of."""

    accuracy: float
    r2: float
    mape: float
    ms: float
    bytes: int
    error: float = 0.0
    within_10: float = 0.0

    def dominates(self, other: "Score") -> bool:
        """Whether it is at least as accurate, fast and small as another, and better in one of these."""
        mine, theirs = ((-each.accuracy, each.ms, each.bytes) for each in (self, other))
        return mine != theirs and all(a <= b for a, b in zip(mine, theirs, strict=True))


Scores = Mapping[str, Mapping[str, Score]]  # by module kind and model


@dataclass(frozen=True)
class Selection:
    """A model per module kind; accuracy is the mean over kinds, ms and bytes are sums."""

    models: Mapping[str, str]
    accuracy: float
    ms: float
    bytes: int


def mean(scores: Sequence[Score]) -> Score:
    """Means of accuracy, R2, MAPE and shares, and the error of that accuracy; sums of ms and bytes."""
    columns = [(score.accuracy, score.r2, score.mape, score.within_10) for score in scores]
    accuracy, r2, mape, within_10 = np.mean(columns, axis=0).tolist()
    error = float(np.linalg.norm([score.error for score in scores])) / len(scores)
    sums = sum(score.ms for score in scores), sum(score.bytes for score in scores)
    return Score(accuracy, r2, mape, *sums, error, within_10)


def single(scores: Scores, model: str) -> Selection:
    """The scheme that uses one model everywhere; ValueError when a kind lacks it."""
    for name, by_model in scores.items():
        if model not in by_model:
            raise ValueError(f"module {name} has no {model}; it has {', '.join(by_model)}")
    return _selection(scores, dict.fromkeys(scores, model))


def choose(scores: Scores, *, max_ms: float | None = None, max_bytes: float | None = None) -> Selection:
    """The cheapest selection within the limits that is as accurate as the most accurate one within them, up
    to one standard error of that one.

    Cheap is the sum of its time and its size, each as a share of those of the most accurate one. ValueError
    that names the least there is when no selection meets the limits.
    """
    best = _most_accurate(scores, max_ms, max_bytes)
    chosen = mean([scores[name][model] for name, model in best.models.items()])
    costs = {
        name: {model: s.ms / best.ms + s.bytes / best.bytes for model, s in by_model.items()}
        for name, by_model in scores.items()
    }
    return _solved(scores, costs, max_ms, max_bytes, best.accuracy - chosen.error)


def _most_accurate(scores: Scores, max_ms: float | None, max_bytes: float | None) -> Selection:
    """The most accurate selection within the limits; among equals a fast one."""
    total = sum(score.ms for by_model in scores.values() for score in by_model.values())
    costs = {
        name: {model: 1e-6 * s.ms / total - s.accuracy / len(scores) for model, s in by_model.items()}
        for name, by_model in scores.items()
    }
    return _solved(scores, costs, max_ms, max_bytes)


def _solved(
    scores: Scores,
    costs: Mapping[str, Mapping[str, float]],
    max_ms: float | None,
    max_bytes: float | None,
    accuracy: float | None = None,
) -> Selection:
    """The selection of the least total cost within limits, at least as accurate as `accuracy` percent."""
    from scipy.optimize import Bounds, LinearConstraint, milp

    flat = [(name, model) for name, by_model in scores.items() for model in by_model]
    member = np.array([[float(name == other) for other, _ in flat] for name in scores])
    columns = [[s.accuracy, s.ms, s.bytes] for by_model in scores.values() for s in by_model.values()]
    percents, ms, size = np.array(columns, float).T
    for limit, cost, unit in ((max_ms, ms, "ms per 100 predictions"), (max_bytes, size, "bytes")):
        least = float(np.where(member > 0, cost, np.inf).min(axis=1).sum())
        if limit is not None and limit < least:
            raise ValueError(f"no selection takes at most {limit:g} {unit}; the least is {least:.6g}")
    constraints = [LinearConstraint(member, 1, 1)]
    constraints += [LinearConstraint(ms / max_ms, -np.inf, 1)] if max_ms is not None else []
    constraints += [LinearConstraint(size / max_bytes, -np.inf, 1)] if max_bytes is not None else []
    if accuracy is not None:
        constraints += [LinearConstraint(percents / len(scores), accuracy - 1e-9, np.inf)]
    cost = np.array([costs[name][model] for name, model in flat])
    options = {"mip_rel_gap": 0.0}
    solution = milp(cost, integrality=1, bounds=Bounds(0, 1), constraints=constraints, options=options)
    if solution.x is None:
        raise ValueError(f"no selection meets max_ms={max_ms} and max_bytes={max_bytes} together")
    return _selection(scores, dict(flat[i] for i in np.flatnonzero(solution.x > 0.5)))


def front(scores: Scores, cost: str = "ms") -> list[Selection]:
    """All selections that none beats in accuracy and `cost` ("ms" or "bytes"), cheapest first."""
    if cost not in ("ms", "bytes"):
        raise ValueError(f"cost={cost} must be ms or bytes")
    values, picks = np.zeros((1, 2)), np.zeros((1, 0), np.int64)
    for by_model in scores.values():
        added = np.array([[getattr(each, cost), -each.accuracy] for each in by_model.values()])
        merged = (values[:, None] + added).reshape(-1, 2)
        kept = _cheapest_first(merged)
        values = merged[kept]
        picks = np.concatenate([picks[kept // len(added)], (kept % len(added))[:, None]], axis=1)
    models = {name: list(by_model) for name, by_model in scores.items()}
    return [
        _selection(scores, {name: models[name][i] for name, i in zip(models, row, strict=True)})
        for row in picks
    ]


def _cheapest_first(costs: Floats) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """(f,) the non-dominated of (n, 2) costs in the order of the first."""
    order = np.lexsort((costs[:, 1], costs[:, 0]))
    second = costs[order, 1]
    best_before = np.concatenate([[np.inf], np.minimum.accumulate(second)[:-1]])
    return order[second < best_before]


def _selection(scores: Scores, models: Mapping[str, str]) -> Selection:
    of_all = mean([scores[name][model] for name, model in models.items()])
    return Selection(models, of_all.accuracy, of_all.ms, of_all.bytes)
