"""GPUs beyond those that ship: names, figures of the library against ours, estimates, the command line."""

import csv
import json
import sys
from dataclasses import replace

import numpy as np
import pytest

from latency import target
from latency.predictors import interface
from latency.zoo import catalogue as zoo
from latency.zoo import data_sheets
from search import command
from search.commands import list as list_command
from supernet import device, registry
from supernet.devices import catalogue, estimates
from supernet.space import get_space

library = pytest.mark.skipif(not catalogue.installed(), reason='pip install "ofa-frontier[gpus]"')
OURS = {  # device of hardware.csv: how the library calls it
    "gtx_1080ti": "GeForce GTX 1080 Ti",
    "v100_pcie": "Tesla V100 PCIe 32 GB",
    "a100_pcie_40": "A100 PCIe 40 GB",
    "a100_pcie_80": "A100 PCIe 80 GB",
    "l4": "L4",
    "tesla_p4": "Tesla P4",
    "rtx_5090": "GeForce RTX 5090",
    "h100_sxm": "H100 SXM5 80 GB",
    "t4": "Tesla T4",
}
COLUMNS = {
    "cores": "cores",
    "sm": "sm",
    "ram_gb": "ram_gb",
    "bandwidth_gbs": "mem_bw_gbs",
    "fp32_tflops": "fp32_tflops",
    "boost_mhz": "boost_mhz",
    "l2_mb": "l2_mb",
    "tdp_w": "tdp_w",
    "tensor_cores": "tensor_cores",
}
RATES = {  # TFLOPS of dense fp16 products with sums in fp32, from the makers' data sheets
    "rtx_a6000": 154.8,
    "l40s": 362.0,
    "a40_pcie": 149.7,
    "quadro_rtx_8000": 130.5,
    "rtx_3080": 59.5,
    "rtx_4080": 97.5,
    "gtx_1660_ti": 0.0,
    "jetson_agx_orin_64_gb": 42.5,
}


@library
@pytest.mark.parametrize(("ours", "theirs"), OURS.items())
def test_the_library_agrees_with_the_table_of_hardware(ours, theirs, data):
    with open(data / "hardware.csv", newline="") as file:
        row = next(row for row in csv.DictReader(file) if row["device_id"] == ours)
    sheet = next(catalogue.facts(one) for one in catalogue.rows().values() if one.name == theirs)
    off = {f: sheet[f] / float(row[c]) for f, c in COLUMNS.items() if float(row[c])}
    assert all(abs(ratio - 1) < 0.01 for ratio in off.values()), off


@library
@pytest.mark.parametrize(("name", "tflops"), RATES.items())
def test_rates_of_tensor_cores(name, tflops):
    assert device.get(name).tensor_tflops == pytest.approx(tflops, rel=0.02)


@library
def test_every_gpu_of_the_library_builds_and_is_found_by_its_name():
    names = catalogue.names()
    assert len(names) > 1500
    assert len(set(names)) == len(names)
    for name in names[::25]:
        sheet = device.get(name)
        assert sheet.name == name or sheet.name in registry.names("device")
        assert min(sheet.cores, sheet.bandwidth_gbs, sheet.fp32_tflops) > 0
    assert device.get("NVIDIA GeForce RTX 4080").name == device.get("rtx-4080").name == "rtx_4080"


def test_other_spellings_of_devices_that_ship_need_no_library(monkeypatch):
    monkeypatch.setattr(catalogue, "installed", lambda: False)
    for spelling, name in {
        "GeForce RTX 4090": "rtx_4090",
        "p40": "tesla_p40",
        "H100 SXM5 80 GB": "h100_sxm",
    }.items():
        assert registry.find("device", spelling).name == name
    assert target.gpu("RTX 4090", batch=1).device == "rtx_4090"
    with pytest.raises(ValueError, match=r"Did you mean 'rtx_4090'.*ofa-frontier\[gpus\]"):
        registry.find("device", "rtx_4080")


@library
def test_unknown_and_ambiguous_names_get_the_nearest():
    with pytest.raises(ValueError, match="Nearest: h100_pcie, h100_sxm, "):
        device.get("h100")
    with pytest.raises(ValueError, match="Did you mean 'rtx_4090'"):
        device.get("rtx_4099")


@library
def test_a_predictor_of_such_a_gpu_needs_no_library_to_load(tmp_path, monkeypatch):
    where = target.gpu("rtx_4080", batch=32)
    zoo.automatic(where)[0].save(tmp_path / "p.npz")
    monkeypatch.setattr(catalogue, "installed", lambda: False)
    device.get.cache_clear()
    loaded = interface.load(tmp_path / "p.npz")
    assert loaded.target.key == where.key
    assert loaded.target.spec.cores == 9728


