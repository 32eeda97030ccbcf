"""Latency of a GPU that was never measured, from its data sheet.

The aim is that of arXiv 2101.00732, whose network has three figures of the data sheet among its inputs
(`Neural.fit_many` with contexts); the form is physical, and ours. Letters: n architectures, L layers.

The GPU's own time is a sum over layers, the host's a launch per layer, and the longer of the two is seen:

    device = family * generation * study * sum_l (bytes_l / (bandwidth e_l) + macs_l / (rate u_l f_l))
    host   = launch * layers
    ms     = ((device factor * device)^R + (host factor * host)^R)^(1/R)

`e` and `f` are the shares of the data sheet's bandwidth and peak rate that a kind of layer reaches (dense,
pointwise, depthwise convolutions, layers on vectors, pools), `u` = outputs / (outputs + occupancy * SMs) says
how full the GPU is. Bytes are those of inputs, outputs and weights, and of the norm, a pass of its own. Of a
family (before Volta, since), a generation and a study (its software) the deviation from the data sheet is
learned where there are data, and none is assumed elsewhere; the launch cost is that of the host, which no
data sheet states: an unseen GPU gets that of the mean host. All parameters are logarithms with a normal
prior; the fit is the robust maximum a posteriori. How far off an unseen GPU is follows from leaving each
known one out and predicting it as a user would, whose software is of no known study: the spreads of its
device and host factors are the uncertainty of a prediction, and the prior by which a few measured subnets
(`adapt`) move them.

The form was chosen on the GPU columns of FBNet and NAS-Bench-201, whole GPUs left out; the families, the
norm's bytes and the prior of `f` on rows of OFA's GPUs that are not reported.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter

from latency.data import LatencyData
from latency.predictors import interface
from latency.predictors.interface import History, space_of, with_history
from latency.target import Target
from supernet import footprint, slot_table
from supernet.arrays import Floats, Genomes
from supernet.device import Device
from supernet.files import artifact
from supernet.fits import robust
from supernet.layers import BYTES_FP32, LayerKind, LayerTable
from supernet.options import PositiveInt, options
from supernet.prediction import QUANTILE, Prediction
from supernet.space import get_space

MODEL_KIND = "gpu data-sheet model"
KINDS = ("dense", "pointwise", "depthwise", "vector", "pool")
MOVING = (LayerKind.POOL, LayerKind.GLOBAL_POOL, LayerKind.NORM, LayerKind.POSITION, LayerKind.TOKENS)
R = 4.0  # how sharp the maximum of device and host is
BANDWIDTH_SHARE = (0.5, 0.7)  # prior median and spread (log) of e
RATE_SHARE = {  # of f: matrix products come near the peak rate, depthwise convolutions do not
    "dense": (0.8, 0.25),
    "pointwise": (0.8, 0.25),
    "depthwise": (0.2, 0.7),
    "vector": (0.3, 0.7),
    "pool": (0.5, 0.7),
}
OCCUPANCY = (2000.0, 1.0)  # outputs per SM at which it is half full
LAUNCH_MS = (0.12, 0.5)  # per layer; of the mean host
HOST_SPREAD = 0.4  # log; of a host around the mean host
BEFORE_VOLTA = ("Kepler", "Maxwell", "Pascal")  # their first-level cache is apart from shared memory
FAMILY_SPREAD, GENERATION_SPREAD, STUDY_SPREAD = 0.4, 0.1, 0.3
UNSEEN = (0.25, 0.4)  # log; of the factors of an unseen GPU, as far as known ones do not tell
UNSEEN_WEIGHT = 2  # of that assumption, in known GPUs
NOISE = 0.05  # relative, of a row around the model
ROWS = 120  # of each target in a fit; more do not change it
MIN_GPUS = 3  # whose spread is learned
AGREEING = 30  # rows of one target agree: they count like so many


@dataclass(frozen=True, eq=False)
class Work:
    """What the layers of some networks do, at one batch size."""

    kind: NDArray[np.int64]  # (n, L) index in KINDS
    bytes: Floats  # (n, L) moved
    macs: Floats  # (n, L)
    outputs: Floats  # (n, L) elements
    live: NDArray[np.bool_]  # (n, L)


def work(table: LayerTable, batch: int) -> Work:
    """What the layers of a table do with a batch of so many images.

    Products on tokens count as pointwise convolutions, which they are; attention maps are written and read;
    what else a transformer has moves data, as pools do.
    """
    conv, linear, one = table.kind == LayerKind.CONV, table.kind == LayerKind.LINEAR, table.positions() == 1
    depthwise = (table.groups > 1) & (table.groups == table.cin) & conv
    pointwise = ((table.kernel == 1) & conv & ~depthwise) | linear | (table.kind == LayerKind.ATTENTION)
    vector = (linear & one) | (conv & (table.size == 1))
    pool = np.isin(table.kind, MOVING)
    kind = np.select([pool, vector, depthwise, pointwise], [4, 3, 2, 1], 0)
    outputs = batch * table.cout * table.positions().astype(float)
    norms = np.where(table.kind == LayerKind.NORM, 0, table.norm)  # passes of their own
    inputs = batch * table.cin * table.input_positions().astype(float)
    weights = table.layer_params().astype(float)
    moved = BYTES_FP32 * (inputs + (1 + 2 * norms) * outputs + weights + 2 * batch * table.scores())
    return Work(
        np.broadcast_to(kind, table.live.shape),
        np.where(table.live, moved, 0),
        batch * table.layer_macs().astype(float),
        np.where(table.live, outputs, 1),
        table.live,
    )


Parameters = Mapping[str, float]  # their logarithms; names as in the formula of this module


def _value(parameters: Parameters, name: str) -> float:
    """The value (not its logarithm), 1 for what was never seen: an unknown generation, study or host."""
    return math.exp(parameters.get(name, 0.0))


def layer_ms(parameters: Parameters, work: Work, spec: Device, study: str) -> Floats:
    """(n, L) ms of each layer on the GPU itself."""
    share, rate = (
        np.array([_value(parameters, f"{what}.{kind}") for kind in KINDS]) for what in ("bandwidth", "rate")
    )
    bandwidth, peak, multiprocessors = sheet(spec)
    memory = work.bytes / (bandwidth * 1e6 * share[work.kind])
    fill = work.outputs / (work.outputs + _value(parameters, "occupancy") * multiprocessors)
    compute = work.macs / (peak * 0.5e9 * rate[work.kind] * fill)
    groups = family(spec), f"generation.{spec.generation}", f"study.{study}"
    factor = math.prod(_value(parameters, group) for group in groups)
    return np.where(work.live, factor * (memory + compute), 0)


def launch_ms(parameters: Parameters, host: str) -> float:
    """Milliseconds of the host per layer."""
    return _value(parameters, "launch") * _value(parameters, f"host.{host}")


def sheet(spec: Device) -> tuple[float, float, float]:
    """Bandwidth (GB/s), peak rate (TFLOPS) and number of SMs; ValueError that names what is missing."""
    missing = [name for name in ("bandwidth_gbs", "fp32_tflops") if getattr(spec, name) is None]
    if missing or spec.kind != "gpu":
        reason = "is no GPU" if spec.kind != "gpu" else f"has no {' and no '.join(missing)}"
        raise ValueError(
            f"{spec.name} {reason}: its bandwidth_gbs and fp32_tflops are needed; or use make adapt"
        )
    return spec.bandwidth_gbs or 0.0, spec.fp32_tflops or 0.0, float(spec.sm or (spec.cores or 4096) / 64)


def family(spec: Device) -> str:
    """The generations before Volta, or those since."""
    return "family.before Volta" if spec.generation in BEFORE_VOLTA else "family.since Volta"


def study(target: Target) -> str:
    """Whose software: columns of one table share it."""
    return target.source.split(",")[0] or target.space


def _seen(device: Floats, host: Floats) -> Floats:
    """(n,) ms when device and host take so long."""
    return (device**R + host**R) ** (1 / R)


@dataclass(frozen=True, eq=False)
class GpuSpecLatency:
    """Milliseconds of one batch on one target: two slot tables, a million subnets/s on one core.

    `factors` are those of device and host (1 until something is measured), `covariance` (2, 2) that of their
    logarithms.
    """

    target: Target
    parameters: Parameters
    covariance: Floats
    noise: float  # relative, of a row around the model
    resolutions: tuple[int, int]
    factors: tuple[float, float] = (1.0, 1.0)
    study: str = ""  # "": software as the data sheet's mean
    facts: Mapping[str, Any] = field(default_factory=dict)
    history: History | None = None  # of `adapt`

    @property
    def relative_std(self) -> float:
        """Of a network that the GPU itself limits, not its host."""
        return float(np.sqrt(self.covariance[0, 0] + self.noise**2))

    def parts(self, genomes: Genomes) -> tuple[Floats, Floats]:
        """(n,), (n,) ms of the GPU and of its host, without the factors."""
        space, launch = get_space(self.target.space), launch_ms(self.parameters, host_of(self.target))
        device, layers = slot_table.tabulate(space, self._device), footprint.table(space, "layers")
        if device is not None and layers is not None:
            return device.evaluate(space, genomes), launch * layers.evaluate(space, genomes)
        table = space.layers(genomes)
        return self._device(table).sum(axis=1), launch * table.live.sum(axis=1)

    def _device(self, table: LayerTable) -> Floats:
        """(n, L) ms of the layers on the GPU."""
        return layer_ms(self.parameters, work(table, self.target.batch), self.target.spec, self.study)

    def predict(self, genomes: Genomes, target: Target) -> Prediction:
        """(n,) ms of canonical genomes of `target.space`; ValueError for another target or resolutions."""
        space_of(self, genomes, target)
        device, host = (factor * part for factor, part in zip(self.factors, self.parts(genomes), strict=True))
        mean = _seen(device, host)
        share = np.stack([(device / mean) ** R, (host / mean) ** R], axis=1)
        variance = np.einsum("ni,ij,nj->n", share, self.covariance, share) + self.noise**2
        return Prediction(mean, np.sqrt(variance) * mean)

    @with_history
    def adapt(self, data: LatencyData) -> "GpuSpecLatency":
        """The factors of device and host from a few measured subnets (1 is enough): the posterior's mode and
        covariance."""
        if data.target.key != self.target.key:
            raise ValueError(f"samples of {data.target.name} cannot adapt a predictor of {self.target.name}")
        if not len(data):
            raise ValueError("no sample to adapt with: measure at least 1 subnet")
        device, host = self.parts(data.genomes)
        logs, covariance, left = _factors(device, host, data.ms, self.covariance, self.noise)
        spread = float(np.sqrt((left @ left + 10 * self.noise**2) / (len(data) + 10)))
        return replace(
            self,
            factors=(float(np.exp(logs[0])), float(np.exp(logs[1]))),
            covariance=covariance,
            noise=spread,
            facts={**self.facts, "method": "gpu data sheet and anchors", "samples": len(data)},
        )

    def moved(self, shift: float, spread: float) -> "GpuSpecLatency":
        """With a GPU that takes exp(shift) times as long, known no better than by the spread (log)."""
        device, host = self.factors
        covariance = self.covariance + np.diag([spread**2, 0.0])
        return replace(self, factors=(device * math.exp(shift), host), covariance=covariance)

    def check(self) -> None:
        """ValueError for a covariance that is none of two factors."""
        if self.covariance.shape != (2, 2):
            raise ValueError(f"a covariance of shape {self.covariance.shape} is none of two factors")

    save = interface.save


def _factors(
    device: Floats, host: Floats, ms: Floats, prior: Floats, noise: float
) -> tuple[Floats, Floats, Floats]:
    """(2,) logarithms of the factors of device and host, their (2, 2) covariance, (n,) log residuals."""
    from scipy.optimize import least_squares

    whitened = np.linalg.inv(np.linalg.cholesky(prior))

    def residuals(logs: Floats) -> Floats:
        off = np.log(_seen(np.exp(logs[0]) * device, np.exp(logs[1]) * host) / ms)
        return np.concatenate([off / noise, whitened @ logs])

    best = least_squares(residuals, np.zeros(2), loss="soft_l1")
    return best.x, np.linalg.inv(best.jac.T @ best.jac), residuals(best.x)[: len(ms)] * noise


def _off_sheet(model: "GpuModel", sets: Sequence[LatencyData]) -> tuple[Floats, float]:
    """(2,) logarithms of the factors by which a GPU is off its data sheet, and the spread of its rows."""
    parts = [model.predictor(data.target).parts(data.genomes) for data in sets]
    device, host = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    ms = np.concatenate([data.ms for data in sets])
    logs, _, left = _factors(device, host, ms, np.diag(np.square(UNSEEN)), NOISE)
    return logs, robust.spread(left)


def _spread(logs: Floats, assumed: float) -> float:
    """The standard deviation whose normal 90% interval is as wide as Student's for one more such number.

    From (k,) logarithms about zero; the `assumed` spread counts like UNSEEN_WEIGHT of them.
    """
    from scipy.special import stdtrit

    variance = (logs @ logs + UNSEEN_WEIGHT * assumed**2) / (len(logs) + UNSEEN_WEIGHT)
    return float(stdtrit(len(logs) - 1, 0.95) / QUANTILE(0.95) * np.sqrt(variance))


def host_of(target: Target) -> str:
    """Whose launches: a GPU in the machine of one study."""
    return f"{target.spec.name}@{study(target)}"


@dataclass(frozen=True, eq=False)
class GpuModel:
    """What all known GPUs say; `predictor` applies it to one of its own choice or an unseen one."""

    parameters: Parameters
    spreads: tuple[float, float]  # log; of the factors of device and host of a GPU left out
    noise: float
    resolutions: Mapping[str, tuple[int, int]]  # by space
    facts: Mapping[str, Any] = field(default_factory=dict)

    def predictor(self, target: Target, study: str = "") -> GpuSpecLatency:
        """The predictor of a GPU target from its data sheet alone.

        ValueError for another kind of device, and for a space that no known GPU has timed.
        """
        sheet(target.spec)
        if target.space not in self.resolutions:
            raise ValueError(
                f"no known GPU has timed {target.space}, only {', '.join(self.resolutions)}: use make adapt"
            )
        return GpuSpecLatency(
            target=target,
            parameters=self.parameters,
            covariance=np.diag(np.square(self.spreads)),
            noise=self.noise,
            resolutions=self.resolutions[target.space],
            study=study,
            facts={**self.facts, "method": "gpu data sheet", "samples": 0},
        )

    def save(self, path: Path) -> None:
        """JSON, a few KB."""
        artifact.write_json(path, vars(self) | {"kind": MODEL_KIND})


def load_model(path: Path) -> GpuModel:
    """What all known GPUs say, as it ships (`latency/zoo/gpu_spec.json`)."""
    content = artifact.read_json(path)
    if content.pop("kind", None) != MODEL_KIND:
        raise ValueError(f"{path} holds no {MODEL_KIND}; left as it is, give another")
    return TypeAdapter(GpuModel).validate_python(content)


@options
class GpuSpec:
    """Fits the parameters on all known GPUs at once, and the spreads by leaving each of them out."""

    rows: Annotated[int, Field(ge=10)] = ROWS  # of each target that are used, evenly spaced
    iterations: PositiveInt = 60

    def fit(self, sets: Sequence[LatencyData]) -> GpuModel:
        """From measurements of several GPU targets, of any spaces; ValueError for none or other devices."""
        if not sets:
            raise ValueError("no GPU to learn from: give the measurements of at least one")
        used = [data.take(np.unique(np.linspace(0, len(data) - 1, self.rows).astype(int))) for data in sets]
        return replace(self._model(used, sets), **self._left_out(used, sets))

    def _left_out(self, used: Sequence[LatencyData], sets: Sequence[LatencyData]) -> dict[str, Any]:
        """Spreads and noise from predicting each GPU by the others, as software of an unknown study."""
        gpus = dict.fromkeys(data.target.spec.name for data in used)
        if len(gpus) < MIN_GPUS:
            return {}
        factors, noise = [], []
        for gpu in gpus:
            model = self._model([data for data in used if data.target.spec.name != gpu], sets)
            mine = [data for data in used if data.target.spec.name == gpu]
            for name in dict.fromkeys(study(data.target) for data in mine):
                logs, spread = _off_sheet(model, [data for data in mine if study(data.target) == name])
                factors.append(logs)
                noise.append(spread)
        spreads = tuple(map(_spread, np.array(factors).T, UNSEEN))
        return {"spreads": spreads, "noise": float(np.median(noise))}

    def _model(self, used: Sequence[LatencyData], sets: Sequence[LatencyData]) -> GpuModel:
        from scipy.optimize import least_squares

        parts = []
        for data in used:
            sheet(data.target.spec)
            layers = get_space(data.target.space).layers(data.genomes)
            parts.append((work(layers, data.target.batch), layers.live.sum(axis=1), data))
        prior = _prior([data.target for data in used])
        names = list(prior)
        middle, width = (np.array([prior[name][i] for name in names]) for i in (0, 1))

        def residuals(logs: Floats) -> Floats:
            tried = dict(zip(names, logs, strict=True))
            off = []
            for work, launches, data in parts:
                device = layer_ms(tried, work, data.target.spec, study(data.target)).sum(axis=1)
                seen = _seen(device, launch_ms(tried, host_of(data.target)) * launches)
                off.append(np.log(seen / data.ms) / NOISE / np.sqrt(max(len(data) / AGREEING, 1)))
            return np.concatenate([*off, (logs - middle) / width])

        most = np.array([0.0 if name.startswith(("bandwidth.", "rate.")) else np.inf for name in names])
        best = least_squares(
            residuals, middle, loss="soft_l1", bounds=(-np.inf, most), max_nfev=self.iterations
        )
        values = {name: float(f"{value:.5g}") for name, value in zip(names, best.x, strict=True)}
        facts = {"gpus": list(dict.fromkeys(data.target.name for data in used))}
        genomes: dict[str, list[Genomes]] = {}
        for data in sets:
            genomes.setdefault(data.target.space, []).append(data.genomes)
        resolutions = {
            name: get_space(name).resolution_range(np.concatenate(rows)) for name, rows in genomes.items()
        }
        return GpuModel(values, UNSEEN, NOISE, resolutions, facts)


def _prior(targets: Sequence[Target]) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation of the logarithm of every parameter."""
    prior = {
        f"{what}.{kind}": (math.log(median), spread)
        for what, shares in (("bandwidth", dict.fromkeys(KINDS, BANDWIDTH_SHARE)), ("rate", RATE_SHARE))
        for kind, (median, spread) in shares.items()
    }
    prior["occupancy"] = (math.log(OCCUPANCY[0]), OCCUPANCY[1])
    prior["launch"] = (math.log(LAUNCH_MS[0]), LAUNCH_MS[1])
    prior |= {family(t.spec): (0.0, FAMILY_SPREAD) for t in targets}
    prior |= {f"generation.{t.spec.generation}": (0.0, GENERATION_SPREAD) for t in targets}
    prior |= {f"study.{study(t)}": (0.0, STUDY_SPREAD) for t in targets}
    return prior | {f"host.{host_of(t)}": (0.0, HOST_SPREAD) for t in targets}
