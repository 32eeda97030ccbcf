"""Regression models of modules: against scikit-learn, finite differences, brute force."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from latency.modules import fitted as forms
from latency.modules import medn, regressors, selection
from latency.modules.fitted import Trees, line, off_line, on_line
from latency.modules.regressors import Boosting, Forest, GaussianProcess, LightGbm, SupportVectors
from latency.modules.selection import Score
from supernet import registry
from supernet.fits import gaussian

SINGLE = [name for name in registry.names("regressor") if name != "medn"]


def smooth(rng, n=160, q=3):
    x = rng.normal(size=(n, q))
    return x, 1.5 * x[:, 0] + np.sin(2 * x[:, 1]) + 0.3 * x[:, 0] * x[:, 2]


@pytest.mark.parametrize("name", SINGLE)
def test_every_model_learns_and_its_arrays_are_all_of_it(name, rng):
    x, y = smooth(rng)
    y += 0.05 * rng.normal(size=len(y))
    node = registry.load("regressor", name)
    for package in node.pop("requires", ()):
        pytest.importorskip(package)
    fitted = registry.build(node).fit(x[:120], y[:120], rng)
    said = fitted(x[120:])
    assert np.abs(said - y[120:]).mean() < 0.75 * np.abs(y[120:] - y[:120].mean()).mean()
    order = rng.permutation(40)
    assert np.allclose(fitted(x[120:][order]), said[order], rtol=1e-5, atol=1e-6)
    stored = forms.stored(fitted)
    again = forms.restored(forms.form_of(fitted), stored)
    assert np.quantile(np.abs(again(x) - fitted(x)), 0.95) < 1e-3  # a tree may flip at a rounded threshold
    assert forms.stored_bytes(fitted) == sum(a.nbytes for a in stored.values())


def test_trees_say_what_scikit_learn_says(rng):
    from sklearn.ensemble import GradientBoostingRegressor, RandomForestRegressor

    x, y = smooth(rng)
    linear = line(x, y)
    residual = off_line(linear, x, y)
    seed = int(np.random.default_rng(5).integers(2**31))
    forest = RandomForestRegressor(20, max_features=0.5, random_state=seed).fit(x, residual)
    mine = Forest(trees=20).fit(x, y, np.random.default_rng(5))
    assert np.allclose(mine(x) - on_line(linear, x), forest.predict(x))
    boosted = GradientBoostingRegressor(
        n_estimators=30,
        max_depth=3,
        learning_rate=0.1,
        subsample=0.7,
        max_features=0.5,
        init="zero",
        random_state=seed,
    ).fit(x, residual)
    mine = Boosting(trees=30, depth=3, learning_rate=0.1).fit(x, y, np.random.default_rng(5))
    assert np.allclose(mine(x) - on_line(linear, x), boosted.predict(x))


def test_lightgbm_trees_say_what_lightgbm_says(rng):
    lightgbm = pytest.importorskip("lightgbm")
    x, y = smooth(rng)
    x = x.astype(np.float32).astype(np.float64)
    linear = line(x, y)
    kept = {}
    train = lightgbm.train

    def remember(*args, **options):
        kept["model"] = train(*args, **options)
        return kept["model"]

    lightgbm.train = remember
    try:
        mine = LightGbm(trees=25).fit(x, y, rng)
    finally:
        lightgbm.train = train
    assert np.allclose(mine(x) - on_line(linear, x), kept["model"].predict(x), atol=1e-9)


def test_support_vectors_say_what_scikit_learn_says(rng):
    from sklearn.svm import SVR

    x, y = smooth(rng, 80)
    linear = line(x, y)
    residual = off_line(linear, x, y)
    unit, scale = residual.std(), 2.0 * np.sqrt(3)
    theirs = SVR(C=3.0, gamma=0.5, epsilon=0.02).fit(x / scale, residual / unit)
    mine = SupportVectors(costs=(3.0,), widths=(2.0,)).fit(x, y, rng)
    assert np.allclose(mine(x) - on_line(linear, x), unit * theirs.predict(x / scale), atol=1e-9)


def test_the_gradient_of_the_likelihood_is_its_slope(rng):
    x, y = smooth(rng, 30)
    theta = np.array([0.3, -0.2, 0.5, 0.1, -1.0])
    kernel = regressors.matern_kernel(x)
    _, gradient = gaussian.negative_log_posterior(theta, kernel, y)
    for j in range(len(theta)):
        step = np.zeros(len(theta))
        step[j] = 1e-5
        above, below = (
            gaussian.negative_log_posterior(at, kernel, y)[0] for at in (theta + step, theta - step)
        )
        assert gradient[j] == pytest.approx((above - below) / 2e-5, rel=1e-4)


def test_a_gaussian_process_passes_through_noiseless_rows(rng):
    x, y = smooth(rng, 60)
    assert np.abs(GaussianProcess().fit(x, y, rng)(x) - y).max() < 0.05


def test_a_gaussian_process_on_few_rows_is_nearly_that_on_all(rng):
    x, y = smooth(rng, 300)
    y += 0.05 * rng.normal(size=300)
    whole, nearly, few = (GaussianProcess(share=s).fit(x[:200], y[:200], rng) for s in (1.0, 0.995, 0.3))
    assert len(few.rows) == 60
    assert np.abs(nearly(x) - whole(x)).max() < 0.02
    errors = [np.abs(fitted(x[200:]) - y[200:]).mean() for fitted in (whole, few)]
    assert errors[1] < 1.3 * errors[0]


def test_rows_spread_out_are_distinct_and_leave_little_unsaid(rng):
    x = rng.normal(size=(80, 2))
    few, factor = regressors.spread_out(x, 40)
    assert len(set(few.tolist())) == 40
    whole = forms.matern(forms.squared_distance(x, x))
    assert np.allclose(factor[:, few].T @ factor, whole[few])

    def unsaid(chosen):
        part = whole[np.ix_(chosen, chosen)]
        return np.trace(whole - whole[:, chosen] @ np.linalg.solve(part, whole[chosen]))

    assert unsaid(few) < 0.5 * np.median([unsaid(rng.permutation(80)[:40]) for _ in range(9)])


def test_damaged_trees_are_refused(rng):
    x, y = smooth(rng, 40)
    arrays = Forest(trees=2).fit(x, y, rng).arrays()
    with pytest.raises(ValueError, match="nodes that are not there"):
        Trees.from_arrays(arrays | {"left": arrays["left"] + 10_000})
    with pytest.raises(ValueError, match="unknown form of regression 'tree'"):
        forms.restored("tree", arrays)


# ---------------------------------------------------------------------- MEDN
def test_medn_learns_all_types_at_once_small_and_the_same_again(rng):
    data = {"a": smooth(rng, 200, 3), "b": smooth(rng, 120, 5)}
    known = {name: (x[:100], y[:100]) for name, (x, y) in data.items()}
    learner = medn.Medn(steps=600, members=1)
    fitted = learner.fit_all(known, np.random.default_rng(0))
    again = learner.fit_all(known, np.random.default_rng(0))
    for name, (x, y) in data.items():
        linear = line(*known[name])
        error = np.abs(fitted[name](x[100:]) - y[100:]).mean()
        assert error < 0.7 * np.abs(on_line(linear, x[100:]) - y[100:]).mean()
        assert (fitted[name](x) == again[name](x)).all()
        assert forms.stored_bytes(fitted[name]) < 40_000


# ---------------------------------------------------------------------- selection
@pytest.fixture
def candidates(rng):
    return {
        f"m{t}": {
            f"r{j}": Score(
                rng.uniform(80, 99), 0.0, 0.0, ms=rng.uniform(0.1, 5), bytes=int(rng.integers(100, 9000))
            )
            for j in range(4)
        }
        for t in range(4)
    }


def everything(candidates):
    for picked in product(*(by_model.values() for by_model in candidates.values())):
        yield np.mean([c.accuracy for c in picked]), sum(c.ms for c in picked), sum(c.bytes for c in picked)


def test_a_selection_is_the_best_of_all(candidates):
    for max_ms, max_bytes in ((None, None), (6.0, None), (None, 9000), (7.0, 14_000)):
        allowed = [
            a
            for a, ms, size in everything(candidates)
            if ms <= (max_ms or 1e9) and size <= (max_bytes or 1e9)
        ]
        chosen = selection.choose(candidates, max_ms=max_ms, max_bytes=max_bytes)
        assert chosen.accuracy == pytest.approx(max(allowed))
        assert chosen.ms <= (max_ms or 1e9)
        assert chosen.bytes <= (max_bytes or 1e9)


@pytest.mark.parametrize("max_ms", [None, 6.0])
def test_by_default_it_pays_for_no_accuracy_below_one_standard_error(candidates, max_ms):
    noisy = {
        name: {model: replace(score, error=4.0) for model, score in by_model.items()}
        for name, by_model in candidates.items()
    }
    allowed = [picked for picked in everything(candidates) if picked[1] <= (max_ms or 1e9)]
    accuracy, ms, size = max(allowed)
    enough = [picked for picked in allowed if picked[0] >= accuracy - 2.0]  # 4 / root of 4 kinds
    chosen = selection.choose(noisy, max_ms=max_ms)
    least = min(picked[1] / ms + picked[2] / size for picked in enough)
    assert chosen.ms / ms + chosen.bytes / size == pytest.approx(least)
    assert chosen.ms / ms + chosen.bytes / size < 2  # it gains something here
    assert chosen.accuracy >= accuracy - 2.0


@pytest.mark.parametrize(("cost", "place"), [("ms", 1), ("bytes", 2)])
def test_the_front_of_selections_is_that_of_all(candidates, cost, place):
    every = np.array([[s[place], s[0]] for s in everything(candidates)])
    beaten = ((every[:, None, 0] >= every[None, :, 0]) & (every[:, None, 1] <= every[None, :, 1])).sum(axis=1)
    expected = every[beaten == 1]
    found = np.array([[getattr(s, cost), s.accuracy] for s in selection.front(candidates, cost)])
    assert np.allclose(found, expected[np.argsort(expected[:, 0])])


def test_impossible_limits_say_what_is_possible(candidates):
    with pytest.raises(ValueError, match=r"at most 0.01 ms per 100 predictions; the least is"):
        selection.choose(candidates, max_ms=0.01)
    with pytest.raises(ValueError, match=r"module m0 has no r9"):
        selection.single(candidates, "r9")
    with pytest.raises(ValueError, match="cost=size"):
        selection.front(candidates, "size")


def test_a_score_dominates_what_it_is_nowhere_worse_than():
    one = Score(90.0, 0.9, 10.0, ms=2.0, bytes=100)
    assert not one.dominates(one)
    assert one.dominates(replace(one, ms=2.5))
    assert one.dominates(replace(one, accuracy=89.0, bytes=200))
    assert not one.dominates(replace(one, accuracy=89.0, bytes=99))
