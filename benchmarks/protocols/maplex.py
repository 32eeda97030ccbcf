"""MAPLE and MAPLE-X with and without their parts where devices differ, beside our transfer and simpler ways.

Of each target N = 3, 5 or 10 random networks are the samples. The formulas of both parts of MAPLE-X are ours
(`latency.predictors.maple`). What is known of other devices, and what describes a device:

- `maplex_engines`: 14 devices of one machine, measured by us (`latency/zoo/devices.py`), described by
  operators timed on them. All devices of the target's *engine* are left out. The other samples of the target
  judge. The papers' network is trained for N=10 and `NETWORK_SEEDS` seed only: three seconds a fit.
- `maplex_isa`: the same with all devices held to the target's *instruction set* left out (or all that are
  held to none).
- `maplex_sheets`: HELP's GPUs with the whole *GPU* left out, beside a CPU and a phone whose lookup tables
  ship; data sheets describe them. And our 14 devices and OFANAS's two GPUs together: all have a data sheet,
  the GPUs no operators, which are masked; the engine (or the GPU) is left out.
- `maplex_cells`: NAS-Bench-201 on HELP's split of its devices, described by the latencies of the samples
  alone. N = 13, 15, 20 add HELP's ten reference architectures, which count in N; HELP has N=20.
- `maplex_settings`: all 27 settings of NAS-Bench-201, the device of the target left out at all batch sizes.

Choices were made with `validation=1`: on VALIDATION in the first three, on HELP's validation devices in the
last two; on rows 3000-3499 of HELP's GPUs where 3500-3999 are reported.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from benchmarks.protocols import help_ranks, protocol
from latency.data import LatencyData
from latency.descriptors import Descriptor, KnownDevice, specification
from latency.predictors.additive import Additive
from latency.predictors.ensemble import Ensemble, denoised
from latency.predictors.maple import Maple, likeliest
from latency.predictors.sources import Source
from latency.predictors.transfer import Transfer
from latency.target import Target
from latency.zoo import catalogue, devices
from supernet.arrays import Ints, Rng
from supernet.space import get_space

VALIDATION = ("ort_fp32_b1", "ov_fp32_avx_b1", "ov_int8_b1", "eager_fp32_b8")
COUNTS = (3, 5, 10)
NETWORK_SEEDS = 1
HELP_FITTED = slice(0, 3000)  # rows of HELP's GPUs that sources and samples come from
HELP_SIDES, OFANAS_SIDES = (128, 224), (160, 224)  # input sides that were timed
LEARNED = 75  # rows of each known device of a public table
RIDGE = 0.01  # of the sources of transfer there, on every second row: a quarter of the time
OFANAS_GPUS = ("rtx2080ti_64", "tesla_p40_64")
BESIDE = ("i7_8700k_lut_w1.2", "note10_lut")  # a CPU and a phone of the space of HELP's GPUs
COST = (
    "Devices of one machine: the descriptor is 13 operators timed on the target (3 to 7 s of CPU time), no "
    "networks; it is no part of N."
)
PARTS = {
    "MAPLE": Maple(virtual=False, importance=False),
    "MAPLE + virtual examples": Maple(virtual=True, importance=False),
    "MAPLE + importance": Maple(virtual=False, importance=True),
    "MAPLE-X (both)": Maple(virtual=True, importance=True),
}
SMOOTH = {label: replace(learner, smooth=True, rows=LEARNED) for label, learner in PARTS.items()}
Draw = Callable[[Rng], tuple[LatencyData, LatencyData]]  # samples, as many as are ever taken; and the judges


@dataclass(frozen=True, eq=False)
class Case:
    """A target, what is known of other devices, and the ways to predict it."""

    name: str
    draw: Draw
    descriptor: Descriptor
    known: Sequence[KnownDevice]
    sources: Sequence[Source]
    learners: Mapping[str, Maple] = field(default_factory=lambda: PARTS)
    ours: Transfer | Ensemble = field(default_factory=Transfer)
    counts: Sequence[int] = COUNTS
    parts: Sequence[str] = protocol.PARTS[:1]
    network_seeds: int = 0
    note: str = ""


Cases = Callable[[protocol.Setting], Iterator[Case]]


def rows(name: str, cases: Cases, setting: protocol.Setting) -> Iterator[protocol.Row]:
    """The scores of every case, then their means over the targets."""
    scored: list[protocol.Row] = []
    for case in cases(setting):
        smooth = next(iter(case.learners.values())).smooth
        strengths = likeliest(case.known, smooth=smooth)
        for seed, rng in setting.draws():
            pool, test = case.draw(rng)
            for n in setting.some(case.counts):
                samples = pool.take(slice(0, n))
                ways = {
                    label: protocol.fitting(how.fit_from, case.known, samples, case.descriptor, strengths)
                    for label, how in case.learners.items()
                }
                if n == max(COUNTS) and seed < case.network_seeds:
                    for label, how in case.learners.items():
                        network = replace(how, form="network", training=setting.epochs(how.training))
                        fit = protocol.fitting(network.fit_from, case.known, samples, case.descriptor)
                        ways[f"{label}, network"] = fit
                ways["transfer"] = protocol.fitting(case.ours.fit_from, case.sources, samples)
                ways |= protocol.simple(case.sources, samples)
                row = protocol.Row(name, "", case.name, n, seed, "all", {}, note=case.note)
                for one in protocol.compare(row, ways, test, case.parts, timed_on=0):
                    scored.append(one)
                    yield one
    yield from protocol.means(scored)


# ---------------------------------------------------------------------- devices of one machine
def _measured(setting: protocol.Setting) -> dict[str, tuple[LatencyData, Descriptor]]:
    """{name: latencies, operators} of our devices."""
    names = devices.names()[:: 2 if setting.small else 1]  # some of each engine and instruction set
    loaded = {name: devices.load(name) for name in names}
    return {name: (data, operators.descriptor()) for name, (data, operators) in loaded.items()}


def _leaving_out(
    same: Callable[[Target], object], network_seeds: int, setting: protocol.Setting
) -> Iterator[Case]:
    """Our devices; of those known, all are left out that are the `same` as the target."""
    measured = _measured(setting)
    known = {name: KnownDevice(data, described) for name, (data, described) in measured.items()}
    transfer, shipped, own = _own_sources({name: data for name, (data, _) in measured.items()})
    for name in setting.some([name for name in measured if (name in VALIDATION) == setting.validation]):
        data, described = measured[name]
        others = [other for other, (its, _) in measured.items() if same(its.target) != same(data.target)]
        further = [
            source
            for source in shipped
            if source.target is None
            or source.target.spec.kind != "cpu"
            or same(source.target) != same(data.target)
        ]
        yield Case(
            name,
            partial(_halved, data),
            described,
            [known[other] for other in others],
            [*(own[other] for other in others), *further],
            ours=transfer,
            network_seeds=network_seeds,
            note=COST,
        )


def _halved(data: LatencyData, rng: Rng) -> tuple[LatencyData, LatencyData]:
    """The samples, and all other rows."""
    order = rng.permutation(len(data))
    return data.take(order[: max(COUNTS)]), data.take(order[max(COUNTS) :])


def _own_sources(measured: Mapping[str, LatencyData]) -> tuple[Transfer, list[Source], dict[str, Source]]:
    """Our learner, what it knows of shipped predictors, and each device as a mix of these by all its rows."""
    space = get_space(next(iter(measured.values())).target.space)
    sides = space.column(np.concatenate([data.genomes for data in measured.values()]), "r")
    transfer = Transfer(resolutions=(int(sides.min()), int(sides.max())))
    shipped, own = transfer.sources(space), {}
    for name, data in measured.items():
        fitted = transfer.fit_from(shipped, data)
        own[name] = Source(name, fitted.table, fitted.resolutions, data.target)
    return transfer, shipped, own


# ---------------------------------------------------------------------- data sheets
def _sheet(target: Target) -> Descriptor:
    """The data sheet of a target and its batch size."""
    return {devices.SHEET: specification(target.spec), "batch": np.log([target.batch])}


def _sheets(setting: protocol.Setting) -> Iterator[Case]:
    yield from _gpus_beside(setting)
    yield from _together(setting)


def _gpus_beside(setting: protocol.Setting) -> Iterator[Case]:
    """HELP's GPUs, beside a CPU and a phone."""
    table = protocol.read(setting.data, *protocol.HELP_OFA)
    how, rng = Additive(ridge=RIDGE), np.random.default_rng(0)
    names = setting.few(table.columns)
    every_second = slice(HELP_FITTED.start, HELP_FITTED.stop, 2)
    sources = {name: protocol.source(how, table.data(name, every_second)) for name in names}
    every_fourth = slice(HELP_FITTED.start, HELP_FITTED.stop, 4)
    known = {name: _with_sheet(table.data(name, every_fourth)) for name in names}
    shipped = Transfer(resolutions=HELP_SIDES).sources(get_space(table.space))
    tables = [source for source in shipped if source.target is None or source.name in BESIDE]
    beside = [devices.latencies_by([catalogue.predictor(name)], rng)[0] for name in BESIDE]
    for name in setting.some(list(table.columns)):
        others = [other for other in names if protocol.gpu(other) != protocol.gpu(name)]
        yield Case(
            name,
            partial(_drawn, table.data(name, HELP_FITTED), table.data(name, protocol.help_rows(setting))),
            _sheet(table.targets[name]),
            [*(known[other] for other in others), *map(_with_sheet, beside)],
            [*(sources[other] for other in others), *tables],
            learners=SMOOTH,
        )


