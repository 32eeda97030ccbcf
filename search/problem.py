"""Problem: a space, a target and models that belong together, and what is asked of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from latency.predictors.interface import AnyTarget, LatencyPredictor
from latency.target import Target
from latency.zoo import catalogue
from search import objective
from search.objective import AccuracyModel, Evaluator, Models
from supernet import registry
from supernet.space import SearchSpace, get_space
from supernet.surrogates import accuracy as surrogates
from supernet.surrogates.accuracy import AccuracySurrogate
from supernet.surrogates.int8_change import Int8Change
from supernet.surrogates.training_cost import TrainingCost

DEFAULT_TARGET = "v100_b64"


@dataclass(frozen=True)
class Problem:
    """`space` is restricted to what all models were fitted for."""

    space: SearchSpace
    models: Models
    evaluator: Evaluator


def build(
    objectives: Sequence[str],
    *,
    space: SearchSpace | None = None,
    target: Target | None = None,
    predictor: LatencyPredictor | None = None,
    accuracy: AccuracyModel | None = None,
    training: TrainingCost | None = None,
    limits: Mapping[str, float] | None = None,
    confidence: float = 0.90,
    resolution: tuple[int, int] | None = None,
    predictor_int8: LatencyPredictor | None = None,
    int8: Int8Change | None = None,
) -> Problem:
    """Fill in what is not given, and refuse what does not fit together.

    Without target: the first of the zoo that fits the space (v100_b64 without space). Without space: that of
    the target, or of the accuracy. Without accuracy: the surrogate that ships for the space. A width is never
    mixed with another: ValueError.
    """
    limits = dict(limits or {})
    if not objectives or len(set(objectives)) < len(objectives):
        raise ValueError(f"objectives={list(objectives)} must name each objective once, at least one")
    if space is None and target is None and predictor is None and accuracy is not None:
        space = get_space(accuracy.space)
    if predictor is None:
        predictor = _predictor(space, target)
    elif target is not None and target.key != predictor.target.key and isinstance(predictor, AnyTarget):
        predictor = predictor.at(target)
    elif target is not None and target.key != predictor.target.key:
        raise ValueError(
            f"the predictor was fitted for {predictor.target.name}; leave target={target.name} out"
        )
    if space is None:
        assert predictor is not None
        space = get_space(predictor.target.space)
    if predictor is not None:
        _check_target(space, predictor.target)
    if accuracy is None and "accuracy" in (*objectives, *limits):
        accuracy = _accuracy(space)
    if accuracy is not None and accuracy.space not in _names(space):
        kind = " surrogate" if accuracy.measured is None else ""
        raise ValueError(
            f"the accuracy{kind} is of {accuracy.space}, the space is {space.name}: accuracy and latency "
            f"must be of the same networks. Targets that fit {accuracy.space}: "
            f"{_listed(get_space(accuracy.space))}"
        )
    needs_latency = "latency_ms" in (*objectives, *limits)
    if predictor_int8 is not None:
        _check_int8(space, predictor, predictor_int8)
    models = Models(
        space,
        accuracy,
        predictor if needs_latency else None,
        training,
        predictor_int8 if needs_latency else None,
        int8 or Int8Change(),
    )
    narrowed = _restrict(models, resolution)
    models = replace(models, space=_one_recipe(narrowed, models, {*objectives, *limits}))
    evaluator = Evaluator(
        tuple(
            objective.build(name, models, limit=limits.get(name), confidence=confidence)
            for name in objectives
        ),
        tuple(
            objective.build(name, models, limit=limit, confidence=confidence)
            for name, limit in limits.items()
            if name not in objectives
        ),
    )
    return Problem(models.space, models, evaluator)


def _names(space: SearchSpace) -> list[str]:
    return [space.name] if space.parent is None else [space.name, space.parent.name]


def _fitting_targets(space: SearchSpace) -> list[str]:
    return [name for owner in _names(space) for name in catalogue.targets_of(owner)]


def _listed(space: SearchSpace) -> str:
    return ", ".join(_fitting_targets(space)) or "none yet"


def _predictor(space: SearchSpace | None, target: Target | None) -> LatencyPredictor | None:
    if target is not None:
        if space is not None:
            _check_target(space, target)
        return catalogue.automatic(target)[0]
    if space is None:
        return catalogue.predictor(DEFAULT_TARGET)
    fitting = _fitting_targets(space)
    return catalogue.predictor(fitting[0]) if fitting else None


def _check_target(space: SearchSpace, target: Target) -> None:
    if target.space not in _names(space):
        raise ValueError(
            f"the target {target.name} was timed on {target.space} networks, the space is {space.name}: "
            f"their latencies are not comparable. Targets that fit {space.name}: {_listed(space)}"
        )


def _check_int8(space: SearchSpace, fp32: LatencyPredictor | None, int8: LatencyPredictor) -> None:
    """ValueError unless the second predictor is that of the same machine in int8, and precision is a gene."""
    if "precision" not in space.index:
        raise ValueError(
            f"{space.name} has no precision gene: leave int8_predictor= out or take another space="
        )
    _check_target(space, int8.target)
    if fp32 is not None and fp32.target.precision != "fp32":
        raise ValueError(
            f"the predictor is of {fp32.target}: beside int8_predictor it must be of fp32, as b32 says"
        )
    where = [replace(p.target, precision="int8").key for p in (fp32, int8) if p is not None]
    if int8.target.precision != "int8" or len(set(where)) > 1:
        raise ValueError(
            f"int8_predictor is of {int8.target}: it must be int8 on the device, engine, batch and threads "
            f"of the other, {fp32.target if fp32 is not None else None}"
        )


def _accuracy(space: SearchSpace) -> AccuracySurrogate:
    for name in _names(space):
        if name in registry.names("accuracy"):
            return surrogates.load(name)
    raise ValueError(
        f"no accuracy surrogate ships for {space.name} (there are: {', '.join(registry.names('accuracy'))}); "
        "pass your own with accuracy_file=, or choose other objectives, for instance "
        "objectives=[macs,params]"
    )


def _one_recipe(space: SearchSpace, models: Models, asked: set[str]) -> SearchSpace:
    """The space with one recipe of fine-tuning where recipes would only list every network several times.

    None where nothing depends on it. A measured accuracy is that before fine-tuning: what training costs is
    then asked of the shortest recipe.
    """
    if "finetune_epochs" not in space.index:
        return space
    costs = bool(asked & {"training_hours", "training_kwh", "training_usd"})
    measured = models.accuracy is not None and models.accuracy.measured is not None
    if measured or not (costs or "accuracy" in asked):
        recipes = space.axis("finetune_epochs").values
        epochs = recipes[min(1, len(recipes) - 1)] if costs else recipes[0]
        return space.restrict("finetune_epochs", epochs, epochs)
    return space


def _restrict(models: Models, resolution: tuple[int, int] | None) -> SearchSpace:
    """The space with the resolutions that were asked for and that every model knows."""
    space = models.space
    if "r" not in space.index:
        if resolution is not None:
            raise ValueError(f"{space.name} has no resolution to restrict: leave resolution= out")
        return space
    ranges = [
        model.resolutions
        for model in (models.accuracy, models.latency, models.latency_int8)
        if model is not None
    ]
    low = max((low for low, _ in ranges), default=0)
    high = min((high for _, high in ranges), default=10**6)
    if resolution is not None:
        asked_low, asked_high = resolution
        if asked_low > asked_high:
            raise ValueError(f"resolution=[{asked_low},{asked_high}] is empty: give the lower side first")
        if asked_low < low or asked_high > high:
            raise ValueError(
                f"resolution=[{asked_low},{asked_high}] goes beyond what the models were fitted on: {low} to "
                f"{high}"
            )
        low, high = asked_low, asked_high
    return space.restrict("r", low, high)
