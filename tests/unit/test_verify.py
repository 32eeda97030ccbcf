"""Fronts that are measured: by a bench whose latencies are known, in one round and in several."""

import csv
import itertools
import signal
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from latency.data import LatencyData
from latency.measuring import summary
from latency.measuring.known import PRIOR_DRIFT, PRIOR_REPEAT, Known, Wander, wander
from latency.measuring.session import Timed
from latency.predictors.interface import with_facts
from latency.zoo import adaptation, catalogue
from search import models, pareto, problem, run
from search.searchers.noisy_nsga2 import NoisyNSGA2
from search.searchers.nsga2 import NSGA2
from search.verify.latency import KnownLatency
from search.verify.rounds import Rounds, most_at_stake
from supernet.space import get_space
from tests.e2e.browser import drawn

LIMIT = 25.0
ANCHORS = {"a": 2.0, "b": 5.0, "c": 9.0}


def predicted(networks, target):
    return catalogue.predictor("v100_b64").predict(networks, target).mean


@dataclass
class FakeBench:
    """Latencies of `ms_of`, times the drift of each sitting in turn; networks in `broken` cannot be run, and
    the process is killed in the sitting `killed_in`, after this `share` of its networks."""

    ms_of: object = predicted
    drifts: tuple = (1.0,)
    broken: set = field(default_factory=set)
    killed_in: int | None = None
    share: float = 0.5
    sittings: list = field(default_factory=list)
    timed: list = field(default_factory=list)

    def time(self, target, networks):
        space, drift = get_space(target.space), self.drifts[min(len(self.sittings), len(self.drifts) - 1)]
        if self.killed_in == len(self.sittings):
            self._take(target, networks[: int(len(networks) * self.share)], drift)
            raise KeyboardInterrupt
        names = space.format(networks)
        good = np.array([name not in self.broken for name in names])
        anchors = self._take(target, networks[good], drift)
        failed = {name: "RuntimeError: no" for name in names if name in self.broken}
        return Timed(target, {}, failed, anchors, 1.0, {})

    def _take(self, target, networks, drift):
        ms = self.ms_of(networks, target) * drift
        anchors = {name: value * drift for name, value in ANCHORS.items()}
        self.timed += get_space(target.space).format(networks)
        self.sittings.append((LatencyData(target, networks, ms, 0.01 * ms), anchors))
        return anchors

    def known(self, target):
        own = [sitting for sitting in self.sittings if sitting[0].target.key == target.key]
        data, anchors = summary.on_one_scale(target, own)
        return Known(data, "e 1", anchors, wander([usual for _, usual in own]))


def asked_with(limit=LIMIT, **facts):
    facts = {"anchors_ms": ANCHORS, "engine": "e 1", **facts}
    latency = with_facts(catalogue.predictor("v100_b64"), facts)
    limits = {} if limit is None else {"latency_ms": limit}
    return problem.build(["accuracy", "latency_ms"], models.choose(latency=latency), limits=limits)


def go(out, bench, count=6, rounds=1, limit=LIMIT, searcher=None, sinks=(), **facts):
    turns = Rounds(bench, adaptation.corrected, count, rounds)
    searcher = searcher or NSGA2(population=60)
    return run.Search(asked_with(limit, **facts), searcher, 900, 1, out, sinks=sinks, rounds=turns).run()


def rows_of(out, name):
    with (out / name).open() as file:
        return list(csv.DictReader(file))


def test_right_predictions_keep_the_front(tmp_path):
    result = go(tmp_path / "run", FakeBench(), drift_std=0.01, repeat_std=0.005, sittings=5)
    figures = result.summary["verification"]
    assert figures["networks"] == figures["covered"] == 6
    assert figures["mape"] == pytest.approx(0, abs=1e-9)
    rows = rows_of(tmp_path / "run", "front.csv")
    verified = [row for row in rows if row["on_verified_front"] == "True"]
    assert len(verified) == figures["holds"] == figures["verified_front"] >= 5
    for row in rows:
        assert (row["latency_ms_measured"] != "") == (row["on_verified_front"] == "True")
        assert row["latency_ms_predicted"] != ""
    for row in verified:
        assert float(row["latency_ms"]) == pytest.approx(float(row["latency_ms_measured"]), rel=1e-4)
        assert float(row["latency_ms_predicted"]) == pytest.approx(float(row["latency_ms"]), rel=1e-4)


