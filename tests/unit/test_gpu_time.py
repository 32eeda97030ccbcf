"""GPU time from data sheets: what follows from the formula, anchors, files, the command's words."""

import time
from dataclasses import replace

import numpy as np
import pytest

from latency import target
from latency.data import LatencyData
from latency.gpu import kernels, model
from latency.gpu.chip import chip
from latency.gpu.kernels import Kind
from latency.gpu.times import KernelTimes
from latency.predictors import interface
from latency.zoo import catalogue, data_sheets
from search import command
from supernet import device, registry
from supernet.arrays import Genomes
from supernet.space import get_space

SPACE = "ofa_mbv3_w1.2"


def genomes(n: int, seed: int = 0) -> Genomes:
    space = get_space(SPACE)
    return space.network(space.sample(n, np.random.default_rng(seed)))


def predict(where: target.Target, rows: Genomes):
    return data_sheets.predictor(where)[0].predict(rows, where)


def times(name: str, precision: str = "fp32", **changed: float) -> KernelTimes:
    """Of kernels of an anonymous GPU with some figures changed."""
    return data_sheets.gpu_model().times(chip(replace(device.get(name), **changed), precision))


def test_a_large_sum_of_maps_takes_about_its_bytes_over_the_bandwidth():
    """Three maps of 64 Mi numbers on a V100 (897 GB/s): .90 ms at full bandwidth, which none reaches."""
    elements = 2.0**26
    ms = times("v100").ms(kernels.kernels(Kind.ELEMENTWISE, maps=np.array([3 * elements]), outputs=elements))
    limit = 12 * elements / 897e6
    assert limit < ms[0] < 1.6 * limit


def test_a_large_product_takes_about_its_macs_over_the_peak_rate():
    """8192^3 in fp32 on a V100 (15.67 TFLOPS): 70 ms at the stated rate; half of it on tensor cores.

    Many cards run at more than their stated boost clock.
    """
    side = 8192.0
    product = kernels.kernels(
        Kind.LINEAR, rows=np.array([side]), cols=side, depth=side, maps=2 * side**2, weights=side**2
    )
    limit = side**3 / (15.67e9 / 2)
    fp32, amp = (times("v100", precision).ms(product)[0] for precision in ("fp32", "amp"))
    assert 0.8 * limit < fp32 < 1.5 * limit
    assert amp < fp32 / 2


def test_cards_that_check_their_memory_move_less():
    """A T4 against the same figures on a card for games; stacked memory is checked at no cost."""
    moved = kernels.kernels(Kind.ELEMENTWISE, maps=np.array([2.0**27]), outputs=2.0**26)
    checked, free = (times("t4", title=title).ms(moved)[0] for title in ("Tesla T4", "GeForce T4"))
    assert 1.05 * free < checked < 1.5 * free
    assert times("v100", title="GeForce V100").ms(moved)[0] == times("v100").ms(moved)[0]


def test_more_bandwidth_or_a_higher_rate_never_slows_a_kernel():
    table = get_space(SPACE).layers(genomes(5))
    sheet = device.get("rtx_2080ti")
    parts = [
        times(
            "rtx_2080ti", bandwidth_gbs=b * sheet.bandwidth_gbs, fp32_tflops=f * sheet.fp32_tflops, tdp_w=None
        )
        .parts(table, 64)
        .sum(axis=1)
        for b, f in ((1, 1), (2, 1), (1, 2), (10, 10))
    ]
    for faster in parts[1:]:
        assert (faster <= parts[0] + 1e-9).all()
    ratio = parts[0][:, :3].sum(axis=1) / parts[3][:, :3].sum(axis=1)
    assert ((ratio > 5) & (ratio < 10)).all()  # the starts of kernels do not shrink
    assert np.allclose(parts[0][:, 3], parts[3][:, 3])  # nor does the host


def test_a_batch_of_one_is_the_hosts_whatever_the_gpu():
    rows = genomes(50)
    one, many = (
        [predict(target.gpu(n, batch=b), rows).mean for n in ("titan_xp", "rtx_4090")] for b in (1, 256)
    )
    assert np.abs(one[0] / one[1] - 1).max() < 0.3
    assert (many[0] / many[1]).min() > 1.5


def test_tables_equal_the_sum_over_kernels():
    rows, where = genomes(50), target.gpu("rtx_4090", batch=16, precision="amp")
    known = data_sheets.gpu_model()
    parts = known.parts(where, get_space(SPACE).layers(rows))
    told = predict(where, rows)
    device_ms = parts[:, :3].sum(axis=1)
    seen = (device_ms**4 + parts[:, 3] ** 4) ** 0.25
    assert np.allclose(told.mean, seen, rtol=1e-5)
    assert np.allclose(told.std**2, told.own**2 + (told.shared**2).sum(axis=1))


