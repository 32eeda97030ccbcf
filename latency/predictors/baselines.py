"""What predictors have to beat: the mean, ProxylessNAS's table of operators, and the simplest adaptations.

Letters: n measurements, R resolutions, S slots, C slot codes.
"""

from collections.abc import Sequence

import numpy as np

from latency.conformal import mape, relative_std
from latency.data import LatencyData
from latency.predictors.slots import SlotLatency
from latency.predictors.sources import Source
from supernet import footprint, slot_table
from supernet.arrays import Floats, Genomes, Ints
from supernet.fits import folds
from supernet.options import PositiveFloat, options
from supernet.prediction import Prediction
from supernet.slot_table import SlotTable
from supernet.space import SearchSpace, get_space

FOLDS = 5


@options
class Constant:
    """The mean of the measurements, whatever the network."""

    def fit(self, data: LatencyData) -> SlotLatency:
        """The predictor of the mean; ValueError for fewer than 2 measurements."""
        shape, mean = slot_table.shape_of(get_space(data.target.space)), float(data.ms.mean())
        table = SlotTable(np.zeros(shape), np.full(shape[0], mean))
        # Each measurement is left out in turn, in closed form.
        left_out = (mean - data.ms) * len(data) / max(len(data) - 1, 1) / data.ms
        return _predictor("constant", data, table, left_out)


@options
class OperatorTable:
    """The latency predictor of ProxylessNAS (arXiv 1812.00332): a time per operator, summed.

    The times are learned from whole networks, as in arXiv 2101.00732. There is one for each variant of
    each slot, which grows with the area of the slot's feature map and hence serves any resolution, and a
    constant. Least squares with times that are not negative, and a little `ridge` in units of the mean
    latency, because a hundred networks do not determine a hundred times.
    """

    ridge: PositiveFloat = 1e-3

    def fit(self, data: LatencyData) -> SlotLatency:
        """The table of the target; ValueError for fewer than 5 networks."""
        if len(data) < FOLDS:
            raise ValueError(f"{len(data)} measurements are too few for a table; give at least {FOLDS}")
        space = get_space(data.target.space)

        def predict(kept: Ints, out: Ints) -> Floats:
            return self._table(data.take(kept)).evaluate(space, data.genomes[out])

        left_out = folds.left_out(folds.random_folds(len(data), FOLDS), predict) / data.ms - 1
        return _predictor("operator table", data, self._table(data), left_out)

    def _table(self, data: LatencyData) -> SlotTable:
        from scipy.optimize import nnls

        space = get_space(data.target.space)
        area = slot_table.sides(space) ** 2  # (R, S)
        codes, level = space.slot_codes(data.genomes), slot_table.resolution_level(space, data.genomes)
        _, slots, variants = slot_table.shape_of(space)
        on = codes[:, :, None] == np.arange(1, variants)
        design = (on * area[level][:, :, None]).reshape(len(data), -1)
        seen = on.any(axis=0).ravel()
        unit = float(data.ms.mean())
        columns: Floats = np.concatenate([np.ones((len(data), 1)), design[:, seen]], axis=1)
        penalty = np.sqrt(self.ridge) * np.eye(columns.shape[1])
        aims = np.concatenate([data.ms / unit, np.zeros(columns.shape[1])])
        constant, *seen_times = unit * nnls(np.concatenate([columns, penalty]), aims)[0]
        times = np.zeros(slots * (variants - 1))
        times[seen] = seen_times
        cells = np.zeros((*area.shape, variants))
        cells[:, :, 1:] = times.reshape(slots, -1) * area[:, :, None]
        return SlotTable(cells, np.full(len(area), constant))


def _predictor(method: str, data: LatencyData, table: SlotTable, left_out: Floats) -> SlotLatency:
    """A predictor for all resolutions of the space, from (n,) relative residuals left out of the fit."""
    space = get_space(data.target.space)
    sides = space.axis("r").values if "r" in space.index else (0,)
    facts = {"method": method, "rows": len(data), "left_out_mape": mape(left_out)}
    return SlotLatency(data.target, table, relative_std(left_out), (sides[0], sides[-1]), facts)


def from_samples(sources: Sequence[Source], samples: LatencyData, genomes: Genomes) -> dict[str, Prediction]:
    """The simplest predictions from a few samples, by name.

    A line in multiply-accumulates, and the closest known device times one factor.
    """
    space = get_space(samples.target.space)
    predictions = {"MACs line": _line(space, samples, genomes)}
    if any(source.target is not None for source in sources):
        nearest = closest(sources, samples)
        ratio = np.log(samples.ms / nearest.table.evaluate(space, samples.genomes))
        mean = float(np.exp(np.median(ratio))) * nearest.table.evaluate(space, genomes)
        predictions["closest device x factor"] = Prediction(mean, max(float(np.std(ratio)), 1e-3) * mean)
    return predictions


def closest(sources: Sequence[Source], samples: LatencyData) -> Source:
    """The known device whose latencies are most nearly proportional to the samples."""
    space = get_space(samples.target.space)
    known = [source for source in sources if source.target is not None]
    spreads = [np.std(np.log(samples.ms / source.table.evaluate(space, samples.genomes))) for source in known]
    return known[int(np.argmin(spreads))]


def _line(space: SearchSpace, samples: LatencyData, genomes: Genomes) -> Prediction:
    """a + b MACs by least squares of the relative error."""
    macs = footprint.compute(space, samples.genomes, "macs") / 1e8
    design = np.stack([np.ones(len(macs)), macs], axis=1)
    weights = np.linalg.lstsq(design / samples.ms[:, None], np.ones(len(macs)), rcond=None)[0]
    spread = float(np.std(design @ weights / samples.ms - 1, ddof=min(2, len(macs) - 1)))
    mean = weights[0] + weights[1] * footprint.compute(space, genomes, "macs") / 1e8
    return Prediction(mean, max(spread, 1e-3) * np.abs(mean))