def _with_sheet(data: LatencyData) -> KnownDevice:
    return KnownDevice(data, _sheet(data.target))


def _drawn(pool: LatencyData, test: LatencyData, rng: Rng) -> tuple[LatencyData, LatencyData]:
    """Samples from the pool, and the test rows."""
    return pool.take(rng.choice(len(pool), max(COUNTS), replace=False)), test


def _together(setting: protocol.Setting) -> Iterator[Case]:
    """Our devices and OFANAS's GPUs; a GPU has no operators."""
    table = protocol.read(setting.data, *protocol.OFANAS)
    space = get_space(table.space)
    measured: dict[str, tuple[LatencyData, Descriptor]] = {}
    for name, (data, operators) in _measured(setting).items():
        sides = space.column(data.genomes, "r")
        inside = data.take(np.flatnonzero((sides >= OFANAS_SIDES[0]) & (sides <= OFANAS_SIDES[1])))
        measured[name] = inside, {**operators, **_sheet(data.target)}
    transfer, shipped, own = _own_sources({name: data for name, (data, _) in measured.items()})
    for name in OFANAS_GPUS:
        data = table.data(name, slice(0, 7000, 10))
        measured[name] = data, _sheet(data.target)
    known = {name: KnownDevice(data, described) for name, (data, described) in measured.items()}

    def alike(one: Target, other: Target) -> bool:
        """Of the same engine on CPUs, the same device otherwise."""
        engines = one.spec.kind == other.spec.kind == "cpu" and one.engine == other.engine
        gpus = one.spec.kind == other.spec.kind == "gpu"
        return engines or (gpus and one.spec.name == other.spec.name)

    for name in setting.some([name for name in measured if (name in VALIDATION) == setting.validation]):
        data, described = measured[name]
        others = [other for other, (its, _) in measured.items() if not alike(its.target, data.target)]
        further = [s for s in shipped if s.target is None or not alike(s.target, data.target)]
        yield Case(
            name,
            partial(_halved, data),
            described,
            [known[other] for other in others],
            [*(own[other] for other in others if other in own), *further],
            learners=SMOOTH,
            ours=transfer,
        )