def test_precision_and_batch_are_inputs():
    rows = genomes(20)
    ms = {
        p: predict(target.gpu("a100_40", batch=256, precision=p), rows).mean for p in ("fp32", "tf32", "amp")
    }
    assert (ms["tf32"] < ms["fp32"]).all()
    assert (ms["amp"] < 0.9 * ms["tf32"]).all()
    half = predict(target.gpu("a100_40", batch=128), rows).mean
    assert ((half < ms["fp32"]) & (half > 0.4 * ms["fp32"])).all()
    built = registry.build(
        command.compose("search", ["target=gpu", "target.device=t4", "target.precision=amp"])["target"]
    )
    assert (built.precision, built.name) == ("amp", "t4_b64_amp_data_sheet")
    with pytest.raises(ValueError, match="bf16"):
        registry.build(
            command.compose("search", ["target=gpu", "target.device=t4", "target.precision=bf16"])["target"]
        )


def test_what_is_not_known_widens_the_interval():
    """A generation that nobody timed; software of which nothing is known against one measured network."""
    rows, where = genomes(200), target.gpu("rtx_3090")
    usual = predict(where, rows)
    new = predict(replace(where, device=replace(where.spec, generation="Rubin", name="new")), rows)
    assert (new.std / new.mean > usual.std / usual.mean).all()
    before = data_sheets.predictor(where)[0]
    data = LatencyData(where, rows[:1], 1.3 * usual.mean[:1], np.full(1, np.nan))
    assert before.adapt(data).relative_std < 0.6 * before.relative_std


def test_anchors_remove_a_wrong_factor_and_are_remembered():
    rows, where = genomes(200), target.gpu("rtx_3090", batch=64)
    before = data_sheets.predictor(where)[0]
    ms = 1.3 * before.predict(rows, where).mean
    data = LatencyData(where, rows, ms, np.full(len(rows), np.nan))
    after = before.adapt(data.take(slice(0, 1)))
    wrong = [np.abs(p.predict(rows, where).mean / ms - 1).mean() for p in (before, after)]
    assert wrong[0] > 0.2
    assert wrong[1] < 0.05
    three, six = data.take(slice(0, 3)), data.take(slice(0, 6))
    twice, once = before.adapt(three).adapt(data.take(slice(3, 6))), before.adapt(six)
    assert (twice.errors.shift == once.errors.shift).all()
    assert (twice.errors.covariance == once.errors.covariance).all()
    assert not before.errors.shift.any()
    with pytest.raises(ValueError, match="cannot adapt"):
        before.adapt(replace(data, target=target.gpu("v100")))
    with pytest.raises(ValueError, match="at least 1"):
        before.adapt(data.take(slice(0, 0)))


def test_files(tmp_path):
    where, rows = target.gpu("t4", batch=8), genomes(10)
    predictor = data_sheets.predictor(where)[0]
    samples = LatencyData(where, rows, predictor.predict(rows, where).mean * 1.1, np.full(10, np.nan))
    for made in (predictor, predictor.adapt(samples)):
        made.save(tmp_path / "t4.npz")
        loaded = interface.load(tmp_path / "t4.npz")
        for attribute in ("mean", "std"):
            told, saved = (getattr(p.predict(rows, where), attribute) for p in (made, loaded))
            assert (told == saved).all()
    more = loaded.adapt(samples.take(slice(0, 2)))
    assert len(more.history.samples) == 10
    known = data_sheets.gpu_model()
    known.save(tmp_path / "model.npz")
    assert model.load(tmp_path / "model.npz").values == known.values
    with pytest.raises(ValueError, match="expected model of GPU time"):
        model.load(tmp_path / "t4.npz")


def test_what_is_no_gpu_or_unknown_is_refused():
    with pytest.raises(ValueError, match="is no GPU"):
        target.gpu("note10")
    with pytest.raises(ValueError, match="no bandwidth_gbs"):
        chip(replace(device.get("v100"), bandwidth_gbs=None))
    with pytest.raises(ValueError, match="no sums of blocks"):
        data_sheets.predictor(target.gpu("v100", space="nasbench201"))


@pytest.mark.parametrize("space", ["ofa_resnet50", "ofa_proxyless_w1.3", "fbnet"])
def test_other_spaces_than_those_that_were_timed(space):
    where, own = target.gpu("a100_40", space=space), get_space(space)
    rows = own.sample(30, np.random.default_rng(0))
    ms = predict(where, rows).mean
    assert np.corrcoef(np.log(ms), np.log(own.layers(rows).macs()))[0, 1] > 0.6


def test_speed():
    """300,000 subnets a second are asked for; a million is usual."""
    where, rows = target.gpu("rtx_4090"), genomes(20_000)
    predictor = data_sheets.predictor(where)[0]
    predictor.predict(rows[:100], where)
    seconds = []
    for _ in range(3):
        begun = time.process_time()
        predictor.predict(rows, where)
        seconds.append(time.process_time() - begun)
    assert len(rows) / min(seconds) > 300_000


def test_automatic_names_its_reason():
    own, why = catalogue.automatic(catalogue.target("v100_b64"))
    assert own.facts["method"] == "additive"
    assert "4,000 measurements" in why
    sheet, why = catalogue.automatic(target.gpu("rtx_4090"))
    assert sheet.facts["samples"] == 0
    assert "nothing was measured" in why
    with pytest.raises(ValueError, match="no predictor was fitted"):
        catalogue.automatic(replace(catalogue.target("note10_lut"), name="mine", batch=2))
