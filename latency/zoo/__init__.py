"""The zoo: fitted predictors that ship, one `.npz` per target here and one YAML in `configs/target`."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import configs
from latency.predictors import lookup_table, slot_latency
from latency.predictors.additive import Additive
from latency.predictors.slot_latency import SlotLatency
from latency.scores import scores
from latency.target import Target

FOLDER = Path(__file__).parent


@cache
def target(name: str) -> Target:
    """The shipped target `name`; ValueError with the known names and the nearest spelling otherwise."""
    found = configs.build(configs.load("target", name))
    assert isinstance(found, Target)
    return found


def targets_of(space: str) -> list[str]:
    """Names of the targets whose networks are of this space."""
    return [name for name in configs.names("target") if configs.load("target", name)["space"] == space]


def predictor(name: str) -> SlotLatency:
    """The shipped predictor of a target."""
    return slot_latency.load(FOLDER / f"{target(name).name}.npz")


def fit(name: str, data_dir: Path) -> SlotLatency:
    """Fit the predictor of a target on its public table, as shipped.

    Scores come from rows kept out: the test rows of the target where it names some (fitted on all rows before
    them), else five folds. What ships is then fitted on every row with the same ridge.
    """
    from latency.data import read_csv

    this = target(name)
    if this.method == "lookup_table":
        return lookup_table.read([data_dir / this.rows]).predictor(this)
    data = read_csv(data_dir / this.rows, this, this.column)
    if this.test is None:
        fitted = Additive(validation=this.validation).fit(data)
        judged = {"cv_mape": fitted.facts["cv_mape"], "protocol": f"five folds of {len(data)} rows"}
        return slot_latency.with_facts(fitted, judged)
    first, past = this.test
    trial = Additive(validation=this.validation).fit(data.take(slice(0, first)))
    held_out = data.take(slice(first, past))
    measured = scores(trial.predict(held_out.genomes, this), held_out.ms)
    fitted = Additive(ridge=trial.facts["ridge"]).fit(data)
    return slot_latency.with_facts(
        fitted, {"test": measured, "protocol": f"fitted on rows 0-{first - 1}, tested on {first}-{past - 1}"}
    )
