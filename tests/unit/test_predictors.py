"""Latency predictors on made-up devices whose truth is known."""

from dataclasses import replace

import numpy as np
import pytest

from latency.data import LatencyData, read_csv
from latency.predictors import interface, lookup_table
from latency.predictors.additive import Additive
from latency.scores import scores
from latency.target import Target
from latency.zoo import catalogue
from supernet.space import get_space

NAMES = ["ofa_mbv3_w1.0", "ofa_proxyless_w1.3", "ofa_resnet50", "compofa_elastic", "nasbench201", "fbnet"]


def device(name, n, seed, noise=0.0):
    """n 'measurements' of a made-up device: time of weights and of activations, per layer, plus a
    start-up."""
    space, rng = get_space(name), np.random.default_rng(seed)
    genomes = space.sample(n, rng)
    table = space.layers(genomes)
    ms = 1 + table.macs() / 1e8 + 4 * table.layer_activations().sum(axis=1) / 1e6
    target = Target(name="made-up", device="v100", space=name)
    return LatencyData(target, genomes, ms * np.exp(noise * rng.standard_normal(n)), np.full(n, np.nan))


@pytest.mark.parametrize("name", NAMES)
def test_additive_recovers_an_additive_device(name):
    fitted = Additive(ridge=1e-4).fit(device(name, 1500, 0))
    new = device(name, 300, 1)
    row = scores(fitted.predict(new.genomes, new.target), new.ms)
    assert row["mape"] < 0.5
    assert row["spearman"] > 0.99  # many NAS-Bench-201 cells cost exactly the same


def test_additive_survives_rows_that_are_far_off():
    data = device("ofa_mbv3_w1.0", 1500, 0, noise=0.01)
    bad = np.random.default_rng(5).random(1500) < 0.1
    spoilt = replace(data, ms=np.where(bad, data.ms * 2, data.ms))
    new = device("ofa_mbv3_w1.0", 300, 1)
    row = scores(Additive().fit(spoilt).predict(new.genomes, new.target), new.ms)
    assert row["mape"] < 1


def test_intervals_cover_what_they_say():
    fitted = Additive().fit(device("ofa_mbv3_w1.0", 1500, 0, noise=0.02))
    new = device("ofa_mbv3_w1.0", 1000, 1, noise=0.02)
    assert 86 <= scores(fitted.predict(new.genomes, new.target), new.ms)["coverage_90"] <= 94


def test_table_equals_the_regression_it_came_from():
    """The slot table gives the same numbers as the features times the weights, one architecture at a time or
    all."""
    data = device("ofa_mbv3_w1.0", 400, 0)
    fitted = Additive(ridge=1e-3).fit(data)
    together = fitted.predict(data.genomes, data.target).mean
    alone = np.concatenate([fitted.predict(data.genomes[i : i + 1], data.target).mean for i in range(50)])
    assert (together[:50] == alone).all()
    order = np.random.default_rng(1).permutation(400)
    assert (fitted.predict(data.genomes[order], data.target).mean == together[order]).all()


def test_blocks_never_seen_cost_about_what_their_slot_costs():
    data = device("ofa_mbv3_w1.0", 800, 0)
    space = get_space("ofa_mbv3_w1.0")
    without = data.take(np.flatnonzero(space.column(data.genomes, "e0") != 6))
    fitted = Additive(ridge=1e-3).fit(without)
    new = device("ofa_mbv3_w1.0", 300, 1)
    new = new.take(np.flatnonzero(space.column(new.genomes, "e0") == 6))
    assert scores(fitted.predict(new.genomes, new.target), new.ms)["mape"] < 15


