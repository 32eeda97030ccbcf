"""Accuracy after fine-tuning and its cost, in a supernet of one's own: few measured, the others predicted."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from search import models, problem
from search.run import Search
from search.searchers.random import RandomSearch
from supernet.surrogates.training_cost import FORWARD, Steps, StepTime, TrainingCost
from supernet.training import measured_accuracy, step_timing
from supernet.training.accuracy_store import Measured
from supernet.training.finetune import FineTuning, fine_tune
from supernet.training.measured_accuracy import SupernetAccuracy, sample
from supernet.training.step import processes
from supernet.weights import subnet as subnets
from supernet.weights.origins import origin

BEFORE = SupernetAccuracy.evaluate


@pytest.fixture
def tuned(trained_folder, tmp_path, monkeypatch):
    """A supernet whose fine-tuning takes no time: (model, the fine-tunings so far).

    Of 300 images, 25 epochs leave half of the errors, 75 a quarter; `stop_after` interrupts.
    """
    done = []

    def evaluate(self, architecture):
        if architecture.endswith("ft0"):
            return BEFORE(self, architecture)
        if len(done) == self.__dict__.get("stop_after"):
            raise KeyboardInterrupt
        done.append(architecture)
        name, epochs = architecture.rsplit(" ft", 1)
        errors = 300 - self.accuracies.values(self.facts)[f"{name} ft0"].correct
        return Measured(300 - round(errors * {"25": 0.5, "75": 0.25}[epochs]), 300, 1.0)

    monkeypatch.setattr(SupernetAccuracy, "evaluate", evaluate)
    monkeypatch.setattr(measured_accuracy, "POOL", 8)
    folder = shutil.copytree(trained_folder, tmp_path / "run")
    return SupernetAccuracy(folder=folder, finetuned=3), done


def with_epochs(space, genomes, epochs):
    genomes = genomes.copy()
    genomes[:, space.index["finetune_epochs"]] = space.axis("finetune_epochs").values.index(epochs) + 1
    return genomes


def test_a_few_are_measured_and_the_others_predicted(tuned):
    model, done = tuned
    space = model.trained.space
    networks = sample(space.restrict("r", 16, 20), 12, seed=4)
    before = model.predict(networks)
    assert before.shared is None
    assert not done
    after = model.predict(with_epochs(space, networks, 25))
    assert sorted(done) == sorted(space.format(model.to_finetune_by(25)))
    assert after.mean == pytest.approx(before.mean + (1 - before.mean) / 2, abs=0.01)
    own = with_epochs(space, model.to_finetune, 25)
    seen = np.array([(own == row).all(axis=1).any() for row in with_epochs(space, networks, 25)])
    assert seen[:2].all()  # the largest and the smallest
    assert not seen.all()
    assert not after.shared[seen].any()
    assert (after.mean[seen] * 300 == np.round(after.mean[seen] * 300)).all()
    assert (np.linalg.norm(after.shared[~seen], axis=1) > 0).all()
    assert (np.linalg.norm(after.shared, axis=1) < after.std).all()
    mixed = np.concatenate([networks, with_epochs(space, networks, 25), with_epochs(space, networks, 75)])
    assert (model.predict(mixed).mean[:24] == np.concatenate([before.mean, after.mean])).all()
    assert len(done) == 6


def test_no_fine_tuning_is_lost_or_repeated(tuned):
    model, done = tuned
    model.__dict__["stop_after"] = 4
    space = model.trained.space.restrict("r", 16, 20)
    assert len(model.waiting(space)) == 6
    model.measured_after(25)
    with pytest.raises(KeyboardInterrupt):
        model.measured_after(75)
    again = replace(model)
    assert len(again.waiting(space)) == 2
    again.measured_after(75)
    assert len(done) == len(set(done)) == 6
    more = replace(model, finetuned=5)
    assert len(more.waiting(space)) == 4
    assert set(more.measured_after(25)) > set(model.measured_after(25))
    assert len(done) == len(set(done)) == 8
    other_rate = replace(model, finetuning=FineTuning(rate=0.02))
    assert len(other_rate.waiting(space)) == 6
    assert len({model.measured, more.measured, other_rate.measured}) == 3
    many = replace(model, finetuned=10).to_finetune
    assert len(np.unique(many, axis=0)) == 10
    assert (many[:5] == more.to_finetune).all()


def test_without_fine_tuned_subnets_no_recipe_is_searched(tuned):
    model, done = tuned
    none = replace(model, finetuned=0)
    chosen = models.choose(accuracy=none)
    asked = problem.build(["accuracy", "macs"], chosen)
    assert asked.recipe == 0
    assert len(none.waiting(asked.space)) == 0
    for objectives, genes, epochs in (
        (["accuracy", "training_hours"], None, "25 or 75"),
        (["accuracy", "macs"], {"finetune_epochs": [75]}, "75"),
    ):
        with pytest.raises(ValueError, match=f"finetuned=0 tells no accuracy after {epochs} epochs"):
            problem.build(objectives, chosen, genes=genes)
    with pytest.raises(ValueError, match="must be 0 or at least 3"):
        replace(model, finetuned=2)
    assert not done


def test_killed_search_goes_on_to_the_same_bytes(tuned, tmp_path, monkeypatch):
    """Also when it was killed between two fine-tunings; hours are of the supernet's own images."""
    model, done = tuned
    step = StepTime(8.0, 15.0, 62.0, 0.1, relative_std=0.1, teacher=FORWARD)
    monkeypatch.setattr(step_timing.Workplace, "step_time", lambda self, genomes: step)
    cut = replace(model, store=tmp_path / "cut.sqlite")
    cut.__dict__["stop_after"] = 2

    def go(accuracy, out):
        chosen = models.choose(accuracy=accuracy)
        asked = problem.build(["accuracy", "training_hours"], chosen, resolution=(16, 16))
        return Search(asked, RandomSearch(batch=10), budget=15, seed=0, out=tmp_path / out).run()

    with pytest.raises(KeyboardInterrupt):
        go(cut, "cut")
    go(replace(cut), "cut")
    whole = go(model, "whole")
    assert len(done) == 12
    bytes_of = [(tmp_path / out / "archive.npz").read_bytes() for out in ("cut", "whole")]
    assert bytes_of[0] == bytes_of[1]
    genomes, space = whole.archive.genomes, whole.problem.space
    epochs = space.column(genomes, "finetune_epochs")
    assert set(epochs.tolist()) == {0, 25, 75}
    assert {row.split()[-1] for row in whole.front.columns["architecture"]} >= {"ft0", "ft75"}
    name = whole.front.columns["architecture"][whole.front.chosen]
    finetune = f"make finetune ARGS=\"supernet=net architecture='{name}' out=a/subnet\"\n"
    export = whole.export_command("net", Path("a/export"))
    assert export.startswith("make export" if name.endswith("ft0") else finetune)
    ms = step.ms(Steps.from_genomes(space, genomes, 64, teacher=FORWARD))
    assert whole.archive.costs[:, 1] == pytest.approx(ms * epochs * 256 / 3.6e6)  # four steps of 300 images


