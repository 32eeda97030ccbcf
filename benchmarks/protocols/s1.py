"""S1's protocol (arXiv 2101.00732) on its own measurements: an MLP per device, and fine-tuning from Note10.

Rows 0-6999 are for fitting (the last 15% of them choose the epoch), 7000-8499 are reported; with
`validation` the first 6000 and rows 6000-6999. Samples of a target are drawn from the fitting rows. S1's
table sums of the Note10 are the base device, as in the paper.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from benchmarks.protocols.protocol import Row, Setting, Table, draws, fitting, judged, names_of, read, split
from latency.data import LatencyData
from latency.perceptron import Training
from latency.predictors.additive import Additive
from latency.predictors.interface import LatencyPredictor, Learner
from latency.predictors.neural import FineTune, NeuralLatency
from latency.predictors.sources import Source, sources_of
from latency.predictors.transfer import Transfer
from supernet import registry
from supernet.space import get_space

FILE, SPACE, BASE = "s1_ofa_latency.csv.gz", "ofa_mbv3_w1.0", "note10_lut"
COUNTS = (10, 20, 50, 100, 200, 700)
MIXED = 200  # samples; a mix of more takes half a minute
HEAD = Training(  # momentum chosen on rows 6000-6999: without it ten samples leave the new head at its start
    epochs=100,
    batch=32,
    learning_rate=1e-3,
    weight_decay=0.0,
    momentum=0.9,
    loss="rmse",
    optimiser="sgd",
    schedule="constant",
)
PUBLISHED = {  # their released models on these rows; what they print as RMSE is MAE
    ("S1's MLP", "rtx2080ti_64", 7000): dict(mae=0.386, rmse=0.482, mape=2.43, within_10=99.9, kendall=0.960),
    ("S1's MLP", "tesla_p40_64", 7000): dict(mae=1.18, rmse=1.37, mape=2.53, within_10=99.9, kendall=0.971),
    ("S1's MLP", BASE, 7000): dict(mae=0.353, rmse=0.455, mape=1.14, within_10=100, kendall=0.969),
    ("S1, new head from Note10", "rtx2080ti_64", 700): dict(
        mae=0.713, rmse=0.890, mape=4.34, within_10=93.8, kendall=0.915
    ),
    ("S1, new head from Note10", "tesla_p40_64", 700): dict(
        mae=1.61, rmse=2.04, mape=3.31, within_10=99.3, kendall=0.935
    ),
}


def learner(name: str, **options: Any) -> Any:
    """The learner `configs/learner/<name>.yaml` with some options changed."""
    return registry.build(registry.load("learner", name) | options)


def source(table: Table, name: str, rows: slice) -> Source:
    """What is known of a device: the additive predictor of its rows."""
    fitted = Additive(ridge=1e-3).fit(table.data(name, rows))
    return Source(name, fitted.table, fitted.resolutions, table.targets[name])


def run(setting: Setting) -> Iterator[Row]:
    table = read(setting.data, FILE, SPACE)
    fitted = 6000 if setting.validation else 7000
    fit, test = slice(0, fitted), slice(6000, 7000) if setting.validation else slice(7000, 8500)
    last = (int(0.85 * fitted), fitted)
    for (method, target, n), scores in PUBLISHED.items():
        yield Row("s1", method, target, n, None, "all", scores, published=True)
    others = {name: source(table, name, fit) for name in table.columns}
    known = sources_of(get_space(SPACE))
    footprints = [source for source in known if source.target is None]
    cpus = [source for source in known if source.target is not None and source.target.spec.kind == "cpu"]
    bases: dict[str, NeuralLatency] = {
        name: learner(name, validation=last).fit(table.data(BASE, fit)) for name in ("s1", "neural")
    }
    for target in names_of(setting, table):
        every = [*(s for name, s in others.items() if name != target), *footprints, *cpus]
        for seed, rng in draws(setting):
            if target == BASE and seed:
                break  # the base device is no target: its own fits once
            parts = split(setting, table, target, fit, test, seed)
            own: dict[str, Learner] = {
                "S1's MLP, our run": learner("s1", validation=last, seed=seed),
                "neural (default)": learner("neural", validation=last, seed=seed),
            }
            if seed == 0:  # nothing random in these
                own |= {
                    "additive": Additive(validation=last),
                    "operator table (ProxylessNAS)": learner("operator_table"),
                    "constant": learner("constant"),
                }
            for method, how in own.items():
                row = Row("s1", method, target, len(parts.pool), seed, "all", {})
                yield judged(row, fitting(how.fit, parts.pool), parts.test)
            if target == BASE:
                continue
            head, tuned = FineTune(layers="head", training=HEAD, seed=seed), FineTune(seed=seed)
            ways: dict[str, Callable[[LatencyData], LatencyPredictor]] = {
                "S1, new head from Note10, our run": partial(head.tune, bases["s1"]),
                "fine-tuned from Note10, all layers": partial(tuned.tune, bases["neural"]),
                "transfer, Note10": partial(Transfer().fit_from, [others[BASE], *footprints]),
                "transfer, all known": partial(Transfer().fit_from, every),
                "operator table (ProxylessNAS)": learner("operator_table").fit,
                "constant": learner("constant").fit,
            }
            order = rng.permutation(len(parts.pool))
            for n in COUNTS:
                for method, way in ways.items():
                    if n > MIXED and method.startswith("transfer"):
                        continue
                    row = Row("s1", method, target, n, seed, "all", {})
                    yield judged(row, fitting(way, parts.pool.take(order[:n])), parts.test)


PROTOCOLS = {"s1": run}
