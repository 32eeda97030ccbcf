"""Latency of a network from those of its modules (arXiv 2312.06440).

A regression model per module kind, chosen by `selection.py`, has batch, threads, utilisation and whatever
else was declared as inputs. A network is the sum of its modules, each times a factor for being inside of a
network (`shift.py`), where engines fuse over its ends and keep layouts that it pays for by itself. It stays a
sum, so every OFA space collapses into a table. Files of earlier versions have a `Correction` instead.

>>> predictor = interface.load_as(ModulesLatency, Path("runs/mine/predictor.npz"))
>>> predictor.predict(genomes, predictor.target).mean  # ms

Letters: n modules or networks, q features, t module kinds.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latency.conformal import relative_std
from latency.data import LatencyData
from latency.modules import fitted as forms
from latency.modules import shift
from latency.modules.data import CONDITIONS, ModuleData
from latency.modules.fitted import Fitted
from latency.modules.kinds import module_kind
from latency.modules.kinds.module_kind import Module, ModuleKind
from latency.modules.networks import places
from latency.modules.shift import Observed, Points, Shift
from latency.modules.spread import ErrorSpread
from latency.predictors import interface
from latency.target import Target
from supernet import registry, slot_table
from supernet.arrays import Floats, Genomes, Ints
from supernet.files import artifact
from supernet.fits import robust
from supernet.layers import LayerTable
from supernet.options import options
from supernet.prediction import Prediction
from supernet.slot_table import SlotTable
from supernet.space import get_space

RATES = (3e7, 3e6, 5e-3)  # MACs and elements per ms, and ms of a call: the scale of one core, see `features`
CHANNELS, ALIGNED = ("cin", "cout", "channels"), 8  # kernels work on blocks of so many channels
MIN_NETWORKS = 5
SITTINGS = 0.04  # relative standard deviation between sittings: anchors of 11 at batch 1, on three engines
LEAST_SHARE = 0.2  # of the ms of a module by itself that it takes in a network, before a shift


def features(kind: ModuleKind, rows: Floats, conditions: Floats, names: Sequence[str]) -> Floats:
    """(n, q) what a latency is predicted from: logarithms of the inputs and of the work, categories one-hot,
    whether channels fill the blocks that kernels work on.

    Work is multiply-accumulates, weights, elements read, written and passed on inside, of a whole batch. The
    last one is the logarithm of a roofline with round rates: the other features then only have to say how far
    an engine is from it.
    """
    columns = kind.columns(rows)
    parts = []
    for name, values in columns.items():
        choice = kind.choices.get(name)
        if choice and choice.categorical:
            parts += [(values == category).astype(float) for category in choice.values]
        else:
            parts.append(values if choice and min(choice.values) <= 0 else np.log(np.maximum(values, 1)))
    groups = columns.get("groups", np.ones(len(rows)))
    parts += [(columns[n] / groups % ALIGNED == 0).astype(float) for n in CHANNELS if n in columns]
    condition = {name: conditions[:, j] for j, name in enumerate(names)}
    batch, work = condition["batch"], kind.work(rows)
    amounts = [work.macs * batch, work.params, work.read * batch, work.written * batch, work.inner * batch]
    parts += [np.log1p(amount) for amount in amounts]
    parts += [np.log(batch), np.log(condition["threads"]), condition["utilisation"]]
    parts.append(condition["utilisation"] * np.log(condition["threads"]))
    for name in names:
        if name not in CONDITIONS:  # a latency may be in proportion to it, or to its power
            parts += [condition[name], np.sign(condition[name]) * np.log1p(np.abs(condition[name]))]
    moved = work.params / batch + work.read + work.written + work.inner
    parts.append(np.log(batch * (work.macs / RATES[0] + moved / RATES[1]) + RATES[2]))
    return np.stack(parts, axis=1)


@dataclass(frozen=True, eq=False)
class ModuleModel:
    """The fitted regression of one module kind: log ms from standardised features."""

    kind: ModuleKind
    condition_names: tuple[str, ...]
    mean: Floats  # (q,)
    scale: Floats  # (q,)
    name: str  # of the regression model
    fitted: Fitted

    def inputs(self, rows: Floats, conditions: Floats) -> Floats:
        """(n, q) standardised features."""
        return (features(self.kind, rows, conditions, self.condition_names) - self.mean) / self.scale

    def ms(self, rows: Floats, conditions: Floats) -> Floats:
        """(n,) ms of one batch."""
        return np.exp(self.fitted(self.inputs(rows, conditions)))

    def terms(self, rows: Floats, conditions: Floats) -> Floats:
        """(n, 3) ms, 1, and the elements that pass the ends: what a correction weighs."""
        work, batch = self.kind.work(rows), conditions[:, self.condition_names.index("batch")]
        passed = batch * (work.read + work.written)
        return np.stack([self.ms(rows, conditions), np.ones(len(rows)), passed], axis=1)


class Models(dict[str, ModuleModel]):
    """The fitted regressions by module kind, as a file of a predictor keeps them."""

    def stored(self) -> tuple[artifact.Arrays, Any]:
        arrays: artifact.Arrays = {}
        for name, model in self.items():
            arrays |= {f"{name}/{key}": getattr(model, key).astype(np.float32) for key in ("mean", "scale")}
            arrays |= {f"{name}/model/{key}": array for key, array in forms.stored(model.fitted).items()}
        return arrays, {
            name: {
                "kind": model.kind.described(),
                "conditions": list(model.condition_names),
                "name": model.name,
                "form": forms.form_of(model.fitted),
            }
            for name, model in self.items()
        }

    @classmethod
    def restored(cls, arrays: artifact.Arrays, facts: Any) -> "Models":
        models = cls()
        for name, about in facts.items():
            prefix = f"{name}/model/"
            own = {key.removeprefix(prefix): arrays[key] for key in arrays if key.startswith(prefix)}
            if lost := sorted({*CONDITIONS} - {*map(str, about["conditions"])}):
                raise ValueError(f"the conditions of {name} lack {lost[0]}")
            models[name] = ModuleModel(
                kind=module_kind.from_description(about["kind"]),
                condition_names=tuple(map(str, about["conditions"])),
                mean=arrays[f"{name}/mean"].astype(np.float64),
                scale=arrays[f"{name}/scale"].astype(np.float64),
                name=about["name"],
                fitted=forms.restored(about["form"], own),
            )
        return models


@dataclass(frozen=True)
class Correction:
    """network ms = sum of factor x ms of each module + per_call x modules + per_element x elements passed on.

    `factors` by module kind; a kind that is not there has 1.
    """

    factors: Mapping[str, float] = field(default_factory=dict)
    per_call: float = 0.0  # ms
    per_element: float = 0.0  # ms

    def weights(self, names: Sequence[str]) -> Floats:
        """(t + 2,) factors of the named kinds, then the coefficients that all kinds share."""
        factors = [self.factors.get(name, 1.0) for name in names]
        return np.array([*factors, self.per_call, self.per_element])

    @classmethod
    def from_weights(cls, names: Sequence[str], weights: Floats) -> "Correction":
        *factors, per_call, per_element = weights.tolist()
        return cls(dict(zip(names, factors, strict=True)), per_call, per_element)


@dataclass(frozen=True, eq=False)
class Networks:
    """Measured networks as their modules, each under its conditions (k, c), with ms (k,) of one batch."""

    names: tuple[str, ...]
    modules: tuple[tuple[Module, ...], ...]
    conditions: Floats
    ms: Floats

    def take(self, rows: NDArray[Any]) -> "Networks":
        """Some of the networks, by number or by mask."""
        picked = np.arange(len(self.ms))[rows]
        names, modules = tuple(self.names[i] for i in picked), tuple(self.modules[i] for i in picked)
        return Networks(names, modules, self.conditions[picked], self.ms[picked])


@dataclass(frozen=True, eq=False)
class ModulesLatency:
    """Latency of any network of measured module kinds on one engine, at any batch, threads and utilisation.

    `target` says for which of them `predict` answers, and `relative_std` how far off it is there; `at` gives
    the same predictor for others. ValueError for another device, engine, precision or instruction set, and
    for conditions too far from those that were measured (`ErrorSpread`).
    """

    target: Target
    models: Models
    correction: Correction = field(default_factory=Correction)
    shift: Shift | None = None
    relative_std: float = 0.1
    own_share: float = 1.0  # of that; the rest of the error is common to all networks of a space
    spread: ErrorSpread = field(default_factory=ErrorSpread)
    facts: Mapping[str, Any] = field(default_factory=dict)
    history: interface.History | None = None  # of `adapt`

    @property
    def condition(self) -> Floats:
        """(1, c) what `target` says, in the order of the models; ValueError where it leaves an input open."""
        values = {name: getattr(self.target, name) for name in CONDITIONS} | dict(self.target.declared)
        names = next(iter(self.models.values())).condition_names
        if missing := [name for name in names if name not in values]:
            options = ", ".join(f"+target.declared.{name}=..." for name in missing)
            raise ValueError(f"this predictor has inputs of its own: give {options}")
        if unknown := sorted(set(self.target.declared) - set(names)):
            raise ValueError(
                f"declared.{unknown[0]} is no input of this predictor: {', '.join(names)} are; measure "
                "modules with design.declared to have it"
            )
        return np.array([[float(values[name]) for name in names]])

    def relative_stds(self, conditions: Floats) -> Floats:
        """(n,) relative standard deviations of predictions under (n, c) conditions."""
        return self.relative_std * self.spread.factor(conditions) / self.spread.factor(self.condition)

    @property
    def resolutions(self) -> tuple[int, int]:
        """All of the space: modules were measured over their ranges, whatever the resolution."""
        space = get_space(self.target.space)
        sides = space.axis("r").values if "r" in space.index else (0,)
        return int(sides[0]), int(sides[-1])

    def at(self, target: Target) -> "ModulesLatency":
        """The predictor for another space, batch, number of threads or utilisation."""
        mine, other = (
            replace(each, space="ofa_mbv3_w1.0", batch=1, threads=1, utilisation=0.0, declared={})
            for each in (self.target, target)
        )
        if mine.key != other.key:
            raise ValueError(f"this predictor knows the modules of {mine}, not of {other}")
        if target.threads is None:
            raise ValueError(f"{target.name} does not say its threads, which module latencies depend on")
        moved = replace(self, target=target)
        self.spread.check(moved.condition)
        return replace(moved, relative_std=float(self.relative_stds(moved.condition)[0]))

    def predict(self, genomes: Genomes, target: Target) -> Prediction:
        """(n,) ms of canonical genomes of `target.space`, one of the OFA families."""
        if target.key != self.target.key:
            return self.at(target).predict(genomes, target)
        self.spread.check(self.condition)
        mean = self._table().evaluate(get_space(target.space), genomes)
        common = np.sqrt(1 - self.own_share**2)
        shared = (common * self.relative_std * mean)[:, None] if common else None
        return Prediction(mean, self.relative_std * mean, shared)

    def _table(self) -> SlotTable:
        """Every different module of the space is predicted once, and the space becomes a table."""
        space = get_space(self.target.space)
        if space.owner.family is None:
            raise ValueError(f"module predictors serve the OFA spaces, not {space.name} ({self.target.name})")
        table = slot_table.tabulate(space, self._layers_ms)
        if table is None:
            raise ValueError(f"the modules of {space.name} are no sum over its slots")
        return table

    def _layers_ms(self, table: LayerTable) -> Floats:
        """(n, L) ms, each module at its first layer."""
        ms = np.zeros(table.kind.shape)
        for place in places.places(table):
            inputs = self._model(place.kind).kind.inputs
            rows = np.stack([place.inputs[name] for name in inputs], axis=1)[place.live]
            distinct, owner = np.unique(rows.astype(float), axis=0, return_inverse=True)
            each = self._kind_ms(place.kind, distinct, np.tile(self.condition, (len(distinct), 1)))
            ms[place.live, place.column] += each[owner.ravel()]
        return ms

    def _model(self, name: str) -> ModuleModel:
        if name not in self.models:
            raise ValueError(
                f"this predictor knows no module of kind {name}, only {', '.join(self.models)}: make modules "
                "without design.kinds= measures all of them"
            )
        return self.models[name]

    def network_ms(self, modules: Sequence[Sequence[Module]], conditions: Floats) -> Floats:
        """(n,) ms of networks by their modules (`tracing.modules`), under conditions (n, c)."""
        each = [module for network in modules for module in network]
        owner = np.repeat(np.arange(len(modules)), [len(network) for network in modules])
        return np.bincount(owner, self._each_ms(each, conditions[owner]), len(modules)).astype(float)

    def module_ms(self, modules: Sequence[Module]) -> Floats:
        """(m,) ms of the modules of one network under the conditions of `target`."""
        return self._each_ms(modules, np.tile(self.condition, (len(modules), 1)))

    def _each_ms(self, modules: Sequence[Module], conditions: Floats) -> Floats:
        """(m,) ms of modules under (m, c) conditions."""
        ms = np.empty(len(modules))
        for name, at, rows in self._by_kind(modules):
            ms[at] = self._kind_ms(name, rows, conditions[at])
        return ms

    def _kind_ms(self, name: str, rows: Floats, conditions: Floats) -> Floats:
        """(n,) ms of modules of one kind inside of a network."""
        if self.shift is None:
            return self._model(name).terms(rows, conditions) @ self.correction.weights([name])
        return self._points(name, rows, conditions).ms

    def _points(self, name: str, rows: Floats, conditions: Floats, *, alone: bool = False) -> Points:
        """Modules of one kind as a shift sees them, inside of a network or by themselves."""
        model = self._model(name)
        work, names = model.kind.work(rows), model.condition_names
        batch, utilisation = (conditions[:, names.index(name)] for name in ("batch", "utilisation"))
        moved = work.read + work.written + work.inner
        amounts = np.stack([work.macs * batch, moved * batch, work.params, batch, utilisation], axis=1)
        terms = model.terms(rows, conditions)
        corrected = np.maximum(terms @ self.correction.weights([name]), LEAST_SHARE * terms[:, 0])
        width, number = max(len(each.mean) for each in self.models.values()), list(self.models).index(name)
        ms = terms[:, 0] if alone else corrected
        points = Points.of(number, model.inputs(rows, conditions), amounts, terms, ms, width)
        if self.shift is None:
            return points
        return replace(points, ms=ms * np.exp(self.shift.log_factor(points, alone=alone)))

    def _by_kind(self, modules: Sequence[Module]) -> Iterator[tuple[str, Ints, Floats]]:
        """Each kind, which of the modules are of it, and their (n, p) inputs."""
        kinds = np.array([module.kind for module in modules])
        for name in dict.fromkeys(kinds.tolist()):
            inputs, at = self._model(name).kind.inputs, np.flatnonzero(kinds == name)
            yield name, at, np.array([[modules[i].inputs[each] for each in inputs] for i in at.tolist()])

    def corrected(
        self, networks: Networks, modules: Mapping[str, ModuleData] | None = None
    ) -> "ModulesLatency":
        """The same, shifted to what measured networks took, and modules timed by themselves elsewhere.

        Without modules only what being inside of a network adds is learned. Intervals are from networks left
        out. ValueError for fewer than MIN_NETWORKS.
        """
        if len(networks.ms) < MIN_NETWORKS:
            raise ValueError(
                f"{len(networks.ms)} networks are too few to correct; give at least {MIN_NETWORKS}"
            )
        groups = np.unique(networks.names, return_inverse=True)[1].ravel()
        moved, errors = self.shifted(networks, modules or {}, groups)
        residual = np.expm1(errors[-len(groups) :])
        ratio = self.spread.factor(networks.conditions) / self.spread.factor(self.condition)
        facts = {"networks": int(groups.max()) + 1, "left_out_mape": float(100 * np.abs(residual).mean())}
        return replace(
            moved,
            relative_std=float(np.hypot(relative_std(residual / ratio), SITTINGS)),
            own_share=_own_share(networks, residual / ratio),
            facts={**self.facts, **facts},
            history=None,
        )

    def shifted(
        self, networks: Networks, modules: Mapping[str, ModuleData], groups: Ints
    ) -> tuple["ModulesLatency", Floats]:
        """The same with the shift that measurements tell, its interval as it was; and the log errors of the
        modules and the networks without themselves, networks without all of their group."""
        learned, errors = shift.fit(self._observed(networks, modules), groups)
        return replace(self, shift=learned if self.shift is None else self.shift + learned), errors

    def _observed(self, networks: Networks, modules: Mapping[str, ModuleData]) -> Observed:
        """What a shift is learned from, with what this predictor says of it."""
        names = next(iter(self.models.values())).condition_names
        alone = [self._points(name, *of.under(names), alone=True) for name, of in modules.items()]
        owner = np.repeat(np.arange(len(networks.ms)), [len(each) for each in networks.modules])
        within, counts = [], []
        for name, at, rows in self._by_kind([module for network in networks.modules for module in network]):
            both = np.concatenate([rows, networks.conditions[owner[at]]], axis=1)
            distinct, which = np.unique(both, axis=0, return_inverse=True)
            of_kind = np.zeros((len(networks.ms), len(distinct)))
            np.add.at(of_kind, (owner[at], which.ravel()), 1)
            within.append(self._points(name, *np.split(distinct, [rows.shape[1]], axis=1)))
            counts.append(of_kind)
        nothing = (alone + within)[0].take(np.arange(0))
        measured = np.concatenate([np.empty(0), *(of.ms for of in modules.values())])
        columns = np.concatenate([np.empty((len(networks.ms), 0)), *counts], axis=1)
        points, inside = shift.joined([nothing, *alone]), shift.joined([nothing, *within])
        return Observed(points, measured, inside, columns, networks.ms)

    @interface.with_history
    def adapt(self, data: LatencyData) -> "ModulesLatency":
        """The predictor for the conditions of today: one factor from measured subnets of an OFA space.

        The median ratio multiplies the whole correction. ValueError for fewer than 2 samples.
        """
        if len(data) < 2:
            raise ValueError(f"{len(data)} sample(s) are too few to adapt: measure at least 2 subnets")
        moved = self if data.target.key == self.target.key else self.at(data.target)
        ratio = data.ms / moved.predict(data.genomes, data.target).mean
        scale = float(np.median(ratio))
        left_out = np.array([np.median(np.delete(ratio, i)) / ratio[i] - 1 for i in range(len(ratio))])
        names = list(self.models)
        facts = {"samples": len(data), "adapted_by": scale}
        facts |= {"left_out_mape": float(100 * np.abs(left_out).mean())}
        return replace(
            moved,
            correction=Correction.from_weights(names, scale * self.correction.weights(names)),
            relative_std=relative_std(left_out),
            facts={**self.facts, **facts},
        )

    def save(self, path: str | Path) -> None:
        interface.save(self, path)


def _own_share(networks: Networks, residual: Floats) -> float:
    """The spread of (n,) residuals about the middle of their space and condition, by the spread about zero.

    Of OFA spaces, which predictions are for; 1 where no space has MIN_NETWORKS.
    """
    spaces = np.array([name.split(" ")[0] for name in networks.names])
    groups = np.unique(
        np.column_stack([spaces, networks.conditions.astype(str)]), axis=0, return_inverse=True
    )
    members = [np.flatnonzero(groups[1].ravel() == i) for i in range(len(groups[0]))]
    kept = [m for m in members if len(m) >= MIN_NETWORKS and spaces[m[0]] in registry.names("space")]
    if not kept:
        return 1.0
    about = np.concatenate([residual[m] - np.median(residual[m]) for m in kept])
    return min(1.0, robust.spread(about) / robust.spread(residual[np.concatenate(kept)], floor=1e-6))


@options
class Modules:
    """A saved module predictor (`base`, of `make modules`) brought to today's conditions by a few subnets."""

    base: str = ""  # FILE.npz

    def fit(self, data: LatencyData) -> ModulesLatency:
        """The predictor of the target of the samples."""
        if not self.base:
            raise ValueError("please give learner.base=FILE.npz, a predictor of make modules")
        return interface.load_as(ModulesLatency, Path(self.base)).adapt(data)
