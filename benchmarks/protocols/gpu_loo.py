"""Latency of a GPU from its data sheet: whole GPUs left out, on HELP's OFA latencies (four rotations).

Trained on the other three GPUs of HELP (rows 0-2999, batch 1, 32, 64, width 1.2) and on the two of OFANAS
(arXiv 2101.00732; batch 64, width 1.0; not the 2080 Ti when that is left out); rows 3500-3999 of the
left-out GPU are reported, with `validation` rows 3000-3499. There are no other GPUs to choose on, so the
form was settled on FBNet and NAS-Bench-201 and, with four GPUs in view, on rows 3000-3499
(`latency/predictors/gpu_spec.py`). N counts measured subnets of the left-out GPU, per batch size. "Data
sheet" is what a user gets, whose software no study here has timed; "study known" has the factor that the
other GPUs of the same table taught, as in the protocol of OFANAS, where all GPUs are of one study. The
networks are those of OFANAS: three raw scalars (CUDA cores, RAM, bandwidth) as further inputs, the batch
size beside them, and the same with logarithms and our training.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from benchmarks.protocols import protocol
from latency.data import LatencyData
from latency.perceptron import Training
from latency.predictors.additive import Additive
from latency.predictors.gpu_spec import GpuSpec, study
from latency.predictors.neural import Neural, NeuralLatency
from latency.predictors.transfer import Transfer
from latency.target import Target
from supernet.arrays import Floats, Genomes

FITTED, NETWORK_ROWS = 3000, 300
ANCHORS = (1, 3, 10)
RAW = Training(
    epochs=60, batch=32, learning_rate=1e-5, weight_decay=0.0,
    loss="rmse", optimiser="sgd", schedule="constant",
)  # fmt: skip


def tables(setting: protocol.Setting) -> list[tuple[protocol.Table, slice]]:
    """The tables of GPUs of the OFA spaces and their rows to fit on; each a study of its own."""
    studies = []
    for (file, space), rows in ((protocol.HELP_OFA, FITTED), (protocol.OFANAS, 7000)):
        table = protocol.read(setting.data, file, space)
        targets = {name: replace(target, source=file) for name, target in table.targets.items()}
        studies.append((replace(table, targets=targets), slice(0, rows)))
    return studies


def known_gpus(setting: protocol.Setting, without: str) -> list[LatencyData]:
    """The measurements of all GPUs but one."""
    return [
        table.data(name, rows)
        for table, rows in tables(setting)
        for name, target in table.targets.items()
        if target.spec.kind == "gpu" and target.spec.name != without
    ]


def raw(target: Target) -> Floats:
    """(4,) the scalars of OFANAS as they are, and the batch size."""
    spec = target.spec
    return np.array([spec.cores or 0, spec.ram_gb or 0, spec.bandwidth_gbs or 0, target.batch], float)


def scaled(target: Target) -> Floats:
    """(4,) their logarithms, of the order of one."""
    return np.log(raw(target) / np.array([4000, 12, 600, 32]))


NETWORKS: dict[str, tuple[Neural, Callable[[Target], Floats]]] = {
    "network, three raw scalars of OFANAS": (Neural(log=False, standardise=False, training=RAW), raw),
    "network, logarithms of the scalars": (Neural(training=Training(epochs=60, batch=64)), scaled),
}


def run(setting: protocol.Setting) -> Iterator[protocol.Row]:
    (table, rows), _ = tables(setting)
    test = protocol.help_rows(setting)
    rotations: dict[str, list[str]] = {}
    for name in protocol.names_of(setting, table):
        rotations.setdefault(protocol.gpu(name), []).append(name)
    for names in rotations.values():
        left_out = protocol.split(setting, table, names[0], rows, test, 0).test.target
        if left_out.spec.bandwidth_gbs is None:
            continue  # a further device without data sheet
        gpus = known_gpus(setting, left_out.spec.name)
        model = GpuSpec(rows=60).fit(gpus) if setting.small else GpuSpec().fit(gpus)
        help_only = [data for data in gpus if data.target.space == table.space]
        sources = [protocol.source(Additive(ridge=1e-2), data) for data in help_only]
        some = [data.take(slice(0, NETWORK_ROWS)) for data in help_only]
        for seed, rng in setting.draws():
            trained = {}
            for method, (how, facts) in NETWORKS.items():
                how = replace(how, seed=seed, training=setting.epochs(how.training))
                trained[method] = how.fit_many(some, [facts(data.target) for data in some]), facts
            for name in names:
                parts = protocol.split(setting, table, name, rows, test, seed)
                target, row = parts.test.target, protocol.Row("gpu_loo", "", name, 0, seed, "all", {})
                own_study = study(table.targets[name]) if name in table.targets else ""
                ways: dict[str, protocol.Fit] = {
                    method: partial(_network, net, facts, target) for method, (net, facts) in trained.items()
                }
                if seed == 0:
                    ways |= {
                        "data sheet (ours)": protocol.fitting(model.predictor, target),
                        "data sheet, study known (ours)": protocol.fitting(
                            model.predictor, target, own_study
                        ),
                        "nearest GPU x bandwidth": protocol.fitting(
                            Transfer().from_specification, target, sources
                        ),
                        "constant (mean of the others)": partial(_constant, help_only, target),
                    }
                yield from protocol.compare(row, ways, parts.test)
                for n in setting.some(ANCHORS):
                    samples = parts.draw(n, rng)
                    sheet = model.predictor(target)
                    few = {"data sheet and anchors (ours)": protocol.fitting(sheet.adapt, samples)}
                    if n >= 3:
                        few["transfer"] = protocol.fitting(Transfer().fit_from, sources, samples)
                    yield from protocol.compare(replace(row, n=n), few, parts.test)


def _network(
    net: NeuralLatency, facts: Callable[[Target], Floats], target: Target
) -> Callable[[Genomes], Floats]:
    return replace(net, target=target, context=facts(target)).ms


def _constant(known: Sequence[LatencyData], target: Target) -> Callable[[Genomes], Floats]:
    ms = np.concatenate([data.ms for data in known if data.target.batch == target.batch])
    return lambda genomes: np.full(len(genomes), ms.mean())
