"""The fit of the whole model: its parameters on all known GPUs, and its errors by leaving each of them out.

How far off an unseen GPU is follows from predicting each known one by the others, as a user would, whose
software is of no known source: the mean square of the factors by which GPU and host are then off is the
covariance of a prediction's errors, and the prior by which a few measured subnets (`adapt`) move them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from latency.gpu import fit, measurements
from latency.gpu.measurements import Group
from latency.gpu.model import GpuModel
from latency.gpu.predictor import HOST, Errors
from supernet.options import PositiveInt, options
from supernet.prediction import QUANTILE

COMMON, EACH, HOST_SPREAD = 0.15, 0.15, 0.5  # log; of the factors of an unseen GPU, as far as none tells
NOISE = (0.05, 0.12)  # log; likewise, of a network that the GPU or its host limits
ASSUMED_WEIGHT = 2  # of these assumptions, in known GPUs
MIN_GPUS = 3  # whose spread is learned
CONVOLUTIONS = 200  # of NeuSight's kernels of a GPU that are used; of other operators 120


def assumed() -> Errors:
    """What is assumed of the errors of an unseen GPU before any was left out."""
    covariance = np.zeros((HOST + 1, HOST + 1))
    covariance[:HOST, :HOST] = COMMON**2 + EACH**2 * np.eye(HOST)
    covariance[HOST, HOST] = HOST_SPREAD**2
    return Errors(np.zeros(HOST + 1), covariance, NOISE)


@options
class GpuTimes:
    """Fits the formula on all groups at once, and the errors by leaving each GPU out."""

    rows: Annotated[int, Field(ge=10)] = 60  # of each column of OFA's networks
    more: Annotated[int, Field(ge=10)] = 120  # of each operator of single kernels, and of timm's networks
    iterations: PositiveInt = fit.ITERATIONS

    def fit(self, groups: Sequence[Group]) -> GpuModel:
        """From measurements of several GPUs; ValueError for none."""
        first = self.without_calibration(groups)
        return replace(first, errors=self._left_out(self._used(groups), first.values))

    def without_calibration(self, groups: Sequence[Group]) -> GpuModel:
        """The same in a tenth of the time, its errors assumed."""
        values = fit.fit(self._used(groups), self.iterations)
        rounded = {name: float(f"{value:.5g}") for name, value in values.items()}
        return GpuModel(rounded, assumed(), measurements.facts_of(groups))

    def _used(self, groups: Sequence[Group]) -> list[Group]:
        return [group.some(self._most(group)) for group in groups]

    def _most(self, group: Group) -> int:
        if group.alone:
            return CONVOLUTIONS if group.label == "conv" else self.more
        return self.more if group.label == "networks" else self.rows

    def _left_out(self, used: Sequence[Group], start: Mapping[str, float]) -> Errors:
        """From predicting the networks of each GPU by the others, as software of an unknown source."""
        gpus = list(dict.fromkeys(group.chip.name for group in used if not group.alone))
        if len(gpus) < MIN_GPUS:
            return assumed()
        found: list[dict[str, Any]] = []
        for gpu in gpus:
            values = fit.fit([group for group in used if group.chip.name != gpu], self.iterations, start)
            model = GpuModel(values, assumed())
            own = [group for group in used if group.chip.name == gpu and not group.alone]
            for source in dict.fromkeys(group.source for group in own):
                found.append(_off(model, [group for group in own if group.source == source]))
        return _pooled(found)


def _off(model: GpuModel, groups: Sequence[Group]) -> dict[str, Any]:
    """What is found of the factors of a GPU that was left out, and of the noise of its networks."""
    parts = np.concatenate([model.times(group.chip).parts_of(group) for group in groups])
    ms = np.concatenate([group.ms for group in groups])
    errors = model.errors.adapted(parts, ms)
    mean, shares = errors.mean_and_shares(parts)
    off, by_host = np.log(ms / mean), shares[:, HOST] > 0.5
    moments = np.outer(errors.shift, errors.shift) + errors.covariance
    ofa = np.concatenate([np.full(len(group), group.label != "networks") for group in groups])
    both = (ofa & ~by_host, ofa & by_host)
    noise = [
        np.quantile(np.abs(off[rows]), 0.9) / QUANTILE(0.95) if rows.sum() > 5 else np.nan for rows in both
    ]
    return {"moments": moments, "noise": noise}


def _pooled(found: Sequence[dict[str, Any]]) -> Errors:
    """The errors of one more GPU, whose normal 90% interval is as wide as Student's."""
    from scipy.special import stdtrit

    prior, count = assumed(), len(found)
    total = np.sum([one["moments"] for one in found], axis=0) + ASSUMED_WEIGHT * prior.covariance
    wider = float(stdtrit(count - 1, 0.95)) / QUANTILE(0.95)
    noise = np.array([one["noise"] for one in found])
    device, host = (
        float(np.sqrt(np.nanmean(column**2))) if np.isfinite(column).any() else usual
        for column, usual in zip(noise.T, NOISE, strict=True)
    )
    return replace(prior, covariance=wider**2 * total / (count + ASSUMED_WEIGHT), noise=(device, host))
