"""The ensemble of a Gaussian process and a mix, on devices made up of known parts."""

from dataclasses import replace

import numpy as np
import pytest

from latency.data import LatencyData
from latency.predictors import ensemble, interface
from latency.predictors.ensemble import Ensemble, Features, denoised
from latency.predictors.sources import Source
from latency.target import Target
from supernet import registry, slot_table
from supernet.slot_table import SlotTable
from supernet.space import get_space

SPACES = ("nasbench201", "fbnet", "ofa_mbv3_w1.2")


def target(space, name="new"):
    return Target(name=name, device="i7_8700k", space=space, engine=name)


def device(space, seed):
    """A device on which every variant of every slot takes its own time, at all resolutions alike."""
    resolutions, (_, codes) = slot_table.resolution_count(space), space.slot_radix
    cells = np.exp(np.random.default_rng(seed).normal(size=(len(space.slots), codes)))
    cells[:, 0] = 0
    return SlotTable(np.repeat(cells[None], resolutions, axis=0), np.full(resolutions, 5.0))


def known(space, seeds=(1, 2, 3)):
    sides = space.axis("r").values if "r" in space.index else (0, 0)
    return [
        Source(f"d{seed}", device(space, seed), (sides[0], sides[-1]), target(space.name, f"d{seed}"))
        for seed in seeds
    ]


def measured(space, table, n, rng, noise=0.0):
    genomes = space.network(space.sample(n, rng))
    ms = table.evaluate(space, genomes) + noise * rng.normal(size=n)
    return LatencyData(target(space.name), genomes, ms, np.full(n, np.nan))


@pytest.mark.parametrize("name", SPACES)
def test_a_mix_of_the_sources_is_found(name, rng):
    space = get_space(name)
    sources = known(space)
    truth = slot_table.combine([(0.7, sources[0].table), (0.5, sources[2].table)])
    fitted = Ensemble().fit_from(sources, measured(space, truth, 10, rng))
    test = measured(space, truth, 200, rng)
    assert np.abs(fitted.predict(test.genomes, test.target).mean / test.ms - 1).max() < 1e-3
    mix = fitted.facts["mix"]
    assert sorted(mix, key=mix.get)[-2:] == ["d3", "d1"]


def test_what_no_source_knows_is_learnt_from_op_counts(rng):
    """A device that pays for 3x3 convolutions alone: the mix of sources cannot say so, thirty samples can."""
    space = get_space("nasbench201")
    genomes = space.sample(230, rng)
    ms = 2.0 + (genomes == 4).sum(axis=1)
    data = LatencyData(target(space.name), genomes, ms, np.full(230, np.nan))
    samples, test = data.take(slice(0, 30)), data.take(slice(30, 230))
    sources = known(space)
    seen = np.stack([source.table.evaluate(space, test.genomes) for source in sources], axis=1)
    mixed = seen @ np.linalg.lstsq(seen, test.ms, rcond=None)[0]  # the best that any mix could do
    fitted = Ensemble().fit_from(sources, samples).predict(test.genomes, test.target)
    assert np.abs(fitted.mean - test.ms).mean() < 0.2 * np.abs(mixed - test.ms).mean()


def test_the_slot_table_is_the_process(rng):
    """The collapsed table against the plain formula: kernel to the samples times their pulls."""
    space = get_space("nasbench201")
    sources = known(space)
    samples, genomes = measured(space, device(space, 9), 12, rng, noise=0.3), space.sample(40, rng)
    features = Features.build(space, sources)
    values = features.evaluate(samples.genomes)
    level, pulls, _ = Ensemble()._process(values.grams(values), samples.ms)
    by_kernel = level + np.einsum("fon,fn->o", features.evaluate(genomes).grams(values), pulls)
    assert np.allclose(features.table(values, level, pulls).evaluate(space, genomes), by_kernel)


def test_one_strength_and_one_noise_are_plain_gaussian_process_regression(rng, monkeypatch):
    space = get_space("nasbench201")
    samples, genomes = measured(space, device(space, 9), 12, rng, noise=0.3), space.sample(40, rng)
    features = Features.build(space, known(space))
    values = features.evaluate(samples.genomes)
    monkeypatch.setattr(ensemble, "NOISES", (0.1,))
    learner = Ensemble(counts=(0.2,), footprints=(0.0,), parts=(0.05,), rounds=0)
    level, pulls, _ = learner._process(values.grams(values), samples.ms)
    scale = np.array([1.0, 1.0, 0.2, 0.0, 0.05])
    kernel = ensemble.LEVEL + np.tensordot(scale, values.grams(values), 1)
    across = ensemble.LEVEL + np.tensordot(scale, features.evaluate(genomes).grams(values), 1)
    centred = samples.ms - samples.ms.mean()
    expected = samples.ms.mean() + across @ np.linalg.solve(kernel + 0.1 * np.eye(12), centred)
    assert np.allclose(features.table(values, level, pulls).evaluate(space, genomes), expected)


def test_one_wild_sample_does_not_spoil_it(rng):
    space = get_space("nasbench201")
    sources = known(space)
    samples = measured(space, sources[1].table, 20, rng, noise=0.05)
    wild = replace(samples, ms=np.where(np.arange(20) == 4, 3 * samples.ms, samples.ms))
    test = measured(space, sources[1].table, 200, rng)
    error = {
        rounds: np.abs(
            Ensemble(rounds=rounds).fit_from(sources, wild).predict(test.genomes, test.target).mean - test.ms
        ).mean()
        for rounds in (0, 1)
    }
    assert error[1] < 0.8 * error[0]


