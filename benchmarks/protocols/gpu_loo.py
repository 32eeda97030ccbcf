"""Latency of a GPU from its data sheet: whole GPUs left out, on HELP's OFA latencies (four rotations).

The model of GPU time is fitted on all other GPUs: the other three of HELP (rows 0-2999, batch 1, 32, 64), the
two of OFANAS (arXiv 2101.00732; rows 0-6999, batch 64), NeuSight's kernels (arXiv 2407.13853) and timm's
networks. Nothing tells it of the software of the GPU that is left out: its laboratory is unknown even where
it timed other GPUs too. Its intervals come from leaving out each of those other GPUs in the same way. "Chip
left out too" leaves out the other GPUs with the same chip. Rows 3500-3999 are reported, with `validation`
rows 3000-3499, where the form was chosen. N counts measured subnets of the left-out GPU, per batch size. The
networks are learners of `make fit`, with two seeds: that of OFANAS has three raw scalars (CUDA cores, RAM,
bandwidth) as further inputs and the batch size beside them; ours have their logarithms, or say multiples of
the roofline.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np

from benchmarks.protocols import protocol, s1
from latency.data import LatencyData
from latency.gpu import measurements, traced
from latency.gpu.calibration import GpuTimes
from latency.gpu.measurements import Group, of_latencies
from latency.gpu.model import GpuModel
from latency.predictors.additive import Additive
from latency.predictors.transfer import Transfer
from latency.target import Target
from supernet.arrays import Floats, Genomes
from supernet.files.tables import read_columns

FITTED = {protocol.HELP_OFA: 3000, protocol.OFANAS: 7000}
NETWORK_ROWS, NETWORK_SEEDS = 300, 2
ANCHORS = (1, 3, 10)
SAME_CHIP = {
    "rtx_2080ti": ("titan_rtx",),
    "titan_rtx": ("rtx_2080ti",),
    "titan_xp": ("tesla_p40",),
    "v100": ("v100_pcie",),
}
FEW = 20  # of each operator and of each run of timm, in a small run
NETWORKS: dict[str, dict[str, str]] = {  # learners of fit; HELP has sides between those that OFANAS encodes
    "network, three raw scalars of OFANAS": {"name": "s1_gpus", "encoding": "one_hot"},
    "network, logarithms of the scalars": {"name": "neural", "inputs": "logarithms"},
    "network over the roofline": {"name": "neural", "inputs": "physical"},
}


def help_gpus(setting: protocol.Setting, without: str) -> list[LatencyData]:
    """The measurements of HELP's GPUs but one."""
    table = protocol.read(setting.data, *protocol.HELP_OFA)
    rows = slice(0, FITTED[protocol.HELP_OFA])
    return [table.data(name, rows) for name, t in table.targets.items() if t.spec.name != without]


def measured(setting: protocol.Setting) -> list[Group]:
    """All that the model of GPU time learns from, but for rows that are reported; in a small run without the
    networks of timm, which have to be traced."""
    groups = []
    for (file, space), past in FITTED.items():
        table = protocol.read(setting.data, file, space)
        gpus = [name for name, target in table.targets.items() if target.spec.kind == "gpu"]
        groups += [of_latencies(table.data(name, slice(0, past)), file) for name in gpus]
    groups += measurements.of_kernels(read_columns(setting.data / measurements.KERNELS), setting.data)
    return groups if setting.small else [*groups, *traced.groups(setting.data)]


def model(setting: protocol.Setting, groups: Sequence[Group], without: Sequence[str]) -> GpuModel:
    """The model of all GPUs but these."""
    return learner(setting).fit([group for group in groups if group.chip.name not in without])


def learner(setting: protocol.Setting) -> GpuTimes:
    """The fit that ships, or a short one."""
    return GpuTimes(rows=20, more=FEW, iterations=10) if setting.small else GpuTimes()


