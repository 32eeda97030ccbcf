"""`adapt rows=`: measurements of another device, which repeated calls remember; phones of a few networks."""

import csv

import numpy as np
import pytest

from latency import target
from latency.data import LatencyData, read_csv, read_published, write_csv
from latency.measuring.store import Store
from latency.predictors import interface
from latency.scores import scores
from latency.zoo import catalogue, phones
from supernet.files import architectures, tables
from supernet.space import get_space
from tests.e2e import commands

GPU = ["target=gpu", "target.device=t4", "target.batch=32"]
WANDB = "wandb=disabled"


def measured(where, n, factor, seed=0):
    """Latencies of random networks: those that are predicted, times a factor and some noise."""
    predictor, rng = catalogue.automatic(where)[0], np.random.default_rng(seed)
    space = get_space(where.space).restrict("r", 160, 224)
    genomes = space.network(space.sample(n, rng))
    ms = predictor.predict(genomes, where).mean * factor * np.exp(0.01 * rng.standard_normal(n))
    return LatencyData(where, genomes, ms, np.full(n, np.nan))


def adapt(cwd, *words):
    code, out, err = commands.call("adapt", *words, WANDB, cwd=cwd)
    assert code == 0, err
    return out


@pytest.mark.parametrize("each", [1, 3])
def test_two_calls_say_what_one_says_with_all_rows(each, tmp_path):
    where = target.gpu("t4", batch=32)
    rows = measured(where, 2 * each, 1.4)
    for name, part in {"a": slice(0, each), "b": slice(each, None), "both": slice(None)}.items():
        write_csv(tmp_path / f"{name}.csv", rows.take(part))
    adapt(tmp_path, *GPU, "rows=a.csv", "out=one")
    said = adapt(tmp_path, *GPU, "rows=b.csv", "out=two")
    adapt(tmp_path, *GPU, "rows=both.csv", "store=other.sqlite", "out=at_once")
    assert f"{each} subnets measured earlier are samples too" in said
    more = measured(where, 50, 1.4, seed=1)
    one, two, at_once = (
        interface.load(tmp_path / f"{name}/predictor.npz") for name in ("one", "two", "at_once")
    )
    predicted = two.predict(more.genomes, where)
    assert np.array_equal(predicted.mean, at_once.predict(more.genomes, where).mean)
    assert np.array_equal(predicted.std, at_once.predict(more.genomes, where).std)
    assert not np.array_equal(predicted.mean, one.predict(more.genomes, where).mean)
    assert scores(predicted, more.ms)["mape"] < 5


def test_a_row_again_replaces_the_earlier_one_and_a_bad_file_leaves_nothing(tmp_path):
    where = target.gpu("t4", batch=32)
    rows = measured(where, 2, 1.0)
    write_csv(tmp_path / "a.csv", rows)
    write_csv(tmp_path / "b.csv", LatencyData(where, rows.genomes[:1], 2 * rows.ms[:1], rows.spread_ms[:1]))
    adapt(tmp_path, *GPU, "rows=a.csv", "out=one")
    adapt(tmp_path, *GPU, "rows=b.csv", "out=two")
    with Store(tmp_path / "runs/measurements.sqlite") as store:
        assert sorted(store.latencies(where).ms) == pytest.approx(
            sorted([2 * rows.ms[0], rows.ms[1]]), rel=1e-5
        )
        assert not len(store.latencies(target.gpu("t4", batch=64)))
    (tmp_path / "bad.csv").write_text("architecture,lat_ms\nofa_mbv3_w1.2 nonsense,3\n")
    code, _, err = commands.call("adapt", *GPU, "rows=bad.csv", WANDB, cwd=tmp_path)
    assert code
    assert "nonsense" in err
    with Store(tmp_path / "runs/measurements.sqlite") as store:
        assert len(store.latencies(where)) == 2


def test_without_rows_only_this_machine_is_measured(tmp_path):
    code, _, err = commands.call("adapt", *GPU, WANDB, cwd=tmp_path)
    assert code
    assert "give rows=FILE" in err


def published(path, **changes):
    """A table of several devices, spaces and input sides, as OFA's authors published theirs."""
    space = get_space("ofa_mbv3_w1.0")
    wide = phones.sources(space.name)[0].table.evaluate
    genomes = space.network(space.sample(6, np.random.default_rng(3)))
    genes = {axis.name: space.values(genomes)[:, j] for j, axis in enumerate(space.axes) if not axis.deploy}
    columns = {
        "device": ["My Phone"] * 4 + ["other"] * 2,
        "space": [space.name] * 6,
        "batch": [1] * 6,
        **genes,
    }
    columns["latency_ms"] = np.round(1.7 * wide(space, genomes), 1)
    columns |= changes
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return genomes, columns["latency_ms"]


