"""Which GPU serves a front at which price: the fronts of several GPUs, and what an accuracy costs on each.

Letters: n networks, t GPUs, a accuracies.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search.objective import Objective
from search.ranking.runs import Run
from supernet.arrays import Floats, Genomes, Ints
from supernet.files.tables import Table, rounded
from supernet.prediction import QUANTILE, Prediction

LEVELS = 5  # accuracies that are compared where none are given
DRAWS = 10_000  # of the costs, for the chance that a GPU is the best
USD_PER_MILLION = 1 / 3.6  # of a million images, for a ms per image and a USD per hour
BEST, TIE, WORSE, UNKNOWN, SLOW = "best", "tie", "worse", "no price", "too slow"  # verdicts
ONLY = "only price"  # the verdict where no other GPU that is fast enough has a price


@dataclass(frozen=True, eq=False)
class Served:
    """The searches of t GPUs, at least two, and what their fronts cost.

    `prices` are (t,) USD per hour, NaN where none is known; without any, ms per image are compared. `levels`
    are the accuracies that are compared; None: a few of the fronts. `limit_ms` holds, with `confidence`, for
    the latency of a batch. The members of all fronts are candidates on every GPU. Errors of different GPUs
    are taken to be independent.

    ValueError for fewer GPUs, for a limit that no network meets, and for accuracies that none within it has.
    """

    runs: Sequence[Run]
    prices: Floats
    accuracies: Sequence[float] | None = None
    limit_ms: float | None = None
    confidence: float = 0.9

    def __post_init__(self) -> None:
        if len(self.runs) < 2:
            raise ValueError(f"gpus= must name two GPUs at least, not {len(self.runs)}")
        if not self._serves.any():
            raise ValueError(
                f"latency_limit_ms={self.limit_ms:g}: no network of these fronts is within it with "
                f"{self.confidence:.0%}; the fastest takes {self._bounds.min():.3g} ms a batch at most"
            )
        asked, most = self.accuracies, float(self._accuracy[self._serves.any(axis=1)].max())
        if asked is not None and (not asked or max(asked) > most):
            raise ValueError(
                f"accuracies={list(asked)} must be fractions up to {most:.4f}, the best of these fronts"
                + (f" within {self.limit_ms:g} ms" if self.limit_ms else "")
            )

    @property
    def names(self) -> list[str]:
        """Of the GPUs."""
        return [run.name for run in self.runs]

    @property
    def priced(self) -> bool:
        """Whether any price is known."""
        return bool(np.isfinite(self.prices).any())

    @cached_property
    def _genomes(self) -> Genomes:
        """(n, d) members of all fronts."""
        space = self.runs[0].problem.space.owner
        members = [space.parse(run.columns["architecture"].tolist()) for run in self.runs]
        return np.unique(np.concatenate(members), axis=0)

    @cached_property
    def _accuracy(self) -> Floats:
        """(n,) predicted accuracy."""
        return np.asarray(_objective(self.runs[0], "accuracy").of(self._genomes).mean)

    @cached_property
    def _predictions(self) -> list[Prediction]:
        """(n,) ms of a batch, by GPU."""
        return [_objective(run, "latency_ms").of(self._genomes) for run in self.runs]

    @cached_property
    def _bounds(self) -> Floats:
        """(n, t) ms of a batch that a limit is tested on."""
        return np.stack([one.upper(self.confidence) for one in self._predictions], axis=1)

    @cached_property
    def _serves(self) -> NDArray[np.bool_]:
        """(n, t) whether a network is within the limit on a GPU."""
        return self._bounds <= (np.inf if self.limit_ms is None else self.limit_ms)

    @cached_property
    def ms(self) -> Floats:
        """(3, n, t) ms of a batch: predictions, and the ends of their intervals."""
        intervals = [one.interval(self.confidence) for one in self._predictions]
        ends = [
            (one.mean, np.maximum(low, 0), high)
            for one, (low, high) in zip(self._predictions, intervals, strict=True)
        ]
        return np.array(ends).transpose(1, 2, 0)

    @cached_property
    def batches(self) -> Floats:
        """(t,) images of a batch."""
        latencies = [run.problem.models.latency for run in self.runs]
        return np.array([one.target.batch for one in latencies if one is not None], np.float64)

    @cached_property
    def cost(self) -> Floats:
        """(3, n, t) USD per million images and the ends of its interval, NaN without a price; ms per image
        where no price is known at all."""
        return self.ms / self.batches * (self.prices * USD_PER_MILLION if self.priced else 1.0)

    @cached_property
    def levels(self) -> list[float]:
        """(a,) accuracies that are compared."""
        if self.accuracies is not None:
            return list(self.accuracies)
        reached = self._accuracy[self._serves.any(axis=1)]
        between = np.linspace(reached.min(), reached.max(), LEVELS + 1)[1:]
        return list(dict.fromkeys(np.maximum(np.floor(between * 1000) / 1000, 0.001).tolist()))

    @cached_property
    def choices(self) -> Ints:
        """(a, t) the fastest network on each GPU that is at least as accurate and within the limit, -1 where
        there is none."""
        reaches = (self._accuracy >= np.array(self.levels)[:, None])[:, :, None] & self._serves
        rows = np.where(reaches, self.ms[0], np.inf).argmin(axis=1)
        return np.asarray(np.where(reaches.any(axis=1), rows, -1))

    @cached_property
    def costs(self) -> Floats:
        """(3, a, t) what the choices cost, and the ends of its interval; NaN without one, or without a
        price."""
        costs = self.cost[:, self.choices, np.arange(len(self.runs))]
        return np.asarray(np.where(self.choices < 0, np.nan, costs))

    @cached_property
    def chances(self) -> Floats:
        """(a, t) probability that a GPU is the best one at an accuracy; NaN where it or all others have no
        cost."""
        mean, _, high = self.costs
        std = (high - mean) / QUANTILE(0.5 + self.confidence / 2)
        draws = mean + std * np.random.default_rng(0).standard_normal((DRAWS, *mean.shape))
        best = np.where(np.isnan(draws), np.inf, draws).argmin(axis=2)
        shares = (best[:, :, None] == np.arange(len(self.runs))).mean(axis=0)
        alone = np.isfinite(mean).sum(axis=1, keepdims=True) < 2
        return np.where(np.isnan(mean) | alone, np.nan, shares)

    @cached_property
    def verdicts(self) -> NDArray[np.str_]:
        """(a, t) BEST where a cost is the least and no other interval overlaps its own; TIE for the least and
        those whose interval overlaps its own; ONLY for the one cost there is, where others lack a price only;
        WORSE, UNKNOWN (no price) or SLOW (not within the limit)."""
        mean, low, high = np.where(np.isnan(self.costs), np.inf, self.costs)
        least = mean.argmin(axis=1)[:, None]
        priced = np.isfinite(mean)
        near = priced & (low <= np.take_along_axis(high, least, axis=1))
        others = np.where(priced, WORSE, np.where(self.choices < 0, SLOW, UNKNOWN))
        only = (priced.sum(axis=1) == 1) & (others == UNKNOWN).any(axis=1)
        first = np.select([only, near.sum(axis=1) == 1], [ONLY, BEST], TIE)[:, None]
        return np.where(near, first, others)

    @cached_property
    def worth(self) -> Floats:
        """(a, t) USD per hour at which a GPU would cost as much per image as the cheapest of the others; NaN
        where none of those has a price, or the GPU is too slow."""
        others = np.where(np.eye(len(self.runs), dtype=bool), np.nan, self.costs[0][:, None, :])
        least = np.where(np.isnan(others), np.inf, others).min(axis=2)
        ms = self.ms[0][self.choices, np.arange(len(self.runs))] / self.batches
        return np.where((self.choices < 0) | np.isinf(least), np.nan, least / (ms * USD_PER_MILLION))

    @cached_property
    def table(self) -> Table:
        """A row per accuracy and GPU; cells are empty without a price or without a network in the limit."""
        level, gpu = (index.ravel() for index in np.indices(self.choices.shape))
        row = self.choices[level, gpu]
        ms = np.where(row < 0, np.nan, self.ms[:, row, gpu])
        columns: dict[str, Any] = {
            "accuracy": [self.levels[i] for i in level],
            "gpu": [self.names[i] for i in gpu],
            **dict(zip(("latency_ms", "latency_ms_low", "latency_ms_high"), ms, strict=True)),
            "images_per_second": 1000 * self.batches[gpu] / ms[0],
        }
        if self.priced:
            names = ("usd_per_million", "usd_per_million_low", "usd_per_million_high")
            columns |= {"usd_per_hour": self.prices[gpu], "worth_usd_per_hour": self.worth[level, gpu]}
            columns |= dict(zip(names, self.costs[:, level, gpu], strict=True))
        columns["p_cheapest" if self.priced else "p_fastest"] = self.chances[level, gpu]
        columns["verdict"] = self.verdicts[level, gpu].tolist()
        networks = self.runs[0].problem.space.owner.format(self._genomes[row])
        columns["architecture"] = [None if i < 0 else name for i, name in zip(row, networks, strict=True)]
        return Table({name: _cells(values) for name, values in columns.items()})

    def best(self) -> str:
        """The architecture of the highest accuracy that is compared, on the GPU that costs least there."""
        costs = self.costs[0][-1]
        gpu = int(np.where(np.isnan(costs), np.inf, costs).argmin())
        return self.runs[0].problem.space.owner.format(self._genomes[[self.choices[-1, gpu]]])[0]

    def fronts(self) -> tuple[dict[str, list[Any]], list[list[int]], list[list[int]]]:
        """What a page shows: columns of the candidates that are efficient on each GPU, the rows of each GPU
        in order of its cost, and those at the accuracies that are compared."""
        x = "usd_per_million" if self.priced else "ms_per_image"
        columns: dict[str, list[Any]] = {
            name: [] for name in ("gpu", "architecture", "accuracy", "latency_ms", x, f"{x}_low", f"{x}_high")
        }
        lines: list[list[int]] = []
        ringed: list[list[int]] = []
        for gpu, name in enumerate(self.names):
            order = np.lexsort([-self._accuracy, self.ms[0, :, gpu]])
            order = order[self._serves[order, gpu] & np.isfinite(self.cost[0, order, gpu])]
            ahead = np.maximum.accumulate(np.concatenate([[-np.inf], self._accuracy[order][:-1]]))
            rows = order[self._accuracy[order] > ahead]
            start = len(columns["gpu"])
            lines.append(list(range(start, start + len(rows))))
            ringed.append((start + np.flatnonzero(np.isin(rows, self.choices[:, gpu]))).tolist())
            numbers = [self.ms[0, rows, gpu], *self.cost[:, rows, gpu]]
            networks = self.runs[0].problem.space.owner.format(self._genomes[rows])
            columns["gpu"] += [name] * len(rows)
            columns["architecture"] += networks
            columns["accuracy"] += rounded(self._accuracy[rows], 7)
            for column, values in zip(list(columns)[3:], numbers, strict=True):
                columns[column] += rounded(values)
        return columns, lines, ringed


def _objective(run: Run, name: str) -> Objective:
    objective = run.objective(name)
    if objective is None:
        raise ValueError(f"the search of {run.name} has no {name}: leave it among search.objectives=")
    return objective


def _cells(values: Any) -> list[Any]:
    """Numbers of five digits; None where there is none."""
    if not isinstance(values, np.ndarray):
        return list(values)
    return [float(f"{value:.5g}") if np.isfinite(value) else None for value in values]