def test_adapting_finds_the_scale_and_leaves_the_source_alone():
    fitted = Additive(ridge=1e-3).fit(device("ofa_mbv3_w1.0", 800, 0))
    other = device("ofa_mbv3_w1.0", 12, 3, noise=0.01)
    slower = replace(other, ms=other.ms * 3.7, target=replace(other.target, name="slower"))
    before = fitted.table.cells.copy()
    adapted = fitted.adapt(slower)
    assert (fitted.table.cells == before).all()
    new = device("ofa_mbv3_w1.0", 300, 4)
    row = scores(adapted.predict(new.genomes, slower.target), new.ms * 3.7)
    assert row["mape"] < 1.5
    with pytest.raises(ValueError, match="too few"):
        fitted.adapt(slower.take(slice(0, 1)))
    with pytest.raises(ValueError, match="cannot adapt"):
        fitted.adapt(device("fbnet", 5, 0))


def test_save_and_load_predict_alike(tmp_path):
    data = device("ofa_mbv3_w1.0", 300, 0)
    fitted = Additive(ridge=1e-3).fit(data)
    fitted.save(tmp_path / "p.npz")
    loaded = interface.load(tmp_path / "p.npz")
    assert loaded.target == fitted.target
    assert loaded.resolutions == fitted.resolutions
    assert np.allclose(
        loaded.predict(data.genomes, data.target).mean,
        fitted.predict(data.genomes, data.target).mean,
        rtol=1e-6,
    )


def test_what_was_not_timed_is_refused():
    data = device("ofa_mbv3_w1.0", 300, 0)
    space = get_space("ofa_mbv3_w1.0")
    at_192 = data.take(np.flatnonzero(space.column(data.genomes, "r") >= 192))
    fitted = Additive(ridge=1e-3).fit(at_192)
    with pytest.raises(ValueError, match="the latency of made-up is known for resolutions 192 to 224"):
        fitted.predict(data.genomes, data.target)
    with pytest.raises(ValueError, match=r"fitted for made-up, not for v100_b64"):
        fitted.predict(at_192.genomes, catalogue.target("v100_b64"))


def test_bad_measurements_are_refused():
    data = device("ofa_mbv3_w1.0", 20, 0)
    with pytest.raises(ValueError, match=r"row 3 has 0\.0"):
        replace(data, ms=np.where(np.arange(20) == 3, 0.0, data.ms))
    with pytest.raises(ValueError, match="too few"):
        Additive().fit(data.take(slice(0, 5)))
    with pytest.raises(ValueError, match="leave nothing"):
        Additive(validation=(0, 20)).fit(data)
    with pytest.raises(ValueError, match="Did you mean 'v100'"):
        Target(name="x", device="v10", space="fbnet")


def test_reading_measurements(tmp_path, rng):
    space = get_space("nasbench201")
    genomes = space.sample(5, rng)
    columns = [axis.name for axis in space.axes]
    lines = [
        ",".join([*map(str, row), ms])
        for row, ms in zip(space.values(genomes), ["1", "2.5", "3", "", "5"], strict=True)
    ]
    (tmp_path / "t.csv").write_text("\n".join([",".join([*columns, "lat_x"]), *lines]) + "\n")
    target = Target(name="x", device="v100", space="nasbench201")
    data = read_csv(tmp_path / "t.csv", target, "lat_x")
    assert data.ms.tolist() == [1.0, 2.5, 3.0, 5.0]
    assert (data.genomes == genomes[[0, 1, 2, 4]]).all()
    with pytest.raises(ValueError, match="Did you mean 'lat_x'"):
        read_csv(tmp_path / "t.csv", target, "lat_y")