def test_counts_are_counts(rng):
    space = get_space("nasbench201")
    genomes = space.sample(50, rng)
    tables = ensemble.operation_counts(space)
    found = np.stack([table.evaluate(space, genomes) for table in tables], axis=1)
    assert np.allclose(found, [[(row == level).sum() for level in range(1, 6)] for row in genomes])


def test_intervals_cover(rng):
    """90% intervals from 10 samples, over 30 made-up devices: near 90% on average."""
    space = get_space("nasbench201")
    sources, covered = known(space), []
    for seed in range(30):
        mine = np.random.default_rng(seed)
        truth = slot_table.combine([(0.6, sources[0].table), (0.3, device(space, 50 + seed))])
        fitted = Ensemble().fit_from(sources, measured(space, truth, 10, mine, noise=0.5))
        test = measured(space, truth, 100, mine, noise=0.5)
        low, high = fitted.predict(test.genomes, test.target).interval(0.9)
        covered.append(((low <= test.ms) & (test.ms <= high)).mean())
    assert 0.84 <= np.mean(covered) <= 0.97


@pytest.mark.parametrize("name", SPACES)
def test_contract(name, rng, tmp_path):
    """A permutation permutes, adapting leaves the predictor alone, and a saved one predicts the same."""
    space = get_space(name)
    fitted = Ensemble().fit_from(known(space), measured(space, device(space, 9), 10, rng, noise=0.1))
    genomes, order = space.sample(60, rng), rng.permutation(60)
    before = fitted.predict(genomes, fitted.target)
    assert (before.mean > 0).all()
    assert (before.std > 0).all()
    assert (fitted.predict(genomes[order], fitted.target).mean == before.mean[order]).all()
    other = replace(measured(space, device(space, 9), 8, rng), target=target(name, "other"))
    adapted = fitted.adapt(replace(other, ms=2 * other.ms))
    assert adapted.target.name == "other"
    assert np.median(adapted.predict(genomes, adapted.target).mean / before.mean) == pytest.approx(2, rel=0.2)
    assert (fitted.predict(genomes, fitted.target).mean == before.mean).all()
    fitted.save(tmp_path / "kept.npz")
    again = interface.load(tmp_path / "kept.npz")
    assert (again.predict(genomes, again.target).mean == before.mean).all()
    assert (again.predict(genomes, again.target).std == before.std).all()
    assert again.facts == fitted.facts


def test_denoising_sees_through_noise_and_outliers(rng, monkeypatch):
    """Closer to the truth than a measurement is, and one row in twenty that is twice off does no harm."""
    space = get_space("nasbench201")
    truth, genomes = device(space, 4), space.sample(300, rng)
    data = measured(space, truth, 900, rng, noise=2.0)
    wild = replace(data, ms=np.where(np.arange(900) % 20 == 0, 2, 1) * data.ms)

    def error():
        return np.abs(denoised(wild).table.evaluate(space, genomes) - truth.evaluate(space, genomes)).mean()

    robust = error()
    monkeypatch.setattr(ensemble, "ROBUST_ROUNDS", 0)
    assert robust < 0.8 * error()
    assert robust < np.abs(2.0 * rng.normal(size=2000)).mean()


def test_chosen_rows_are_the_greedy_best(rng):
    """The first one lowers the summed posterior variance as no other row would: brute force."""
    space = get_space("nasbench201")
    sources, pool = known(space), space.sample(25, rng)
    values = Features.build(space, sources).evaluate(pool)
    prior = 1.0 + np.tensordot(np.array(ensemble.CHOICE), values.grams(values), 1)
    noise = 0.1 * np.median(np.diag(prior))
    left = [
        np.trace(prior - np.outer(prior[:, j], prior[j]) / (prior[j, j] + noise)) for j in range(len(pool))
    ]
    rows = Ensemble().choose(space, sources, pool, 6)
    assert rows[0] == np.argmin(left)
    assert len(set(rows.tolist())) == 6


def test_errors_say_what_to_do(rng):
    space = get_space("nasbench201")
    data = measured(space, device(space, 9), 10, rng)
    fitted = Ensemble().fit_from(known(space), data)
    with pytest.raises(ValueError, match="3 to 2000"):
        Ensemble().fit_from(known(space), data.take(slice(0, 2)))
    with pytest.raises(ValueError, match="fitted for new"):
        fitted.predict(data.genomes, target(space.name, "other"))
    with pytest.raises(ValueError, match="cannot adapt"):
        fitted.adapt(measured(get_space("fbnet"), device(get_space("fbnet"), 1), 5, rng))
    with pytest.raises(ValueError, match="ask for 1 to 10"):
        Ensemble().choose(space, known(space), data.genomes, 11)
    with pytest.raises(ValueError, match="at least 50"):
        denoised(data)
    ofa = get_space("ofa_mbv3_w1.2")
    with pytest.raises(ValueError, match="learner=additive"):
        denoised(measured(ofa, device(ofa, 1), 60, rng))
    with pytest.raises(Exception, match="countz"):
        registry.build({"_target_": "latency.predictors.ensemble.Ensemble", "countz": [1]})


def test_damaged_files_are_refused(rng, tmp_path):
    (tmp_path / "broken.npz").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"broken\.npz"):
        interface.load(tmp_path / "broken.npz")
