"""Searching with an accuracy that has to be measured: nothing is measured twice, or without need."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from search import models, problem
from search.commands.search import BUDGET, MEASURED_BUDGET, Options
from search.objective import InfeasibleError
from search.run import Search
from search.searchers.linas import LINAS
from supernet import footprint, registry
from supernet.prediction import Prediction
from supernet.space import get_space
from supernet.surrogates import accuracy
from supernet.training.accuracy_store import AccuracyStore
from supernet.training.measured_accuracy import SupernetAccuracy


@dataclass
class Evaluated:
    """Remembers what it was asked, as the real one does, and is interrupted after `patience` evaluations."""

    patience: int = 10**9
    measured: str = "supernet 1, test images"
    space: str = "ofa_mbv3_w1.0"
    resolutions: tuple[int, int] = (160, 224)
    facts: dict = field(default_factory=dict)
    known: dict = field(default_factory=dict)
    evaluations: int = 0

    def predict(self, genomes, space=None):
        own = get_space(self.space)
        for row in own.network(genomes):
            if row.tobytes() not in self.known:
                if self.evaluations == self.patience:
                    raise KeyboardInterrupt
                self.evaluations += 1
                top1 = 0.1 * np.log10(footprint.compute(own, row[None], "macs")[0]) + row.sum() % 7 / 1000
                self.known[row.tobytes()] = top1
        mean = np.array([self.known[row.tobytes()] for row in own.network(genomes)])
        return Prediction(mean, np.full(len(mean), 0.004))


def searcher():
    return LINAS(batch=5, first=10, population=20, generations=4)


def go(model, out, budget=30, **asked):
    found = problem.build(["accuracy", "macs"], models.choose(accuracy=model), **asked)
    return Search(found, searcher(), budget=budget, seed=1, out=out, config={"budget": budget}).run()


def test_only_what_is_searched_and_two_more_are_measured(tmp_path):
    model = Evaluated()
    found = go(model, tmp_path / "a")
    assert len(found.archive) == 30
    own = get_space(model.space)
    ends = {row.tobytes() for row in own.network(found.archive.space.extremes())}
    assert set(model.known) == {row.tobytes() for row in found.archive.genomes} | ends
    worst, best = (model.predict(end).mean[0] for end in np.split(found.archive.space.extremes(), 2))
    assert found.summary["hypervolume_reference"]["accuracy"] == pytest.approx(worst - 1.959964 * 0.004)
    assert found.summary["hypervolume"] > 0
    assert best > worst


def test_building_the_problem_measures_nothing():
    model = Evaluated(patience=0)
    found = problem.build(["accuracy", "macs"], models.choose(accuracy=model), limits={"accuracy": 0.7})
    found.evaluator.check_limits(found.space)
    found.evaluator.fingerprint(found.space)
    assert found.evaluator.measures
    assert found.space.name == "ofa_mbv3_w1.0"


@pytest.mark.parametrize("patience", [1, 7, 23])
def test_killed_run_goes_on_and_measures_nothing_twice(tmp_path, patience):
    go(Evaluated(), tmp_path / "whole")
    model = Evaluated(patience)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        go(model, tmp_path / "cut")
    assert signal.getsignal(signal.SIGINT) is handler
    assert len(model.known) == patience
    model.patience = 10**9
    go(model, tmp_path / "cut")
    assert model.evaluations == len(model.known) <= 32
    whole, cut = ((tmp_path / name / "archive.npz").read_bytes() for name in ("whole", "cut"))
    assert whole == cut


def test_another_supernet_does_not_go_on(tmp_path):
    model = Evaluated(25)
    with pytest.raises(KeyboardInterrupt):
        go(model, tmp_path / "a")
    assert (tmp_path / "a" / "config.yaml").exists()
    found = [
        problem.build(["accuracy", "macs"], models.choose(accuracy=Evaluated(measured=name)))
        for name in ("one", "one", "other")
    ]
    prints = [one.evaluator.fingerprint(one.space) for one in found]
    assert prints[0] == prints[1] != prints[2]


def test_limits_of_what_is_measured_are_found_out_by_searching(tmp_path):
    with pytest.raises(InfeasibleError, match=r"none of 20 architectures meets all limits \(accuracy 0.99"):
        go(Evaluated(), tmp_path / "a", budget=20, limits={"accuracy": 0.99})
    with pytest.raises(InfeasibleError, match="subnet meets params"):
        go(Evaluated(patience=0), tmp_path / "b", limits={"params": 1e6})


def test_accuracy_is_told_by_one():
    given = dict(objectives=["accuracy"], latency_limit_ms=None, limits={}, confidence=0.9, resolution=None)
    given |= dict(budget=None, seed=0, out=None, predictor="auto", accuracy_file=None, samples=10, verify=0)
    given |= dict(store="a", wandb="disabled", training={}, searcher={})
    measuring = registry.load("evaluator", "supernet") | {"weights": "x"}
    assert Options(**given).evaluations == BUDGET
    assert Options(**given, evaluator=measuring).evaluations == MEASURED_BUDGET
    with pytest.raises(ValueError, match="give one"):
        Options(**{**given, "accuracy_file": "a.npz"}, evaluator=measuring)


def test_surrogates_are_not_measured():
    surrogate = accuracy.load("ofa_mbv3_w1.0")
    assert surrogate.measured is None
    assert not problem.build(
        ["accuracy", "macs"], models.choose(accuracy=replace(surrogate))
    ).evaluator.measures


def test_real_supernet_is_searched_and_resumed(trained_folder, tmp_path):
    """Digits, for real: a store that a killed run left behind spares its evaluations."""
    store = tmp_path / "accuracies.sqlite"
    model = SupernetAccuracy(folder=trained_folder, store=store, images=60)
    whole = go(model, tmp_path / "whole", budget=14, resolution=(16, 20))
    known = model.accuracies.values(model.facts)
    assert len(known) <= 16
    top1 = np.array([known[name].correct / 60 for name in model.trained.space.format(whole.archive.genomes)])
    assert (whole.archive.costs[:, 0] == -top1).all()
    again = SupernetAccuracy(folder=trained_folder, store=store, images=60)
    go(again, tmp_path / "again", budget=14, resolution=(16, 20))
    assert again.accuracies.values(again.facts) == known
    whole, other = ((tmp_path / name / "archive.npz").read_bytes() for name in ("whole", "again"))
    assert whole == other
    fewer = SupernetAccuracy(folder=trained_folder, store=store, images=50)
    assert fewer.measured != model.measured == again.measured


def test_killed_command_goes_on_to_the_same_bytes(trained_folder, tmp_path):
    """SIGKILL while subnets are measured, against a search left alone; each has its own store."""
    words = ["evaluator=supernet", f"evaluator.weights={trained_folder}", "evaluator.images=40", "budget=12"]
    words += ["objectives=[accuracy,macs]", "searcher=linas", "searcher.first=6", "searcher.batch=3"]
    words += ["searcher.generations=3", "resolution=16", "wandb=disabled"]

    words += [f"evaluator.store={tmp_path / 'cut.sqlite'}", f"out={tmp_path / 'cut'}"]

    def start():
        return subprocess.Popen(
            [sys.executable, "-m", "scripts.run_search", *words],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(registry.FOLDER.parent), "OMP_NUM_THREADS": "1"},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    cut = start()
    deadline = time.monotonic() + 120
    accuracies = AccuracyStore(tmp_path / "cut.sqlite")
    facts = SupernetAccuracy(folder=trained_folder, images=40).facts
    while len(before := accuracies.values(facts)) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    cut.kill()
    cut.communicate()
    assert not (tmp_path / "cut" / "archive.npz").exists(), "finished before it was killed"
    out, err = start().communicate(timeout=120)
    assert "accuracy is measured: 12 evaluations" in out, err
    after = accuracies.values(facts)
    assert list(after)[: len(before)] == list(before)
    assert all(after[name] == before[name] for name in before)  # seconds included: not measured again
    model = SupernetAccuracy(folder=trained_folder, images=40, store=tmp_path / "whole.sqlite")
    asked = problem.build(["accuracy", "macs"], models.choose(accuracy=model), resolution=(16, 16))
    linas = LINAS(first=6, batch=3, generations=3)
    Search(asked, linas, budget=12, seed=0, out=tmp_path / "whole").run()
    whole, cut = ((tmp_path / name / "archive.npz").read_bytes() for name in ("whole", "cut"))
    assert whole == cut