def ofa_entries(space, r):
    """A made-up table in OFA's YAML form for one resolution: every block costs its multiply-accumulates."""
    from supernet import slot_table

    genomes, _, _ = slot_table.slot_variants(space)
    genomes[:, 0] = space.axis("r").values.index(r) + 1
    table = space.layers(genomes)
    macs = table.layer_macs()
    lines = {}
    for row in range(len(genomes)):
        for s in range(len(space.slots)):
            layers = np.flatnonzero((table.slot == s) & table.live[row])
            if len(layers):
                entry = lookup_table.block_entry(table, row, layers)
                _, (in_h, in_c, out_h, out_c, mid, kernel, stride, skip, se) = entry
                key = (
                    f"expanded_conv-input:{in_h}x{in_h}x{in_c}-output:{out_h}x{out_h}x{out_c}-expand:{mid}"
                    f"-kernel:{kernel}-stride:{stride}-idskip:{skip}-se:{se}-hs:0"
                )
                lines[key] = float(macs[row, layers].sum())
    fixed = np.flatnonzero(table.slot < 0)
    names = ["Conv", None, None, "Conv_1", "AvgPool2D", "Conv_2", "Logits"]
    for layer, name in zip(fixed, names, strict=True):
        if name:
            size, out = int(table.size[0, layer]), int(table.out_size[0, layer])
            cin, cout = int(table.cin[0, layer]), int(table.cout[0, layer])
            lines[f"{name}-input:{size}x{size}x{cin}-output:{out}x{out}x{cout}"] = float(macs[0, layer])
    size, stem = int(table.size[0, fixed[1]]), int(table.cin[0, fixed[1]])
    first = f"expanded_conv-input:{size}x{size}x{stem}-output:{size}x{size}x{stem}-expand:{stem}"
    lines[f"{first}-kernel:3-stride:1-idskip:1-se:0-hs:0"] = float(macs[0, fixed[1:3]].sum())
    return "".join(f"{key}:\n  mean: {value}\n  count: 1\n" for key, value in lines.items())


def test_lookup_table_in_ofas_form_sums_its_blocks(tmp_path, rng):
    whole = get_space("ofa_mbv3_w1.0")
    space = replace(whole, axes=(replace(whole.axes[0], values=(160, 192)), *whole.axes[1:]))
    for r in (160, 192):
        (tmp_path / f"made_up_{r}_lookup_table.yaml").write_text(ofa_entries(space, r))
    table = lookup_table.read(tmp_path.glob("*.yaml"))
    target = Target(name="macs", device="note10", space="ofa_mbv3_w1.0")
    genomes = space.sample(100, rng)
    sums = table.predictor(target, space).table.evaluate(space, genomes)
    assert np.allclose(sums, space.layers(genomes).macs())

    # in the whole space, 164 ... 188 px are interpolated, and 128 ... 156 px are not
    # covered
    predictor = table.predictor(target)
    assert predictor.resolutions == (160, 192)
    same = whole.restrict("r", 160, 160).sample(50, rng)
    at = {}
    for r in (160, 176, 192):
        same[:, 0] = 1 + whole.axes[0].values.index(r)
        at[r] = predictor.predict(same, target).mean
    assert np.allclose(at[160], whole.layers(np.where(np.arange(47) == 0, 9, same).astype(np.int8)).macs())
    between = same.copy()
    between[:, 0] = 1 + whole.axes[0].values.index(176)
    assert np.allclose(
        at[176], whole.layers(between).macs(), rtol=0.05
    )  # MACs go with the area, which rounds up
    with pytest.raises(ValueError, match=r"covers no network of ofa_mbv3_w1.2"):
        table.predictor(replace(target, space="ofa_mbv3_w1.2"))
    with pytest.raises(ValueError, match="not ofa_resnet50"):
        table.predictor(replace(target, space="ofa_resnet50"))


def test_lookup_tables_that_cannot_be_read(tmp_path):
    (tmp_path / "a.yaml").write_text("Conv-of-another-kind:\n  mean: 1\n")
    with pytest.raises(ValueError, match=r"cannot read the entry 'Conv-of-another-kind'"):
        lookup_table.read([tmp_path / "a.yaml"])
    (tmp_path / "b.csv").write_text("layer,mean_ms\nConv,1\n")
    with pytest.raises(ValueError, match="missing the columns in_h"):
        lookup_table.read([tmp_path / "b.csv"])
    with pytest.raises(ValueError, match="no lookup table"):
        lookup_table.read([tmp_path / "c.txt"])
