"""Fits the regression models of module predictors, judges them on rows left out, and selects one per module.

Rows of a kind are split once: a test part that only reports, and the rest, which is split into folds. What a
model says of the fold it was not fitted on is the validation by which `selection.py` chooses; the models
themselves are then fitted on all but the test part.

>>> fits = Fitting(models=("ridge", "gp")).fit(data)
>>> predictor(target, fits).save("mine.npz")

Letters: n rows, q features.
"""

import time
import timeit
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latency.modules import fitted as forms
from latency.modules import selection
from latency.modules.data import ModuleData
from latency.modules.fitted import Fitted
from latency.modules.kinds import module_kind
from latency.modules.medn import Medn
from latency.modules.predictor import Models, ModuleModel, ModulesLatency, features
from latency.modules.selection import Score, Scores, Selection
from latency.modules.spread import ErrorSpread
from latency.target import Target
from supernet import extras, registry
from supernet.arrays import Floats
from supernet.options import AtLeastTwo, NonNegativeInt, OpenFraction, options

AUTO = "auto-selection"


@dataclass(frozen=True, eq=False)
class Fits:
    """The result of a fit: models, validation and test scores by kind and model, and the selection."""

    models: Mapping[str, Mapping[str, ModuleModel]]
    validation: Scores
    test: Scores
    selection: Selection
    rows: Mapping[str, int]  # measured, by kind
    seconds: float
    left_out: "Mapping[str, LeftOut]"  # by kind

    def test_scores(self, chosen: Selection) -> dict[str, Score]:
        """The test scores of a selection, by module kind."""
        return {name: self.test[name][model] for name, model in chosen.models.items()}

    def schemes(self) -> dict[str, Score]:
        """Mean test scores over the module kinds, summed time and bytes, of each model used everywhere and of
        the selection."""
        models = next(iter(self.test.values()))
        schemes = {
            model: selection.mean([scores[model] for scores in self.test.values()]) for model in models
        }
        return schemes | {AUTO: selection.mean(list(self.test_scores(self.selection).values()))}


@dataclass(frozen=True, eq=False)
class LeftOut:
    """The (n, c) conditions of the rows of a kind that fitted, and the (n,) log errors of each model there,
    fitted without their fold."""

    condition_names: tuple[str, ...]
    conditions: Floats
    errors: Mapping[str, Floats]


@options
class Fitting:
    """How: the models that compete, the parts of the rows, and what a selection may cost."""

    models: tuple[str, ...] = ()  # of `configs/regressor`; empty: all that are installed
    test_share: OpenFraction = 0.2  # rows that only report
    folds: AtLeastTwo = 4
    max_ms: float | None = None  # what 100 predictions of each kind may take in all
    max_bytes: float | None = None  # what the predictor may weigh
    seed: NonNegativeInt = 0  # of the parts and all fits

    def fit(self, data: Mapping[str, ModuleData], say: Callable[[str], None] = lambda text: None) -> Fits:
        """All models of all kinds; ValueError when a kind has too few rows to be split."""
        begun = time.perf_counter()
        splits = {name: _Split(modules, self) for name, modules in data.items()}
        learners = {name: _learner(name) for name in self.models or _installed()}
        models: dict[str, dict[str, ModuleModel]] = {name: {} for name in data}
        validation: dict[str, dict[str, Score]] = {name: {} for name in data}
        test: dict[str, dict[str, Score]] = {name: {} for name in data}
        errors: dict[str, dict[str, Floats]] = {name: {} for name in data}
        for model, learner in learners.items():
            *by_fold, final = (self._fit_all(learner, splits, fold) for fold in range(self.folds + 1))
            for name, split in splits.items():
                cost = _timed(final[name], split.x), forms.stored_bytes(final[name])
                left_out = split.left_out([fitted[name] for fitted in by_fold])
                errors[name][model] = np.log(left_out) - split.y
                validation[name][model] = score(left_out, split.data.ms[split.train], *cost)
                models[name][model] = split.model(model, final[name])
                tested = split.data.take(split.test)
                predicted = models[name][model].ms(tested.rows, tested.conditions)
                test[name][model] = score(predicted, tested.ms, *cost)
            mean = selection.mean([scores[model] for scores in validation.values()])
            say(f"{model:11} accuracy {mean.accuracy:.2f}% on the rows left out of the folds")
        rows = {name: len(modules) for name, modules in data.items()}
        chosen = selection.choose(validation, max_ms=self.max_ms, max_bytes=self.max_bytes)
        left = {name: split.errors(errors[name]) for name, split in splits.items()}
        return Fits(models, validation, test, chosen, rows, time.perf_counter() - begun, left)

    def _fit_all(self, learner: Any, splits: "Mapping[str, _Split]", fold: int) -> Mapping[str, Fitted]:
        """Fitted regressions by kind on all folds but one; on all of them for a fold that is not there."""
        rng = np.random.default_rng((self.seed, fold))
        rows = {name: (s.x[s.fold != fold], s.y[s.fold != fold]) for name, s in splits.items()}
        if isinstance(learner, Medn):
            return learner.fit_all(rows, rng)
        return {name: learner.fit(x, y, rng) for name, (x, y) in rows.items()}


