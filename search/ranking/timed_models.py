"""Models to rank that nobody has to prepare: classifiers timed here, and the front of a search."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import Field

from latency.measuring.session import Measuring, Watcher
from latency.measuring.store import Store
from latency.modules.networks import classifiers
from search import objective
from search.noisy_axis import NoisyAxis, Normal
from search.ranking.efficiency import Comparison
from supernet.arrays import Floats
from supernet.files import artifact, tables
from supernet.options import GivenPath, PositiveFloat, PositiveInt, options
from supernet.prediction import Prediction, where
from supernet.space import get_space

LARGEST = 1e100  # that an error is, in the unit of its objective
IMAGENET_IMAGES = 50_000  # of the validation set that accuracies are counted on
IQR = 1.349  # interquartile range of a normal distribution in standard deviations


@options
class Timing:
    """An axis timed on this machine: ms per image of a batch, on one thread of an engine."""

    engine: str
    batch: PositiveInt = 1


@options
class Torchvision:
    """Classifiers of torchvision: the names, or all up to `max_gmacs`; accuracy and the `timings` as axes."""

    timings: dict[str, Timing]
    names: tuple[str, ...] | None = None
    max_gmacs: PositiveFloat = 2.0
    views: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    devices: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    title: str = ""
    note: str = ""

    def models(
        self, store: Store, *, seconds: float | None = None, watch: Watcher | None = None
    ) -> Comparison:
        """Time them; those that an engine cannot run are left out.

        Noise is that of one visit: normal in log time, with the interquartile range of a model's visits.
        """
        picked = classifiers.select(self.names, self.max_gmacs)
        quartiles: dict[str, Mapping[str, Floats]] = {}
        end = time.perf_counter() + (np.inf if seconds is None else seconds)
        for name, timing in self.timings.items():
            share = (end - time.perf_counter()) / (len(self.timings) - len(quartiles))
            how = Measuring(store, max(share, 0), watch)
            quartiles[name] = classifiers.times(picked, how, engine=timing.engine, batch=timing.batch)
        kept = [one for one in picked if all(one.name in found for found in quartiles.values())]
        if len(kept) < 2:
            raise ValueError(f"only {len(kept)} of {len(picked)} classifiers could be timed on every engine")
        top1 = np.array([one.top1 for one in kept])
        itself = np.arange(len(kept))
        # On the logit scale the binomial standard deviation is 1 / sqrt(images p (1 - p)).
        counted = Normal(1 / np.sqrt(IMAGENET_IMAGES * top1 * (1 - top1)), itself)
        axes = [NoisyAxis("top1", True, "logit", top1, (counted,), "fraction")]
        for name, timing in self.timings.items():
            low, middle, high = np.array([quartiles[name][one.name] for one in kept]).T / timing.batch
            visit = Normal(np.log(high / low) / IQR, itself)
            axes.append(NoisyAxis(name, False, "log", middle, (visit,), "ms per image"))
        return Comparison(tuple(one.name for one in kept), tuple(axes), self.views, self.devices)


@options
class SearchRun:
    """The front of a finished search, from its run folder: predictions with their standard deviations, and
    measured latencies where the front was verified."""

    folder: GivenPath
    views: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    devices: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    title: str = ""
    note: str = ""

    def models(self) -> Comparison:
        """The members of front.csv; ValueError when the folder holds no finished search."""
        table, described = self.folder / "front.csv", self.folder / "objectives.json"
        if not table.is_file() or not described.is_file():
            raise ValueError(f"{self.folder} holds no finished search: no front.csv with its objectives.json")
        columns = tables.read_columns(table)
        with artifact.usable(described, f"description of {table}"):
            names = [str(name) for name in tables.column(columns, "architecture", table)]
            space = get_space(names[0].split()[0])
            owner = objective.networks(space, space.parse(names))
            axes = [
                objective.axis(
                    str(name),
                    _predicted(str(name), about, columns),
                    owner,
                    unit=str(about["unit"]),
                    maximize=bool(about["maximize"]),
                )
                for name, about in artifact.read_json(described).items()
            ]
            return Comparison(tuple(names), tuple(axes), self.views, self.devices)


def _predicted(name: str, about: Mapping[str, Any], columns: tables.Columns) -> Prediction:
    """What front.csv says of an objective, of which `objectives.json` says the rest."""
    std = columns[f"{name}_std"]
    predicted = Prediction(columns[name], std, _shared(about, columns["architecture"].tolist(), std))
    # Since 0.2 the column itself is what was measured, where that is known.
    if name == "latency_ms" and "latency_ms_measured" in columns and f"{name}_predicted" not in columns:
        ms, iqr = columns["latency_ms_measured"], columns["latency_ms_iqr"]
        predicted = where(np.isfinite(ms), Prediction(ms, iqr / IQR), predicted)
    return predicted


def _shared(about: Mapping[str, Any], names: Sequence[str], std: Floats) -> Floats | None:
    """(n, k) loadings of the errors that networks share, as `objectives.json` tells them.

    Until 0.2 it only said whether the error was one factor for all networks (`common_error`).
    """
    if about.get("common_error"):
        return std[:, None]
    stored = about.get("shared_errors")
    if not stored:
        return None
    loadings = np.array([stored[name] for name in names], np.float64)
    if loadings.ndim != 2 or not (np.abs(loadings) < LARGEST).all():
        raise ValueError("shared_errors must be as many finite numbers of each network")
    return loadings
