"""What the objectives of a search are computed from: the models of accuracy, latency and training cost that
belong to one space.

Letters: n architectures.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from latency.predictors.by_precision import ByPrecision
from latency.predictors.interface import AnyTarget, LatencyModel, energy_of
from latency.target import Target
from latency.zoo import catalogue
from search.objective import Objective
from supernet import footprint, registry
from supernet.arrays import Genomes
from supernet.layers import BYTES_FP32
from supernet.measures import MEASURES
from supernet.prediction import Prediction, exact, where
from supernet.space import SearchSpace, get_space
from supernet.surrogates.int8_change import Int8Change
from supernet.surrogates.training_cost import TrainingCost

DEFAULT_TARGET = "v100_b64"


class AccuracyModel(Protocol):
    """What tells the accuracy of networks: a surrogate that predicts it, or a supernet that is evaluated."""

    @property
    def space(self) -> str: ...
    @property
    def resolutions(self) -> tuple[int, int]: ...
    @property
    def facts(self) -> Mapping[str, Any]: ...
    @property
    def measured(self) -> str | None: ...  # as Objective.measured
    def predict(self, genomes: Genomes, space: SearchSpace | None = None) -> Prediction: ...


@runtime_checkable
class OwnTraining(Protocol):
    """An accuracy model that also knows the images and the machine that its networks are fine-tuned with."""

    def training_cost(self, rates: TrainingCost) -> TrainingCost: ...
    def waiting(self, space: SearchSpace) -> Genomes: ...
    def measured_after(
        self, epochs: int, watch: Callable[[int, int], None] | None = None
    ) -> Mapping[str, int]: ...
    def describe_gain(self, epochs: int) -> str: ...


@dataclass(frozen=True)
class Models:
    """The models of one space; `accuracy`, `latency` and `training` may be absent. `int8` says what int8 does
    to the accuracy of the networks whose precision gene chooses it. With several targets `devices` has the
    latency on each, by the name of the target, and `latency` is absent; see `several`."""

    space: SearchSpace
    accuracy: AccuracyModel | None = None
    latency: LatencyModel | None = None
    training: TrainingCost | None = None
    int8: Int8Change = field(default_factory=Int8Change)
    devices: Mapping[str, LatencyModel] = field(default_factory=dict)
    own: Mapping[str, Objective] = field(default_factory=dict)  # of the user's, by name

    def __post_init__(self) -> None:
        for name in self.own:
            if name in QUANTITIES or not name.isidentifier():
                raise ValueError(
                    f"an objective of your own cannot be called {name!r}: choose a word of letters, digits "
                    f"and _ that is none of {', '.join(QUANTITIES)}"
                )

    @property
    def resolutions(self) -> tuple[int, int]:
        """The lowest and the highest input side that every model knows."""
        models = (self.accuracy, self.latency, *self.devices.values())
        ranges = [model.resolutions for model in models if model is not None]
        return max((low for low, _ in ranges), default=0), min((high for _, high in ranges), default=10**6)

    def objective(self, name: str, limit: float | None = None, confidence: float = 0.90) -> Objective:
        """The objective `name` of `QUANTITIES`, with several targets `latency_ms@TARGET` for that on one of
        them; ValueError with the nearest spelling otherwise."""
        if name in self.own:
            return self.own[name] if limit is None else replace(self.own[name], limit=limit)
        quantity, at, device = name.partition("@")
        if quantity not in QUANTITIES:
            raise registry.unknown_name("objective", quantity, [*QUANTITIES, *self.own])
        if at and (quantity not in ON_A_DEVICE or device not in self.devices):
            named = [f"{one}@{other}" for one in ON_A_DEVICE for other in self.devices]
            raise registry.unknown_name("objective", name, named or QUANTITIES)
        mine = replace(self, latency=self.devices[device]) if at else self
        model = self.accuracy if name == "accuracy" else None
        measured = None if model is None else model.measured
        objective = Objective(
            name,
            MEASURES[quantity].unit,
            partial(QUANTITIES[quantity], mine),
            MEASURES[quantity].maximize,
            limit=limit,
            confidence=confidence,
            measured=measured,
            scale=None if model is None else _scale(model.facts),
        )
        probe = self.space.sample(1, np.random.default_rng(0))
        objective.of(probe if measured is None else probe[:0])  # fail now, not in the middle of a run
        return objective

    def on_each(self, name: str) -> list[str]:
        """The objectives that a name stands for: with several targets, that on each where it depends on one.

        >>> from latency.zoo import catalogue
        >>> phone_and_card = [catalogue.predictor("note10_lut"), catalogue.predictor("v100_b64")]
        >>> several(choose(), phone_and_card).on_each("latency_ms")
        ['latency_ms@note10_lut', 'latency_ms@v100_b64']
        """
        spread = self.devices and name in ON_A_DEVICE
        return [f"{name}@{device}" for device in self.devices] if spread else [name]

    def worst_latency(self, limits: Mapping[str, float]) -> Objective:
        """The latency as a share of its limit, on the target where that share is largest. `limits` has the
        limit of each, by `latency_ms@TARGET`."""
        names = self.on_each("latency_ms")
        if not self.devices or set(names) - set(limits):
            raise ValueError(
                "worst_latency compares the latencies on several targets with their limits: give targets= "
                f"and a limit for each, for instance limits.{names[0]}=20"
            )
        latencies = {name: self.objective(name) for name in names}

        def worst(genomes: Genomes) -> Prediction:
            shares = [one.of(genomes).scaled(1 / limits[name]) for name, one in latencies.items()]
            return reduce(lambda a, b: where(b.mean > a.mean, b, a), shares)

        return Objective("worst_latency", MEASURES["worst_latency"].unit, worst)

    def in_int8(self, genomes: Genomes) -> NDArray[np.bool_]:
        """(n,) which networks are deployed in int8: none where precision is no gene."""
        if "precision" not in self.space.index:
            return np.zeros(len(genomes), bool)
        return self.space.column(genomes, "precision") == 8

    def predict_accuracy(self, genomes: Genomes) -> Prediction:
        """(n,) top-1 accuracy, a fraction."""
        if self.accuracy is None:
            raise ValueError(
                f"no accuracy surrogate ships for {self.space.name} (there are: "
                f"{', '.join(registry.names('accuracy'))}); pass your own with accuracy_file=, or choose "
                "other objectives, for instance objectives=[macs,params]"
            )
        fp32 = self.accuracy.predict(genomes, self.space)
        int8, in_int8 = self.int8.apply(fp32), self.in_int8(genomes)
        mean, std = np.where(in_int8, int8.mean, fp32.mean), np.where(in_int8, int8.std, fp32.std)
        return replace(fp32, mean=mean, std=std)  # errors that networks share, both precisions do

    def predict_latency(self, genomes: Genomes) -> Prediction:
        """(n,) ms of one batch on the target."""
        if self.latency is None:
            raise ValueError(
                f"no target ships for {self.space.name}: target=here target.space={self.space.name} times "
                "this machine; or search without latency, for instance objectives=[accuracy,macs]"
            )
        target = self.latency.target
        if "precision" in self.space.index and target.space != self.space.name:
            raise ValueError(
                f"{self.space.name} needs int8_predictor= beside the predictor of fp32: a file of make fit, "
                "or run:FOLDER of make adapt, for target.precision=int8; target=here measures both"
            )
        return self.latency.predict(self.space.embed(genomes, target.space), target)

    def predict_energy(self, genomes: Genomes) -> Prediction:
        """(n,) mJ of one batch on the target, gross: what it draws anyway meanwhile is in it."""
        energy = None if self.latency is None else energy_of(self.latency)
        if self.latency is not None and energy is None:
            raise ValueError(
                f"no energy is known of {self.latency.target.name}: leave energy_mj out, or measure it where "
                "a meter can be read (docs/my_device.md), with target=here or target=ssh://BOARD"
            )
        return replace(self, latency=energy).predict_latency(genomes)

    def predict_throughput(self, genomes: Genomes) -> Prediction:
        """(n,) images per second in batches of the target's size; the relative deviation of the latency."""
        latency = self.predict_latency(genomes)
        assert self.latency is not None
        mean = 1000 * self.latency.target.batch / latency.mean
        slope = -mean / latency.mean
        shared = None if latency.shared is None else latency.shared * slope[:, None]
        return replace(latency, mean=mean, std=np.abs(slope) * latency.std, shared=shared)

    def predict_training(self, genomes: Genomes, name: str) -> Prediction:
        """(n,) `training_hours`, `training_kwh` or `training_usd`."""
        if self.training is None or "finetune_epochs" not in self.space.index:
            raise ValueError(
                f"{self.space.name} has no training recipe: leave {name} out of objectives= and limits="
            )
        return TRAINING[name](self.training, self.space, genomes)

    def footprint(self, genomes: Genomes, metric: str) -> Prediction:
        """(n,) `macs` or `params` of one image."""
        return exact(footprint.compute(self.space, genomes, metric))

    def bytes_of(self, genomes: Genomes, metric: str) -> Prediction:
        """(n,) bytes of the values that a metric counts, of which an int8 value takes one."""
        bytes_per_value = np.where(self.in_int8(genomes), 1, BYTES_FP32)
        unit = BYTES_FP32 if metric == "peak_bytes" else 1
        return exact(footprint.compute(self.space, genomes, metric) / unit * bytes_per_value)