# ---------------------------------------------------------------------- NAS-Bench-201
def _cells(setting: protocol.Setting) -> Iterator[Case]:
    """HELP's split; after the samples alone, its reference architectures and more samples."""
    table, helps, pool, query = _help_cells(setting)
    known, sources = _known_cells(table, setting.few(helps["train"]), pool)
    for name in setting.some(helps["valid" if setting.validation else "test"]):
        draw = partial(_drawn, table.data(name, pool), table.data(name, query))
        reference = table.data(name, np.array(helps["reference_archs"]))
        case = partial(Case, descriptor={}, known=known, sources=sources, learners=SMOOTH, ours=Ensemble())
        yield case(name, draw, parts=protocol.PARTS)
        more = [len(reference) + n for n in COUNTS]
        yield case(name, partial(_after, reference, draw), counts=more, parts=protocol.PARTS)


def _after(first: LatencyData, draw: Draw, rng: Rng) -> tuple[LatencyData, LatencyData]:
    """The same draw with other samples before its own."""
    samples, test = draw(rng)
    return first.followed_by(samples), test


def _settings(setting: protocol.Setting) -> Iterator[Case]:
    """All settings; of the target's device none is known."""
    table, helps, pool, query = _help_cells(setting)
    names = setting.few(table.columns)
    known, sources = _known_cells(table, names, pool)
    asked = [name for name in table.columns if (name in helps["valid"]) == setting.validation]
    for name in setting.some(asked):
        device = table.targets[name].spec.name
        kept = [i for i, other in enumerate(names) if table.targets[other].spec.name != device]
        yield Case(
            name,
            partial(_drawn, table.data(name, pool), table.data(name, query)),
            {},
            [known[i] for i in kept],
            [sources[i] for i in kept],
            learners=SMOOTH,
            ours=Ensemble(),
        )


