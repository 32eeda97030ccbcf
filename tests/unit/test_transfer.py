"""Few-shot transfer, its samples and its intervals, on devices made up of known parts."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latency import conformal
from latency.data import LatencyData, read_csv, write_csv
from latency.predictors import sampling
from latency.predictors.sources import Source, common_resolutions
from latency.predictors.transfer import Transfer
from latency.target import Target
from latency.zoo import adaptation
from latency.zoo.adaptation import Adaptation
from supernet import footprint, slot_table, table_parts
from supernet.prediction import QUANTILE
from supernet.space import get_space

SPACE = "ofa_mbv3_w1.0"
NEW = Target(name="new", device="i7_8700k", space=SPACE, engine="made up", batch=1, threads=1)


def made_up(space, seed):
    """A device: each block of each stage costs its arithmetic times a factor of its own."""
    base = footprint.table(space, "macs")
    factor = np.exp(0.5 * np.random.default_rng(seed).normal(size=base.cells.shape[1:]))
    return slot_table.SlotTable(base.cells * factor / 1e8, base.base / 1e8)


def known(space, seeds=(1, 2, 3)):
    target = replace(NEW, name="known", device="note10")
    return [Source(f"d{seed}", made_up(space, seed), (128, 224), target) for seed in seeds]


def measured(space, table, n, rng, noise=0.0):
    genomes = space.network(space.sample(n, rng))
    ms = table.evaluate(space, genomes) * np.exp(noise * rng.normal(size=n))
    return LatencyData(NEW, genomes, ms, np.full(n, np.nan))


def test_a_mix_of_the_sources_is_found_from_ten_samples(rng):
    space = get_space(SPACE)
    sources = known(space)
    truth = slot_table.combine([(0.7, sources[0].table), (0.5, sources[2].table)])
    fitted = Transfer().fit_from(sources, measured(space, truth, 10, rng, noise=0.002))
    test = measured(space, truth, 200, rng)
    error = np.abs(fitted.predict(test.genomes, NEW).mean / test.ms - 1)
    assert error.mean() < 0.006
    assert next(iter(fitted.facts["mix"])) == "d1"


def test_one_wild_measurement_does_not_spoil_it(rng):
    space = get_space(SPACE)
    sources = known(space)
    samples = measured(space, sources[1].table, 12, rng, noise=0.01)
    wild = replace(samples, ms=np.where(np.arange(12) == 4, 2.5 * samples.ms, samples.ms))
    test = measured(space, sources[1].table, 200, rng)
    predicted = Transfer().fit_from(sources, wild).predict(test.genomes, NEW)
    assert np.abs(predicted.mean / test.ms - 1).mean() < 0.03


def test_many_samples_teach_what_no_source_knows(rng):
    space = get_space(SPACE)
    truth = made_up(space, 99)
    test = measured(space, truth, 300, rng)
    error = {}
    for n in (10, 200):
        for correct in (False, True):
            samples = measured(space, truth, n, np.random.default_rng(5), noise=0.01)
            fitted = Transfer(correct=correct).fit_from(known(space), samples)
            error[n, correct] = np.abs(fitted.predict(test.genomes, NEW).mean / test.ms - 1).mean()
    assert error[200, True] < 0.3 * error[200, False]
    assert error[10, True] < 1.3 * error[10, False]  # ten samples are left alone


def test_parts_add_up_to_the_whole(rng):
    """The variants of all slots split the latency of the blocks without remainder, and what is asked of parts
    is what their tables say."""
    space = get_space(SPACE)
    table = made_up(space, 7)
    genomes = space.sample(50, rng)
    codes, level = space.slot_codes(genomes), slot_table.resolution_level(space, genomes)
    *others, variants = table_parts.families(space)
    assert np.allclose(
        variants.at(table, codes, level).sum(axis=1), table.at(codes, level) - table.base[level]
    )
    for family in (*others, variants):
        factors = rng.normal(size=len(family.masks))
        moved = family.combined(table, factors).at(codes, level)
        assert np.allclose(family.at(table, codes, level) @ factors, moved)


def test_intervals_cover(rng):
    """90% intervals from 10 samples, over 40 made-up devices: near 90% on average."""
    space = get_space(SPACE)
    sources = known(space)
    covered = []
    for seed in range(40):
        mine = np.random.default_rng(seed)
        truth = slot_table.combine([(0.6, sources[0].table), (0.6, made_up(space, 50 + seed))])
        fitted = Transfer().fit_from(sources, measured(space, truth, 10, mine, noise=0.02))
        test = measured(space, truth, 100, mine, noise=0.02)
        low, high = fitted.predict(test.genomes, NEW).interval(0.9)
        covered.append(((low <= test.ms) & (test.ms <= high)).mean())
    assert 0.84 <= np.mean(covered) <= 0.97


@given(st.integers(10, 80), st.integers(0, 10**6))
def test_half_width_holds_its_share_of_the_residuals(n, seed):
    residuals = np.random.default_rng(seed).normal(size=n)
    width = conformal.half_width(residuals, 0.9)
    assert (np.abs(residuals) <= width).mean() >= 0.9
    assert conformal.relative_std(residuals) == pytest.approx(width / QUANTILE(0.95))


def test_few_residuals_give_wide_intervals():
    assert conformal.half_width(np.full(3, 0.05)) > 3 * 0.05 * 0.6
    assert conformal.half_width(np.zeros(3)) > 0.03  # agreement of three is luck, not knowledge
    with pytest.raises(ValueError, match="at least 2"):
        conformal.half_width(np.array([0.1]))


def test_greedy_choice_matches_brute_force(rng):
    """The first pick of a small pool lowers the summed posterior variance as no other would."""
    a = rng.normal(size=(8, 3))
    prior = a @ a.T + np.eye(8)
    noise = sampling.NOISE * np.median(np.diag(prior))
    left = [np.trace(prior - np.outer(prior[:, j], prior[j]) / (prior[j, j] + noise)) for j in range(8)]
    assert sampling.greedy(prior, 1)[0] == int(np.argmin(left))
    assert len(set(sampling.greedy(prior, 8).tolist())) == 8


def test_drawn_samples_are_different_networks_and_none_is_known():
    """A second call measures others, whether near a frontier or not."""
    space = get_space(SPACE).restrict("r", 160, 224)
    for chosen in (False, True):
        for samples in (3, 8):
            how, drawn = Adaptation(samples=samples, chosen=chosen), space.parse([])
            for _ in "ab":
                rng = np.random.default_rng(3)
                more = adaptation.choose_samples(NEW, how, space, known(space), rng, drawn)
                drawn = np.concatenate([drawn, more])
            assert len(np.unique(drawn, axis=0)) == 2 * samples
            assert (space.network(drawn) == drawn).all()
            assert space.column(drawn, "r").min() >= 160


def test_tilted_networks_reach_to_the_smallest_and_the_largest():
    space = get_space(SPACE).restrict("r", 160, 224)
    macs = footprint.compute(space, sampling.tilted(space, 500, np.random.default_rng(0)), "macs")
    plain = footprint.compute(space, space.sample(500, np.random.default_rng(0)), "macs")
    assert macs.min() < plain.min()
    assert macs.max() > plain.max()


def test_specifications_alone_give_a_wide_guess(rng):
    space = get_space("ofa_mbv3_w1.2").restrict("r", 160, 224)
    target = Target(name="x", device="rtx_3090", space="ofa_mbv3_w1.2", batch=64, engine="PyTorch")
    guess = Transfer().from_specification(target)
    predicted = guess.predict(space.sample(10, rng), target)
    assert (predicted.std / predicted.mean >= 0.3).all()
    assert guess.facts["samples"] == 0
    empty = get_space("ofa_proxyless_w1.3")
    with pytest.raises(ValueError, match="samples=5"):
        Transfer().from_specification(replace(target, space=empty.name))


def test_spaces_without_any_timed_device_still_adapt(rng):
    """Footprints are sources too, so a space that nobody has timed needs no zoo."""
    space = get_space("ofa_proxyless_w1.3")
    table = made_up(space, 4)
    genomes = space.network(space.sample(12, rng))
    target = replace(NEW, space=space.name)
    data = LatencyData(target, genomes, table.evaluate(space, genomes), np.full(12, np.nan))
    assert Transfer().fit(data).facts["left_out_mape"] < 20


def test_bad_requests_are_refused_before_any_work(rng):
    space = get_space(SPACE)
    with pytest.raises(ValueError, match="at least 2"):
        Transfer().fit_from(known(space), measured(space, made_up(space, 1), 1, rng))
    with pytest.raises(ValueError, match="no such source"):
        Transfer(without=("v200",)).sources(space)
    with pytest.raises(ValueError, match="0 or at least 2"):
        Adaptation(samples=1)
    with pytest.raises(ValueError, match="goes beyond"):
        adaptation.plan(NEW, Adaptation(resolution=(96, 224)))
    narrow = [
        replace(known(space)[0], resolutions=(128, 160)),
        replace(known(space)[1], resolutions=(192, 224)),
    ]
    with pytest.raises(ValueError, match="no resolution in common"):
        common_resolutions(narrow)


def test_a_run_keeps_the_predictor_it_started_with(tmp_path, rng, monkeypatch):
    """What a new run uses is, to the last bit, what the same run reads when it is resumed."""
    space = get_space(SPACE)
    fitted = Transfer().fit_from(known(space), measured(space, made_up(space, 8), 10, rng))
    monkeypatch.setattr(adaptation, "known_or_adapt", lambda *_, **options: fitted)
    first = adaptation.for_run(NEW, tmp_path / "run" / "predictor.npz", Adaptation(), store=None)
    monkeypatch.setattr(adaptation, "known_or_adapt", None)
    second = adaptation.for_run(NEW, tmp_path / "run" / "predictor.npz", Adaptation(), store=None)
    genomes = space.sample(50, rng)
    assert (first.predict(genomes, NEW).mean == second.predict(genomes, NEW).mean).all()
    assert first.relative_std == second.relative_std
    with pytest.raises(ValueError, match="choose another out="):
        adaptation.for_run(
            replace(NEW, batch=4), tmp_path / "run" / "predictor.npz", Adaptation(), store=None
        )


def test_latencies_go_through_csv(tmp_path, rng):
    space = get_space(SPACE)
    data = measured(space, made_up(space, 1), 7, rng)
    for name in ("a.csv", "a.csv.gz"):
        write_csv(tmp_path / name, data)
        back = read_csv(tmp_path / name, NEW, "lat_ms")
        assert (back.genomes == data.genomes).all()
        assert np.allclose(back.ms, data.ms, rtol=1e-5)


def test_training_steps_are_fitted_and_found_again(tmp_path, rng):
    from supernet.surrogates import training_cost
    from supernet.surrogates.training_cost import TrainingCost

    space = get_space(SPACE)
    genomes = space.network(space.sample(10, rng))
    macs = footprint.compute(space, genomes, "macs").astype(float)
    data = LatencyData(replace(NEW, batch=16), genomes, 16 * (2.0 + 150e-9 * macs), np.full(10, np.nan))
    step = adaptation.step_time(data)
    assert step.relative_std < 0.02
    training_cost.save_step(tmp_path / "step.json", step)
    cost = TrainingCost(step_file=tmp_path / "step.json", images=1000)
    chosen = genomes.copy()
    chosen[:, space.index["finetune_epochs"]] = 2
    expected = 25 * 1000 * (2.0 + 150e-9 * macs) / 3.6e6
    assert np.allclose(cost.hours(space, chosen).mean, expected, rtol=0.03)
    with pytest.raises(ValueError, match="step_file"):
        TrainingCost(step_file=tmp_path / "absent.json")
    with pytest.raises(ValueError, match="at least 5"):
        adaptation.step_time(data.take(slice(0, 3)))
