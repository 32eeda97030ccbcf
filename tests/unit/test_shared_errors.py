"""Errors that networks share: their directions, what samples leave open, and how predictors carry them."""

from dataclasses import replace

import numpy as np
import pytest

from latency import conformal
from latency.data import LatencyData
from latency.predictors import interface, sampling
from latency.predictors.slots import SlotLatency
from latency.predictors.sources import Source
from latency.predictors.transfer import Transfer
from latency.target import Target
from latency.zoo import adaptation
from latency.zoo.adaptation import Adaptation
from search import pareto
from supernet import footprint, slot_table, table_parts
from supernet.fits import folds, mixing, shared_error
from supernet.prediction import CONFIDENCES
from supernet.slot_table import SlotTable, SlotTables
from supernet.space import get_space
from supernet.surrogates import accuracy
from supernet.table_parts import Directions

SPACE = get_space("ofa_mbv3_w1.0")
NEW = Target(name="new", device="i7_8700k", space=SPACE.name, engine="made up", batch=1, threads=1)


def made_up(seed, size=0.4):
    """A device: each block of each stage costs its arithmetic times a factor of its own."""
    base = footprint.table(SPACE, "macs")
    factor = np.exp(size * np.random.default_rng(seed).normal(size=base.cells.shape[1:]))
    return SlotTable(base.cells * factor / 1e8, base.base / 1e8)


TABLES = [made_up(seed) for seed in range(3)]
SOURCES = [Source(f"d{i}", table, (160, 224), replace(NEW, name=f"d{i}")) for i, table in enumerate(TABLES)]


def samples_of(table, n, seed):
    genomes = sampling.draw(SPACE.restrict("r", 160, 224), n, np.random.default_rng(seed))
    return LatencyData(NEW, genomes, table.evaluate(SPACE, genomes), np.full(n, np.nan))


def test_tables_asked_together_answer_as_each_alone(rng):
    genomes = SPACE.sample(5000, rng)  # more than one chunk
    cells = np.stack([table.cells for table in TABLES], axis=3).astype(np.float32)
    base = np.stack([table.base for table in TABLES], axis=1).astype(np.float32)
    values = SlotTables(cells, base).evaluate(SPACE, genomes)
    each = np.stack([table.evaluate(SPACE, genomes) for table in TABLES], axis=1)
    assert values.shape == (5000, 3)
    assert np.allclose(values, each, rtol=1e-5)


def test_directions_are_what_moving_the_parts_does(rng):
    """Columns against tables that are built part by part, and against the combination of all directions."""
    weights = np.array([0.2, 0.0, 0.7])
    genomes = SPACE.sample(40, rng)
    directions = Directions.from_tables(SPACE, TABLES)
    samples = directions.at(genomes)
    mix = slot_table.combine(zip(weights, TABLES, strict=True))
    ms = mix.evaluate(SPACE, genomes)
    assert samples.tables @ weights == pytest.approx(ms)
    scale = table_parts.scale_to(ms, samples.tables, np.arange(40))
    columns = directions.columns(samples, weights, scale)
    whole, constant = columns[:, 0] / directions.widths[0], columns[:, 1] / directions.widths[1]
    assert whole == pytest.approx(1)
    assert constant == pytest.approx(mix.base[slot_table.resolution_level(SPACE, genomes)] / ms)
    first_stage = table_parts.masks(SPACE).stages[0]
    alone = SlotTable(mix.cells * first_stage, np.zeros_like(mix.base)).evaluate(SPACE, genomes) / ms
    assert columns[:, 2] / directions.widths[2] == pytest.approx(alone)
    towards = scale[1] * TABLES[1].evaluate(SPACE, genomes) / ms - 1
    assert columns[:, -2] / directions.widths[-2] == pytest.approx(towards)
    factors = rng.normal(size=(columns.shape[1], 2))
    cells, base = directions.combined(factors, weights, scale)
    for r in range(2):
        moved = SlotTable(cells[..., r], base[..., r]).evaluate(SPACE, genomes)
        assert moved == pytest.approx(ms * (columns @ factors[:, r]))


def test_what_samples_leave_open_against_leaving_each_out(rng):
    columns, kappa = rng.normal(size=(6, 9)), 3.0
    fitted = shared_error.posterior(columns, kappa)
    prior = np.eye(9) / kappa**2
    assert fitted.root @ fitted.root.T == pytest.approx(np.linalg.inv(columns.T @ columns + prior))
    for i in range(6):
        others = np.delete(columns, i, axis=0)
        left_out = columns[i] @ np.linalg.inv(others.T @ others + prior) @ columns[i]
        assert fitted.leverage[i] == pytest.approx(left_out)
    rows = rng.normal(size=(50, 9))
    factors, rest = fitted.main(rows, 4)
    kept = ((rows @ factors) ** 2).sum(axis=1).mean()
    assert kept + rest == pytest.approx(fitted.variance(rows).mean())
    assert rest < fitted.variance(rows).mean() / 2


def test_the_shift_is_a_ridge_regression_that_distrusts_wild_samples(rng):
    columns, kappa = rng.normal(size=(8, 5)), 2.0
    residuals, trust = rng.normal(size=8), rng.uniform(0.1, 1, size=8)
    information = columns.T * trust @ columns + np.eye(5) / kappa**2
    expected = np.linalg.solve(information, columns.T @ (trust * residuals))
    assert shared_error.shift(columns, residuals, trust, kappa) == pytest.approx(expected)
    assert (shared_error.shift(columns, residuals, trust, 0.0) == 0).all()


