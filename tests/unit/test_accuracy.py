"""The accuracy surrogate against the Gaussian process it claims to be, and its added effects."""

import numpy as np
import pytest

from supernet.fits import gaussian
from supernet.space import get_space
from supernet.surrogates import accuracy, accuracy_fit

SPACE = get_space("ofa_mbv3_w1.0").restrict("r", 224, 224).restrict("finetune_epochs", 0, 0)


@pytest.fixture(scope="module")
def made_up():
    """400 networks with top-1 that grows with depth, widths and their products; noise .03 points."""
    rng = np.random.default_rng(0)
    genomes = SPACE.sample(400, rng)
    x = SPACE.one_hot(genomes)
    slope = rng.standard_normal(x.shape[1]) * 0.001
    pairs = rng.standard_normal((x.shape[1], x.shape[1])) * 0.00003
    top1 = 0.75 + x @ slope + np.einsum("ij,jk,ik->i", x, pairs, x) + 0.0003 * rng.standard_normal(400)
    return genomes, top1


@pytest.fixture(scope="module")
def fitted(made_up):
    genomes, top1 = made_up
    return accuracy_fit.fit(SPACE, genomes[:300], top1[:300], max_iterations=40)


def test_fit_predicts_unseen_networks(made_up, fitted):
    genomes, top1 = made_up
    predicted = fitted.predict(genomes[300:])
    error = predicted.mean - top1[300:]
    assert np.sqrt(np.mean(error**2)) < 0.35 * top1.std()
    low, high = predicted.interval(0.9)
    assert 0.8 <= ((low <= top1[300:]) & (top1[300:] <= high)).mean() <= 0.99


def ingredients(genomes, top1):
    """Varying columns of the one-hot and their numbers, their groups, standardised top-1."""
    x = SPACE.one_hot(genomes)
    used = np.flatnonzero(x.std(axis=0) > 0)
    return x[:, used], used, accuracy_fit.gene_groups(SPACE, used), (top1 - top1.mean()) / top1.std()


def test_quadratic_form_is_the_posterior_mean(made_up):
    """The kept form against kernel regression written out, with hyper-parameters found the same way."""
    genomes, top1 = (part[:60] for part in made_up)
    kept = accuracy_fit.fit(SPACE, genomes, top1, max_iterations=10)
    x, used, groups, target = ingredients(genomes, top1)
    process = accuracy_fit.fit_process(x, groups, target, 10)
    new = SPACE.sample(20, np.random.default_rng(9))
    z = SPACE.one_hot(new)[:, used]
    for g in np.unique(groups):
        assert len(np.unique(process.linear[groups == g])) == len(np.unique(process.curved[groups == g])) == 1

    def kernel(p, q):
        return (p * process.linear) @ q.T + (process.offset + (p * process.curved) @ q.T) ** 2

    inverse = np.linalg.inv(kernel(x, x) + process.noise * np.eye(60))
    expected = top1.mean() + top1.std() * (kernel(z, x) @ inverse @ target)
    assert np.allclose(kept.predict(new).mean, expected, atol=2e-6)
    variance = np.diag(kernel(z, z) - kernel(z, x) @ inverse @ kernel(x, z)) + process.noise
    assert np.allclose(process.variance(z), variance, atol=1e-5)


def test_likelihood_gradient_against_differences(made_up):
    genomes, top1 = (part[:40] for part in made_up)
    x, _, groups, target = ingredients(genomes, top1)
    grams = np.stack([x[:, groups == g] @ x[:, groups == g].T for g in range(groups.max() + 1)])
    kernel = accuracy_fit.quadratic_kernel(grams)
    theta = 0.1 * np.random.default_rng(0).standard_normal(2 * len(grams) + 2)
    theta += np.concatenate([np.full(2 * len(grams), np.log(0.3)), [0.0, np.log(0.05)]])
    value, gradient = gaussian.negative_log_posterior(theta, kernel, target)
    for j in range(len(theta)):
        step = np.zeros(len(theta))
        step[j] = 1e-5
        above, _ = gaussian.negative_log_posterior(theta + step, kernel, target)
        below, _ = gaussian.negative_log_posterior(theta - step, kernel, target)
        assert gradient[j] == pytest.approx((above - below) / 2e-5, rel=1e-3, abs=1e-4)
    assert np.isfinite(value)


