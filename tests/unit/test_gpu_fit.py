"""The fit of the model of GPU time: what it recovers, its errors, the tables it reads, traced networks."""

from dataclasses import replace

import numpy as np
import pytest

from latency.gpu import fit, kernels, measurements
from latency.gpu.calibration import GpuTimes
from latency.gpu.chip import chip
from latency.gpu.kernels import Kind
from latency.gpu.measurements import Group, of_networks
from latency.zoo import data_sheets
from supernet import device, extras
from supernet.space import get_space

SPACE = "ofa_mbv3_w1.0"


def made_up(name: str, batch: int, factor: float = 1.0, n: int = 16) -> Group:
    """Networks that take what the shipped model says of them, times a factor."""
    space = get_space(SPACE)
    table, spec = space.layers(space.sample(n, np.random.default_rng(batch))), chip(device.get(name))
    group = of_networks(spec, "made up", table, batch, np.ones(n), norms=True)
    parts = data_sheets.gpu_model().times(spec).parts_of(group)
    return replace(group, ms=factor * (parts[:, :3].sum(axis=1) ** 4 + parts[:, 3] ** 4) ** 0.25)


def test_groups_say_what_layers_say():
    """Kernels of a network one by one, and the same by groups with counts."""
    space, spec = get_space(SPACE), chip(device.get("t4"))
    table = space.layers(space.sample(4, np.random.default_rng(0)))
    times = data_sheets.gpu_model().times(spec)
    group = of_networks(spec, "", table, 8, np.ones(4), norms=True)
    assert np.allclose(times.parts_of(group), times.parts(table, 8).sum(axis=1))
    kept = group.take(np.array([2, 0]))
    assert np.allclose(times.parts_of(kept), times.parts_of(group)[[2, 0]])
    assert group.launches.sum() == sum(part.count.sum() for part in kernels.of_layers(table))
    assert group.launches[:, Kind.CONV].tolist() == [1] * 4  # the first layer only


def test_the_fit_finds_what_made_the_data():
    """Four GPUs that all take 1.5 times what the shipped model says: an unseen fifth within 20%."""
    gpus = ("rtx_2080ti", "titan_xp", "v100", "t4")
    known = [replace(made_up(gpu, batch, 1.5), source=gpu) for gpu in gpus for batch in (8, 64)]
    values = fit.fit(known, 60)
    unseen = made_up("titan_rtx", 64, 1.5)
    model = replace(data_sheets.gpu_model(), values=values)
    parts = model.times(unseen.chip).parts_of(unseen)
    told = model.errors.mean_and_shares(parts)[0]
    shipped = replace(model, values=data_sheets.gpu_model().values)
    before = model.errors.mean_and_shares(shipped.times(unseen.chip).parts_of(unseen))[0]
    assert np.abs(told / unseen.ms - 1).mean() < 0.2
    assert np.abs(before / unseen.ms - 1).mean() > 0.3


def test_gpus_that_differ_more_make_wider_intervals():
    spread = {}
    names = ("rtx_2080ti", "titan_xp", "v100")
    for label, factors in {"alike": (1, 1, 1), "apart": (0.6, 1, 1.7)}.items():
        groups = [made_up(name, 64, factor) for name, factor in zip(names, factors, strict=True)]
        fitted = GpuTimes(rows=10, iterations=15).fit(groups)
        spread[label] = np.sqrt(np.diag(fitted.errors.covariance)[:3].mean())
    assert spread["apart"] > 1.3 * spread["alike"]
    with pytest.raises(ValueError, match="no GPU to learn from"):
        GpuTimes().fit([])


def test_kernels_of_a_table_by_hand(tmp_path):
    """A convolution of 16 x 16 pixels, 3 to 8 channels, 3 x 3, stride 2, padding 1; a sum; a product."""
    (tmp_path / "hardware.csv").write_text(
        "device_id,name,kind,microarch,cores,sm,mem_bw_gbs,fp32_tflops,boost_mhz,tensor_cores,source\n"
        "card,Card,gpu,Turing TU104,2560,40,320,8.1,1590,320,made up\n"
    )
    nan = np.nan
    columns = {
        "op": np.array(["conv", "add", "bmm"]), "device_id": np.array(["card"] * 3),
        "batch": np.array([4, nan, 2]), "cin": np.array([3, nan, nan]), "cout": np.array([8, nan, nan]),
        "kernel": np.array([3, nan, nan]), "size": np.array([16, nan, nan]),
        "stride": np.array([2, nan, nan]),
        "padding": np.array([1, nan, nan]), "m": np.array([nan, nan, 5]), "n": np.array([nan, nan, 6]),
        "k": np.array([nan, nan, 7]), "rows": np.array([nan, 10, nan]), "cols": np.array([nan, 20, nan]),
        "ms": np.array([0.1, 0.2, 0.3]),
    }  # fmt: skip
    conv, add, bmm = measurements.of_kernels(columns, tmp_path)
    assert conv.kernels.macs.tolist() == [4 * 8 * 8 * 8 * 3 * 9]
    assert conv.kernels.maps.tolist() == [4 * (3 * 256 + 8 * 64)]
    assert add.kernels.maps.tolist() == [600]
    assert bmm.kernels.macs.tolist() == [2 * 5 * 6 * 7]
    assert bmm.kernels.maps.tolist() == [2 * (5 * 7 + 7 * 6 + 5 * 6)]
    assert [group.ms.tolist() for group in (conv, add, bmm)] == [[0.1], [0.2], [0.3]]
    assert measurements.hardware(tmp_path, "card").tensor_tflops == pytest.approx(65.1, abs=0.1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(bool(extras.missing(["timm"])), reason='pip install "ofa-frontier[peers]"')
def test_traced_networks_have_their_published_macs():
    """MobileNetV3-Large x 1.0 at 224 x 224: 217 M MACs (arXiv 1905.02244); ResNet-18 1.82 G (torchvision)."""
    from latency.gpu import traced

    for name, gmacs in {"mobilenetv3_large_100": 0.217, "resnet18": 1.82}.items():
        run = traced.trace(name, 224)
        assert (run.macs * run.count).sum() / 1e9 == pytest.approx(gmacs, rel=0.02)
    assert traced.trace("repvgg_a0", 224) is None
