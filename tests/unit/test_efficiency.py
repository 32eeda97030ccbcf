"""The random frontier against closed forms, brute force and its own limits."""

import time
from dataclasses import replace
from itertools import product
from math import erf, sqrt

import numpy as np
import pytest

from search import pareto
from search.noisy_axis import NoisyAxis, Normal, Repeats, front_probability, off_scale, on_scale
from search.ranking.efficiency import Comparison, distance, efficiency, on_all

B = 6000


def axis(name, values, spread, *, owner=None, maximize=False, scale="linear", source=""):
    values = np.array(values, float)
    owner = np.arange(len(values)) if owner is None else np.array(owner)
    spread = np.broadcast_to(np.array(spread, float), values.shape)
    return NoisyAxis(name, maximize, scale, values, (Normal(spread, owner),), source=source)


def models(*axes):
    return Comparison(tuple(f"m{i}" for i in range(len(axes[0].values))), axes)


def normal_cdf(x):
    return 0.5 * (1 + erf(x / sqrt(2)))


def test_two_models_two_axes_against_the_bivariate_normal():
    """Model 1 is off the frontier when it is worse on both axes: the product of two normal probabilities."""
    x, y = axis("x", [1.0, 1.3], [0.3, 0.4]), axis("y", [2.0, 2.1], [0.2, 0.1])
    worse_x, worse_y = normal_cdf(0.3 / sqrt(0.3**2 + 0.4**2)), normal_cdf(0.1 / sqrt(0.2**2 + 0.1**2))
    found = efficiency(models(x, y), draws=B, tolerance=0)
    expected = np.array([1 - (1 - worse_x) * (1 - worse_y), 1 - worse_x * worse_y])
    assert np.abs(found.probability - expected).max() < 4 * found.probability_error.max()
    assert found.relative == pytest.approx(found.probability / found.probability.max())
    assert found.depth == pytest.approx(1 - found.probability)
    assert found.rank == pytest.approx(1 + found.depth)


def test_correlated_axes_against_the_orthant_probability():
    """Axes of one source have the same errors: model 1 is dominated when one normal number is below both."""
    spread = 0.5
    x, y = (axis(name, [0.0, gap], spread, source="runs") for name, gap in (("x", 0.3), ("y", 0.6)))
    found = efficiency(models(x, y), draws=B, tolerance=0)
    dominated = normal_cdf(0.3 / (spread * sqrt(2)))  # the difference of errors is the same on both axes
    assert found.probability[1] == pytest.approx(1 - dominated, abs=4 * found.probability_error[1])


def test_a_common_error_changes_nothing():
    costs = np.random.default_rng(1).random((30, 3))
    axes = [axis(str(j), costs[:, j], 5.0, owner=np.zeros(30, int)) for j in range(3)]
    found = efficiency(models(*axes), draws=300)
    assert (found.probability == pareto.is_front(costs)).all()
    assert (found.depth == pareto.ranks(costs)).all()


def test_models_that_share_an_error_keep_their_order():
    """m1 is dominated by m0 whatever happens, as both share the error; with errors of their own it is not."""
    shared = [axis(name, [1.0, 1.1, 3.0], 0.5, owner=[0, 0, 1]) for name in "xy"]
    own = [axis(name, [1.0, 1.1, 3.0], 0.5) for name in "xy"]
    assert efficiency(models(*shared), draws=500).probability[1] == 0
    assert efficiency(models(*own), draws=500).probability[1] > 0.5


def test_one_axis_gives_the_probability_to_be_the_best():
    """Three normal numbers of the same spread, one of them better: by numerical integration."""
    found = efficiency(models(axis("x", [0.0, 0.4, 0.4], 0.5)), draws=B, tolerance=0)
    t = np.linspace(-4, 4, 4001)
    density = np.exp(-((t / 0.5) ** 2) / 2) / (0.5 * sqrt(2 * np.pi))
    others = np.array([1 - normal_cdf((v - 0.4) / 0.5) for v in t]) ** 2
    best = float(np.sum(density * others) * (t[1] - t[0]))
    assert found.probability[0] == pytest.approx(best, abs=4 * found.probability_error[0])
    assert found.probability.sum() == pytest.approx(1)


def test_ties_are_all_on_the_frontier():
    exact = [axis(name, values, 0.0) for name, values in (("x", [1, 1, 2]), ("y", [1, 1, 1]))]
    found = efficiency(models(*exact), draws=100)
    assert found.probability.tolist() == [1, 1, 0]
    assert found.rank.tolist() == [1, 1, 3]
    assert found.distance.tolist() == [0, 0, 0]  # equal on y: falling by any amount helps


