"""A ranking: models by every view of their axes, on every device, with the bands of the frontier.

Letters: n models, D devices.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import moocore
import numpy as np

from search import pareto
from search.noisy_axis import NoisyAxis
from search.ranking.efficiency import DRAWS, TOLERANCE, Comparison, Efficiency, efficiency, on_all
from supernet.arrays import Floats, Ints
from supernet.files.tables import Table

SUBSETS_UP_TO = 4  # axes of which every subset is a view; 11 views
BAND_DRAWS = 400
LEVELS = (5.0, 50.0, 95.0)  # percent of the draws whose frontier reaches a point
LIKELY = 0.5


@dataclass(frozen=True, eq=False)
class Band:
    """The random frontier of two axes.

    `levels`: by percentage, the (p, 2) corners, in the axes' units, of what so many of the drawn frontiers
    reach. `expected` is the Vorob'ev expectation; `deviation` the Vorob'ev deviation, as a share of the mean
    hypervolume: 0 when the frontier is certain.
    """

    axes: tuple[NoisyAxis, NoisyAxis]
    levels: Mapping[float, Floats]
    expected: Floats
    threshold: float  # percent: the expectation is the attainment level of this
    deviation: float


@dataclass(frozen=True, eq=False)
class Devices:
    """Rankings by device and what they say together; arrays (n,)."""

    of: Mapping[str, Efficiency]
    worst: Floats  # least probability over the devices
    mean_rank: Floats  # mean over the devices of the expected rank
    everywhere: Floats  # probability to be on the frontier of every device at once
    agreement: Floats  # (D, D) Kendall tau of the expected ranks


@dataclass(frozen=True, eq=False)
class Ranking:
    """The first of `views` is the main one."""

    models: Comparison
    views: Mapping[str, Efficiency]
    devices: Devices | None
    bands: Sequence[Band]

    @property
    def main(self) -> Efficiency:
        return next(iter(self.views.values()))

    def table(self) -> Table:
        """Best model first; probabilities, then what was measured."""
        main, order = self.main, self.main.order

        def listed(values: Floats | Ints, digits: int = 5) -> list[object]:
            return [
                value if isinstance(value, int) else float(f"{value:.{digits}g}")
                for value in values[order].tolist()
            ]

        columns: dict[str, list[object]] = {
            "place": list(range(1, len(order) + 1)),
            "model": [self.models.names[row] for row in order],
            "p_efficient": listed(main.probability),
            "p_efficient_error": listed(main.probability_error, 2),
            "relative_efficiency": listed(main.relative),
            "relative_efficiency_error": listed(main.relative_error, 2),
            "rank_low": listed(main.rank_low),
            "rank_high": listed(main.rank_high),
            "expected_depth": listed(main.depth, 4),
            "expected_distance": listed(main.distance, 4),
            "on_front_without_noise": [bool(main.on_front[row]) for row in order],
        }
        if main.preferred is not None:
            columns["p_preferred"] = listed(main.preferred)
        for name, view in list(self.views.items())[1:]:
            columns[f"p_{name}"] = listed(view.probability)
        if self.devices is not None:
            columns |= {f"p_on_{name}": listed(found.probability) for name, found in self.devices.of.items()}
            columns["p_worst_device"] = listed(self.devices.worst)
            columns["p_on_every_device"] = listed(self.devices.everywhere)
            columns["mean_rank_over_devices"] = listed(self.devices.mean_rank)
        for axis in self.models.axes:
            columns[axis.name] = listed(axis.values, 6)
        return Table(columns)

    def show(self, count: int = 15) -> None:
        """Print the best models."""
        main = self.main
        best = main.order[:count]
        columns: dict[str, list[object]] = {
            "": list(range(1, len(best) + 1)),
            "model": [self.models.names[row] for row in best],
            "P(efficient)": [f"{p:.3f}" for p in main.probability[best]],
            "+-": [f"{error:.3f}" for error in main.probability_error[best]],
            "relative": [f"{relative:.3f}" for relative in main.relative[best]],
            "rank (90%)": [f"{main.rank_low[row]}-{main.rank_high[row]}" for row in best],
        }
        Table(columns | {name: self.models.axis(name).values[best].tolist() for name in main.axes}).show()

    def findings(self) -> list[str]:
        """What the ranking shows, in sentences."""
        main = self.main
        likely = main.probability > LIKELY
        lines = [
            f"{len(self.models)} models by {', '.join(main.axes)}: {int(main.on_front.sum())} on the "
            f"frontier without noise, {int(likely.sum())} with a probability above {LIKELY:.0%} of being on "
            f"it ({main.draws:,} draws, standard error of a relative efficiency at most "
            f"{main.relative_error.max():.2g})"
        ]
        for what, rows in (
            ("on the frontier without noise, but probably by luck", np.flatnonzero(main.on_front & ~likely)),
            ("off the frontier without noise, but probably on it", np.flatnonzero(~main.on_front & likely)),
        ):
            if len(rows):
                names = [f"{self.models.names[row]} ({main.probability[row]:.2f})" for row in rows[:8]]
                lines.append(f"{len(rows)} {what}: {', '.join(names)}{', ..' if len(rows) > 8 else ''}")
        for name, view in list(self.views.items())[1:]:
            lines.append(f"{name} ({', '.join(view.axes)}): {compare(main, view)} as the main ranking")
        if self.devices is not None and len(self.devices.of) > 1:
            names = list(self.devices.of)
            pairs = [
                (self.devices.agreement[i, j], names[i], names[j])
                for i, j in combinations(range(len(names)), 2)
            ]
            low, high = min(pairs), max(pairs)
            lines.append(
                f"devices agree by Kendall tau {low[0]:.2f} ({low[1]}, {low[2]}) to {high[0]:.2f} "
                f"({high[1]}, {high[2]}); {int((self.devices.everywhere > LIKELY).sum())} models are "
                f"probably efficient on all {len(names)}"
            )
        return lines


def rank(
    models: Comparison,
    *,
    seed: int = 0,
    draws: int = DRAWS,
    tolerance: float = TOLERANCE,
    weights: Mapping[str, float] | None = None,
) -> Ranking:
    """Rank models by how probable it is that they are efficient (on the random frontier, arXiv 2202.09275).

    Every view of the models and every device gets a ranking. `weights` of the axes of the main view add the
    probability of being preferred.

    >>> rank(Table(file="mine.csv", model="name", axes=(...)).models(), draws=2000).show()
    """
    views = dict(models.views) or subsets([axis.name for axis in models.axes])
    main = next(iter(views))

    def ranked(axes: Sequence[str], weights: Mapping[str, float] | None = None) -> Efficiency:
        return efficiency(models.by(axes), seed=seed, draws=draws, tolerance=tolerance, weights=weights)

    by_view = {name: ranked(axes, weights if name == main else None) for name, axes in views.items()}
    by_device = {name: ranked(axes) for name, axes in models.devices.items()}
    bands = [band(x, y, seed=seed) for x, y in combinations(models.by(views[main]).axes, 2)]
    return Ranking(models, by_view, _across(by_device, len(models)) if by_device else None, bands)


def subsets(axes: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """All axes, then their subsets of at least two; of more than SUBSETS_UP_TO axes those that lack one."""
    sizes = range(len(axes) - 1, 1 if len(axes) <= SUBSETS_UP_TO else len(axes) - 2, -1)
    smaller = [subset for size in sizes for subset in combinations(axes, size)]
    return {"all": tuple(axes)} | {"+".join(subset): subset for subset in smaller}


def compare(first: Efficiency, second: Efficiency) -> str:
    """How far two rankings of the same models agree, in words."""
    a, b = first.probability > LIKELY, second.probability > LIKELY
    return (
        f"Kendall tau {tau(first, second):.2f}; {int(b.sum())} probably efficient, {int((a & b).sum())} of "
        "them the same"
    )


def tau(first: Efficiency, second: Efficiency) -> float:
    """Kendall's tau-b of the expected ranks."""
    from scipy.stats import kendalltau

    return float(kendalltau(first.rank, second.rank).statistic)


