"""MAPLE and MAPLE-X with and without their parts, beside our transfer and simpler ways.

(a) Devices of this machine, measured by us (`latency/zoo/devices.py`): each left out in turn, N random
subnets of it as samples, all its others scored; the other 13 are known. VALIDATION names the devices that
choices were made on; the others are reported. Besides the raw scores, those of what a log-log line in MACs,
fitted on all rows of the device, leaves (`residual_r2`, `residual_spearman`): on a CPU MACs explain nearly
everything. The papers' network is trained for N=10 and one seed only, without parts and with both:
three seconds a fit.
(b) HELP's OFA latencies with the whole GPU left out (rows 3500-3999 reported, 3000-3499 for choices), and
NAS-Bench-201 on HELP's split of devices (test devices reported, validation devices for choices). These
devices have no counters or operators: the descriptor is the data sheet with the samples' latencies, which
count in N.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache, partial

import numpy as np

from benchmarks.protocols.protocol import (
    Fit,
    Row,
    Setting,
    Table,
    draws,
    fitting,
    judged,
    judged_parts,
    names_of,
    read,
    split,
)
from latency.data import LatencyData
from latency.descriptors import KnownDevice, specification
from latency.predictors.additive import Additive
from latency.predictors.ensemble import Ensemble, denoised
from latency.predictors.maple import Maple, MaplePredictor, Strengths, likeliest
from latency.predictors.sources import Source, sources_of
from latency.predictors.transfer import Transfer
from latency.zoo import adaptation, devices
from supernet import footprint
from supernet.arrays import Floats, Genomes
from supernet.prediction import Prediction
from supernet.space import get_space

NAME = "maplex_ablation"
VALIDATION = ("ort_fp32_b1", "ov_fp32_avx_b1", "ov_int8_b1", "eager_fp32_b8")
OWN_COUNTS, NETWORK_COUNT, NETWORK_SEEDS = (3, 10, 30), 10, 1
NETWORKS = ("MAPLE", "MAPLE-X (both)")
SEEDS = {"own": 3, "ofa": 2, "cells": 2}  # at most: the whole protocol takes about four minutes
OFA, OFA_COUNTS, OFA_FITTED = ("ofa_mbv3_gpu_latency.csv.gz", "ofa_mbv3_w1.2"), (3, 10, 100), 3000
CELLS, CELLS_COUNTS, CELLS_FITTED = ("nasbench201_latency.csv.gz", "nasbench201"), (10, 100), 900
LEARNED = 75  # rows of each known device of (b)
RIDGE = 0.01  # of the sources of `transfer` in (b), on every second row: a quarter of the time
COST = (
    "Devices of this machine: the descriptor is 13 operators timed on the target (3 to 7 s of CPU time), no "
    "subnets; it is no part of N."
)
PARTS = {
    "MAPLE": Maple(virtual=False, importance=False),
    "MAPLE + virtual examples": Maple(virtual=True, importance=False),
    "MAPLE + importance": Maple(virtual=False, importance=True),
    "MAPLE-X (both)": Maple(virtual=True, importance=True),
}


def run(setting: Setting) -> Iterator[Row]:
    if setting.test_rows is None:
        yield from _own(setting)
    if setting.test_rows is None or _has(setting, "ks0"):
        yield from _ofa(setting)
    if setting.test_rows is None or _has(setting, "op01"):
        yield from _cells(setting)


def _few(setting: Setting, part: str) -> Setting:
    return replace(setting, seeds=min(setting.seeds, SEEDS[part]))


def _has(setting: Setting, column: str) -> bool:
    """Whether the table of `test_rows` is of the space that has this column."""
    from supernet.files import tables

    assert setting.test_rows is not None
    return column in tables.read_columns(setting.test_rows)


# ---------------------------------------------------------------------- (a)
def _own(setting: Setting) -> Iterator[Row]:
    setting = _few(setting, "own")
    found = {name: devices.load(name) for name in devices.names()}
    known = {name: KnownDevice(data, operators.vector()) for name, (data, operators) in found.items()}
    space = next(iter(found.values()))[0].target.space
    sides = get_space(space).column(np.concatenate([data.genomes for data, _ in found.values()]), "r")
    transfer = Transfer(resolutions=(int(sides.min()), int(sides.max())))
    shipped = sources_of(get_space(space))
    fitted = {}
    for name, (data, _) in found.items():
        predictor = transfer.fit_from(shipped, data)
        fitted[name] = Source(name, predictor.table, predictor.resolutions, data.target)
    for name, (data, operators) in found.items():
        if (name in VALIDATION) != setting.validation:
            continue
        others = [one for other, one in known.items() if other != name]
        strengths = likeliest(others)
        sources = [source for other, source in fitted.items() if other != name]
        for seed, rng in draws(setting):
            order = rng.permutation(len(data))
            for n in OWN_COUNTS:
                samples, test = data.take(order[:n]), data.take(order[n:])
                ways = {
                    label: fitting(_maple(learner, others, operators.vector(), strengths), samples)
                    for label, learner in PARTS.items()
                }
                if n == NETWORK_COUNT and seed < NETWORK_SEEDS:
                    ways |= {
                        f"{label}, network": fitting(
                            _maple(replace(learner, form="network"), others, operators.vector(), None),
                            samples,
                        )
                        for label, learner in PARTS.items()
                        if label in NETWORKS
                    }
                ways["transfer"] = fitting(partial(transfer.fit_from, sources), samples)
                ways |= _simple(sources, samples)
                for method, fit in ways.items():
                    row = Row(NAME, method, name, n, seed, "all", {}, note=COST)
                    yield _unexplained(row, fit, data, test)


def _maple(
    learner: Maple, known: Sequence[KnownDevice], descriptor: Floats, strengths: Strengths | None = None
) -> Callable[[LatencyData], MaplePredictor]:
    return lambda samples: learner.fit_from(known, samples, descriptor, strengths)


def _simple(sources: Sequence[Source], samples: LatencyData) -> dict[str, Fit]:
    def fit(name: str) -> Callable[[Genomes], Prediction]:
        return lambda genomes: adaptation.baselines(sources, samples, genomes)[name]

    return {name: partial(fit, name) for name in ("MACs line", "closest device x factor")}


def _unexplained(row: Row, fit: Fit, data: LatencyData, test: LatencyData) -> Row:
    """The judged row, with the scores of what a log-log line in MACs leaves of the device's rows."""
    from scipy.stats import spearmanr

    space = get_space(data.target.space)
    line = np.poly1d(np.polyfit(np.log(footprint.of(space, data.genomes, "macs")), np.log(data.ms), 1))
    fitted: list[Callable[[Genomes], Prediction | Floats]] = []

    def once() -> Callable[[Genomes], Prediction | Floats]:
        fitted.append(fit())
        return fitted[0]

    scored = judged(row, once, test)
    explained = line(np.log(footprint.of(space, test.genomes, "macs")))
    answer = fitted[0](test.genomes)
    ms = np.maximum(answer.mean if isinstance(answer, Prediction) else answer, 1e-9)
    true, guess = np.log(test.ms) - explained, np.log(ms) - explained
    more = {
        "residual_r2": float(1 - ((true - guess) ** 2).sum() / ((true - true.mean()) ** 2).sum()),
        "residual_spearman": float(spearmanr(true, guess).statistic),
    }
    return replace(scored, scores={**scored.scores, **more})