@pytest.mark.parametrize("name", ["ofa_mbv3_w1.2"])
def test_a_function_that_is_a_quadratic_form_is_recovered(name):
    """With pairs of genes, and a resolution whose effect depends on the genes."""
    space = get_space(name)
    genomes = space.restrict("r", 160, 224).sample(6000, np.random.default_rng(0))
    x, rng = space.one_hot(genomes), np.random.default_rng(1)
    x[:, slice(*space.one_hot_offsets[space.index["r"] :][:2])] = 0
    x[:, slice(*space.one_hot_offsets[space.index["finetune_epochs"] :][:2])] = 0
    rho = (224 - space.column(genomes, "r")) / 64
    slope, bend = 1e-3 * rng.standard_normal((2, x.shape[1]))
    pairs = 1e-4 * rng.standard_normal((x.shape[1],) * 2)
    top1 = 0.7 + x @ slope + np.einsum("ij,jk,ik->i", x, pairs, x) + rho * (x @ bend) - 0.01 * rho**2
    fitted = accuracy_fit.fit_quadratic(space, genomes, top1, std=0.002, resolutions=(160, 224), ridge=1e-3)
    assert np.abs(fitted.predict(genomes).mean - top1).max() < 0.05 * top1.std()
    assert fitted.facts["misfit_points"] < 0.05


def test_save_and_load_predict_alike(made_up, fitted, tmp_path):
    fitted.save(tmp_path / "a.npz")
    loaded = accuracy.load(tmp_path / "a.npz")
    genomes = made_up[0]
    assert np.allclose(loaded.predict(genomes).mean, fitted.predict(genomes).mean, atol=1e-6)
    assert np.allclose(loaded.predict(genomes).std, fitted.predict(genomes).std, rtol=1e-4)
    assert loaded.facts["rows"] == 300


def test_finetuning_adds_its_gain_and_its_doubt(made_up, fitted):
    tuned = accuracy.with_finetuning(fitted, {0: (0.0, 0.0), 25: (0.004, 0.001), 75: (0.009, 0.003)})
    genomes = made_up[0][:50].copy()
    at = {}
    for level, epochs in ((1, 0), (2, 25), (3, 75)):
        genomes[:, SPACE.index["finetune_epochs"]] = level
        at[epochs] = tuned.predict(genomes)
    assert np.allclose(at[25].mean - at[0].mean, 0.004, atol=1e-6)
    assert np.allclose(at[75].mean - at[0].mean, 0.009, atol=1e-6)
    assert np.allclose(at[75].std ** 2 - at[0].std ** 2, 0.003**2, rtol=1e-2)


def test_resolutions_it_does_not_know_are_refused(fitted):
    wide = get_space("ofa_mbv3_w1.0").sample(50, np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"resolutions 224 to 224, not for \d+ to \d+; restrict"):
        fitted.predict(wide)
    with pytest.raises(ValueError, match="not part of"):
        fitted.predict(wide, get_space("ofa_mbv3_w1.2"))
    with pytest.raises(ValueError, match="too few"):
        accuracy_fit.fit(SPACE, wide[:5], np.ones(5))


@pytest.mark.parametrize("name", ["ofa_mbv3_w1.0", "ofa_mbv3_w1.2"])
def test_shipped_surrogates_are_sensible(name):
    """More resolution, more depth and fine-tuning help.

    The largest subnet is the best of its neighbourhood.
    """
    space = get_space(name)
    surrogate = accuracy.load(name)
    largest = space.levels.astype(np.int8)[None, :]
    smallest = space.canonical(np.ones((1, space.d), np.int8))
    smallest[0, 0] = 1 + space.axis("r").values.index(160)
    best, worst = surrogate.predict(largest).mean[0], surrogate.predict(smallest).mean[0]
    assert 0.65 < worst < best - 0.05 < 0.90
    by_resolution = np.repeat(largest, 5, axis=0)
    by_resolution[:, 0] = [1 + space.axis("r").values.index(r) for r in (160, 176, 192, 208, 224)]
    assert (np.diff(surrogate.predict(by_resolution).mean) > 0).all()
