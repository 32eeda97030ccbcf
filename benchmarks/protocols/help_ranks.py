"""HELP's and NASFLAT's few-shot protocols on NAS-Bench-201 and FBNet: mostly ranks, ours in ms too.

HELP (NeurIPS 2021; its loader): sources see the first `train_pool` rows (900 of NAS-Bench-201, 4,000 of
FBNet), the score is taken on the `query` rows after them (1,000), and "middle 80%" drops the fastest and
slowest tenth of each device's rows in the pool, where samples come from, and in the query. Its three FBNet
test devices have no column in the shared table: devices of that table that are neither trained on nor
validated on stand in (a CPU, a phone and a GPU, named before anything was scored), and HELP's own join with
`test_rows`.

NASFLAT (arXiv 2403.02446; its training script): 900 rows per source, 20 samples, scored on all rows of all
cells, samples included. Here: sources and samples from the same pools as HELP's, scored on all rows after the
pool, none dropped. Device sets as far as the columns exist; rows say what is missing.

Samples: a seed draws 600 rows of the pool, `Ensemble.choose` takes N of them; "random" takes the first N
drawn. All methods but the random one see the same samples. Choices were made with `validation=1`: HELP's
validation devices, or the training devices of a NASFLAT set left out in turn.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np

from benchmarks.protocols.protocol import PARTS, Fit, Row, Setting, compare, fitting, middle, read
from latency.data import LatencyData
from latency.predictors.ensemble import Ensemble, denoised
from latency.predictors.sources import Source
from supernet import footprint
from supernet.arrays import Floats, Genomes
from supernet.space import get_space

FILES = {"nasbench201": "nasbench201_latency.csv.gz", "fbnet": "fbnet_latency.csv.gz"}
DRAWN = 600  # rows of the pool that samples are chosen from
FBNET_TARGETS = ("gold_6226", "pixel2", "titan_rtx_64")  # of the shared table, in place of HELP's
HELP_MIDDLE = {  # Spearman, 10 samples and 10 reference latencies, middle 80% (HELP, tables 2 and 3)
    "nasbench201": {
        "titan_rtx_256": 0.987,
        "gold_6226": 0.989,
        "fpga": 0.985,
        "pixel2": 0.802,
        "raspi4": 0.890,
        "eyeriss": 0.940,
        "mean": 0.932,
    },
    "fbnet": {"fpga": 0.892, "raspi4": 0.887, "eyeriss": 0.943, "mean": 0.910},
}
NASFLAT = {  # Spearman, 20 samples, all rows, mean over the test devices
    "nasbench201": {"ND": 0.959, "N1": 0.893, "N2": 0.967, "N3": 0.857, "N4": 0.962, "NA": 0.959},
    "fbnet": {"FD": 0.961, "F1": 0.577, "F2": 0.809, "F3": 0.871, "F4": 0.814, "FA": 0.734},
}
HELP_BY_NASFLAT = {"ND": 0.948, "FD": 0.910}

Predict = Callable[[Genomes], Floats]


def run(name: str, space: str, counts: Sequence[int], setting: Setting) -> Iterator[Row]:
    """HELP's protocol `help_...` on a space, or a device set of NASFLAT's."""
    splits = json.loads((setting.data / "latency_splits.json").read_text())
    helps = splits["help"][space]
    is_help, chosen = name.startswith("help"), setting.validation
    sets = helps if is_help else splits["nasflat"][space][name.removeprefix("nasflat_")]
    asked = sets["test"] + [*FBNET_TARGETS] * (name == "help_fbnet")
    if chosen:
        asked = sets["valid" if is_help else "train"]
    else:
        yield from published(name, space)
    table = read(setting.data, FILES[space], space)
    scored = table if setting.test_rows is None else read(setting.data, setting.test_rows, space)
    targets = [target for target in asked if target in scored.columns]
    if is_help and not chosen:
        targets += [new for new in scored.columns if new not in table.columns and new not in targets]
    missing = {
        "sources": [device for device in sets["train"] if device not in table.columns],
        "targets": [target for target in asked if target not in scored.columns],
    }
    note = "; ".join(f"without the {what} {', '.join(which)}" for what, which in missing.items() if which)
    pool = helps["train_pool"]
    past = pool + helps["query"] if is_help else len(table)
    devices = [device for device in sets["train"] if device in table.columns]
    sources = {device: denoised(table.data(device, slice(0, pool))) for device in devices}
    for target in setting.some(targets):
        others = [source for device, source in sources.items() if device != target]
        drawn_from = table if target in table.columns else scored
        for part in PARTS if is_help else PARTS[:1]:
            drawn = np.arange(pool if drawn_from is table else len(scored))
            rows = np.arange(pool, past) if scored is table else np.arange(len(scored))
            if part == "middle 80%":
                drawn = drawn[middle(drawn_from.columns[target][drawn])]
                rows = rows[middle(scored.columns[target][rows])]
            test = scored.data(target, rows)
            for seed, rng in setting.draws():
                some = drawn_from.data(target, rng.choice(drawn, min(DRAWN, len(drawn)), replace=False))
                for n in setting.some(counts):
                    row = Row(name, "", target, n, seed, part, {}, note=note)
                    yield from _compare(row, others, some, test)


PROTOCOLS: dict[str, Callable[[Setting], Iterator[Row]]] = {
    "help_nb201": partial(run, "help_nb201", "nasbench201", (10, 20)),
    "help_fbnet": partial(run, "help_fbnet", "fbnet", (10, 20, 50)),
    **{
        f"nasflat_{name}": partial(run, f"nasflat_{name}", space, (20,))
        for space, sets in NASFLAT.items()
        for name in sets
    },
}


def published(name: str, space: str) -> Iterator[Row]:
    """The rows that the authors of HELP or NASFLAT published."""
    if not name.startswith("nasflat"):
        part, note = "middle 80%", "10 samples and the latencies of 10 reference architectures"
        values = [("HELP", target, value, note) for target, value in HELP_MIDDLE[space].items()]
    else:
        part, key = "all", name.removeprefix("nasflat_")
        note = "mean over all test devices of the set; scored on all rows, samples included"
        values = [("NASFLAT", "mean", NASFLAT[space][key], note)]
        if key in HELP_BY_NASFLAT:
            values.append(("HELP", "mean", HELP_BY_NASFLAT[key], "as NASFLAT ran it"))
    for method, target, value, note in values:
        yield Row(name, method, target, 20, None, part, {"spearman": value}, published=True, note=note)


def _compare(row: Row, sources: Sequence[Source], drawn: LatencyData, scored: LatencyData) -> Iterator[Row]:
    """Ours and the baselines."""
    ensemble, first = Ensemble(), drawn.take(slice(0, row.n))
    chosen = drawn.take(ensemble.choose(get_space(scored.target.space), sources, drawn.genomes, row.n))
    yield from compare(row, _methods(sources, chosen), _without(scored, chosen))
    plain = {"ensemble, random samples": fitting(ensemble.fit_from, sources, first)}
    yield from compare(row, plain, _without(scored, first))


def _without(data: LatencyData, samples: LatencyData) -> LatencyData:
    taken = {genome.tobytes() for genome in samples.genomes}
    return data.take(np.flatnonzero([genome.tobytes() not in taken for genome in data.genomes]))


def _methods(sources: Sequence[Source], samples: LatencyData) -> Mapping[str, Fit]:
    space = get_space(samples.target.space)

    def source_ms(genomes: Genomes) -> Floats:
        return np.stack([source.table.evaluate(space, genomes) for source in sources], axis=1)

    def mix() -> Predict:
        from scipy.optimize import nnls

        weights, _ = nnls(source_ms(samples.genomes), samples.ms)
        return lambda genomes: source_ms(genomes) @ weights

    def closest() -> Predict:
        """The source that one factor brings closest to the samples."""
        seen = source_ms(samples.genomes)
        factor = samples.ms @ seen / (seen**2).sum(axis=0)
        best = int(np.argmin(((seen * factor - samples.ms[:, None]) ** 2).sum(axis=0)))
        return lambda genomes: source_ms(genomes)[:, best] * factor[best]

    def line() -> Predict:
        slope, level = np.polyfit(footprint.compute(space, samples.genomes, "macs"), samples.ms, 1)
        return lambda genomes: level + slope * footprint.compute(space, genomes, "macs")

    return {
        "ensemble": fitting(Ensemble().fit_from, sources, samples),
        "non-negative mix": mix,
        "closest device x factor": closest,
        "MACs line": line,
    }
