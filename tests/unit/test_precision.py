"""Precision as a gene: what int8 changes is taken from the int8 models, everything else from fp32's."""

import json
from dataclasses import replace

import numpy as np
import pytest

from latency.data import LatencyData
from latency.measuring import session
from latency.measuring.known import Known
from latency.predictors.by_precision import ByPrecision
from latency.zoo import catalogue
from search import models, pareto, problem
from search.archive import Archive
from search.verify import verdict
from search.verify.rounds import Rounds
from supernet.prediction import Prediction
from supernet.space import get_space
from supernet.spaces import precision
from supernet.surrogates import accuracy, int8_change


class Halved:
    """The shipped predictor of the CPU as if its int8 target took half as long."""

    def __init__(self, precision="int8"):
        self.fp32 = catalogue.predictor("epyc_ort")
        self.target = replace(self.fp32.target, precision=precision, name="halved")
        self.resolutions, self.relative_std, self.facts = self.fp32.resolutions, 0.1, {}

    def predict(self, genomes, target):
        found = self.fp32.predict(genomes, self.fp32.target)
        return Prediction(found.mean / 2, found.std / 2)


def build(*objectives, eight=None, change=None):
    space, latency = get_space("ofa_mbv3_w1.0_int8"), catalogue.predictor("epyc_ort")
    latency = latency if eight is None else ByPrecision(latency, eight, space)
    return problem.build(objectives, models.choose(space=space, latency=latency, int8=change))


def both(asked, rng):
    """The same 50 networks in fp32 and in int8."""
    fp32 = asked.space.network(asked.space.sample(50, rng))
    int8 = fp32.copy()
    int8[:, -1] = 2
    return fp32, int8


def test_each_precision_has_its_own_latency_accuracy_and_bytes(rng):
    change = int8_change.Int8Change(points=-0.5, std_points=0.3)
    asked = build("accuracy", "latency_ms", "weight_bytes", "peak_bytes", eight=Halved(), change=change)
    fp32, int8 = both(asked, rng)
    mixed = np.concatenate([fp32, int8])
    costs, _ = asked.evaluator(mixed)
    bare = fp32[:, :-1]
    top1 = accuracy.load("ofa_mbv3_w1.0").predict(bare)
    ms = catalogue.predictor("epyc_ort").predict(bare, catalogue.target("epyc_ort")).mean
    table = get_space("ofa_mbv3_w1.0").layers(bare)
    assert np.allclose(costs[:50], np.stack([-top1.mean, ms, 4 * table.params(), table.peak_bytes()], axis=1))
    expected = [0.005 - top1.mean, ms / 2, 4 * table.params() / 4, table.peak_bytes() / 4]
    assert np.allclose(costs[50:], np.stack(expected, axis=1))
    std = asked.models.predict_accuracy(mixed).std
    assert np.allclose(std[50:], np.hypot(top1.std, 0.003))
    assert np.allclose(std[:50], top1.std)


def test_names_end_with_the_bits_and_fp32_is_the_bare_network(rng):
    space = get_space("ofa_mbv3_w1.0_int8")
    genomes = space.sample(40, rng)
    names = space.format(genomes)
    assert {name.rpartition(" ")[2] for name in names} == {"b32", "b8"}
    bare = get_space("ofa_mbv3_w1.0").format(space.embed(genomes, "ofa_mbv3_w1.0"))
    expected = [name.replace("_int8", "").rpartition(" ")[0] for name in names]
    assert bare == expected
    assert (space.column(space.network(genomes), "precision") == 32).all()


def test_a_search_over_both_precisions_finds_more_than_one_over_fp32(rng):
    """With int8 twice as fast for half a point less, the joint front covers the front of fp32."""
    change = int8_change.Int8Change(points=-0.5, std_points=0.3)
    asked = build("accuracy", "latency_ms", "weight_bytes", eight=Halved(), change=change)
    fp32, int8 = both(asked, rng)
    few, many = asked.evaluator(fp32)[0], asked.evaluator(np.concatenate([fp32, int8]))[0]
    reference = many.max(axis=0) * np.array([0.9, 1.1, 1.1])
    assert pareto.hypervolume(many, reference) > 1.2 * pareto.hypervolume(few, reference)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="needs int8_predictor="):
        build("accuracy", "latency_ms")
    fp32, space = catalogue.predictor("epyc_ort"), get_space("ofa_mbv3_w1.0_int8")
    bf16 = replace(fp32, target=replace(fp32.target, precision="bf16", name="bf16"))
    with pytest.raises(ValueError, match="as b32 says"):
        ByPrecision(bf16, Halved(), space)
    with pytest.raises(ValueError, match="it must be int8"):
        build("accuracy", "latency_ms", eight=Halved("fp32"))
    with pytest.raises(ValueError, match="no precision gene"):
        ByPrecision(fp32, Halved(), get_space("ofa_mbv3_w1.0"))
    with pytest.raises(ValueError, match=r"whose networks are those of ofa_mbv3_w1\.2"):
        ByPrecision(fp32, Halved(), precision.space("wider", "ofa_mbv3_w1.2"))
    with pytest.raises(ValueError, match="itself part of"):
        precision.space("twice", "compofa_fixed")


