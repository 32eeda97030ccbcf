"""Phones of which a handful of networks was published, each network left out once.

The table is `ofa_published_nets.csv` (Cai et al., arXiv 1908.09791): four networks of each phone, whose
latencies are whole milliseconds. `test_rows` is a table of other devices of the same form. N counts the
networks that are left to fit on. The sources were chosen with the Pixel 1, the Note 8 and the G8 in view.
"""

from collections.abc import Callable, Iterator
from functools import partial
from time import perf_counter

import numpy as np

from benchmarks.protocols.protocol import Row, Setting
from latency import target
from latency.data import LatencyData, read_published
from latency.predictors.sources import Source, sources_of
from latency.predictors.transfer import Transfer
from latency.scores import scores
from latency.zoo import phones
from supernet.arrays import Genomes
from supernet.files import tables
from supernet.prediction import Prediction, exact
from supernet.space import get_space

FILE, SPACES = "ofa_published_nets.csv", ("ofa_mbv3_w1.0", "ofa_mbv3_w1.2")
PHONES = ("pixel1", "note8", "LG-G8")
LEAST = 3  # networks of a phone: two to fit on


def run(setting: Setting) -> Iterator[Row]:
    path = setting.test_rows or setting.data / FILE
    listed = dict.fromkeys(tables.read_columns(path)["device"].tolist())
    for device in setting.some([name for name in listed if setting.test_rows or name in PHONES]):
        for space in SPACES:
            try:
                data = read_published(path, target.phone(str(device), space=space))
            except ValueError:
                continue  # nothing of this phone is of this space
            if len(data) >= LEAST:
                yield from _left_out(str(device), data)


def _left_out(device: str, data: LatencyData) -> Iterator[Row]:
    for method, fit in _methods(data.target.space).items():
        start, told = perf_counter(), []
        for i in range(len(data)):
            kept = data.take(np.delete(np.arange(len(data)), i))
            told.append(fit(kept)(data.genomes[[i]]))
        seconds = (perf_counter() - start) / len(data)
        judged = scores(exact(np.concatenate([one.mean for one in told])), data.ms)
        inside = [scores(one, data.ms[[i]])["coverage_90"] for i, one in enumerate(told)]
        judged["coverage_90"] = float(np.mean(inside)) if told[0].std.all() else float("nan")
        name = f"{device} {data.target.space.rpartition('_')[2]}"
        yield Row("phones", method, name, len(data) - 1, None, "all", judged, seconds)


Fit = Callable[[LatencyData], Callable[[Genomes], Prediction]]


def _methods(space: str) -> dict[str, Fit]:
    table, macs = phones.sources(space)[:2]
    usual = sources_of(get_space(space), covering=table.resolutions)
    return {
        "transfer from the Note 10 (ours)": partial(_transfer, phones.sources(space)),
        "Note 10 x factor": partial(_factor, table),
        "MACs x factor": partial(_factor, macs),
        "transfer, all known devices": partial(_transfer, usual),
    }


def _transfer(sources: list[Source], data: LatencyData) -> Callable[[Genomes], Prediction]:
    fitted = Transfer().fit_from(sources, data)
    return lambda genomes: fitted.predict(genomes, fitted.target)


def _factor(source: Source, data: LatencyData) -> Callable[[Genomes], Prediction]:
    space = get_space(data.target.space)
    factor = float(np.exp(np.log(data.ms / source.table.evaluate(space, data.genomes)).mean()))
    return lambda genomes: exact(factor * source.table.evaluate(space, genomes))