def _scale(facts: Mapping[str, Any]) -> str | None:
    """On which images an accuracy is, as far as its model says."""
    if "images" in facts:
        return f"top-1 on {facts['images']} {facts['part']} images"
    return facts.get("scale")


TRAINING: Mapping[str, Callable[[TrainingCost, SearchSpace, Genomes], Prediction]] = {
    "training_hours": TrainingCost.hours,
    "training_kwh": TrainingCost.kwh,
    "training_usd": TrainingCost.usd,
}
ON_A_DEVICE = ("latency_ms", "energy_mj", "throughput")  # with several targets: one for each
QUANTITIES: Mapping[str, Callable[[Models, Genomes], Prediction]] = {  # what objectives= and limits= may name
    "accuracy": Models.predict_accuracy,
    "latency_ms": Models.predict_latency,
    "energy_mj": Models.predict_energy,
    "throughput": Models.predict_throughput,
    "worst_latency": lambda models, genomes: models.worst_latency({}).of(genomes),
    "training_hours": lambda models, genomes: models.predict_training(genomes, "training_hours"),
    "training_kwh": lambda models, genomes: models.predict_training(genomes, "training_kwh"),
    "training_usd": lambda models, genomes: models.predict_training(genomes, "training_usd"),
    "macs": lambda models, genomes: models.footprint(genomes, "macs"),
    "params": lambda models, genomes: models.footprint(genomes, "params"),
    "weight_bytes": lambda models, genomes: models.bytes_of(genomes, "params"),
    "activation_bytes": lambda models, genomes: models.bytes_of(genomes, "activations"),
    "peak_bytes": lambda models, genomes: models.bytes_of(genomes, "peak_bytes"),
}