def _installed() -> list[str]:
    names = registry.names("regressor")
    return [
        name for name in names if not extras.missing(registry.load("regressor", name).get("requires", ()))
    ]


def _learner(name: str) -> Any:
    """The model `configs/regressor/<name>.yaml`; ValueError that says what to install when it is missing."""
    node = registry.load("regressor", name)
    extras.require(f"regressor {name}", node.pop("requires", ()))
    return registry.build(node)


class _Split:
    """The rows of one module kind: their parts, features and logarithms."""

    def __init__(self, data: ModuleData, how: Fitting) -> None:
        self.data, self.kind = data, module_kind.named(data.name)
        rng = np.random.default_rng((how.seed, 7))
        # Rows of one and the same module stay in one part, whatever they were measured under.
        owner = np.unique(data.rows, axis=0, return_inverse=True)[1].ravel()
        place = rng.permutation(int(owner.max()) + 1)[owner] / (int(owner.max()) + 1)
        self.test = np.flatnonzero(place < how.test_share)
        self.train = np.flatnonzero(place >= how.test_share)
        if len(self.test) < 2 or len(self.train) < 5 * how.folds:
            raise ValueError(f"module {data.name} has {len(data)} rows, too few to fit {how.folds} folds")
        left = (place[self.train] - how.test_share) / (1 - how.test_share)
        self.fold = np.minimum((left * how.folds).astype(int), how.folds - 1)
        raw = features(self.kind, data.rows, data.conditions, data.condition_names)[self.train]
        self.mean, spread = raw.mean(axis=0), raw.std(axis=0)
        self.scale = np.where(spread > 1e-9, spread, 1.0)
        self.x, self.y = (raw - self.mean) / self.scale, np.log(data.ms[self.train])

    def left_out(self, by_fold: Sequence[Fitted]) -> Floats:
        """(n,) ms of the rows to fit, each as the regression fitted without its fold says."""
        log_ms = np.empty(len(self.train))
        for fold, fitted in enumerate(by_fold):
            log_ms[self.fold == fold] = fitted(self.x[self.fold == fold])
        return np.exp(log_ms)

    def errors(self, by_model: Mapping[str, Floats]) -> LeftOut:
        return LeftOut(self.data.condition_names, self.data.conditions[self.train], by_model)

    def model(self, name: str, fitted: Fitted) -> ModuleModel:
        return ModuleModel(self.kind, self.data.condition_names, self.mean, self.scale, name, fitted)


def test_rows(data: ModuleData, how: Fitting) -> NDArray[np.int64]:
    """The rows of the test part."""
    return _Split(data, how).test


def predictor(target: Target, fits: Fits) -> ModulesLatency:
    """The predictor of the selection, without correction yet."""
    picked, scores = fits.selection.models, fits.test_scores(fits.selection)
    facts = {"selection": dict(picked), "test_accuracy": {n: round(s.accuracy, 2) for n, s in scores.items()}}
    models = Models({name: fits.models[name][model] for name, model in picked.items()})
    return ModulesLatency(target, models, spread=error_spread(fits), facts=facts)


def error_spread(fits: Fits) -> ErrorSpread:
    """The size of the errors of the selected models by condition, from the rows left out of their folds."""
    parts = [(of.conditions, of.errors[fits.selection.models[name]]) for name, of in fits.left_out.items()]
    conditions, errors = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    owner = np.repeat(np.arange(len(parts)), [len(own) for _, own in parts])
    names = next(iter(fits.left_out.values())).condition_names
    return ErrorSpread.fit(names, conditions, errors, owner)


def accuracy(predicted: Floats, measured: Floats) -> float:
    """The mean of max(0, 1 - |error| / truth) in percent; our definition, because the paper states none."""
    return float(_accuracies(predicted, measured).mean())


def _accuracies(predicted: Floats, measured: Floats) -> Floats:
    return np.asarray(100 * np.maximum(0, 1 - np.abs(predicted / measured - 1)))


def score(predicted: Floats, measured: Floats, ms: float, size: int) -> Score:
    """The score of (n,) predictions by a model that takes `ms` for 100 of them and weighs `size` bytes."""
    error = predicted - measured
    r2 = 1 - float((error**2).sum() / ((measured - measured.mean()) ** 2).sum())
    each, mape = _accuracies(predicted, measured), float(100 * np.abs(error / measured).mean())
    standard_error = float(each.std(ddof=1) / np.sqrt(len(each))) if len(each) > 1 else 0.0
    within_10 = float(100 * (np.abs(error / measured) <= 0.1).mean())
    return Score(float(each.mean()), r2, mape, ms, size, standard_error, within_10)


def _timed(fitted: Fitted, x: Floats) -> float:
    """The least ms for 100 rows of several calls: what else runs only ever adds."""
    rows = x[np.resize(np.arange(len(x)), 100)]
    return 1e3 * min(timeit.repeat(lambda: fitted(rows), repeat=15, number=1))