@pytest.mark.parametrize("rounds", [1, 3])
def test_no_row_holds_a_limit_that_its_measurement_breaks_and_there_is_one_knee(tmp_path, rounds):
    """Networks are up to a third slower than predicted, each by a factor of its own."""

    def slower(networks, target):
        share = np.random.default_rng(int(networks.sum())).random(len(networks))
        return predicted(networks, target) * (1.05 + 0.3 * share)

    out = tmp_path / "run"
    result = go(out, FakeBench(slower), count=12, rounds=rounds)
    rows, measured = rows_of(out, "front.csv"), rows_of(out, "measured.csv")
    assert {row["latency_ms_limit_holds"] for row in rows} == {"True"}
    for row in rows:
        assert float(row["latency_ms"]) <= LIMIT
        assert row["latency_ms_measured"] == "" or float(row["latency_ms_measured"]) <= LIMIT
    fails = [row for row in measured if row["latency_ms_limit_holds"] == "False"]
    assert {row["architecture"] for row in fails}.isdisjoint(row["architecture"] for row in rows)
    assert result.summary["verification"]["holds"] == len(measured) - len(fails)
    knee = rows[result.front.knee]
    assert knee["on_verified_front"] == "True"
    assert knee["architecture"] == result.summary["knee"]
    page = (out / "report.html").read_text()
    members = drawn(page)["table"]
    assert members["values"][members["name"]][members["knee"]] == result.summary["knee"]
    assert f"title='{result.summary['knee']}'" in page  # it is on the shortlist
    assert all(row["on_verified_front"] == "True" for row in rows if row["shortlist"] == "True")


def test_a_prediction_displaces_no_measurement(tmp_path):
    result = go(tmp_path / "run", FakeBench(), count=8)
    columns = result.front.columns
    on = np.array(columns["on_verified_front"])
    costs = result.archive.costs[result.rows]
    assert pareto.is_front(costs[on]).all()
    everything = result.archive.costs[result.archive.violation <= 0]
    for row in np.flatnonzero(~on):
        better = (everything <= costs[row]).all(axis=1) & (everything < costs[row]).any(axis=1)
        assert not better.any()


def test_equally_fast_networks_leave_the_most_accurate_one(tmp_path):
    out = tmp_path / "run"
    go(out, FakeBench(lambda networks, target: np.full(len(networks), 10.0)), count=7)
    verified = [row for row in rows_of(out, "front.csv") if row["on_verified_front"] == "True"]
    assert len({row["accuracy"] for row in verified}) == 1


def test_failed_networks_are_named_and_not_asked_for_again(tmp_path):
    first = FakeBench()
    go(tmp_path / "first", first, count=6)
    bench = FakeBench(broken=set(first.timed[:2]))
    result = go(tmp_path / "run", bench, count=8, rounds=2)
    figures = result.summary["verification"]
    assert len(figures["failed"]) >= 1
    assert set(figures["failed"].values()) == {"RuntimeError: no"}
    assert not set(bench.timed) & bench.broken
    assert "failed: ofa_mbv3_w1.2" in "\n".join(result.verified.lines())


def test_drift_of_the_machine_is_no_error_of_the_prediction(tmp_path):
    result = go(tmp_path / "run", FakeBench(drifts=(1.2,)), limit=None)
    figures = result.summary["verification"]
    assert figures["drift"] == pytest.approx(1.2)
    assert figures["mape_raw"] == pytest.approx(100 * (1 - 1 / 1.2))
    assert figures["mape"] == pytest.approx(0, abs=1e-6)
    assert "20.0% slower" in "\n".join(result.verified.lines())