def test_without_spread_it_is_the_deterministic_frontier(rng):
    costs = rng.random((60, 4))
    found = efficiency(models(*(axis(str(j), costs[:, j], 0.0) for j in range(4))), draws=50)
    assert (found.probability == found.on_front).all()
    assert (found.on_front == pareto.is_front(costs)).all()
    assert found.distance == pytest.approx(found.nominal_distance)
    assert (found.order[: found.on_front.sum()] < 60).all()
    assert set(found.order[: found.on_front.sum()]) == set(np.flatnonzero(found.on_front))


def test_more_draws_approach_the_limit():
    """B -> infinity: fronts of few and of many draws agree within their errors, which shrink as 1/sqrt(B)."""
    costs = np.random.default_rng(3).random((20, 2))
    table = models(*(axis(str(j), costs[:, j], 0.1) for j in range(2)))
    limit = efficiency(table, draws=20_000, seed=99, tolerance=0).probability
    apart = {
        draws: np.array(
            [efficiency(table, draws=draws, seed=seed, tolerance=0).probability - limit for seed in range(12)]
        )
        for draws in (100, 1600)
    }
    rms = {draws: np.sqrt((a**2).mean()) for draws, a in apart.items()}
    assert rms[100] / rms[1600] == pytest.approx(4, rel=0.3)
    stated = efficiency(table, draws=1600, tolerance=0).probability_error
    assert np.sqrt((apart[1600] ** 2).mean(axis=0)).mean() == pytest.approx(stated.mean(), rel=0.3)


def test_error_of_relative_efficiency_is_what_repetitions_show():
    costs = np.random.default_rng(4).random((12, 2))
    table = models(*(axis(str(j), costs[:, j], 0.2) for j in range(2)))
    runs = [efficiency(table, draws=300, seed=seed, tolerance=0) for seed in range(40)]
    best = np.argmax(np.mean([run.probability for run in runs], axis=0))
    rest = np.arange(12) != best
    shown = np.std([run.relative for run in runs], axis=0)[rest]
    stated = np.mean([run.relative_error for run in runs], axis=0)[rest]
    assert stated.mean() == pytest.approx(shown.mean(), rel=0.2)


def test_drawing_stops_when_it_is_precise_enough():
    costs = np.random.default_rng(3).random((20, 2))
    table = models(*(axis(str(j), costs[:, j], 0.1) for j in range(2)))
    found = efficiency(table, tolerance=0.01)
    assert 1000 <= found.draws < 10_000
    assert found.relative_error.max() <= 0.01
    assert efficiency(table, tolerance=0, draws=1234).draws == 1234


def test_same_seed_same_result_and_axes_do_not_disturb_each_other():
    costs = np.random.default_rng(5).random((15, 3))
    axes = [axis(str(j), costs[:, j], 0.2) for j in range(3)]
    first, again, other = (efficiency(models(*axes), draws=300, seed=seed) for seed in (7, 7, 8))
    assert (first.members == again.members).all()
    assert (first.members != other.members).any()
    two = models(*axes).by(["2", "0"])
    assert (two.draw(7, 0, 5)[:, :, 1] == models(*axes).draw(7, 0, 5)[:, :, 0]).all()


def test_distance_against_bisection(rng):
    """The least t for which a model, t better everywhere, is no longer dominated."""
    costs, width = rng.random((25, 3)), np.array([1.0, 2.0, 0.5])
    found = distance(costs, pareto.is_front(costs), width)
    for i in range(25):
        low, high = 0.0, 5.0
        for _ in range(50):
            t = (low + high) / 2
            moved = costs[i] - t * width
            dominated = any((c <= moved).all() and (c < moved).any() for j, c in enumerate(costs) if j != i)
            low, high = (t, high) if dominated else (low, t)
        assert found[i] == pytest.approx(low, abs=1e-9)


def test_brute_force_over_repeats():
    """Two models, two repeats each, drawn one by one or as set-ups: all outcomes can be listed."""
    value, deviation = np.array([1.0, 1.2]), np.array([[-0.3, 0.3], [-0.1, 0.6]])
    other = axis("y", [1.0, 1.0], 0.0)
    x = NoisyAxis("x", False, "linear", value, (Repeats(deviation, np.arange(2)),))
    outcomes = [value + [deviation[0, a], deviation[1, b]] for a, b in product(range(2), repeat=2)]
    expected = np.mean([np.array(v) == min(v) for v in outcomes], axis=0)
    found = efficiency(models(x, other), draws=B, tolerance=0)
    assert found.probability == pytest.approx(expected, abs=0.03)
    together = replace(x, noise=(Repeats(deviation, np.zeros(2, int)),))
    outcomes = [value + deviation[:, a] for a in range(2)]
    expected = np.mean([np.array(v) == min(v) for v in outcomes], axis=0)
    assert efficiency(models(together, other), draws=B, tolerance=0).probability == pytest.approx(
        expected, abs=0.03
    )