def test_a_mix_is_as_good_as_the_nearest_source_times_a_factor(rng):
    seen = np.exp(rng.normal(size=(10, 4)))
    values = 3.0 * seen[:, 2] * np.exp(0.002 * rng.normal(size=10))
    mix = mixing.fit(seen, values, np.ones(4, bool), folds.random_folds(10, 10))
    assert mix.weights == pytest.approx([0, 0, 3, 0], abs=0.02)
    assert mix.nearest == pytest.approx(np.std(np.log(values / seen[:, 2]), ddof=1))
    assert mix.trust.min() > 0.1
    assert [out.tolist() for _, out, _ in mix.left_out] != []
    assert all(weights == pytest.approx([0, 0, 3, 0], abs=0.05) for _, _, weights in mix.left_out)


def test_a_solver_that_gives_up_is_replaced(rng, monkeypatch):
    import scipy.optimize

    design, aims = rng.normal(size=(12, 4)), rng.normal(size=12)
    expected = mixing.nonnegative(design, aims)
    assert (expected == 0).any()

    def gives_up(*_):
        raise RuntimeError("Maximum number of iterations reached.")

    monkeypatch.setattr(scipy.optimize, "nnls", gives_up)
    assert mixing.nonnegative(design, aims) == pytest.approx(expected, abs=1e-5)


def test_tails_of_few_and_of_many_residuals(rng):
    """Few: Student's t, 9 degrees of freedom. Many: the share of residuals that an interval should hold."""
    std, tails = conformal.spread_and_tails(rng.normal(size=10))
    ratio = np.array(tails.half_widths) / tails.half_widths[2]
    assert ratio == pytest.approx(np.array([0.7027, 1.3830, 1.8331, 2.2622, 3.2498]) / 1.8331, rel=1e-3)
    agreeing = np.full(3, 1e-4)  # by chance: counts with two that are as large as is likely
    std, tails = conformal.spread_and_tails(agreeing, likely=0.02)
    assert std * tails.half_width(0.9) / (1 + conformal.OPTIMISM / 3) == pytest.approx(
        2.9200 * 0.02 * np.sqrt(2 / 5), rel=1e-3
    )
    many = rng.standard_t(3, size=2000)
    std, tails = conformal.spread_and_tails(many)
    held = [(np.abs(many) <= std * tails.half_width(c)).mean() for c in CONFIDENCES]
    assert held == pytest.approx(CONFIDENCES, abs=0.003)


def test_the_error_of_ten_samples_is_mostly_shared_and_larger_far_away(rng):
    fitted = Transfer().fit_from(SOURCES, samples_of(made_up(9), 10, seed=0))
    usual = fitted.predict(SPACE.restrict("r", 160, 224).sample(300, rng), NEW)
    smallest = fitted.predict(SPACE.restrict("r", 160, 160).extremes()[:1], NEW)
    assert usual.shared.shape[0] == 300
    assert np.median(usual.own / usual.std) < 0.8
    assert smallest.std[0] / smallest.mean[0] > 1.3 * np.median(usual.std / usual.mean)
    assert (usual.own > 0).all()


def test_a_file_keeps_the_errors_and_older_files_have_none(tmp_path, rng):
    fitted = Transfer().fit_from(SOURCES, samples_of(made_up(9), 10, seed=1))
    fitted.save(tmp_path / "new.npz")
    again = interface.load_as(SlotLatency, tmp_path / "new.npz")
    genomes = SPACE.restrict("r", 160, 224).sample(30, rng)
    first, second = fitted.predict(genomes, NEW), again.predict(genomes, NEW)
    assert np.allclose(first.mean, second.mean, rtol=1e-6)
    assert np.allclose(first.shared, second.shared, rtol=1e-6)
    assert first.tails == second.tails
    replace(fitted, errors=None).save(tmp_path / "plain.npz")  # what 0.2 and earlier wrote
    plain = interface.load_as(SlotLatency, tmp_path / "plain.npz").predict(genomes, NEW)
    assert plain.shared is None
    assert np.allclose(plain.std, fitted.relative_std * plain.mean)
    factor = fitted.adapt(replace(samples_of(made_up(9), 5, seed=2), target=replace(NEW, batch=2)))
    assert factor.errors is None


def test_every_second_sample_lies_near_the_frontier():
    """On the frontier of accuracy and the mean device: beaten by few of 3,000 random subnets, if any."""
    inside = SPACE.restrict("r", 160, 224)
    surrogate = accuracy.load(SPACE.name)
    search = sampling.Search(NEW, lambda genomes: surrogate.predict(genomes, SPACE).mean, inside)
    picked = sampling.for_search(inside, 10, np.random.default_rng(3), SOURCES, search)
    assert len(np.unique(picked, axis=0)) == 10
    assert (SPACE.network(picked) == picked).all()
    drawn = SPACE.network(inside.sample(3000, np.random.default_rng(0)))
    units = [np.exp(np.log(table.evaluate(SPACE, drawn)).mean()) for table in TABLES]

    def costs(genomes):
        ms = sum(table.evaluate(SPACE, genomes) / unit for table, unit in zip(TABLES, units, strict=True))
        return np.stack([ms, -search.quality(genomes)], axis=1)

    behind = [pareto.is_front(np.concatenate([costs(picked[[i]]), costs(drawn)]))[0] for i in range(10)]
    assert sum(behind) >= 5
    assert not all(behind)
    few = sampling.for_search(inside, 5, np.random.default_rng(3), SOURCES, search)
    assert (few == sampling.draw(inside, 5, np.random.default_rng(3))).all()


def test_samples_without_a_known_accuracy_are_random():
    how = Adaptation(samples=10)
    fbnet = replace(NEW, space="fbnet")
    space, sources = adaptation.plan(fbnet, how)
    picked = adaptation.choose_samples(fbnet, how, space, sources, np.random.default_rng(0))
    assert (picked == sampling.draw(space, 10, np.random.default_rng(0))).all()
