"""Times of single GPU kernels and of whole networks under AMP from data sheets: each GPU left out in turn.

`gpu_kernels`: NeuSight's kernels in fp32 (arXiv 2407.13853), whose software the other GPUs of its table tell.
`gpu_networks`: the convolutional networks of timm, eager, at their largest batch, of software that nothing is
known of. The model of GPU time is fitted on all other GPUs, as in `gpu_loo`. "Roofline" is the usual simple
model: the larger of MACs over the peak rate and bytes over the bandwidth, times the mean efficiency that the
other GPUs show for the operator. Odd rows of a fixed random order are reported, with `validation` the even
ones, where the form was chosen (its first sketches saw a sample of all). `test_rows` (the columns of
`gpu_kernels.csv.gz`) scores kernels of further devices, whose data sheets are in `hardware.csv` of the data
folder.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from benchmarks.protocols import gpu_loo, protocol
from latency.gpu import measurements, traced
from latency.gpu.kernels import Kind
from latency.gpu.measurements import Group
from latency.gpu.model import GpuModel
from latency.scores import scores
from supernet.arrays import Floats
from supernet.files.tables import read_columns
from supernet.prediction import Prediction, exact

CONVOLUTIONS = (Kind.CONV, Kind.POINTWISE, Kind.DEPTHWISE)
MOST_GMACS, CONVOLUTIONAL = 2.0, 0.8  # of the networks that are reported; share of convolutions in their MACs


def kernels(setting: protocol.Setting) -> Iterator[protocol.Row]:
    """The rows of the table of single kernels, a GPU after the other."""
    file = setting.test_rows or setting.data / measurements.KERNELS
    test = list(measurements.of_kernels(read_columns(file), setting.data))
    if setting.test_rows is None:
        test = [_part(group, setting) for group in test]
    groups = gpu_loo.measured(setting)
    for gpu in setting.some(list(dict.fromkeys(group.chip.name for group in test))):
        others = [group for group in groups if group.chip.name != gpu]
        known = gpu_loo.learner(setting).without_calibration(others)
        for group in test:
            if group.chip.name == gpu:
                told = known.times(group.chip, measurements.NEUSIGHT).ms(group.kernels)
                yield _row("gpu_kernels", "data sheet (ours)", group, exact(told))
                yield _row("gpu_kernels", "roofline", group, exact(_by_roofline(group, others)))


def networks(setting: protocol.Setting) -> Iterator[protocol.Row]:
    """The rows of the table of timm's convolutional networks, a GPU after the other."""
    groups = gpu_loo.measured(setting)
    most = gpu_loo.FEW if setting.small else None
    test = [_convolutional(group) for group in traced.groups(setting.data, most, MOST_GMACS)]
    for gpu in setting.some(list(dict.fromkeys(group.chip.name for group in test))):
        others = [group for group in groups if group.chip.name != gpu]
        known = gpu_loo.model(setting, others, [gpu])
        for group in test:
            if group.chip.name == gpu:
                own = _part(group, setting)
                yield _row("gpu_networks", "data sheet (ours)", own, _told(known, own))
                yield _row("gpu_networks", "roofline", own, exact(_by_roofline(own, others)))


def _part(group: Group, setting: protocol.Setting) -> Group:
    """The rows that are reported; the order of a group's rows is random."""
    return group.take(np.arange(0 if setting.validation else 1, len(group), 2))


def _row(name: str, method: str, group: Group, predicted: Prediction) -> protocol.Row:
    errors = scores(predicted, group.ms)
    if not predicted.std.any():
        errors["coverage_90"] = float("nan")
    target = f"{group.chip.name} {group.label if group.alone else group.source}"
    return protocol.Row(name, method, target, 0, None, "all", errors)


def _told(known: GpuModel, group: Group) -> Prediction:
    mean, shares = known.errors.mean_and_shares(known.times(group.chip).parts_of(group))
    variance = np.einsum("ni,ij,nj->n", shares, known.errors.covariance, shares)
    return Prediction(mean, np.sqrt(variance + known.errors.rows_noise(shares) ** 2) * mean)


def _convolutional(group: Group) -> Group:
    """The networks that are mostly convolutions."""
    kernels = group.kernels.take(group.kernel)
    macs = kernels.macs * group.count
    convolved = np.bincount(group.network, macs * np.isin(kernels.kind, CONVOLUTIONS), len(group))
    attention = np.bincount(group.network, kernels.kind == Kind.BATCHED, len(group)) > 0
    total = np.bincount(group.network, macs, len(group))
    return group.take(np.flatnonzero((convolved > CONVOLUTIONAL * total) & ~attention))


def _roofline(group: Group) -> Floats:
    """(m,) ms at peak rate and full bandwidth."""
    kernels, spec = group.kernels, group.chip
    compute, bytes_moved = kernels.macs / spec.matrix, spec.bytes * (kernels.maps + kernels.weights)
    each = np.maximum(compute, bytes_moved / spec.bandwidth)
    return np.asarray(np.bincount(group.network, group.count * each[group.kernel], len(group)), float)


def _by_roofline(group: Group, others: Sequence[Group]) -> Floats:
    """(m,) ms with the efficiency (median of the logarithm) of the same operator on the other GPUs."""
    same = [other for other in others if (other.label, other.alone) == (group.label, group.alone)]
    efficiencies = [np.median(np.log(other.ms / _roofline(other))) for other in same]
    return np.asarray(_roofline(group) * np.exp(np.mean(efficiencies) if efficiencies else 0.0))
