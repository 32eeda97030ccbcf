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

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
from scipy.stats import spearmanr

from benchmarks.protocols import protocol
from latency.data import LatencyData
from latency.descriptors import KnownDevice, specification
from latency.predictors.additive import Additive
from latency.predictors.ensemble import Ensemble, denoised
from latency.predictors.maple import Maple, Strengths, likeliest
from latency.predictors.sources import Source
from latency.predictors.transfer import Transfer
from latency.zoo import devices
from supernet import footprint
from supernet.files import tables
from supernet.prediction import Prediction
from supernet.space import get_space

NAME = "maplex_ablation"
VALIDATION = ("ort_fp32_b1", "ov_fp32_avx_b1", "ov_int8_b1", "eager_fp32_b8")
OWN_COUNTS, NETWORK_COUNT, NETWORK_SEEDS = (3, 10, 30), 10, 1
NETWORKS = ("MAPLE", "MAPLE-X (both)")
SEEDS = {"own": 3, "ofa": 2, "cells": 2}  # at most: the whole protocol takes about four minutes
OFA_COUNTS, OFA_FITTED = (3, 10, 100), 3000
CELLS, CELLS_COUNTS = ("nasbench201_latency.csv.gz", "nasbench201"), (10, 100)
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


def run(setting: protocol.Setting) -> Iterator[protocol.Row]:
    """(a), unless there are `test_rows`, and (b) of the spaces that have their columns."""
    columns = None if setting.test_rows is None else tables.read_columns(setting.test_rows)
    if columns is None:
        yield from _own(setting)
    if columns is None or "ks0" in columns:
        yield from _ofa(setting)
    if columns is None or "op01" in columns:
        yield from _cells(setting)


def _own(setting: protocol.Setting) -> Iterator[protocol.Row]:
    """(a)"""
    measured = {name: devices.load(name) for name in setting.few(devices.names())}
    known = {name: KnownDevice(data, operators.vector()) for name, (data, operators) in measured.items()}
    space = get_space(next(iter(measured.values()))[0].target.space)
    sides = space.column(np.concatenate([data.genomes for data, _ in measured.values()]), "r")
    transfer = Transfer(resolutions=(int(sides.min()), int(sides.max())))
    shipped = transfer.sources(space)
    fitted = {}
    for name, (data, _) in measured.items():
        predictor = transfer.fit_from(shipped, data)
        fitted[name] = Source(name, predictor.table, predictor.resolutions, data.target)
    for name in setting.some([name for name in measured if (name in VALIDATION) == setting.validation]):
        data, operators = measured[name]
        others = [one for other, one in known.items() if other != name]
        strengths = likeliest(others)
        sources = [of for other, of in fitted.items() if other != name]
        for seed, rng in setting.draws(SEEDS["own"]):
            order = rng.permutation(len(data))
            for n in setting.some(OWN_COUNTS):
                samples, test = data.take(order[:n]), data.take(order[n:])
                vector = operators.vector()
                ways = {
                    label: protocol.fitting(learner.fit_from, others, samples, vector, strengths)
                    for label, learner in PARTS.items()
                }
                if n == NETWORK_COUNT and seed < NETWORK_SEEDS:
                    for label in NETWORKS:
                        network = replace(PARTS[label], form="network")
                        ways[f"{label}, network"] = protocol.fitting(
                            network.fit_from, others, samples, vector
                        )
                ways["transfer"] = protocol.fitting(transfer.fit_from, sources, samples)
                ways |= protocol.simple(sources, samples)
                row = protocol.Row(NAME, "", name, n, seed, "all", {}, note=COST)
                for method, fit_one in ways.items():
                    yield _unexplained(replace(row, method=method), fit_one, data, test)


