"""Problem: a space, the models of its networks, and what is asked of them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from latency.predictors.interface import LatencyModel
from search.models import ON_A_DEVICE, TRAINING, Models, OwnTraining, choose
from search.objective import Evaluator, Objective
from search.own import prepared
from supernet.space import SearchSpace

RECIPE = "finetune_epochs"  # the gene that says how a network is trained before it is deployed
PROBED = 8  # networks that are asked whether an objective depends on the recipe


@dataclass(frozen=True)
class Problem:
    """`space` is restricted to what all models were fitted for."""

    space: SearchSpace
    models: Models
    evaluator: Evaluator

    @property
    def recipe(self) -> int | None:
        """Epochs of fine-tuning where they are the same for all networks; None where they are searched, and
        in a space without recipes."""
        if RECIPE not in self.space.index:
            return None
        epochs = self.space.allowed(RECIPE)
        return epochs[0] if len(epochs) == 1 else None

    def with_latency(self, latency: LatencyModel) -> "Problem":
        """The same problem with another model of the latency of the same target."""
        return self._with(replace(self.models, latency=latency))

    def with_devices(self, devices: Mapping[str, LatencyModel]) -> "Problem":
        """The same problem with other models of the latencies of the same targets, by their names."""
        return self._with(replace(self.models, devices=devices))

    def _with(self, models: Models) -> "Problem":
        limits = {one.name: one.limit for one in self.evaluator.limited if one.limit is not None}

        def again(one: Objective) -> Objective:
            if one.name == "worst_latency":
                return replace(models.worst_latency(limits), limit=one.limit, confidence=one.confidence)
            if one.name.partition("@")[0] in ON_A_DEVICE:
                return models.objective(one.name, one.limit, one.confidence)
            return one

        objectives, constraints = (
            tuple(again(one) for one in group)
            for group in (self.evaluator.objectives, self.evaluator.constraints)
        )
        return Problem(self.space, models, Evaluator(objectives, constraints))


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

    An objective is a name of `models.QUANTITIES` or of `models.own`, or an `Objective` of your own. With
    several targets (`models.several`) `latency_ms` is that on each, as objective and as limit. Without
    `models` those of `models.choose()` are taken; models that neither an objective nor a limit needs are left
    out. A limit is tested on the bound that holds with `confidence`. `resolution` restricts the space to the
    input sides from the first to the second number, `genes` to these values of genes or groups
    (`SearchSpace.keep_genes`). Epochs of fine-tuning that `genes` leave free are searched where they cost
    something: where a training cost, or an objective of your own that depends on them, is asked for.
    Elsewhere nothing is fine-tuned.

    >>> from latency.zoo import catalogue
    >>> from search import models
    >>> fast = models.choose(target=catalogue.target("titan_rtx_b64"))
    >>> build(["accuracy", "latency_ms"], fast, limits={"params": 7e6}).space.name
    'ofa_mbv3_w1.2'
    """
    models = models or choose()
    limits = {one: limit for name, limit in (limits or {}).items() for one in models.on_each(name)}
    own = [objective for objective in objectives if isinstance(objective, Objective)]
    models = replace(models, own={**models.own, **{one.name: prepared(one, models.space) for one in own}})
    names = [
        name for one in objectives for name in (models.on_each(one) if isinstance(one, str) else [one.name])
    ]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"objectives={names} must name each objective once, at least one")
    asked = {*names, *limits}
    trainer = models.accuracy if isinstance(models.accuracy, OwnTraining) else None
    models = _needed(models, asked)
    space = _restrict(models, resolution, genes or {})
    if not (asked & set(TRAINING) or _recipe_matters(space, models.own.values())):
        space = _shortest_recipe(space, genes or {})

    def assembled(models: Models) -> Problem:
        def build_one(name: str) -> Objective:
            if name == "worst_latency":
                return replace(models.worst_latency(limits), limit=limits.get(name), confidence=confidence)
            return models.objective(name, limits.get(name), confidence)

        constraints = tuple(build_one(name) for name in limits if name not in names)
        return Problem(models.space, models, Evaluator(tuple(build_one(name) for name in names), constraints))

    models = replace(models, space=space)
    problem = assembled(models)
    if trainer is None or models.training is None:
        return problem
    # May time training steps on this machine, so only when all else is right.
    return assembled(replace(models, training=trainer.training_cost(models.training)))


def _needed(models: Models, asked: set[str]) -> Models:
    """The models that objectives and limits of these names need."""
    return replace(
        models,
        accuracy=models.accuracy if "accuracy" in asked else None,
        latency=models.latency if asked & set(ON_A_DEVICE) else None,
        training=models.training if asked & set(TRAINING) else None,
        own={name: objective for name, objective in models.own.items() if name in asked},
    )


def recipe_genes(space: SearchSpace, epochs: int) -> dict[str, list[int]]:
    """The `genes` of a problem whose networks all get so many epochs of fine-tuning.

    >>> from supernet.space import get_space
    >>> recipe_genes(get_space("ofa_mbv3_w1.0"), 25)
    {'finetune_epochs': [25]}
    """
    if RECIPE not in space.index:
        raise ValueError(f"recipe={epochs}: {space.name} has no training recipe, leave recipe= out")
    if epochs not in space.allowed(RECIPE):
        choices = ", ".join(map(str, space.allowed(RECIPE)))
        raise ValueError(f"recipe={epochs} must be one of {choices} epochs")
    return {RECIPE: [epochs]}


def recipe_line(epochs: int, by_default: bool) -> str:
    """How the networks are fine-tuned, and how to change that."""
    how = f"{epochs} epochs of fine-tuning" if epochs else "no fine-tuning (0 epochs)"
    why = "; a training cost among objectives= or limits= has it searched, recipe=25 fixes another"
    return f"recipe of all networks: {how}{why if by_default else ''}"


def _shortest_recipe(space: SearchSpace, genes: Mapping[str, Iterable[int]]) -> SearchSpace:
    """The space without fine-tuning, unless it has no recipes or `genes` name some."""
    if RECIPE not in space.index or {RECIPE, space.axis(RECIPE).group} & set(genes):
        return space
    return space.keep(RECIPE, space.allowed(RECIPE)[:1])


def _recipe_matters(space: SearchSpace, objectives: Iterable[Objective]) -> bool:
    """Whether one of these objectives says something else of the same network after other epochs.

    What is measured is not asked: a measurement is of the network as it is.
    """
    if RECIPE not in space.index:
        return False
    networks = space.network(space.sample(PROBED, np.random.default_rng(0)))
    tuned = networks.copy()
    tuned[:, space.index[RECIPE]] = len(space.axis(RECIPE).values)
    return any(
        not np.array_equal(objective.of(networks).mean, objective.of(tuned).mean)
        for objective in objectives
        if objective.measured is None
    )


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