def test_the_bound_of_a_limit_includes_the_drift_between_sittings(tmp_path):
    calm = go(tmp_path / "calm", FakeBench(), drift_std=0.001, repeat_std=0.001, sittings=50)
    rough = asked_with(drift_std=0.10, repeat_std=0.001, sittings=50)
    latency = KnownLatency(rough.models.latency)
    genomes = calm.archive.genomes[calm.rows]
    bounds = rough.with_latency(latency).models.predict_latency(genomes)
    plain = rough.models.predict_latency(genomes)
    assert np.allclose(bounds.std**2, plain.std**2 + (0.10 * plain.mean) ** 2)
    assert np.allclose(bounds.shared[:, -1], 0.10 * plain.mean)  # one drift for all networks
    assert np.allclose(bounds.own, plain.own)
    _, violation = rough.with_latency(latency).evaluator(genomes)
    assert ((violation > 0) == (plain.mean + 1.28155 * bounds.std > LIMIT)).all()


def test_how_a_machine_wanders():
    assert wander([]) == Wander(0, PRIOR_DRIFT, PRIOR_REPEAT)
    one = wander([ANCHORS])
    assert (one.drift, one.repeat) == pytest.approx((PRIOR_DRIFT, PRIOR_REPEAT))
    rng = np.random.default_rng(0)
    level, rest = 0.08 * rng.standard_normal(400), 0.02 * rng.standard_normal((400, 3))
    sittings = [
        {name: ms * np.exp(level[i] + rest[i, j]) for j, (name, ms) in enumerate(ANCHORS.items())}
        for i in range(400)
    ]
    found = wander(sittings)
    assert found.sittings == 400
    # A later sitting differs from this one by the square root of two times the deviation of each.
    assert found.drift == pytest.approx(np.sqrt(2 * (0.08**2 + 0.02**2 / 3)), rel=0.1)
    assert found.repeat == pytest.approx(np.sqrt(2) * 0.02, rel=0.1)
    assert Wander.from_facts(found.facts) == found
    assert "as 400 sittings differed" in found.line(0.9)
    assert "assumed" in one.line(0.9)


def test_an_anchor_of_one_sitting_says_nothing_of_how_networks_wander():
    sittings = [{"a": 1.0, "b": 2.0}, {"a": 1.1, "b": 2.1}]
    alone = wander([sittings[0], {**sittings[1], "c": 3.0}])
    assert np.isclose(alone.repeat, wander(sittings).repeat)


def test_measured_networks_are_those_that_add_most(rng):
    """Against all choices of three networks of eight, where each has two members next to each other."""
    place = np.sort(rng.random(8))[:, None] + np.array([0, 0.01])
    costs = np.stack([place, (1 - place) ** 2], axis=2).reshape(16, 2)
    owner, reference = np.repeat(np.arange(8), 2), np.array([1.1, 1.1])
    verified = np.array([4, 5])

    def volume(networks):
        return pareto.hypervolume(costs[np.isin(owner, [2, *networks])], reference)

    chosen = most_at_stake(costs, owner, verified, reference, 3)
    assert len(set(owner[chosen]) - {2}) == len(chosen) == 3
    best = max(volume(three) for three in itertools.combinations([0, 1, 3, 4, 5, 6, 7], 3))
    assert volume(owner[chosen]) >= 0.98 * best
    everything = most_at_stake(costs, owner, verified, reference, 50)
    assert set(owner[everything]) == set(range(8)) - {2}