def _unexplained(row: protocol.Row, fit: protocol.Fit, data: LatencyData, test: LatencyData) -> protocol.Row:
    """The scored row, with the scores of what a log-log line in MACs leaves of the device's rows."""
    space = get_space(data.target.space)
    line = np.poly1d(np.polyfit(np.log(footprint.compute(space, data.genomes, "macs")), np.log(data.ms), 1))
    fit = cache(fit)
    (scored,) = protocol.compare(row, {row.method: fit}, test)
    explained = line(np.log(footprint.compute(space, test.genomes, "macs")))
    answer = fit()(test.genomes)
    ms = np.maximum(answer.mean if isinstance(answer, Prediction) else answer, 1e-9)
    true, guess = np.log(test.ms) - explained, np.log(ms) - explained
    more = {
        "residual_r2": float(1 - ((true - guess) ** 2).sum() / ((true - true.mean()) ** 2).sum()),
        "residual_spearman": float(spearmanr(true, guess).statistic),
    }
    return replace(scored, scores={**scored.scores, **more})


def _ofa(setting: protocol.Setting) -> Iterator[protocol.Row]:
    """(b), of HELP's GPUs"""
    table = protocol.read(setting.data, *protocol.HELP_OFA)
    few = setting.few(table.columns)
    how, every_second = Additive(ridge=RIDGE), slice(0, OFA_FITTED, 2)
    fitted = {name: protocol.source(how, table.data(name, every_second)) for name in few}
    known = {name: _known(table.data(name, slice(0, OFA_FITTED, 4))) for name in few}
    for name in protocol.names_of(setting, table):
        others = [of for other, of in known.items() if protocol.gpu(other) != protocol.gpu(name)]
        sources = [of for other, of in fitted.items() if protocol.gpu(other) != protocol.gpu(name)]
        for seed, rng in setting.draws(SEEDS["ofa"]):
            parts = protocol.split(
                setting, table, name, slice(0, OFA_FITTED), protocol.help_rows(setting), seed
            )
            for n in setting.some(OFA_COUNTS):
                samples = parts.draw(n, rng)
                ways = _ablation(others, samples)
                ways["transfer"] = protocol.fitting(Transfer().fit_from, sources, samples)
                ways |= protocol.simple(sources, samples)
                yield from protocol.compare(
                    protocol.Row(NAME, "", name, n, seed, "all", {}), ways, parts.test
                )


def _cells(setting: protocol.Setting) -> Iterator[protocol.Row]:
    """(b), of NAS-Bench-201"""
    table = protocol.read(setting.data, *CELLS)
    devices_of = json.loads((setting.data / "latency_splits.json").read_text())["help"]["nasbench201"]
    asked = devices_of["valid" if setting.validation else "test"]
    pool, query = slice(0, devices_of["train_pool"]), devices_of["query"]
    train = [table.data(name, pool) for name in setting.few(devices_of["train"]) if name in table.columns]
    known, sources = [_known(data) for data in train], [denoised(data) for data in train]
    names = protocol.names_of(replace(setting, small=False), table)
    for name in setting.some([n for n in names if n in asked or n not in table.columns]):
        for seed, rng in setting.draws(SEEDS["cells"]):
            parts = protocol.split(setting, table, name, pool, slice(pool.stop, pool.stop + query), seed)
            for n in setting.some(CELLS_COUNTS):
                samples = parts.draw(n, rng)
                ways = _ablation(known, samples)
                ways["transfer (ensemble)"] = protocol.fitting(Ensemble().fit_from, sources, samples)
                ways |= protocol.simple(sources, samples)
                row = protocol.Row(NAME, "", name, n, seed, "all", {})
                yield from protocol.compare(row, ways, parts.test, ("all", "middle 80%"))


def _known(data: LatencyData) -> KnownDevice:
    """Described by the data sheet of the device, and the batch size."""
    return KnownDevice(data, np.append(specification(data.target.spec), np.log(data.target.batch)))


def _ablation(known: Sequence[KnownDevice], samples: LatencyData) -> dict[str, protocol.Fit]:
    strengths, descriptor = _strengths(tuple(known)), _known(samples).descriptor
    smooth = {label: replace(learner, smooth=True, rows=LEARNED) for label, learner in PARTS.items()}
    return {
        label: protocol.fitting(learner.fit_from, known, samples, descriptor, strengths)
        for label, learner in smooth.items()
    }


@cache
def _strengths(known: tuple[KnownDevice, ...]) -> Strengths:
    return likeliest(known, smooth=True)
