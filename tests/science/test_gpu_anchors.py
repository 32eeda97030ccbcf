"""A GPU that the model of GPU time leaves out, with a few of its recorded latencies (HELP's table, arXiv
2106.08630) given as rows: figures of `gpu_loo` at a smaller scale, and what `adapt` remembers of them."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.protocols import gpu_loo
from benchmarks.protocols.protocol import Setting
from latency import target
from latency.data import read_csv, write_csv
from latency.predictors import interface
from latency.scores import scores
from latency.zoo import automatic, catalogue, data_sheets
from tests.e2e import commands

GPUS = ("titan_xp", "v100")
TEST = slice(3500, 4000)


@pytest.fixture(scope="module")
def groups(data):
    """All measurements but those of timm, which have to be traced."""
    return gpu_loo.measured(Setting(data=data, small=True))


@pytest.fixture
def recorded(data, groups, monkeypatch):
    """The rows of a GPU as those of a data sheet, which a model without that GPU answers for from now on."""

    def recorded(gpu, batch):
        known = catalogue.target(f"{gpu}_b{batch}")
        fitted = gpu_loo.model(Setting(data=data, small=True), groups, [known.spec.name])
        monkeypatch.setattr(data_sheets, "gpu_model", lambda: fitted)
        rows = read_csv(data / known.rows, known, known.column)
        return replace(rows, target=target.gpu(known.spec.name, batch=batch))

    return recorded


@pytest.mark.slow
def test_anchors_sharpen_a_data_sheet(recorded):
    """Batch 64, mean of a Pascal and a Volta GPU and two draws."""
    error = {}
    for gpu in GPUS:
        rows = recorded(gpu, 64)
        test = rows.take(TEST)
        sheet = data_sheets.predictor(rows.target)[0]
        error.setdefault(0, []).append(scores(sheet.predict(test.genomes, test.target), test.ms)["mape"])
        for seed in (0, 1):
            order = np.random.default_rng(seed).permutation(3000)
            for n in (1, 3):
                fitted = automatic.Automatic().fit(rows.take(order[:n]))
                told = scores(fitted.predict(test.genomes, test.target), test.ms)
                error.setdefault(n, []).append(told["mape"])
                assert told["coverage_90"] >= 50
    assert np.mean(error[1]) <= 4.5
    assert np.mean(error[3]) <= 4
    assert max(np.mean(error[1]), np.mean(error[3])) < 0.5 * np.mean(error[0])


def test_rows_of_two_days_are_those_of_one(recorded, tmp_path):
    """One recorded row, then two more: the bytes of three at once, within 3%."""
    rows = recorded("v100", 64)
    words = ["target=gpu", "target.device=v100", "wandb=disabled"]
    for name, part in {"monday": [7], "tuesday": [60, 900], "both": [7, 60, 900]}.items():
        write_csv(tmp_path / f"{name}.csv", rows.take(np.array(part)))
        store = "store=other.sqlite" if name == "both" else "store=mine.sqlite"
        code, out, err = commands.call(
            "adapt", *words, f"rows={name}.csv", store, f"out={name}", cwd=tmp_path
        )
        assert code == 0, err
        assert ("1 subnets measured earlier are samples too" in out) == (name == "tuesday")
    test = rows.take(TEST)
    monday, tuesday, both = (
        interface.load(tmp_path / name / "predictor.npz").predict(test.genomes, test.target)
        for name in ("monday", "tuesday", "both")
    )
    assert np.array_equal(tuesday.mean, both.mean)
    assert np.array_equal(tuesday.std, both.std)
    assert scores(tuesday, test.ms)["mape"] <= 3
    assert tuesday.std.mean() < monday.std.mean()
