"""Few-shot transfer on real latencies: the figures of the README at a smaller scale."""

import numpy as np
import pytest

from latency.data import read_csv
from latency.predictors import baselines
from latency.predictors.sources import sources_of
from latency.predictors.transfer import Transfer
from latency.scores import scores
from latency.zoo import catalogue
from supernet.space import get_space

GPUS = [name for name in catalogue.targets_of("ofa_mbv3_w1.2") if "lut" not in name]
OURS = [name for name in catalogue.names() if catalogue.target(name).method == "measured"]


def test_ten_samples_of_a_gpu_that_no_source_has(data):
    """HELP's 12 columns, whole GPU left out, 10 random samples, 2 seeds, all rows 3500-3999.

    On average at most 4.5% (4.18 in an earlier study of these columns), 2.0% and 1.0% on titan_rtx at batch
    32 and 64, and better than a line in MACs.
    """
    error, line = {}, {}
    for name in GPUS:
        target = catalogue.target(name)
        gpu = name.rsplit("_b", 1)[0]
        siblings = [other for other in GPUS if other.rsplit("_b", 1)[0] == gpu]
        known = sources_of(get_space(target.space), without=[*siblings, "note10_lut"])
        table = read_csv(data / target.rows, target, target.column)
        test = table.take(slice(3500, 4000))
        for seed in (0, 1):
            samples = table.take(np.random.default_rng(seed).choice(3000, 10, replace=False))
            predicted = Transfer().fit_from(known, samples).predict(test.genomes, target)
            error.setdefault(name, []).append(scores(predicted, test.ms)["mape"])
            simple = baselines.from_samples(known, samples, test.genomes)["MACs line"]
            line.setdefault(name, []).append(scores(simple, test.ms)["mape"])
    assert np.mean(list(error.values())) <= 4.5
    assert np.mean(error["titan_rtx_b32"]) <= 2.0
    assert np.mean(error["titan_rtx_b64"]) <= 1.0
    assert np.mean(list(error.values())) < np.mean(list(line.values()))


@pytest.mark.parametrize("name", OURS)
def test_ten_of_our_own_measurements_adapt_the_other_engines(name):
    """An engine of this project's machine from 10 of its own rows and the other engines' predictors, 5 draws.

    On 200 other rows, from the smallest to the largest networks: at most 4% off, better than a line in MACs,
    and 90% intervals that cover 80-99%.
    """
    target = catalogue.target(name)
    measured = read_csv(catalogue.FOLDER / "measured" / f"{name}.csv.gz", target, "lat_ms")
    r = get_space(target.space).column(measured.genomes, "r")
    measured = measured.take(np.flatnonzero(r >= 160))
    learner = Transfer(without=(name,))
    found, line = [], []
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(len(measured))
        samples, test = measured.take(order[:10]), measured.take(order[10:210])
        found.append(scores(learner.fit(samples).predict(test.genomes, target), test.ms))
        known = learner.sources(get_space(target.space))
        simple = baselines.from_samples(known, samples, test.genomes)["MACs line"]
        line.append(scores(simple, test.ms)["mape"])
    mape = np.mean([row["mape"] for row in found])
    assert mape <= 4.0
    assert mape < np.mean(line)
    assert 80 <= np.mean([row["coverage_90"] for row in found]) <= 99


@pytest.mark.parametrize("name", OURS)
def test_shipped_predictors_follow_the_measurements_they_were_fitted_on(name):
    target = catalogue.target(name)
    measured = read_csv(catalogue.FOLDER / "measured" / f"{name}.csv.gz", target, "lat_ms")
    assert len(measured) >= 500
    found = scores(catalogue.predictor(name).predict(measured.genomes, target), measured.ms)
    assert found["mape"] < catalogue.predictor(name).facts["left_out_mape"] < 3
