"""Latency predictors: one file here and one YAML in `configs/learner`.

A predictor is fitted (`fit(data)` returns it) and then answers `predict(genomes, target)`; `adapt(data)`
returns a new one, which keeps the samples (`History`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, replace
from functools import wraps
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, Protocol, TypeVar, get_args, get_type_hints, runtime_checkable

import numpy as np
from pydantic import TypeAdapter

from latency.data import COLUMNS, LatencyData
from latency.target import Target
from supernet.arrays import Genomes
from supernet.files import artifact
from supernet.files.artifact import Arrays
from supernet.prediction import Prediction
from supernet.space import SearchSpace, get_space


class LatencyModel(Protocol):
    """What a search asks for latencies: a fitted predictor, or one for each precision (`ByPrecision`)."""

    @property
    def target(self) -> Target: ...
    @property
    def resolutions(self) -> tuple[int, int]: ...
    @property
    def relative_std(self) -> float: ...
    @property
    def facts(self) -> Mapping[str, Any]: ...
    def predict(self, genomes: Genomes, target: Target) -> Prediction: ...


def energy_of(model: LatencyModel) -> LatencyModel | None:
    """The model of the energy of the same networks, mJ in place of ms, where they were measured."""
    energy: LatencyModel | None = getattr(model, "energy", None)
    return energy


class LatencyPredictor(LatencyModel, Protocol):
    """A fitted predictor, which can be adapted and saved."""

    def adapt(self, data: LatencyData) -> "LatencyPredictor": ...
    def save(self, path: str | Path) -> None: ...


class Learner(Protocol):
    """What `configs/learner` builds: a method with its options."""

    def fit(self, data: LatencyData) -> LatencyPredictor: ...


@runtime_checkable
class ManyDevices(Protocol):
    """A learner that makes one predictor of the measurements of several devices."""

    def fit_many(self, sets: Sequence[LatencyData]) -> LatencyPredictor: ...


@runtime_checkable
class AnyTarget(Protocol):
    """A predictor that answers for other targets too, as module predictors do for every batch and space, and
    a network of several GPUs for others by their data sheets."""

    def at(self, target: Target) -> LatencyPredictor: ...


Fitted = TypeVar("Fitted", bound=LatencyPredictor)


def with_facts(predictor: Fitted, facts: Mapping[str, Any]) -> Fitted:
    """The same predictor, any frozen dataclass, with more facts about it (scores, protocol)."""
    untyped: Any = predictor
    return replace(untyped, facts={**untyped.facts, **facts})


def space_of(predictor: LatencyPredictor, genomes: Genomes, target: Target) -> SearchSpace:
    """The space of a predictor; ValueError for another target than its own and for unknown resolutions."""
    mine = predictor.target
    if target.key != mine.key:
        raise ValueError(f"this predictor was fitted for {mine.name}, not for {target.name}")
    space = get_space(mine.space)
    space.check_resolutions(genomes, predictor.resolutions, f"the latency of {mine.name}")
    return space


def check_samples(data: LatencyData, own: Target, least: int) -> None:
    """ValueError for fewer samples than `least`, or for another space than a predictor's own target has."""
    if data.target.space != own.space:
        raise ValueError(f"samples of {data.target.space} cannot adapt a predictor of {own.space}")
    if len(data) < least:
        raise ValueError(f"{len(data)} sample(s) are too few to adapt: measure at least {least} subnets")


KINDS = {  # what a file says that it holds, and the class it is loaded as
    "latency predictor": "latency.predictors.slots:SlotLatency",
    "ensemble latency predictor": "latency.predictors.ensemble:EnsembleLatency",
    "gpu predictor": "latency.gpu.predictor:GpuLatency",
    "maple predictor": "latency.predictors.maple:MaplePredictor",
    "neural latency predictor": "latency.predictors.neural:NeuralLatency",
    "module latency predictor": "latency.modules.predictor:ModulesLatency",
}
NETWORK, NETWORK_SUFFIX = "neural latency predictor", ".safetensors"


@runtime_checkable
class Storable(Protocol):
    """A field of a predictor that is more than an array or JSON, a table or a network, say."""

    def stored(self) -> tuple[Arrays, Any]:
        """Its arrays, and its JSON value or None."""

    @classmethod
    def restored(cls, arrays: Arrays, facts: Any) -> "Storable":
        """From the arrays of the whole file, and that JSON value; ValueError where they are not its own."""


def kind_of(cls: type) -> str:
    """What the files of a class of predictors say that they hold."""
    return {path: kind for kind, path in KINDS.items()}[f"{cls.__module__}:{cls.__qualname__}"]


def suffix(predictor: LatencyPredictor) -> str:
    """What the file of a predictor ends in."""
    return NETWORK_SUFFIX if kind_of(type(predictor)) == NETWORK else ".npz"


def save(predictor: LatencyPredictor, path: str | Path) -> None:
    """Write a predictor, a dataclass of one of `KINDS`: its arrays, and everything else as JSON."""
    artifact.save(Path(path), kind_of(type(predictor)), *_stored(predictor))