def run(setting: protocol.Setting) -> Iterator[protocol.Row]:
    """The rows of the table, a GPU after the other."""
    table = protocol.read(setting.data, *protocol.HELP_OFA)
    rotations: dict[str, list[str]] = {}
    for name in protocol.names_of(setting, table):
        rotations.setdefault(protocol.gpu(name), []).append(name)
    groups = measured(setting)
    for names in rotations.values():
        left_out = _split(setting, table, names[0], 0).test.target
        if left_out.spec.bandwidth_gbs is None:
            continue  # a further device without data sheet
        gpu = left_out.spec.name
        known = model(setting, groups, [gpu])
        models = {"data sheet (ours)": known}
        if same := SAME_CHIP.get(gpu):
            models["data sheet, chip left out too (ours)"] = model(setting, groups, [gpu, *same])
        for name in names:
            yield from _without_samples(setting, table, name, models)
            for seed, rng in setting.draws():
                yield from _anchored(setting, _split(setting, table, name, seed), known, (seed, rng))
        yield from _networks(setting, table, names, gpu)


def _split(setting: protocol.Setting, table: protocol.Table, name: str, seed: int) -> protocol.Split:
    rows = slice(0, FITTED[protocol.HELP_OFA])
    return protocol.split(setting, table, name, rows, protocol.help_rows(setting), seed)


def _row(target: Target, n: int, seed: int) -> protocol.Row:
    return protocol.Row("gpu_loo", "", target.name, n, seed, "all", {})


def _without_samples(
    setting: protocol.Setting, table: protocol.Table, name: str, models: Mapping[str, GpuModel]
) -> Iterator[protocol.Row]:
    """Of what no sample is needed for."""
    test = _split(setting, table, name, 0).test
    target, others = test.target, help_gpus(setting, test.target.spec.name)
    sources = [protocol.source(Additive(ridge=1e-2), data) for data in others]
    ways = {method: protocol.fitting(one.predictor, target) for method, one in models.items()}
    ways |= {
        "nearest GPU x bandwidth": protocol.fitting(Transfer().from_specification, target, sources),
        "constant (mean of the others)": partial(_constant, others, target),
    }
    yield from protocol.compare(_row(target, 0, 0), ways, test)


def _anchored(
    setting: protocol.Setting,
    parts: protocol.Split,
    known: GpuModel,
    draw: tuple[int, np.random.Generator],
) -> Iterator[protocol.Row]:
    """Of a few measured subnets, drawn at random."""
    target, (seed, rng) = parts.test.target, draw
    sheet = known.predictor(target)
    for n in setting.some(ANCHORS):
        samples = parts.draw(n, rng)
        few = {"data sheet and anchors (ours)": protocol.fitting(sheet.adapt, samples)}
        if n >= 3:
            others = help_gpus(setting, target.spec.name)
            sources = [protocol.source(Additive(ridge=1e-2), data) for data in others]
            few["transfer"] = protocol.fitting(Transfer().fit_from, sources, samples)
        yield from protocol.compare(_row(target, n, seed), few, parts.test)


def _networks(
    setting: protocol.Setting, table: protocol.Table, names: Sequence[str], gpu: str
) -> Iterator[protocol.Row]:
    """Of networks with the figures of data sheets among their inputs."""
    some = [data.take(slice(0, NETWORK_ROWS)) for data in help_gpus(setting, gpu)]
    for seed, _ in setting.draws(NETWORK_SEEDS):
        for method, options in NETWORKS.items():
            network = s1.learner(setting, seed=seed, **options).fit_many(some)
            for name in names:
                test = _split(setting, table, name, seed).test
                ways = {method: protocol.fitting(network.at, test.target)}
                yield from protocol.compare(_row(test.target, 0, seed), ways, test)


def _constant(known: Sequence[LatencyData], target: Target) -> Callable[[Genomes], Floats]:
    ms = np.concatenate([data.ms for data in known if data.target.batch == target.batch])
    return lambda genomes: np.full(len(genomes), ms.mean())
