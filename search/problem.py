"""Problem: a space, the models of its networks, and what is asked of them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from search.models import TRAINING, Models, choose
from search.objective import Evaluator, Objective
from supernet.space import SearchSpace


@dataclass(frozen=True)
class Problem:
    """`space` is restricted to what all models were fitted for."""

    space: SearchSpace
    models: Models
    evaluator: Evaluator


def build(
    objectives: Sequence[str | Objective],
    models: Models | None = None,
    *,
    limits: Mapping[str, float] | None = None,
    confidence: float = 0.90,
    resolution: tuple[int, int] | None = None,
    genes: Mapping[str, Iterable[int]] | None = None,
) -> Problem:
    """The problem of optimising these objectives under these limits.

    An objective is a name of `models.QUANTITIES` or an `Objective` of your own. Without `models` those of
    `models.choose()` are taken; models that neither an objective nor a limit needs are left out. A limit is
    tested on the bound that holds with `confidence`. `resolution` restricts the space to the input sides from
    the first to the second number, `genes` to these values of genes or groups (`SearchSpace.keep_genes`).

    >>> from latency.zoo import catalogue
    >>> from search import models
    >>> fast = models.choose(target=catalogue.target("titan_rtx_b64"))
    >>> build(["accuracy", "latency_ms"], fast, limits={"params": 7e6}).space.name
    'ofa_mbv3_w1.2'
    """
    limits = dict(limits or {})
    own = {objective.name: objective for objective in objectives if isinstance(objective, Objective)}
    names = [objective if isinstance(objective, str) else objective.name for objective in objectives]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"objectives={names} must name each objective once, at least one")
    asked = {*names, *limits} - set(own)
    models = models or choose()
    models = replace(
        models,
        accuracy=models.accuracy if "accuracy" in asked else None,
        latency=models.latency if "latency_ms" in asked else None,
        training=models.training if asked & set(TRAINING) else None,
    )
    space = _one_recipe(_restrict(models, resolution, genes or {}), models, asked, free=bool(own))
    models = replace(models, space=space)

    def build_one(name: str) -> Objective:
        if name in own:
            return replace(own[name], limit=limits.get(name, own[name].limit))
        return models.objective(name, limits.get(name), confidence)

    constraints = tuple(build_one(name) for name in limits if name not in names)
    return Problem(models.space, models, Evaluator(tuple(build_one(name) for name in names), constraints))


def _one_recipe(space: SearchSpace, models: Models, asked: set[str], free: bool) -> SearchSpace:
    """The space with one recipe of fine-tuning where recipes would only list every network several times.

    That is no fine-tuning where nothing depends on it; what is `free` may depend on anything. A measured
    accuracy is that before fine-tuning: what training costs is then asked of the shortest recipe.
    """
    if "finetune_epochs" not in space.index:
        return space
    costs = bool(asked & set(TRAINING))
    measured = models.accuracy is not None and models.accuracy.measured is not None
    if measured or not (costs or free or "accuracy" in asked):
        recipes = space.allowed("finetune_epochs")
        epochs = recipes[min(1, len(recipes) - 1)] if costs else recipes[0]
        return space.restrict("finetune_epochs", epochs, epochs)
    return space


def _restrict(
    models: Models, resolution: tuple[int, int] | None, genes: Mapping[str, Iterable[int]]
) -> SearchSpace:
    """The space with the genes and resolutions that were asked for and that every model knows."""
    space = models.space.keep_genes(genes)
    if "r" not in space.index:
        if resolution is not None:
            raise ValueError(f"{space.name} has no resolution to restrict: leave resolution= out")
        return space
    low, high = models.resolutions
    sides = space.allowed("r")
    if sides != models.space.allowed("r") and (min(sides) < low or max(sides) > high):
        raise ValueError(
            f"genes.resolution={list(sides)} goes beyond what the models were fitted on: {low} to {high}"
        )
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