def test_a_phone_is_another_phone_times_a_factor(tmp_path):
    genomes, ms = published(tmp_path / "nets.csv")
    said = adapt(tmp_path, "target=phone", "target.device=my_phone", "rows=nets.csv", "out=mine")
    assert "transfer from note10_lut" in said
    predictor = interface.load(tmp_path / "mine/predictor.npz")
    assert predictor.facts["samples"] == 4
    predicted = predictor.predict(genomes[4:], predictor.target)
    assert predicted.mean == pytest.approx(ms[4:], rel=0.02)
    low, high = predicted.interval(0.9)
    assert ((low < ms[4:]) & (ms[4:] < high)).all()


def test_what_a_table_has_is_said_where_a_target_is_not_in_it(tmp_path):
    published(tmp_path / "nets.csv")
    with pytest.raises(ValueError, match="column device has My Phone, other"):
        read_published(tmp_path / "nets.csv", target.phone("pixel9"))
    assert len(read_published(tmp_path / "nets.csv", target.phone("pixel9"), device="my-phone")) == 4
    with pytest.raises(ValueError, match="column batch has 1"):
        read_published(tmp_path / "nets.csv", target.phone("my phone", batch=8))
    published(tmp_path / "large.csv", r=[160, 260, 176, 240, 224, 224])
    assert len(read_published(tmp_path / "large.csv", target.phone("my phone"))) == 2
    with pytest.raises(ValueError, match="is no phone"):
        target.phone("rtx_4090")


@pytest.mark.parametrize("name", ["pixel1", "note8", "lg_g8"])
def test_phones_that_ship_are_within_their_intervals(name, data):
    """Each published network left out of the fit once. Latencies are published in whole milliseconds."""
    where = catalogue.target(name)
    rows = read_published(data / where.rows, where, where.column)
    errors, inside = [], 0
    for i in range(len(rows)):
        kept = np.delete(np.arange(len(rows)), i)
        predicted = phones.fit(rows.take(kept)).predict(rows.genomes[[i]], where)
        low, high = predicted.interval(0.9)
        errors.append(abs(predicted.mean[0] / rows.ms[i] - 1))
        inside += bool(low[0] < rows.ms[i] < high[0])
    assert np.mean(errors) < 0.03
    assert inside >= 3
    shipped = catalogue.predictor(name)
    assert np.allclose(shipped.predict(rows.genomes, where).mean, rows.ms, rtol=0.05)


def test_the_width_of_a_table_changes_as_the_tables_of_a_processor_do(rng):
    wide, narrow = get_space("ofa_mbv3_w1.2"), get_space("ofa_mbv3_w1.0")
    ours = phones.narrowed(catalogue.predictor("i7_8700k_lut_w1.2").table, wide, narrow)
    genomes = narrow.sample(300, rng)
    ratio = ours.evaluate(narrow, genomes) / catalogue.predictor("i7_8700k_lut_w1.0").table.evaluate(
        narrow, genomes
    )
    assert ratio.std() / ratio.mean() < 0.025


def test_smaller_inputs_follow_the_area_of_the_maps(rng):
    space, table = get_space("ofa_mbv3_w1.2"), catalogue.predictor("note10_lut").table
    genomes = space.restrict("r", 160, 184).sample(300, rng)
    from_above = phones.extended(table, space, 188)
    assert from_above.evaluate(space, genomes) == pytest.approx(table.evaluate(space, genomes), rel=0.05)
    off = from_above.evaluate(space, genomes) / table.evaluate(space, genomes) - 1
    assert abs(off).mean() < 0.02


def test_the_pixel_is_right_about_the_other_width(data):
    """A network of width 1.2 that was published for the same phone, which no fit has seen."""
    where = target.phone("pixel1", space="ofa_mbv3_w1.2")
    other = read_published(data / "ofa_published_nets.csv", where)
    narrow = catalogue.target("pixel1")
    rows = read_published(data / narrow.rows, narrow)
    factor = np.median(
        rows.ms / phones.sources(narrow.space)[0].table.evaluate(get_space(narrow.space), rows.genomes)
    )
    predicted = factor * phones.sources(where.space)[0].table.evaluate(get_space(where.space), other.genomes)
    assert len(other) == 1
    assert predicted == pytest.approx(other.ms, rel=0.1)


def test_rows_of_names_need_no_columns_of_genes(tmp_path):
    where = target.gpu("t4", batch=32)
    write_csv(tmp_path / "a.csv", measured(where, 3, 1.0))
    columns = tables.read_columns(tmp_path / "a.csv")
    lines = [
        f'"{name}",{ms}' for name, ms in zip(columns[architectures.COLUMN], columns["lat_ms"], strict=True)
    ]
    (tmp_path / "names.csv").write_text("\n".join(["architecture,ms", *lines]))
    assert np.array_equal(
        read_published(tmp_path / "names.csv", where).ms, read_csv(tmp_path / "a.csv", where, "lat_ms").ms
    )
