"""Devices to learn from, and the descriptors that tell them apart.

A descriptor is whatever tells devices apart, in parts by name: operators timed on the target and hardware
events counted while they run (`measuring.operators`), figures of a data sheet (`specification`), and the log
latencies of reference architectures (`references`), for which the samples of the target serve. A device may
lack numbers or whole parts (NaN): two devices are compared by what is known of both.

The parameters of a GPU may also be inputs of one model for many of them (`device_inputs`, `roofline_ms`).

Letters: D known devices, n architectures, q numbers of a part of a descriptor, c inputs of a model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np

from latency.data import LatencyData
from latency.features import Scale, features
from latency.target import Target
from supernet import footprint
from supernet.arrays import Floats, Genomes, Rng
from supernet.device import Device
from supernet.fits import robust
from supernet.layers import BYTES_FP32
from supernet.space import get_space

Descriptor = Mapping[str, Floats]  # (q,) numbers of each part by its name; NaN where one is unknown
OPERATORS = "operators"  # the part that is timed on the device
REFERENCES = "reference latencies"  # the part that samples of the target serve for
STRANGERS = 2.0  # squared distance of devices of which nothing is known in common: that of random ones
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
    """A device to learn from: its latencies and its descriptor."""

    data: LatencyData
    descriptor: Descriptor

    def smooth(self, genomes: Genomes) -> Floats:
        """(n,) log latencies by a robust ridge regression on the features, fitted to the device's rows."""
        return self.smooth_at(features(get_space(self.data.target.space), genomes))

    def smooth_at(self, x: Floats) -> Floats:
        """The same of the (n, p) features of the genomes, which serve all devices of a space."""
        scale, weights, middle = self._fit
        return np.asarray(middle + scale(x) @ weights)

    def rows(self, count: int, rng: Rng, *, smooth: bool) -> tuple[LatencyData, Floats]:
        """At most `count` rows drawn at random, and their features; with `smooth` their latencies are those
        of the own fit."""
        n = len(self.data)
        drawn = rng.permutation(n)[:count] if n > count else np.arange(n)
        part, x = self.data.take(drawn), self._features[drawn]
        return (replace(part, ms=np.exp(self.smooth_at(x))) if smooth else part), x

    @cached_property
    def _features(self) -> Floats:
        return features(get_space(self.data.target.space), self.data.genomes)

    @cached_property
    def _fit(self) -> tuple[Scale, Floats, float]:
        scale = Scale.from_features(self._features)
        x, y = scale(self._features), np.log(self.data.ms)
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
    x = features(get_space(devices[0].data.target.space), genomes)
    log_ms = np.stack([device.smooth_at(x) for device in devices])
    return log_ms - log_ms.mean(axis=1, keepdims=True)


@dataclass(frozen=True, eq=False)
class Descriptors:
    """Descriptors of several devices, each part standardised over them: (D, q) each; NaN: unknown."""

    parts: tuple[Floats, ...]

    @classmethod
    def from_devices(cls, descriptors: Sequence[Descriptor]) -> "Descriptors":
        """ValueError when a part has more numbers on one device than on another."""
        parts = []
        for name in dict.fromkeys(name for descriptor in descriptors for name in descriptor):
            widths = {len(descriptor[name]) for descriptor in descriptors if name in descriptor}
            if len(widths) > 1:
                raise ValueError(
                    f"the descriptors have {sorted(widths)} numbers of {name}: describe all devices alike"
                )
            unknown = np.full(widths.pop(), np.nan)
            block = np.stack([descriptor.get(name, unknown) for descriptor in descriptors])
            parts.append(np.where(np.isfinite(block), Scale.from_rows(block)(block), np.nan))
        if not parts:
            raise ValueError("no number describes the devices: give descriptors, or leave references on")
        return cls(tuple(parts))

    def squared_distance(self) -> Floats:
        """(D, D) mean squared differences: over the numbers of a part that are known of both devices, then
        over the parts, which weigh alike, whatever their width. `STRANGERS` where nothing is."""
        devices = len(self.parts[0])
        total, count = np.zeros((devices, devices)), np.zeros((devices, devices))
        for part in self.parts:
            known, filled = np.isfinite(part).astype(np.float64), np.nan_to_num(part)
            shared = known @ known.T
            squares = filled**2 @ known.T
            apart = np.maximum(squares + squares.T - 2 * filled @ filled.T, 0) / np.maximum(shared, 1)
            total, count = total + apart, count + (shared > 0)
        return np.where(count > 0, total / np.maximum(count, 1), STRANGERS)

    def inputs(self) -> Floats:
        """(D, q) all numbers side by side for a regression, whose parts weigh alike; 0 where unknown."""
        width = sum(part.shape[1] for part in self.parts)
        shares = [(width / len(self.parts) / part.shape[1]) ** 0.5 for part in self.parts]
        scaled = [np.nan_to_num(part) * share for part, share in zip(self.parts, shares, strict=True)]
        return np.concatenate(scaled, axis=1)

    def similarity(self, reach: float) -> Floats:
        """(D, D) exp(-(distance / reach)^2 / 2), the unit of `reach` being the median distance.

        Distances over different numbers may contradict each other; the similarities are then the nearest
        that do not (no negative eigenvalue).
        """
        distance = self.squared_distance()
        unit = float(np.median(distance[np.triu_indices(len(distance), 1)])) or 1.0
        similar = np.exp(-0.5 * distance / (unit * reach**2))
        if all(np.isfinite(part).all() for part in self.parts):
            return np.asarray(similar)
        values, vectors = np.linalg.eigh(similar)
        similar = vectors * np.maximum(values, 0) @ vectors.T
        size = np.sqrt(np.diag(similar))
        return np.asarray(similar / size / size[:, None])

    def importance(self, width: float) -> Floats:
        """(D - 1,) weights of the known devices for the target, which is the last.

        They are exp(-(distance / width)^2 / 2), where the unit of `width` is the median distance between
        known devices; relative to the most similar device, and at least `LEAST_IMPORTANCE`. The paper
        (arXiv 2205.12660) weighs training devices by the similarity of specifications; the formula is ours.
        """
        distance = np.sqrt(self.squared_distance())
        among_known = distance[:-1, :-1]
        unit = float(np.median(among_known[np.triu_indices(len(among_known), 1)])) or 1.0
        weight = np.exp(-0.5 * (distance[-1, :-1] / (width * unit)) ** 2)
        return np.asarray(np.maximum(weight / max(float(weight.max()), 1e-300), LEAST_IMPORTANCE))
