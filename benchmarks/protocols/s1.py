"""The protocol of OFANAS on its own measurements: an MLP per device, and fine-tuning from Note10.

OFANAS is "Generalized Latency Performance Estimation for Once-For-All Neural Architecture Search" (arXiv
2101.00732). Rows 0-6999 are for fitting (the last 15% of them choose the epoch), 7000-8499 are reported;
with `validation` the first 6000 and rows 6000-6999. Samples of a target are drawn from the fitting rows. The
base device is the Note10, whose latencies are sums of a table.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any

from benchmarks.protocols import protocol
from latency.predictors.additive import Additive
from latency.predictors.baselines import Constant, OperatorTable
from latency.predictors.interface import Learner
from latency.predictors.neural import NeuralLatency
from latency.predictors.sources import sources_of
from latency.predictors.transfer import Transfer
from supernet import registry
from supernet.space import get_space

BASE = "note10_lut"
COUNTS = (10, 20, 50, 100, 200, 700)
MIXED = 200  # samples; a mix of more takes half a minute
TABLE = "operator table (ProxylessNAS)"
PLAIN: dict[str, Learner] = {TABLE: OperatorTable(), "constant": Constant()}
BELOW = "rmse_below_table"  # percent by which an RMSE is below that of the operator table of as many samples
CLAIMED = 50.0  # of BELOW: what the authors say of fine-tuning
NEW_HEAD = "OFANAS, new head from Note10"
PUBLISHED = {  # their released models on these rows; what they print as RMSE is MAE
    ("OFANAS MLP", "rtx2080ti_64", 7000): dict(
        mae=0.386, rmse=0.482, mape=2.43, within_10=99.9, kendall=0.960
    ),
    ("OFANAS MLP", "tesla_p40_64", 7000): dict(mae=1.18, rmse=1.37, mape=2.53, within_10=99.9, kendall=0.971),
    ("OFANAS MLP", BASE, 7000): dict(mae=0.353, rmse=0.455, mape=1.14, within_10=100, kendall=0.969),
    (NEW_HEAD, "rtx2080ti_64", 700): dict(mae=0.713, rmse=0.890, mape=4.34, within_10=93.8, kendall=0.915),
    (NEW_HEAD, "tesla_p40_64", 700): dict(mae=1.61, rmse=2.04, mape=3.31, within_10=99.3, kendall=0.935),
}


def learner(setting: protocol.Setting, name: str, **options: Any) -> Any:
    """The learner `configs/learner/<name>.yaml` of networks with some options changed."""
    how = registry.get("learner", name, **options)
    option = "head" if options.get("layers") == "head" else "training"
    return replace(how, **{option: setting.epochs(getattr(how, option))})


def run(setting: protocol.Setting) -> Iterator[protocol.Row]:
    table = protocol.read(setting.data, *protocol.OFANAS)
    fitted = 700 if setting.small else 6000 if setting.validation else 7000
    fit, test = slice(0, fitted), slice(6000, 7000) if setting.validation else slice(7000, 8500)
    last = (int(0.85 * fitted), fitted)
    for (method, target, n), scores in PUBLISHED.items():
        yield protocol.Row("s1", method, target, n, None, "all", scores, published=True)
    others = {name: protocol.source(Additive(ridge=1e-3), table.data(name, fit)) for name in table.columns}
    shipped = sources_of(get_space(table.space))
    footprints = [of for of in shipped if of.target is None]
    cpus = [of for of in shipped if of.target is not None and of.target.spec.kind == "cpu"]
    bases: dict[str, NeuralLatency] = {
        name: learner(setting, name, validation=last).fit(table.data(BASE, fit)) for name in ("s1", "neural")
    }
    head, whole = learner(setting, "fine_tune", layers="head"), learner(setting, "fine_tune")
    errors: dict[tuple[str, str], dict[int, list[float]]] = {}
    for target in protocol.names_of(setting, table):
        candidates = [*(of for name, of in others.items() if name != target), *footprints, *cpus]
        for seed, rng in setting.draws(1 if target == BASE else None):  # the base device is no target
            parts = protocol.split(setting, table, target, fit, test, seed)
            own: dict[str, Learner] = {
                "OFANAS MLP, our run": learner(setting, "s1", validation=last, seed=seed),
                "neural (default)": learner(setting, "neural", validation=last, seed=seed),
            }
            if seed == 0:  # nothing random in these
                own |= {"additive": Additive(validation=last), **PLAIN}
            row = protocol.Row("s1", "", target, len(parts.pool), seed, "all", {})
            ways = {method: protocol.fitting(how.fit, parts.pool) for method, how in own.items()}
            yield from protocol.compare(row, ways, parts.test)
            if target == BASE:
                continue
            order = rng.permutation(len(parts.pool))
            for n in setting.some(COUNTS):
                samples = parts.pool.take(order[:n])
                few = {
                    f"{NEW_HEAD}, our run": protocol.fitting(
                        replace(head, seed=seed).tune, bases["s1"], samples
                    ),
                    "fine-tuned from Note10, all layers": protocol.fitting(
                        replace(whole, seed=seed).tune, bases["neural"], samples
                    ),
                    **{method: protocol.fitting(how.fit, samples) for method, how in PLAIN.items()},
                }
                if n <= MIXED:
                    near = [others[BASE], *footprints]
                    few["transfer, Note10"] = protocol.fitting(Transfer().fit_from, near, samples)
                    few["transfer, all known"] = protocol.fitting(Transfer().fit_from, candidates, samples)
                rows = list(protocol.compare(replace(row, n=n), few, parts.test))
                table_rmse = next(of.scores["rmse"] for of in rows if of.method == TABLE)
                for one in rows:
                    below = 100 * (1 - one.scores["rmse"] / table_rmse)
                    errors.setdefault((target, one.method), {}).setdefault(n, []).append(below)
                    yield replace(one, scores={**one.scores, BELOW: below})
    yield from lasting(errors)


def lasting(errors: Mapping[tuple[str, str], Mapping[int, Sequence[float]]]) -> Iterator[protocol.Row]:
    """A row per target and method that is CLAIMED below the operator table: up to which N that lasts.

    `errors` has the percent below it of each seed, by target and method, by N in ascending order.
    """
    for (target, method), by_count in errors.items():
        below = {n: sum(values) / len(values) for n, values in by_count.items()}
        if lasts := [n for n, _ in takewhile(lambda item: item[1] >= CLAIMED, below.items())]:
            title = f"{method}: RMSE at least {CLAIMED:.0f}% below the operator table up to this N"
            yield protocol.Row("s1", title, target, lasts[-1], None, "all", {BELOW: below[lasts[-1]]})