def test_the_change_is_measured_from_pairs(tmp_path):
    path = tmp_path / "int8.json"
    path.write_text(json.dumps([{"fp32": 0.80, "int8": 0.79}, {"fp32": 0.70, "int8": 0.70}]))
    found = int8_change.load(path)
    assert found.points == pytest.approx(-0.5)
    assert found.std_points == pytest.approx(np.std([-1, 0], ddof=1))
    path.write_text("[]")
    with pytest.raises(ValueError, match="no pairs"):
        int8_change.load(path)


@pytest.mark.filterwarnings("ignore")
def test_the_declared_change_is_that_of_torchvision():
    """Its published top-1 of five mobile networks, quantised and not: mean and spread."""
    from torchvision.models import quantization as q

    weights = [
        q.MobileNet_V2_QuantizedWeights,
        q.MobileNet_V3_Large_QuantizedWeights,
        q.ShuffleNet_V2_X1_0_QuantizedWeights,
        q.ShuffleNet_V2_X1_5_QuantizedWeights,
        q.ShuffleNet_V2_X2_0_QuantizedWeights,
    ]
    top1 = [
        [one.meta["_metrics"]["ImageNet-1K"]["acc@1"] for one in (w.DEFAULT, w.DEFAULT.meta["unquantized"])]
        for w in weights
    ]
    change = np.diff(np.array(top1)[:, ::-1], axis=1)
    declared = int8_change.Int8Change()
    assert declared.points == pytest.approx(change.mean(), abs=0.1)
    assert declared.std_points == pytest.approx(change.std(ddof=1), abs=0.1)


def test_each_precision_on_the_front_is_measured_in_its_own_sitting(rng, monkeypatch):
    """int8 turns out a tenth slower than predicted, fp32 as predicted."""
    change = int8_change.Int8Change(points=-2.0, std_points=0.3)  # so much that fp32 is worth its time
    asked = build("accuracy", "latency_ms", "weight_bytes", eight=Halved(), change=change)
    genomes = np.concatenate(both(asked, rng))
    costs, violation = asked.evaluator(genomes)
    archive = Archive(asked.space, ["accuracy", "latency_ms", "weight_bytes"], costs.max(axis=0))
    archive.add(genomes, costs, violation)

    class Bench:
        def __init__(self, broken=()):
            self.sittings, self.broken = {}, broken

        def time(self, target, networks):
            if target.precision in self.broken:
                raise ValueError("nothing could be measured")
            model = Halved() if target.precision == "int8" else catalogue.predictor("epyc_ort")
            ms = model.predict(networks, target).mean * (1.1 if target.precision == "int8" else 1.0)
            self.sittings[target.precision] = LatencyData(target, networks, ms, 0.01 * ms)
            return session.Timed(target, {}, {}, {}, 1.0, {})

        def known(self, target):
            nothing = LatencyData(target, networks[:0], np.empty(0), np.empty(0))
            return Known(self.sittings.get(target.precision, nothing), "e 1")

    networks = get_space("ofa_mbv3_w1.0").sample(1, rng)

    def measured(bench):
        turns = Rounds(bench, lambda predictor, known: predictor, 12, 1)
        beginning = turns.begin(asked)
        taken = turns.measure(beginning, archive, 0, [])
        after = turns.apply(beginning, beginning, taken)
        again = Archive(asked.space, archive.objectives, archive.reference)
        again.add(archive.genomes, *after.evaluator(archive.genomes))
        return verdict.verification(after, again, [taken], 10)

    bench = Bench()
    result = measured(bench)
    assert list(bench.sittings) == ["fp32", "int8"]
    assert result.summary["networks"] == 12
    table = result.measured.columns
    ratio = np.array(table["latency_ms_measured"]) / np.array(table["latency_ms_predicted"])
    in_int8 = np.array(table["precision"]) == "int8"
    assert np.allclose(ratio[in_int8], 1.1, rtol=1e-3)
    assert np.allclose(ratio[~in_int8], 1.0, rtol=1e-3)
    assert {True, False} == set(in_int8)
    columns = result.front.columns
    assert columns["on_verified_front"][result.front.knee]
    ms = np.array(columns["latency_ms_measured"], float)
    kept = np.isfinite(ms)
    assert np.allclose(ms[kept], np.array(columns["latency_ms"])[kept], rtol=1e-3)

    half = measured(Bench(broken=("int8",)))
    assert set(half.summary["failed"].values()) == {"nothing could be measured"}
    assert all(name.endswith(", int8") for name in half.summary["failed"])
    assert set(half.measured.columns["precision"]) == {"fp32"}


def test_targets_that_have_no_int8():
    from latency.measuring.here import here, in_int8

    with pytest.raises(ValueError, match="engine=torch_eager has no int8"):
        in_int8(here("ofa_small", engine="torch_eager"))
    with pytest.raises(ValueError, match="precision=int8: a precision gene"):
        in_int8(here("ofa_small", precision="int8"))
    assert in_int8(here("ofa_small")).precision == "int8"
