"""Per-module latency prediction (S2, arXiv 2312.06440): a network's latency from those of its modules.

A regression model per module type, chosen by `selection.py`, knows batch, threads, utilisation and whatever
else was declared. A network is the sum of its modules with a learned correction for what the sum misses: in a
network engines fuse over the ends of modules and keep layouts that a module by itself pays for. The
correction is a factor per module type, milliseconds per module and per element that passes between modules,
so that it stays a sum and every OFA space collapses into a table.

Letters: n modules or networks, q features, t module types, g terms of the correction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, field, replace
from dataclasses import dataclass as plain_dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from latency.conformal import relative_std
from latency.data import LatencyData
from latency.modules import fitted as forms
from latency.modules import places
from latency.modules.data import CONDITIONS
from latency.modules.fitted import Fitted
from latency.modules.kinds import module_kind
from latency.modules.kinds.module_kind import Module, ModuleKind
from latency.target import Target
from supernet import slot_table
from supernet.arrays import Floats, Genomes
from supernet.files import artifact
from supernet.layers import LayerTable
from supernet.prediction import Prediction
from supernet.slot_table import SlotTable
from supernet.space import SearchSpace, get_space

KIND = "module latency predictor"
RATES = (3e7, 3e6, 5e-3)  # MACs and elements per ms, and ms of a call: the scale of one core, see `features`
CHANNELS, ALIGNED = ("cin", "cout", "channels"), 8  # kernels work on blocks of so many channels
PRIOR_FACTOR, PRIOR_CONSTANT = 0.25, 1.0  # how far corrections usually are from 1, and from 0 in their units
CALL_MS, ELEMENT_MS = 5e-3, 1e-6  # those units: a call, an element that passes between modules
TRUST_ROUNDS = 8
MIN_NETWORKS = 5


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
        if name in kind.categories:
            parts += [(values == category).astype(float) for category in kind.categories[name]]
        elif name in kind.ranges:
            parts.append(np.log(np.maximum(values, 1)))
        else:
            choices = kind.choices[name].values
            parts.append(values if min(choices) <= 0 else np.log(np.maximum(values, 1)))
    groups = columns.get("groups", np.ones(len(rows)))
    parts += [(columns[n] / groups % ALIGNED == 0).astype(float) for n in CHANNELS if n in columns]
    condition = {name: conditions[:, j] for j, name in enumerate(names)}
    batch, work = condition["batch"], kind.work(rows)
    amounts = [work.macs * batch, work.params, work.read * batch, work.written * batch, work.inner * batch]
    parts += [np.log1p(amount) for amount in amounts]
    parts += [np.log(batch), np.log(condition["threads"]), condition["utilisation"]]
    parts.append(condition["utilisation"] * np.log(condition["threads"]))
    parts += [condition[name] for name in names if name not in CONDITIONS]
    moved = work.params / batch + work.read + work.written + work.inner
    parts.append(np.log(batch * (work.macs / RATES[0] + moved / RATES[1]) + RATES[2]))
    return np.stack(parts, axis=1)


@plain_dataclass(frozen=True, eq=False)
class ModuleModel:
    """The fitted regression of one module type: log ms from standardised features."""

    kind: ModuleKind
    condition_names: tuple[str, ...]
    mean: Floats  # (q,)
    scale: Floats  # (q,)
    name: str  # of the regression model
    fitted: Fitted

    def ms(self, rows: Floats, conditions: Floats) -> Floats:
        """(n,) ms of one batch."""
        x = (features(self.kind, rows, conditions, self.condition_names) - self.mean) / self.scale
        return np.exp(self.fitted(x))


@plain_dataclass(frozen=True)
class Correction:
    """network ms = sum of factor x ms of each module + per_call x modules + per_element x elements passed on.

    `factors` by module type; a type that is not there has 1.
    """

    factors: Mapping[str, float] = field(default_factory=dict)
    per_call: float = 0.0  # ms
    per_element: float = 0.0  # ms

    @property
    def terms(self) -> Floats:
        """(2,) the coefficients that all types share."""
        return np.array([self.per_call, self.per_element])


@plain_dataclass(frozen=True, eq=False)
class Networks:
    """Measured networks as their modules, each under its conditions (k, c), with ms (k,) of one batch."""

    names: tuple[str, ...]
    modules: tuple[tuple[Module, ...], ...]
    conditions: Floats
    ms: Floats

    def take(self, rows: NDArray[Any]) -> Networks:
        """These networks."""
        picked = np.arange(len(self.ms))[rows]
        return Networks(
            tuple(self.names[i] for i in picked),
            tuple(self.modules[i] for i in picked),
            self.conditions[picked],
            self.ms[picked],
        )


@plain_dataclass(frozen=True, eq=False)
class ModulesLatency:
    """Latency of any network of known modules on one engine, at any batch, threads and utilisation.

    `target` says for which of them `predict` answers; `at` gives the same predictor for others. ValueError
    for another device, engine, precision or instruction set.
    """

    target: Target
    models: Mapping[str, ModuleModel]
    correction: Correction = field(default_factory=Correction)
    relative_std: float = 0.1
    declared: Mapping[str, float] = field(default_factory=dict)  # declared conditions it answers for
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_tables", {})

    @property
    def resolutions(self) -> tuple[int, int]:
        """All of the space: modules are known over their ranges, whatever the resolution."""
        space = get_space(self.target.space)
        sides = space.axis("r").values if "r" in space.index else (0,)
        return int(sides[0]), int(sides[-1])

    def at(self, target: Target) -> ModulesLatency:
        """The predictor for another space, batch, number of threads or utilisation."""
        mine, other = (
            replace(each, space="ofa_mbv3_w1.0", batch=1, threads=1, utilisation=0.0)
            for each in (self.target, target)
        )
        if mine.key != other.key:
            raise ValueError(f"this predictor knows the modules of {mine}, not of {other}")
        if target.threads is None:
            raise ValueError(f"{target.name} does not say its threads, which module latencies depend on")
        return replace(self, target=target)

    def predict(self, genomes: Genomes, target: Target) -> Prediction:
        """(n,) ms of canonical genomes of `target.space`, one of the OFA families."""
        if target.key != self.target.key:
            return self.at(target).predict(genomes, target)
        mean = self._table().of(get_space(target.space), genomes)
        return Prediction(mean, self.relative_std * mean)

    def _table(self) -> SlotTable:
        """Every different module of the space is predicted once, and the space becomes a table."""
        tables: dict[Any, SlotTable] = self._tables  # type: ignore[attr-defined]  # made in __post_init__
        if self.target.key not in tables:
            tables[self.target.key] = tabulate(get_space(self.target.space), self._table_ms, self.target.name)
        return tables[self.target.key]

    def _condition(self) -> Floats:
        names = next(iter(self.models.values())).condition_names
        of = dict(
            zip(CONDITIONS, (self.target.batch, self.target.threads, self.target.utilisation), strict=True)
        )
        every: dict[str, Any] = {**of, **self.declared}
        return np.array([float(every[name]) for name in names])

    def _table_ms(self, table: LayerTable) -> Floats:
        """(n, L) ms, each module at its first layer."""
        found, condition = np.zeros(table.kind.shape), self._condition()
        for place in places.places(table):
            model = self._model(place.kind)
            rows = np.stack([place.inputs[name] for name in model.kind.inputs], axis=1)[place.live]
            distinct, owner = np.unique(rows, axis=0, return_inverse=True)
            each = distinct.astype(float)
            ms = self._corrected(place.kind, each, np.tile(condition, (len(each), 1)))
            found[place.live, place.column] += ms[owner.ravel()]
        return found

    def _model(self, name: str) -> ModuleModel:
        if name not in self.models:
            raise ValueError(
                f"this predictor knows no module of kind {name}, only {', '.join(self.models)}: make modules "
                "without types= measures all of them"
            )
        return self.models[name]

    def _corrected(self, name: str, rows: Floats, conditions: Floats) -> Floats:
        model = self._model(name)
        ms = self.correction.factors.get(name, 1.0) * model.ms(rows, conditions)
        shared = _shared(model.kind, rows, conditions, model.condition_names)
        return ms + shared @ self.correction.terms

    def network_ms(self, modules: Sequence[Sequence[Module]], conditions: Floats) -> Floats:
        """(n,) ms of networks by their modules (`tracing.modules`), under conditions (n, c)."""
        factors, shared, names = self.parts(modules, conditions)
        weights = np.array([self.correction.factors.get(name, 1.0) for name in names])
        return factors @ weights + shared @ self.correction.terms

    def parts(
        self, modules: Sequence[Sequence[Module]], conditions: Floats
    ) -> tuple[Floats, Floats, list[str]]:
        """(n, t) ms by type without correction, (n, 2) modules and elements, and the t names."""
        names = list(self.models)
        by_type, shared = np.zeros((len(modules), len(names))), np.zeros((len(modules), 2))
        rows: dict[str, list[list[float]]] = {}
        owner: dict[str, list[int]] = {}
        for i, network in enumerate(modules):
            for module in network:
                inputs = self._model(module.kind).kind.inputs
                rows.setdefault(module.kind, []).append([module.inputs[name] for name in inputs])
                owner.setdefault(module.kind, []).append(i)
        for name, listed in rows.items():
            model, at = self.models[name], np.array(owner[name])
            each, under = np.array(listed), conditions[at]
            np.add.at(by_type[:, names.index(name)], at, model.ms(each, under))
            np.add.at(shared, at, _shared(model.kind, each, under, model.condition_names))
        return by_type, shared, names

    def corrected(self, networks: Networks) -> ModulesLatency:
        """The same with its correction fitted to measured networks, and intervals from networks left out.

        Ridge on relative errors with Cauchy weights, around this predictor's own correction: what the
        networks do not determine stays. ValueError for fewer than MIN_NETWORKS.
        """
        if len(networks.ms) < MIN_NETWORKS:
            raise ValueError(
                f"{len(networks.ms)} networks are too few to correct; give at least {MIN_NETWORKS}"
            )
        groups = np.unique(networks.names, return_inverse=True)[1].ravel()
        residual = np.empty(len(networks.ms))
        parts = self.parts(networks.modules, networks.conditions)
        for group in range(int(groups.max()) + 1):
            out = groups == group
            fitted = self._fit_correction(parts, networks.ms, ~out)
            residual[out] = _sum(parts, fitted)[out] / networks.ms[out] - 1
        fitted = self._fit_correction(parts, networks.ms, np.ones(len(groups), bool))
        facts = {
            "networks": int(groups.max()) + 1,
            "left_out_mape": float(100 * np.abs(residual).mean()),
        }
        return replace(
            self,
            correction=fitted,
            relative_std=relative_std(residual),
            facts={**self.facts, **facts},
        )

    def _fit_correction(
        self, parts: tuple[Floats, Floats, list[str]], ms: Floats, rows: NDArray[np.bool_]
    ) -> Correction:
        by_type, shared, names = parts
        prior = np.array(
            [*(self.correction.factors.get(name, 1.0) for name in names), *self.correction.terms]
        )
        unit = np.array([PRIOR_FACTOR] * len(names) + [PRIOR_CONSTANT * CALL_MS, PRIOR_CONSTANT * ELEMENT_MS])
        design = np.concatenate([by_type, shared], axis=1)[rows] / ms[rows, None]
        trust, spread = np.ones(len(design)), 0.05
        found = prior
        for _ in range(TRUST_ROUNDS):
            weighted = design * trust[:, None]
            hold = np.diag(spread**2 / unit**2)
            found = np.linalg.solve(design.T @ weighted + hold, weighted.sum(axis=0) + hold @ prior)
            residual = design @ found - 1
            spread = max(1.4826 * float(np.median(np.abs(residual))), 5e-3)
            trust = 1 / (1 + (residual / (2 * spread)) ** 2)
        factors = {name: float(value) for name, value in zip(names, found, strict=False)}
        return Correction(factors, float(found[-2]), float(found[-1]))

    def adapt(self, data: LatencyData) -> ModulesLatency:
        """The predictor for the conditions of today: one factor from measured subnets of an OFA space.

        The median ratio multiplies the whole correction. ValueError for fewer than 2 samples.
        """
        if len(data) < 2:
            raise ValueError(f"{len(data)} sample(s) are too few to adapt: measure at least 2 subnets")
        moved = self if data.target.key == self.target.key else self.at(data.target)
        ratio = data.ms / moved.predict(data.genomes, data.target).mean
        scale = float(np.median(ratio))
        left_out = np.array([np.median(np.delete(ratio, i)) / ratio[i] - 1 for i in range(len(ratio))])
        factors = {name: scale * self.correction.factors.get(name, 1.0) for name in self.models}
        terms = scale * self.correction.terms
        return replace(
            moved,
            correction=Correction(factors, float(terms[0]), float(terms[1])),
            relative_std=relative_std(left_out),
            facts={
                **self.facts,
                "samples": len(data),
                "adapted_by": scale,
                "left_out_mape": float(100 * np.abs(left_out).mean()),
            },
        )

    def save(self, path: str | Path) -> None:
        arrays: dict[str, NDArray[Any]] = {}
        described = {}
        for name, model in self.models.items():
            arrays |= {f"{name}/{key}": getattr(model, key).astype(np.float32) for key in ("mean", "scale")}
            arrays |= {f"{name}/model/{key}": array for key, array in forms.stored(model.fitted).items()}
            described[name] = {
                "kind": model.kind.described(),
                "conditions": list(model.condition_names),
                "name": model.name,
                "form": forms.form_of(model.fitted),
            }
        facts = dict(
            target=asdict(self.target),
            models=described,
            correction=asdict(self.correction),
            relative_std=self.relative_std,
            declared=dict(self.declared),
            facts=dict(self.facts),
        )
        artifact.save(Path(path), KIND, arrays, facts)


def load(path: Path) -> ModulesLatency:
    """A saved predictor; ValueError that names the file when it is damaged or something else."""
    arrays, facts = artifact.load(path, KIND)
    try:
        models = {
            name: ModuleModel(
                kind=module_kind.from_description(about["kind"]),
                condition_names=tuple(about["conditions"]),
                mean=arrays[f"{name}/mean"].astype(np.float64),
                scale=arrays[f"{name}/scale"].astype(np.float64),
                name=about["name"],
                fitted=forms.restored(
                    about["form"],
                    {
                        key.removeprefix(f"{name}/model/"): array
                        for key, array in arrays.items()
                        if key.startswith(f"{name}/model/")
                    },
                ),
            )
            for name, about in facts["models"].items()
        }
        return ModulesLatency(
            target=Target(**facts["target"]),
            models=models,
            correction=Correction(**facts["correction"]),
            **{key: facts[key] for key in ("relative_std", "declared", "facts")},
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no usable {KIND} ({error}); left as it is") from error


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Modules:
    """A saved module predictor (`base`, of `make modules`) brought to today's conditions by a few subnets."""

    base: str = ""

    def fit(self, data: LatencyData) -> ModulesLatency:
        """The predictor of the target of these samples."""
        if not self.base:
            raise ValueError("please give learner.base=FILE.npz, a predictor of make modules")
        return load(Path(self.base)).adapt(data)


def tabulate(space: SearchSpace, ms: Callable[[LayerTable], Floats], target: str) -> SlotTable:
    """The table of a space; ValueError for one that the module types do not cover."""
    if space.owner.family is None:
        raise ValueError(f"module predictors serve the OFA spaces, not {space.name} ({target})")
    found = slot_table.tabulate(space, ms)
    if found is None:
        raise ValueError(f"the modules of {space.name} are no sum over its slots")
    return found


def _shared(kind: ModuleKind, rows: Floats, conditions: Floats, names: Sequence[str]) -> Floats:
    """(n, 2) one module, and the elements that pass its ends."""
    work, batch = kind.work(rows), conditions[:, list(names).index("batch")]
    return np.stack([np.ones(len(rows)), batch * (work.read + work.written)], axis=1)


def _sum(parts: tuple[Floats, Floats, list[str]], correction: Correction) -> Floats:
    by_type, shared, names = parts
    weights = np.array([correction.factors[name] for name in names])
    return by_type @ weights + shared @ correction.terms