def test_all_devices_at_once_is_counted_per_draw():
    """Independent devices: the product. Devices whose errors are the same: the least."""
    a, b = axis("a", [1.0, 1.1], 0.2), axis("b", [1.0, 1.1], 0.2)
    table = models(a, b)
    each = [efficiency(table.by([name]), draws=B, tolerance=0) for name in "ab"]
    assert on_all(each, 2) == pytest.approx(each[0].probability * each[1].probability, abs=0.03)
    assert (on_all([each[0], each[0]], 2) == each[0].probability).all()


def test_preferences_choose_between_frontier_members():
    table = models(axis("x", [0.0, 1.0, 0.9], 0.01), axis("y", [1.0, 0.0, 0.9], 0.01))
    assert efficiency(table, draws=100, weights={"x": 3, "y": 1}).preferred.tolist() == [1, 0, 0]
    assert efficiency(table, draws=100, weights={"y": 1}).preferred.tolist() == [0, 1, 0]
    with pytest.raises(ValueError, match="unknown axis 'z'"):
        efficiency(table, weights={"z": 1})
    with pytest.raises(ValueError, match="not negative"):
        efficiency(table, weights={"x": -1})


def test_rank_interval_holds_nine_of_ten_draws(rng):
    """On one axis the rank of a draw is the place in the sorted values."""
    found = efficiency(models(axis("x", np.arange(9), 2.0)), draws=1000, tolerance=0)
    drawn = np.arange(9) + 2 * rng.standard_normal((20_000, 9))
    low, high = np.quantile(1 + drawn.argsort(axis=1).argsort(axis=1), (0.05, 0.95), axis=0)
    assert np.abs(found.rank_low - low).max() <= 1
    assert np.abs(found.rank_high - high).max() <= 1
    assert (found.rank_low == low).mean() > 0.6


@pytest.mark.parametrize("scale", ["linear", "log", "logit"])
def test_scales_are_undone(scale, rng):
    values = rng.random(20) * 0.8 + 0.1
    assert off_scale(on_scale(values, scale), scale) == pytest.approx(values)
    for maximize in (False, True):
        one = axis("x", values, 0.1, maximize=maximize, scale=scale)
        assert one.in_units(one.costs) == pytest.approx(values)
        assert (np.argsort(one.costs) == np.argsort(-values if maximize else values)).all()


def test_front_probability_is_the_share_of_draws(rng):
    drawn = rng.random((7, 10, 2))
    expected = np.mean([pareto.is_front(costs) for costs in drawn], axis=0)
    assert (front_probability(drawn) == expected).all()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: axis("t", [1.0, np.nan], 0.1), "axis t: the value nan of model 1"),
        (lambda: axis("t", [1.0, -2.0], 0.1, scale="log"), "takes positive numbers"),
        (lambda: axis("t", [0.5, 76.0], 0.1, scale="logit"), "between 0 and 1"),
        (lambda: axis("t", [0.5, 0.6], np.nan), "spread"),
        (lambda: Comparison(("a", "a"), (axis("t", [1, 2], 0),)), "model 'a' is there twice"),
        (lambda: models(axis("t", [1, 2], 0), axis("t", [1, 2], 0)), "axis 't' is there twice"),
        (lambda: Comparison(("a",), (axis("t", [1, 2], 0),)), "2 values, not 1"),
        (lambda: Comparison((), ()), "nothing to rank"),
        (lambda: efficiency(models(axis("t", [1, 2], 0)), draws=0), "draws=0"),
    ],
)
def test_bad_input_is_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_thousands_of_models_need_no_square_memory(rng):
    """10,000 models in 4 axes: 20 draws within a few seconds; n^2 booleans alone would be 100 MB a draw."""
    import tracemalloc

    costs = rng.random((10_000, 4))
    table = models(*(axis(str(j), costs[:, j], 0.05) for j in range(4)))
    tracemalloc.start()
    efficiency(table, draws=20, tolerance=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 90e6


def test_a_draw_takes_milliseconds(rng):
    """700 models in 4 axes took .7 ms a draw here; 60 s for 10,000 draws would be 6 ms."""
    costs = rng.random((700, 4))
    table = models(*(axis(str(j), costs[:, j], 0.05) for j in range(4)))
    begun = time.process_time()
    efficiency(table, draws=300, tolerance=0)
    assert time.process_time() - begun < 300 * 0.006