def _help_cells(setting: protocol.Setting) -> tuple[protocol.Table, dict[str, Any], Ints, Ints]:
    """The table, HELP's lists of devices, and the rows of samples and judges, references in neither."""
    helps = json.loads((setting.data / "latency_splits.json").read_text())["help"]["nasbench201"]
    table = protocol.read(setting.data, help_ranks.FILES["nasbench201"], "nasbench201")
    rows_of_help = np.arange(helps["train_pool"] + helps["query"])
    others = np.setdiff1d(rows_of_help, helps["reference_archs"])
    return table, helps, others[others < helps["train_pool"]], others[others >= helps["train_pool"]]


def _known_cells(
    table: protocol.Table, names: Sequence[str], pool: Ints
) -> tuple[list[KnownDevice], list[Source]]:
    """Settings of NAS-Bench-201 as MAPLE and as the ensemble know them."""
    train = [table.data(name, pool) for name in names]
    return [KnownDevice(data, {}) for data in train], [denoised(data) for data in train]


def _cells_with_published(setting: protocol.Setting) -> Iterator[protocol.Row]:
    if not setting.validation:
        yield from help_ranks.published("maplex_cells", "nasbench201")
    yield from rows("maplex_cells", _cells, setting)


PROTOCOLS: dict[str, Callable[[protocol.Setting], Iterator[protocol.Row]]] = {
    "maplex_engines": partial(
        rows, "maplex_engines", partial(_leaving_out, lambda target: target.engine, NETWORK_SEEDS)
    ),
    "maplex_isa": partial(rows, "maplex_isa", partial(_leaving_out, lambda target: target.isa, 0)),
    "maplex_sheets": partial(rows, "maplex_sheets", _sheets),
    "maplex_cells": _cells_with_published,
    "maplex_settings": partial(rows, "maplex_settings", _settings),
}
