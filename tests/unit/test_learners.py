"""The simple learners and the one that chooses among them."""

from dataclasses import replace

import numpy as np
import pytest

from latency import target
from latency.data import LatencyData
from latency.predictors import interface
from latency.predictors.baselines import Constant, OperatorTable
from latency.scores import scores
from latency.zoo import catalogue, data_sheets
from latency.zoo.automatic import Automatic
from supernet import registry
from supernet.space import get_space


def measured(name: str, n: int, seed: int = 0) -> LatencyData:
    where = catalogue.target(name)
    space = get_space(where.space).restrict("r", 160, 224)
    genomes = space.network(space.sample(n, np.random.default_rng(seed)))
    return LatencyData(
        where, genomes, catalogue.predictor(name).predict(genomes, where).mean, np.full(n, np.nan)
    )


def test_constant_is_the_mean_and_its_error_that_of_left_out_rows():
    data = measured("v100_b64", 8)
    fitted = Constant().fit(data)
    assert np.allclose(fitted.predict(data.genomes, data.target).mean, data.ms.mean())
    left_out = [np.delete(data.ms, i).mean() / data.ms[i] - 1 for i in range(8)]
    assert fitted.facts["left_out_mape"] == pytest.approx(100 * np.abs(left_out).mean())


def test_operator_table_finds_times_that_add_up():
    """Latencies made of non-negative times per operator are found again on other networks."""
    train, test = measured("v100_b64", 600), measured("v100_b64", 200, 1)
    truth = OperatorTable().fit(train)
    exact = replace(train, ms=truth.predict(train.genomes, train.target).mean)
    again = OperatorTable(ridge=1e-8).fit(exact)
    wanted = truth.predict(test.genomes, test.target)
    assert scores(again.predict(test.genomes, test.target), wanted.mean)["mape"] < 0.5
    assert truth.table.cells.min() >= 0
    with pytest.raises(ValueError, match="at least 5"):
        OperatorTable().fit(train.take(slice(0, 4)))


@pytest.mark.parametrize(("n", "method"), [(2, "gpu data sheet and anchors"), (10, "transfer")])
def test_automatic_takes_what_the_rows_allow(n, method):
    data = measured("titan_rtx_b32", n)
    fitted = Automatic().fit(data)
    assert fitted.facts["method"] == method
    assert fitted.facts["why"]


def test_automatic_compares_a_mix_with_the_data_sheet_of_a_gpu():
    """Latencies that follow a data sheet, but for a factor and 1% of noise, and no device that ships."""
    where, rng = target.gpu("t4", batch=32), np.random.default_rng(0)
    sheet, space = data_sheets.predictor(where)[0], get_space(where.space).restrict("r", 160, 224)
    genomes = space.network(space.sample(8, rng))
    ms = 1.3 * sheet.predict(genomes, where).mean * np.exp(0.01 * rng.standard_normal(8))
    data = LatencyData(where, genomes, ms, np.full(8, np.nan))
    fitted = Automatic().fit(data)
    assert fitted.facts["method"] == "gpu data sheet and anchors"
    assert "transfer" in fitted.facts["why"]
    left_out = []
    for i in range(8):
        others = sheet.adapt(data.take(np.delete(np.arange(8), i)))
        left_out.append(others.predict(genomes[[i]], where).mean[0] / ms[i] - 1)
    assert fitted.facts["left_out_mape"] == pytest.approx(100 * np.abs(left_out).mean())
    assert scores(fitted.predict(genomes, where), ms)["mape"] < 2


def test_automatic_keeps_the_smallest_error_on_rows_left_out():
    """Latencies that no known device explains, as a table of operators makes them, go to the additive fit."""
    data = measured("v100_b64", 80)
    ops = get_space(data.target.space).slot_codes(data.genomes)
    odd = replace(data, ms=5 + (ops * np.random.default_rng(0).random((1, ops.shape[1]))).sum(axis=1))
    fitted = Automatic().fit(odd)
    errors = {
        "transfer": fitted.facts["why"].split("transfer ")[1],
        "additive": fitted.facts["why"].split("additive ")[1],
    }
    shown = {name: float(text.split("%")[0]) for name, text in errors.items()}
    assert min(shown, key=shown.__getitem__) == fitted.facts["method"]
    assert fitted.facts["left_out_mape"] == pytest.approx(min(shown.values()), abs=0.01)


@pytest.mark.parametrize("name", ["additive", "constant", "operator_table", "transfer"])
def test_any_file_is_loaded_by_its_kind(name, tmp_path):
    data = measured("v100_b64", 20)
    fitted = registry.build(registry.load("learner", name)).fit(data)
    path = tmp_path / f"mine{interface.suffix(fitted)}"
    fitted.save(path)
    loaded = interface.load(path)
    assert np.allclose(
        loaded.predict(data.genomes, data.target).mean,
        fitted.predict(data.genomes, data.target).mean,
        rtol=1e-6,
    )
