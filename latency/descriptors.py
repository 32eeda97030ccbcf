"""Devices to learn from, and the descriptors that tell them apart.

A descriptor is whatever tells devices apart: operators timed on the target (`measuring.operators`), figures
of a data sheet (`specification`), and the log latencies of reference architectures (`references`), for which
the samples of the target serve.

The parameters of a GPU may also be inputs of one model for many of them (`device_inputs`, `roofline_ms`).

Letters: D known devices, n architectures, q numbers of a descriptor, c inputs of a model.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np

from latency.data import LatencyData
from latency.features import Scale, features, squared_distance
from latency.target import Target
from supernet import footprint
from supernet.arrays import Floats, Genomes, Rng
from supernet.device import Device
from supernet.fits import robust
from supernet.layers import BYTES_FP32
from supernet.space import get_space

SMOOTHING, SMOOTHING_ROUNDS = 1e-2, 5  # ridge of the known devices' own fits, and their re-weighting
LEAST_IMPORTANCE = 1e-3
DeviceInputs = Literal["raw", "logarithms", "physical"]
USUAL = np.array([4000.0, 12.0, 600.0])  # cores, GB and GB/s, whose logarithms are 0
USUAL_BATCH = 32
PASSES = 4  # over an activation: written and read by its layer, and by the norm after it
LAUNCH_MS = 0.01  # of a layer, at least
HALF = ("amp", "fp16", "bf16")  # precisions with two bytes a number


@dataclass(frozen=True, eq=False)
class KnownDevice:
    """A device to learn from: its latencies and its (q,) descriptor."""

    data: LatencyData
    descriptor: Floats

    def smooth(self, genomes: Genomes) -> Floats:
        """(n,) log latencies by a robust ridge regression on the features, fitted to the device's rows."""
        scale, weights, middle = self._fit
        return np.asarray(middle + scale(features(get_space(self.data.target.space), genomes)) @ weights)

    def rows(self, count: int, rng: Rng, *, smooth: bool) -> LatencyData:
        """At most `count` rows drawn at random; with `smooth` their latencies are those of the own fit."""
        n = len(self.data)
        part = self.data.take(rng.permutation(n)[:count]) if n > count else self.data
        return replace(part, ms=np.exp(self.smooth(part.genomes))) if smooth else part

    @cached_property
    def _fit(self) -> tuple[Scale, Floats, float]:
        raw = features(get_space(self.data.target.space), self.data.genomes)
        scale = Scale.from_features(raw)
        x, y = scale(raw), np.log(self.data.ms)
        trust, middle = np.ones(len(y)), float(np.median(y))
        for _ in range(SMOOTHING_ROUNDS):
            weighted = x * trust[:, None]
            gram = x.T @ weighted + SMOOTHING * trust.sum() * np.eye(x.shape[1])
            weights = np.linalg.solve(gram, weighted.T @ (y - middle))
            residual = y - middle - x @ weights
            middle += float((trust * residual).sum() / trust.sum())
            spread = robust.spread(residual - np.median(residual), floor=1e-6)
            trust = robust.cauchy_weights(residual, spread)
        return scale, weights, middle


def specification(device: Device) -> Floats:
    """(q,) log data-sheet figures; NaN where the sheet is silent."""
    figures = (device.cores, device.ram_gb, device.bandwidth_gbs, device.fp32_tflops, device.tdp_w)
    return np.array([np.log(figure) if figure else np.nan for figure in figures])


def device_inputs(target: Target, how: DeviceInputs, *, batch: bool) -> Floats:
    """(c,) what a model of several GPUs is told of one of them, with `batch` its batch size too.

    "raw": CUDA cores, memory in GB and bandwidth in GB/s as they are, the three inputs of arXiv 2101.00732;
    "logarithms": theirs; "physical": nothing, as the model says multiples of `roofline_ms`. ValueError for a
    device that does not state them.
    """
    sizes = np.array([target.batch] if batch else [], float)
    if how == "physical":
        return np.log(sizes / USUAL_BATCH)
    names = ("cores", "ram_gb", "bandwidth_gbs")
    figures = np.array(_stated(target.spec, names))
    if how == "raw":
        return np.concatenate([figures, sizes])
    return np.concatenate([np.log(figures / USUAL), np.log(sizes / USUAL_BATCH)])


def roofline_ms(target: Target, genomes: Genomes) -> Floats:
    """(n,) ms of one batch at the bandwidth and the peak rate of the data sheet, the one after the other, and
    of launching the layers. In half precision the rate is that of tensor cores, where there are any. Ours.

    ValueError for a device that does not state them.
    """
    half = target.precision in HALF
    rate = "tensor_tflops" if half and target.spec.tensor_tflops else "fp32_tflops"
    bandwidth, peak = _stated(target.spec, ("bandwidth_gbs", rate))
    space = get_space(target.space)
    macs, activations, params, layers = (
        footprint.compute(space, genomes, metric) for metric in ("macs", "activations", "params", "layers")
    )
    moved = (2 if half else BYTES_FP32) * (PASSES * target.batch * activations + params)
    return moved / (1e6 * bandwidth) + 2 * target.batch * macs / (1e9 * peak) + LAUNCH_MS * layers


def _stated(device: Device, names: Sequence[str]) -> list[float]:
    """These figures of a data sheet; ValueError that names what is missing."""
    if missing := [name for name in names if not getattr(device, name)]:
        raise ValueError(f"{device.name} does not state its {', '.join(missing)}, which the model needs")
    return [float(getattr(device, name)) for name in names]


def references(devices: Sequence[KnownDevice], genomes: Genomes) -> Floats:
    """(D, n) log latencies of these architectures on known devices, each device's without its mean.

    They are those of the device's own fit, less noisy than its rows.
    """
    log_ms = np.stack([device.smooth(genomes) for device in devices])
    return log_ms - log_ms.mean(axis=1, keepdims=True)


def scaled_descriptors(blocks: Sequence[Floats]) -> Floats:
    """(D, q) descriptors of several parts, each standardised; the parts weigh alike, whatever their width."""
    parts = [Scale.from_rows(block)(block) for block in blocks if block.shape[1]]
    width = sum(part.shape[1] for part in parts)
    shares = [(width / len(parts) / part.shape[1]) ** 0.5 for part in parts]
    return np.concatenate([part * share for part, share in zip(parts, shares, strict=True)], axis=1)


def importance_weights(scaled: Floats, width: float) -> Floats:
    """(D,) weights of the known devices for the target, whose scaled descriptor is the last row.

    They are exp(-(distance / width)^2 / 2), where the distance is the root mean square difference of the
    descriptors and the unit of `width` is the median distance between known devices; relative to the most
    similar device, and at least `LEAST_IMPORTANCE`.
    """
    distance = np.sqrt(squared_distance(scaled, scaled))
    among_known = distance[:-1, :-1]
    unit = float(np.median(among_known[np.triu_indices(len(among_known), 1)])) or 1.0
    weight = np.exp(-0.5 * (distance[-1, :-1] / (width * unit)) ** 2)
    return np.asarray(np.maximum(weight / max(float(weight.max()), 1e-300), LEAST_IMPORTANCE))