def _across(by_device: Mapping[str, Efficiency], n: int) -> Devices:
    several = list(by_device.values())
    return Devices(
        by_device,
        worst=np.min([one.probability for one in several], axis=0),
        mean_rank=np.mean([one.rank for one in several], axis=0),
        everywhere=on_all(several, n),
        agreement=np.array([[1.0 if a is b else tau(a, b) for b in several] for a in several]),
    )


def band(x: NoisyAxis, y: NoisyAxis, *, seed: int = 0, draws: int = BAND_DRAWS) -> Band:
    """Attainment levels, Vorob'ev expectation and deviation of the frontier of two axes (moocore).

    The reference point is the worst corner that any drawn frontier has.
    """
    both = Comparison(tuple(str(row) for row in range(len(x.values))), (x, y))
    fronts = []
    for costs in both.draw(seed, 0, draws):
        kept = costs[pareto.is_front(costs)]
        fronts.append(kept[np.argsort(kept[:, 0])])
    points = np.concatenate(fronts) / [x.width, y.width]
    sets = np.repeat(np.arange(draws), [len(front) for front in fronts])
    attained = moocore.eaf(points, sets, percentiles=LEVELS)
    reference = points.max(axis=0) + 1.0
    expectation = moocore.vorob_t(points, sets, ref=reference)
    spread = moocore.vorob_dev(points, sets, ref=reference, ve=expectation["ve"])

    def corners(scaled: Floats) -> Floats:
        scaled = scaled[np.lexsort(scaled.T[::-1])]
        return np.stack([axis.in_units(scaled[:, j] * axis.width) for j, axis in enumerate((x, y))], axis=1)

    return Band(
        (x, y),
        {level: corners(attained[attained[:, 2] == level][:, :2]) for level in LEVELS},
        corners(expectation["ve"]),
        float(expectation["threshold"]),
        float(spread / expectation["avg_hyp"]),
    )