# ---------------------------------------------------------------------- (b)
def _ofa(setting: Setting) -> Iterator[Row]:
    setting, table = _few(setting, "ofa"), read(setting.data, *OFA)
    first = 3000 if setting.validation else 3500
    fitted = {}
    for name in table.columns:
        predictor = Additive(ridge=RIDGE).fit(table.data(name, slice(0, OFA_FITTED, 2)))
        fitted[name] = Source(name, predictor.table, predictor.resolutions, table.targets[name])
    known = {name: _known(table, name, slice(0, OFA_FITTED, 4)) for name in table.columns}
    for name in names_of(setting, table):
        others = [one for other, one in known.items() if _gpu(other) != _gpu(name)]
        sources = [source for other, source in fitted.items() if _gpu(other) != _gpu(name)]
        for seed, rng in draws(setting):
            parts = split(setting, table, name, slice(0, OFA_FITTED), slice(first, first + 500), seed)
            for n in OFA_COUNTS:
                samples = parts.draw(n, rng)
                ways = _ablation(others, _sheet(samples), samples)
                ways["transfer"] = fitting(partial(Transfer().fit_from, sources), samples)
                ways |= _simple(sources, samples)
                for method, fit in ways.items():
                    yield judged(Row(NAME, method, name, n, seed, "all", {}), fit, parts.test)


def _cells(setting: Setting) -> Iterator[Row]:
    setting, table = _few(setting, "cells"), read(setting.data, *CELLS)
    devices_of = json.loads((setting.data / "latency_splits.json").read_text())["help"]["nasbench201"]
    train = [name for name in devices_of["train"] if name in table.columns]
    asked = devices_of["valid" if setting.validation else "test"]
    pool, query = devices_of["train_pool"], devices_of["query"]
    known = {name: _known(table, name, slice(0, pool)) for name in train}
    fitted = {name: denoised(table.data(name, slice(0, pool))) for name in train}
    given = names_of(setting, table)
    for name in [n for n in given if n in asked or n not in table.columns]:
        for seed, rng in draws(setting):
            parts = split(setting, table, name, slice(0, pool), slice(pool, pool + query), seed)
            for n in CELLS_COUNTS:
                samples, sources = parts.draw(n, rng), list(fitted.values())
                ways = _ablation(list(known.values()), _sheet(samples), samples)
                ways["transfer (ensemble)"] = fitting(partial(Ensemble().fit_from, sources), samples)
                ways |= _simple(sources, samples)
                for method, fit in ways.items():
                    yield from judged_parts(Row(NAME, method, name, n, seed, "all", {}), fit, parts.test)


def _gpu(name: str) -> str:
    """The GPU of a column: titan_rtx of titan_rtx_64."""
    return name.rsplit("_", 1)[0]


def _sheet(data: LatencyData) -> Floats:
    """The data sheet of a device, and the batch size."""
    return np.append(specification(data.target.spec), np.log(data.target.batch))


def _known(table: Table, name: str, rows: slice) -> KnownDevice:
    data = table.data(name, rows)
    return KnownDevice(data, _sheet(data))


def _ablation(known: Sequence[KnownDevice], descriptor: Floats, samples: LatencyData) -> dict[str, Fit]:
    strengths = _strengths(tuple(known))
    return {
        label: fitting(
            _maple(replace(learner, smooth=True, rows=LEARNED), known, descriptor, strengths), samples
        )
        for label, learner in PARTS.items()
    }


@cache
def _strengths(known: tuple[KnownDevice, ...]) -> Strengths:
    return likeliest(known, smooth=True)


PROTOCOLS = {NAME: run}