def test_three_figures_are_enough_and_widen_the_interval():
    whole = target.gpu("rtx_3090")
    sheet = whole.spec
    few = target.gpu({name: getattr(sheet, name) for name in estimates.NEEDED})
    assert "fp32_tflops" in few.spec.estimated
    genomes = get_space(whole.space).restrict("r", 160, 224).sample(20, np.random.default_rng(0))
    stated, estimated = (zoo.automatic(one)[0].predict(genomes, one) for one in (whole, few))
    assert (estimated.std / estimated.mean > 1.02 * stated.std / stated.mean).all()
    low, high = estimated.interval(0.9)
    assert ((low < stated.mean) & (stated.mean < high)).all()
    assert "are estimated" in data_sheets.predictor(few)[1]


def test_most_gpus_that_ship_are_where_an_estimate_from_three_figures_expects_them():
    """Each by the others, against the prediction from its whole data sheet: 20 of 22 intervals hold."""
    known, outside = data_sheets.gpu_model(), []
    space = get_space("ofa_mbv3_w1.2").restrict("r", 160, 224)
    table = space.layers(space.sample(64, np.random.default_rng(1)))
    for name in registry.shipped("device"):
        sheet = device.get(name)
        if sheet.kind != "gpu" or not (sheet.cores and sheet.boost_mhz and sheet.fp32_tflops):
            continue
        figures = {figure: getattr(sheet, figure) for figure in estimates.NEEDED}
        few = estimates.completed(device.Device(name, sheet.title, "gpu", "three figures", **figures))
        where = replace(target.gpu(name), device=few)
        shift, spread = data_sheets.by_estimates(known, where)
        told, whole = (
            known.errors.seen(known.parts(replace(where, device=one), table)) for one in (few, sheet)
        )
        if abs(np.log(told / whole).mean() + shift) > 1.645 * spread:
            outside.append(name)
    assert len(outside) <= 2, outside


def test_estimates_are_in_proportion_to_a_donor():
    donor = device.get("rtx_3090")
    half = estimates.from_facts({"cores": donor.cores // 2, "ram_gb": 12, "bandwidth_gbs": 468})
    (like,) = estimates.possible(half, [donor])
    assert (like.sm, like.boost_mhz, like.generation) == (41, 1695, "Ampere")
    assert like.fp32_tflops == pytest.approx(donor.fp32_tflops / 2, rel=1e-3)
    assert like.tdp_w == pytest.approx(175, rel=1e-3)
    known = estimates.from_facts({"cores": 5248, "ram_gb": 12, "bandwidth_gbs": 468, "fp32_tflops": 10.0})
    (like,) = estimates.possible(known, [donor])
    assert like.boost_mhz == pytest.approx(10e12 / 2 / 5248 / 1e6)


def test_figures_replace_those_of_a_known_gpu():
    changed = target.gpu({"name": "rtx_4090", "ram_gb": 48})
    assert replace(
        changed.spec, name="rtx_4090", title=device.get("rtx_4090").title, ram_gb=24
    ) == device.get("rtx_4090")
    assert changed.key != target.gpu("rtx_4090").key


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "please give target.device=NAME"),
        (["target.device.cores=3584"], r"target.device.ram_gb=\.\.\. target.device.bandwidth_gbs"),
        (["target.device.corse=3"], "Did you mean 'cores'"),
        (["target.device=note10"], "is no GPU"),
    ],
)
def test_what_is_missing_is_asked_for(words, said):
    node = command.compose("search", ["target=gpu", *words])["target"]
    with pytest.raises(ValueError, match=said):
        registry.build(node)


def test_parts_and_a_name_go_together_on_the_command_line():
    words = ["target=gpu", "target.device.ram_gb=48", "target.device=rtx_4090", "target.batch=8"]
    built = registry.build(command.compose("search", words)["target"])
    assert (built.spec.ram_gb, built.spec.cores, built.batch) == (48, 16384, 8)
    words = [
        "target=gpu",
        *(
            f"target.device.{name}={value}"
            for name, value in {"cores": 3584, "ram_gb": 12, "bandwidth_gbs": 360}.items()
        ),
    ]
    assert registry.build(command.compose("search", words)["target"]).spec.cores == 3584


@library
def test_listing_and_fit_know_them(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["list", "device", "GeForce RTX 4080"])
    list_command.main()
    assert "cores: 9728" in capsys.readouterr().out
    config = command.compose("fit", ["device=rtx_4080", "rows=x.csv", "column=ms"])
    assert json.loads(json.dumps(config["device"]))["name"] == "rtx_4080"
    with pytest.raises(ValueError, match="Did you mean 'rtx_4090'"):
        command.compose("fit", ["device=rtx_4099", "rows=x.csv", "column=ms"])