@pytest.mark.parametrize("killed_in", [0, 1, 2])
@pytest.mark.parametrize("searcher", [NSGA2(population=60), NoisyNSGA2(population=60, draws=10)])
@pytest.mark.parametrize("share", [0.5, 1.0])
def test_killed_in_any_round_it_goes_on_and_measures_nothing_twice(tmp_path, killed_in, share, searcher):
    whole, cut = FakeBench(), FakeBench(killed_in=killed_in, share=share)
    go(tmp_path / "whole", whole, count=12, rounds=3, searcher=searcher)
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "cut", cut, count=12, rounds=3, searcher=searcher)
    cut.killed_in = None
    go(tmp_path / "cut", cut, count=12, rounds=3, searcher=searcher)
    assert len(cut.timed) == len(set(cut.timed)) == len(whole.timed) == 12
    if share == 1.0:  # the store then holds the same sittings as without the kill
        archives = [(tmp_path / name / "archive.npz").read_bytes() for name in ("whole", "cut")]
        assert archives[0] == archives[1]


class StopAfter:
    """A sink that sends SIGINT to this process in one generation, as Ctrl-C does."""

    def __init__(self, generation):
        self.generation = generation

    def start(self, facts, history):
        pass

    def log(self, row):
        if row["generation"] == self.generation:
            signal.raise_signal(signal.SIGINT)

    def finish(self, summary, front=None):
        pass

    def close(self):
        pass


@pytest.mark.parametrize("generation", [3, 10, 13])
def test_stopped_between_rounds_and_resumed_gives_the_same_bytes(tmp_path, generation):
    whole, cut = FakeBench(drifts=(1.0, 1.1, 0.9)), FakeBench(drifts=(1.0, 1.1, 0.9))
    go(tmp_path / "whole", whole, count=12, rounds=3)
    with pytest.raises(run.Interrupted):
        go(tmp_path / "cut", cut, count=12, rounds=3, sinks=[StopAfter(generation)])
    go(tmp_path / "cut", cut, count=12, rounds=3)
    assert cut.timed == whole.timed
    for name in ("archive.npz", "front.csv", "measured.csv"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_rounds_fit_predictions_where_they_are_used(tmp_path):
    """A target whose small networks are 10% and whose large ones 20% slower than the predictor says."""
    from supernet import footprint

    def truth(networks, target):
        macs = footprint.compute(get_space(target.space), networks, "macs")
        return predicted(networks, target) * (1.1 + 0.1 * np.clip(macs / 6e8, 0, 1))

    result = go(tmp_path / "run", FakeBench(truth), count=12, rounds=3, limit=None)
    first, *later = result.summary["verification"]["mape_by_round"]
    assert first > 9
    assert max(later) < 4
    assert result.summary["verification"]["networks"] == 12


def test_turns_add_up():
    for count, rounds in ((24, 3), (24, 1), (5, 3), (24, 8), (2, 3)):
        turns, left = Rounds(FakeBench(), adaptation.corrected, count, rounds), count
        for turn in range(rounds):
            left -= turns.share(turn, left)
        assert left == 0
        until = [turns.until(turn, 1000) for turn in range(rounds)]
        assert until == sorted(until)
        assert until[-1] == 1000


def test_a_damaged_round_is_refused_in_one_line(tmp_path):
    bench = FakeBench(killed_in=1)
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "run", bench, count=6, rounds=2)
    (tmp_path / "run" / "round_1.npz").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"round_1\.npz"):
        go(tmp_path / "run", replace(bench, killed_in=None), count=6, rounds=2)


def test_who_loses_the_race_for_a_run_folder_overwrites_no_predictor(tmp_path, monkeypatch):
    kept, ours = tmp_path / "predictor.npz", catalogue.predictor("v100_b64")
    theirs = with_facts(ours, {"whose": "the other process"})

    def meanwhile(target, how, *, store, watch=None):
        theirs.save(kept)
        return ours

    monkeypatch.setattr(adaptation, "known_or_adapt", meanwhile)
    taken = adaptation.for_run(ours.target, kept, adaptation.Adaptation(), store=None)
    assert taken.facts["whose"] == "the other process"


def test_nothing_to_verify_is_refused():
    with pytest.raises(ValueError, match="verify=0 measures no front"):
        Rounds(FakeBench(), adaptation.corrected, 0)
