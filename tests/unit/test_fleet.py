"""Several devices at once: measured at the same time, searched for together, fronts verified on each."""

import csv
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from latency.data import LatencyData
from latency.measuring import summary
from latency.measuring.known import Known, wander
from latency.measuring.remote.fleet import together
from latency.measuring.session import Timed
from latency.predictors.interface import with_facts
from latency.zoo import adaptation, catalogue
from search import models, problem, run
from search.cli import devices, fleet
from search.searchers.nsga2 import NSGA2
from search.verify.rounds import Rounds
from supernet import registry
from supernet.space import get_space

NAMES = ("titan_rtx_b64", "v100_b64")
LIMIT = f"latency_ms@{NAMES[1]}"


class Bench:
    """Two devices that are a tenth slower than predicted; a network is `broken` on the second."""

    def __init__(self, broken=()):
        self.sittings, self.broken, self.threads = [], set(broken), set()

    def time(self, target, networks):
        self.threads.add(threading.get_ident())
        time.sleep(0.01)
        names = get_space(target.space).format(networks)
        bad = [name in self.broken and target.name == NAMES[1] for name in names]
        good = networks[~np.array(bad, bool)]
        ms = 1.1 * catalogue.predictor(target.name).predict(good, target).mean
        self.sittings.append((LatencyData(target, good, ms, 0.01 * ms), {"a": 1.0}))
        failed = {name: "RuntimeError: no" for name, broke in zip(names, bad, strict=True) if broke}
        return Timed(target, {}, failed, {"a": 1.0}, 5.0, {})

    def known(self, target):
        own = [sitting for sitting in self.sittings if sitting[0].target.key == target.key]
        data, anchors = summary.on_one_scale(target, own)
        return Known(data, "e 1", anchors, wander([usual for _, usual in own]))


def searched(out, bench, rounds=2):
    facts = {"anchors_ms": {"a": 1.0}, "engine": "e 1", "sittings": 5, "drift_std": 0.01, "repeat_std": 0.005}
    both = [with_facts(catalogue.predictor(name), facts) for name in NAMES]
    chosen = models.several(models.choose(latency=both[0]), both)
    asked = problem.build(["accuracy", "latency_ms"], chosen, limits={LIMIT: 25.0})
    turns = Rounds(bench, adaptation.corrected, 6, rounds)
    return run.Search(asked, NSGA2(population=40), 500, 1, out, rounds=turns).run()


def test_a_front_is_verified_on_every_device(tmp_path):
    bench = Bench()
    result = searched(tmp_path / "run", bench)
    figures = result.summary["verification"]
    assert (figures["networks"], figures["measurements"], figures["seconds"]) == (6, 12, 10.0)
    assert {name: one["networks"] for name, one in figures["devices"].items()} == dict.fromkeys(NAMES, 6)
    assert len(bench.threads) > 1
    with (tmp_path / "run" / "front.csv").open() as file:
        rows = list(csv.DictReader(file))
    verified = [row for row in rows if row["on_verified_front"] == "True"]
    assert verified
    for name in NAMES:
        for row in rows:
            measured = row[f"latency_ms@{name}_measured"]
            assert (measured != "") == (row["on_verified_front"] == "True")
            if measured:
                assert float(row[f"latency_ms@{name}"]) == pytest.approx(float(measured), rel=1e-4)
    with (tmp_path / "run" / "measured.csv").open() as file:
        listed = list(csv.DictReader(file))
    assert sorted({row["device"] for row in listed}) == sorted(NAMES)
    for row in listed:  # only the second device has a limit
        assert (row["latency_ms_limit_holds"] == "") == (row["device"] == NAMES[0])
    lines = "\n".join(result.verified.lines())
    assert "measured 6 networks of the front in 2 rounds" in lines
    assert f"{NAMES[1]}: 6 measured, predictions off by" in lines


def test_what_cannot_be_run_on_one_device_is_on_no_verified_front(tmp_path):
    first = searched(tmp_path / "first", Bench(), rounds=1)
    name = first.verified.measured.columns["architecture"][0]
    second = searched(tmp_path / "second", Bench([name]), rounds=1)
    assert second.summary["verification"]["failed"].keys() == {f"{name}, fp32"}
    shown = {
        row["architecture"].rpartition(" ft")[0]
        for row in second.verified.front.rows()
        if row["on_verified_front"]
    }
    assert name.rpartition(" ft")[0] not in shown


def test_a_search_on_several_devices_goes_on_with_what_was_measured(tmp_path):
    """The same rounds are not measured again."""
    whole = searched(tmp_path / "run", Bench())
    (tmp_path / "run" / "archive.npz").unlink()
    bench = Bench()
    again = searched(tmp_path / "run", bench)
    assert bench.sittings == []
    assert np.array_equal(again.archive.genomes, whole.archive.genomes)
    assert np.array_equal(again.archive.costs, whole.archive.costs)


def test_tasks_run_at_the_same_time_and_the_first_error_is_said_when_all_have_ended():
    ended = []
    barrier = threading.Barrier(3, timeout=10)

    def task(number):
        barrier.wait()
        time.sleep(0.05 * number)
        ended.append(number)
        if number == 1:
            raise ValueError("of the second")
        return number

    with pytest.raises(ValueError, match="of the second"):
        together([lambda n=n: task(n) for n in range(3)])
    assert ended == [0, 1, 2]
    assert together([lambda: 1, lambda: 2], at_once=False) == [1, 2]


def test_two_addresses_of_one_device_are_refused(tmp_path):
    pytest.importorskip("onnxruntime")
    here = f"local?python={sys.executable}&folder={tmp_path}/"
    with pytest.raises(ValueError, match="which another address is too"):
        devices.reach([f"{here}a", f"{here}b"], registry.load("target", "here"))


def test_devices_and_predictors_are_told_apart(tmp_path):
    one = catalogue.find("v100_b64")
    measured = replace(one.target, unit="0123456789ab")
    assert fleet.targets([one, measured]) == [one.target, measured]
    assert fleet.measures([one, measured], verify=False)
    assert not fleet.measures([one], verify=True)  # nobody can measure there
    assert fleet.predictors([one], tmp_path, adaptation.Adaptation(), tmp_path / "s.sqlite") == [one]
    assert fleet.kept(["v100_b64", "ssh://board"], tmp_path) == [
        "v100_b64",
        str(tmp_path / "predictor_2.npz"),
    ]
