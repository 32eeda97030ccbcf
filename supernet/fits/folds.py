"""Cross-validation: predictions for rows that were left out of the fit.

Letters: n rows.
"""

from collections.abc import Callable, Iterator

import numpy as np

from supernet.arrays import Floats, Ints, Rng


def random_folds(n: int, count: int, *, singly_up_to: int = 0, rng: Rng | None = None) -> Ints:
    """(n,) number of the fold of each row: `count` folds of nearly equal size, drawn at random.

    Up to `singly_up_to` rows, each is a fold of its own. Without `rng` the draw is always the same one.
    """
    rng = rng or np.random.default_rng(0)
    return rng.permutation(n) % (n if n <= max(singly_up_to, count) else count)


def splits(fold: Ints) -> Iterator[tuple[Ints, Ints]]:
    """For each fold, the rows that stay in the fit and the rows that are left out."""
    for k in range(int(fold.max()) + 1):
        yield np.flatnonzero(fold != k), np.flatnonzero(fold == k)


def left_out(fold: Ints, predict: Callable[[Ints, Ints], Floats]) -> Floats:
    """(..., n) what `predict(kept, out)`, fitted on the rows `kept`, says of the rows `out`; for all folds.

    The last axis of what it returns are the rows `out`.
    """
    parts = [(out, predict(kept, out)) for kept, out in splits(fold)]
    order = np.argsort(np.concatenate([out for out, _ in parts]))
    return np.concatenate([part for _, part in parts], axis=-1)[..., order]