def test_a_measured_accuracy_is_that_of_the_fine_tuned_subnet(trained_folder, tmp_path):
    """For real, against `fine_tune` as `make finetune` calls it."""
    recipe = FineTuning(batch=150, distil="none")
    model = SupernetAccuracy(folder=trained_folder, store=tmp_path / "a.sqlite", finetuning=recipe)
    space = model.trained.space.restrict("r", 16, 16)
    smallest = with_epochs(space, sample(space, 2, seed=0)[1:], 25)
    measured = model.evaluate(space.format(smallest)[0])
    with processes() as group:
        after = fine_tune(model.trained, model.data, smallest, replace(recipe, epochs=25), group)
    assert measured.correct == subnets.judge(after.subnet, model.data, "val").correct
    name = space.format(smallest)[0]
    with pytest.raises(ValueError, match=r"fine-tuned for 25 epochs, the subnets of .* are not: make fine"):
        origin.subnet(str(trained_folder), name)
    before = model.measure(space.network(smallest))[0]
    assert measured.correct > before
    assert measured.images == 300


def test_training_steps_are_timed_once_and_tell_what_fine_tuning_takes(trained_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(step_timing, "VISITS", 1)
    model = SupernetAccuracy(folder=shutil.copytree(trained_folder, tmp_path / "run"))
    cost = model.training_cost(TrainingCost())
    assert (cost.images, cost.batch) == (256, 64)
    monkeypatch.setattr(step_timing, "train_alone", lambda *_: pytest.fail("timed again"))
    assert model.training_cost(TrainingCost()) == cost
    assert model.training_cost(TrainingCost(images=10_000, watts=30)).images == 10_000
    space = model.trained.space
    network = sample(space.restrict("r", 20, 20), 3, seed=2)[2:]
    with processes() as group:
        took = fine_tune(model.trained, model.data, network, FineTuning(epochs=4), group).hours
    predicted = 4 * cost.hours_per_epoch(space, network)[0]
    assert 0.5 < predicted / took < 2  # within 25% on a machine that does nothing else
    kwh = cost.kwh(space, with_epochs(space, network, 25)).mean
    assert kwh == pytest.approx(25 / 4 * predicted * 65 / 1000)