def _stored(predictor: LatencyPredictor) -> tuple[Arrays, dict[str, Any]]:
    own: Any = predictor
    arrays: Arrays = {}
    facts: dict[str, Any] = {}
    for field in fields(own):
        value = getattr(own, field.name)
        if isinstance(value, Storable):
            parts, value = value.stored()
            arrays |= parts
        if isinstance(value, np.ndarray):
            arrays[field.name] = value
        elif value is not None:
            facts[field.name] = TypeAdapter(Any).dump_python(value)
    return arrays, facts


def load(path: Path) -> LatencyPredictor:
    """A saved predictor of any method (.npz, or .safetensors of a network).

    ValueError that names the file when it is damaged or something else.
    """
    return _load(path, *KINDS)


def load_as(cls: type[Fitted], path: Path) -> Fitted:
    """A saved predictor of this class; ValueError that names the file for any other."""
    return _load(path, kind_of(cls))


def _load(path: Path, *kinds: str) -> Any:
    arrays, facts = artifact.load(path, *kinds)
    # Samples measured elsewhere have no spread, and what is the same in all rows has an infinite one.
    spreads = ("spread", "spread_ms")
    artifact.check_finite({key: one for key, one in arrays.items() if not key.endswith(spreads)}, path)
    kind = facts.pop("kind")
    with artifact.usable(path, kind):
        return _restored(kind, arrays, facts)


def nested(name: str, predictor: LatencyPredictor) -> tuple[Arrays, dict[str, Any]]:
    """The arrays and JSON of a predictor that is a field of another one, `name/` before those of the file."""
    own, facts = _stored(predictor)
    return {f"{name}/{key}": array for key, array in own.items()}, {
        "base": facts,
        "kind": kind_of(type(predictor)),
    }


def unnested(name: str, arrays: Arrays, facts: Mapping[str, Any]) -> Any:
    """The predictor that `nested` stored, of the arrays of the whole file."""
    own = {key.removeprefix(f"{name}/"): arrays[key] for key in arrays if key.startswith(f"{name}/")}
    return _restored(facts["kind"], own, facts["base"])


def _restored(kind: str, arrays: Arrays, facts: Mapping[str, Any]) -> Any:
    """The predictor of this kind that arrays and facts hold."""
    cls = resolve_name(KINDS[kind])
    types = get_type_hints(cls)
    values = {field.name: _value(types[field.name], field, arrays, facts) for field in fields(cls)}
    predictor = cls(**{name: value for name, value in values.items() if value is not MISSING})
    if check := getattr(predictor, "check", None):
        check()
    return predictor


def _value(hint: Any, field: Field[Any], arrays: Arrays, facts: Mapping[str, Any]) -> Any:
    """The value of a field as its annotation says, or MISSING for the default of the class."""
    for kind in (hint, *get_args(hint)):  # a class, or a class | None
        if restored := getattr(kind, "restored", None):
            absent = kind is not hint and field.name not in facts
            return MISSING if absent else restored(arrays, facts.get(field.name))
    if field.name in arrays:
        return arrays[field.name]
    if field.name in facts:
        return TypeAdapter(hint).validate_python(facts[field.name])
    if field.default is MISSING and field.default_factory is MISSING:
        raise KeyError(f"{field.name} is missing")
    return MISSING


@dataclass(frozen=True, eq=False)
class History:
    """What a predictor was adapted with, and from; without `base` the method starts from samples alone."""

    samples: LatencyData
    base: Any = None  # a LatencyPredictor without a history

    def stored(self) -> tuple[Arrays, dict[str, Any]]:
        """Its arrays and its JSON value, the base among them."""
        arrays: Arrays = {f"history/samples/{name}": getattr(self.samples, name) for name in COLUMNS}
        base, facts = nested("history/base", self.base) if self.base is not None else ({}, {})
        return arrays | base, {"target": self.samples.target, **facts}

    @classmethod
    def restored(cls, arrays: Arrays, facts: Mapping[str, Any]) -> "History":
        """From the arrays and facts of a file; ValueError where they are not its own."""
        target = TypeAdapter(Target).validate_python(facts["target"])
        samples = LatencyData(target, *(arrays[f"history/samples/{name}"] for name in COLUMNS))
        return cls(samples, unnested("history/base", arrays, facts) if "base" in facts else None)


def with_history(adapt: Callable[[Fitted, LatencyData], Fitted]) -> Callable[[Fitted, LatencyData], Fitted]:
    """`adapt` with the earlier samples of the same target too, from the predictor that these adapted.

    So two times three samples say what six say at once. Samples of another target begin a new history, and
    of a network that was measured again only the later measurement counts.
    """

    @wraps(adapt)
    def adapted(predictor: Fitted, data: LatencyData) -> Fitted:
        untyped: Any = predictor
        base, history = replace(untyped, history=None), untyped.history
        if history is not None and history.samples.target.key == data.target.key:
            base, data = history.base or base, history.samples.followed_by(data)
        result: Any = adapt(base, data)
        return result if result.history is not None else replace(result, history=History(data, base))

    return adapted