def choose(
    *,
    space: SearchSpace | None = None,
    target: Target | None = None,
    latency: LatencyModel | None = None,
    accuracy: AccuracyModel | None = None,
    training: TrainingCost | None = None,
    int8: Int8Change | None = None,
) -> Models:
    """Models that belong together: what you leave out is filled in, and what does not fit is refused.

    Without a target, the first of the zoo that fits the space is taken (v100_b64 without a space). Without a
    space, it is that of the latency's target, or of the accuracy model. Without an accuracy model, it is the
    surrogate that ships for the space. Models of different widths together are a ValueError.

    >>> from latency.zoo import catalogue
    >>> choose(target=catalogue.target("titan_rtx_b64")).space.name
    'ofa_mbv3_w1.2'
    """
    if space is None and target is None and latency is None and accuracy is not None:
        space = get_space(accuracy.space)
    if latency is None or target is not None:
        latency = latency_for(space, target, latency)
    if space is None:
        assert latency is not None  # a default ships
        space = get_space(latency.target.space)
    if latency is not None:
        _check_target(space, latency.target)
    if accuracy is None:
        ships = [name for name in _names(space) if name in registry.names("accuracy")]
        accuracy = registry.get("accuracy", ships[0]) if ships else None
    elif accuracy.space not in _names(space):
        kind = " surrogate" if accuracy.measured is None else ""
        raise ValueError(
            f"the accuracy{kind} is of {accuracy.space}, the space is {space.name}: accuracy and latency "
            f"must be of the same networks. Targets that fit {accuracy.space}: "
            f"{_listed(get_space(accuracy.space))}"
        )
    return Models(space, accuracy, latency, training or TrainingCost(), int8 or Int8Change())


def latency_for(
    space: SearchSpace | None, target: Target | None, predictor: LatencyModel | None = None
) -> LatencyModel | None:
    """The latency on a target: by the predictor where it answers for that target, else by what ships.
    Without target and predictor, what ships for the first target that fits the space, if any does."""
    if predictor is None and target is None:
        fitting = [DEFAULT_TARGET] if space is None else _fitting_targets(space)
        return catalogue.predictor(fitting[0]) if fitting else None
    if predictor is None:
        assert target is not None
        if space is not None:
            _check_target(space, target)
        return catalogue.automatic(target)[0]
    if target is None or target.key == predictor.target.key:
        return predictor
    if isinstance(predictor, AnyTarget):
        return predictor.at(target)
    raise ValueError(f"the predictor was fitted for {predictor.target.name}; leave target={target.name} out")


def by_precision(
    space: SearchSpace | None, target: Target | None, fp32: LatencyModel | None, int8: LatencyModel
) -> ByPrecision:
    """The latency in both precisions, that in fp32 as `latency_for`; ValueError where there is none."""
    latency = latency_for(space, target, fp32)
    if latency is None:
        raise ValueError("int8_predictor= needs predictor= beside it: of the same machine in fp32")
    return ByPrecision(latency, int8, space or get_space(latency.target.space))


def several(models: Models, predictors: Sequence[LatencyModel]) -> Models:
    """The same models with the latencies on several targets in place of that on one.

    ValueError unless all are of networks of the space and of different targets, two at least.
    """
    devices = {predictor.target.name: predictor for predictor in predictors}
    if len(devices) < 2 or len(devices) < len(predictors):
        raise ValueError(f"targets=[{','.join(devices)}] must name two different targets at least")
    for predictor in predictors:
        _check_target(models.space, predictor.target)
    return replace(models, latency=None, devices=devices)


def _names(space: SearchSpace) -> list[str]:
    return [space.name] if space.parent is None else [space.name, space.parent.name]


def _fitting_targets(space: SearchSpace) -> list[str]:
    return [name for owner in _names(space) for name in catalogue.targets_of(owner)]


def _listed(space: SearchSpace) -> str:
    return ", ".join(_fitting_targets(space)) or "none yet"


def _check_target(space: SearchSpace, target: Target) -> None:
    if target.space not in _names(space):
        raise ValueError(
            f"the target {target.name} was timed on {target.space} networks, the space is {space.name}: "
            f"their latencies are not comparable. Targets that fit {space.name}: {_listed(space)}"
        )
