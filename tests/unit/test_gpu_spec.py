"""GPUs from their data sheets: what follows from the formula, the fit, anchors, files."""

from dataclasses import replace

import numpy as np
import pytest

from latency import target
from latency.data import LatencyData
from latency.predictors import gpu_spec, interface
from latency.predictors.gpu_spec import GpuModel, GpuSpec
from latency.zoo import catalogue
from supernet import device
from supernet.arrays import Genomes
from supernet.space import get_space


def genomes(n: int, seed: int = 0) -> Genomes:
    space = get_space("ofa_mbv3_w1.2").restrict("r", 160, 224)
    return space.network(space.sample(n, np.random.default_rng(seed)))


def made_up(model: GpuModel, name: str, batch: int, rows: Genomes) -> LatencyData:
    """Latencies that follow the formula exactly."""
    where = target.gpu(name, batch=batch)
    ms = model.predictor(where).predict(rows, where).mean
    return LatencyData(where, rows, ms, np.full(len(rows), np.nan))


def test_tables_equal_the_sum_over_layers():
    model, rows = catalogue.gpu_model(), genomes(50)
    where = target.gpu("rtx_4090", batch=16)
    predictor = model.predictor(where)
    device_ms, host_ms = predictor.parts(rows)
    layers = get_space(where.space).layers(rows)
    each = gpu_spec.layer_ms(model.parameters, gpu_spec.work(layers, 16), where.spec, "")
    assert np.allclose(device_ms, each.sum(axis=1), rtol=1e-9)
    assert np.allclose(host_ms, gpu_spec.launch_ms(model.parameters, "nobody") * layers.live.sum(axis=1))


def test_a_memory_bound_network_follows_bandwidth_and_a_host_bound_one_nothing():
    model, rows = catalogue.gpu_model(), genomes(20)
    slow = device.get("rtx_2080ti")
    fast = replace(
        slow, name="fast", bandwidth_gbs=10 * slow.bandwidth_gbs, fp32_tflops=10 * slow.fp32_tflops
    )
    ms = {}
    for spec in (slow, fast):
        for batch in (1, 512):
            where = replace(target.gpu("rtx_2080ti", batch=batch), device=spec)
            ms[spec.name, batch] = model.predictor(where).predict(rows, where).mean
    ratio = ms["rtx_2080ti", 512] / ms["fast", 512]
    assert ratio.min() > 8
    assert np.allclose(ms["rtx_2080ti", 1], ms["fast", 1], rtol=0.15)  # launches, whatever the GPU


def test_the_fit_finds_what_made_the_data():
    """Four GPUs follow the formula with other shares than the zoo's: an unseen fifth within 12%.

    The zoo's shares are further off.
    """
    values = dict(catalogue.gpu_model().parameters)
    values |= {"bandwidth.pointwise": np.log(0.3), "rate.depthwise": np.log(0.1), "launch": np.log(0.05)}
    values = {k: v for k, v in values.items() if not k.startswith(("study", "generation", "family"))}
    truth = replace(catalogue.gpu_model(), parameters=values)
    rows = genomes(20)
    known = [
        made_up(truth, name, batch, rows)
        for name in ("rtx_2080ti", "titan_xp", "v100", "rtx_3090")
        for batch in (1, 32)
    ]
    fitted = GpuSpec(rows=20).fit(known)
    unseen = made_up(truth, "a100_40", 32, rows)
    off = [
        np.abs(
            model.predictor(unseen.target).predict(unseen.genomes, unseen.target).mean / unseen.ms - 1
        ).mean()
        for model in (fitted, catalogue.gpu_model())
    ]
    assert off[0] < 0.12
    assert off[1] > 1.3 * off[0]
    assert fitted.spreads[0] < 0.3  # GPUs left out are predicted well, so little is expected to be wrong
    slow = GpuSpec(rows=20).fit([replace(data, ms=1.8 * data.ms) for data in known])
    assert slow.spreads[0] > 1.5 * fitted.spreads[0]  # the common factor of their study helps no user


def test_one_anchor_removes_most_of_a_wrong_factor_and_narrows_the_interval():
    model, rows = catalogue.gpu_model(), genomes(200)
    where = target.gpu("rtx_3090", batch=64)
    before = model.predictor(where)
    ms = 1.3 * before.predict(rows, where).mean
    data = LatencyData(where, rows, ms, np.full(len(rows), np.nan))
    after = before.adapt(data.take(slice(0, 1)))
    wrong = [np.abs(p.predict(rows, where).mean / ms - 1).mean() for p in (before, after)]
    assert wrong[0] > 0.2
    assert wrong[1] < 0.07
    assert after.relative_std < before.relative_std
    assert before.factors == (1.0, 1.0)
    one_more, both = after.adapt(data.take(slice(1, 2))), before.adapt(data.take(slice(0, 2)))
    assert one_more.factors == both.factors
    assert (one_more.covariance == both.covariance).all()
    with pytest.raises(ValueError, match="cannot adapt"):
        before.adapt(replace(data, target=target.gpu("v100")))


def test_files(tmp_path):
    where = target.gpu("t4", batch=8)
    predictor = catalogue.gpu_model().predictor(where)
    predictor.save(tmp_path / "t4.npz")
    loaded = interface.load(tmp_path / "t4.npz")
    rows = genomes(10)
    assert np.allclose(loaded.predict(rows, where).mean, predictor.predict(rows, where).mean)
    assert np.allclose(loaded.predict(rows, where).std, predictor.predict(rows, where).std)
    catalogue.gpu_model().save(tmp_path / "model.json")
    assert gpu_spec.load_model(tmp_path / "model.json").parameters == catalogue.gpu_model().parameters
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ValueError, match="holds no"):
        gpu_spec.load_model(tmp_path / "other.json")


def test_what_is_no_gpu_or_unknown_is_refused():
    with pytest.raises(ValueError, match="is no GPU"):
        target.gpu("note10")
    bare = replace(device.get("v100"), bandwidth_gbs=None)
    with pytest.raises(ValueError, match="no bandwidth_gbs"):
        gpu_spec.sheet(bare)
    with pytest.raises(ValueError, match="no known GPU has timed"):
        catalogue.gpu_model().predictor(target.gpu("v100", space="ofa_resnet50"))
    with pytest.raises(ValueError, match="no GPU to learn from"):
        GpuSpec().fit([])


def test_automatic_names_its_reason():
    own, why = catalogue.automatic(catalogue.target("v100_b64"))
    assert own.facts["method"] == "additive"
    assert "4,000 measurements" in why
    sheet, why = catalogue.automatic(target.gpu("rtx_4090"))
    assert sheet.facts["samples"] == 0
    assert "nothing was measured" in why
    with pytest.raises(ValueError, match="no predictor was fitted"):
        catalogue.automatic(replace(catalogue.target("note10_lut"), name="mine", batch=2))
