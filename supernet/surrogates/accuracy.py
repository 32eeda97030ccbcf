"""Accuracy surrogates: ImageNet top-1 of a subnet with calibrated uncertainty, at 200,000 subnets/s or more.

A surrogate is a quadratic form in the canonical one-hot of the genes, which `accuracy_fit` fits. Its standard
deviation is the exponential of a linear form, calibrated on rows left out of the fit. A `Calibration` turns
what it says into the accuracy at each input side and after each recipe of fine-tuning.

Letters: n architectures, v one-hot columns of the space.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from supernet.arrays import Floats, Genomes
from supernet.files import artifact
from supernet.options import PositiveInt
from supernet.prediction import Prediction
from supernet.space import SearchSpace, get_space
from supernet.surrogates.calibration import Calibration

KIND = "accuracy surrogate"
FITTED = Path(__file__).parent / "fitted"  # the surrogates that ship
MEASURED = "ofa_mbv3_w1.0"  # the one whose calibration starts from measured ImageNet accuracies
CHUNK = 8192  # rows at a time: one-hot and product stay in the cache
SIDES = TypeAdapter(tuple[PositiveInt, PositiveInt])
ARRAYS = ("linear", "quadratic", "log_std")
POINT = 0.01  # one point of top-1 as a fraction


@dataclass(frozen=True, eq=False)
class AccuracySurrogate:
    """Top-1 (fraction) as constant + linear.x + x'quadratic x over the one-hot x of a space, at most
    `ceiling`; then calibrated."""

    space: str
    constant: float
    linear: Floats  # (v,)
    quadratic: Floats  # (v, v) symmetric
    log_std: Floats  # (1 + v,) intercept and slopes of the logarithm of the standard deviation
    resolutions: tuple[int, int]  # lowest and highest input side it is valid for
    facts: Mapping[str, Any] = field(default_factory=dict)  # source, licence, command, scores, scale
    calibration: Calibration | None = None
    ceiling: float = 1.0

    def predict(self, genomes: Genomes, space: SearchSpace | None = None) -> Prediction:
        """Top-1 in [0, 1] of canonical genomes of `space` (default: the surrogate's own).

        ValueError for a space that is not part of the surrogate's, and for resolutions it was not fitted for.

        >>> space = get_space("ofa_mbv3_w1.0")
        >>> load("ofa_mbv3_w1.0").predict(space.sample(10, np.random.default_rng(0))).mean
        """
        own = get_space(self.space)
        if space is not None:
            genomes = space.embed(genomes, self.space)
        own.check_resolutions(genomes, self.resolutions, f"the accuracy of {self.space}")
        base = self.uncalibrated(genomes)
        if self.calibration is None:
            return base
        recipe = genomes[:, own.index["finetune_epochs"]].astype(np.int64) - 1
        return self.calibration.apply(base, recipe, own.column(genomes, "r"))

    def uncalibrated(self, genomes: Genomes) -> Prediction:
        """(n,) what the quadratic form says of genomes of its own space: top-1 on the scale that was fitted,
        of a network at the side that was fitted, without fine-tuning."""
        own = get_space(self.space)
        if own.reaches_beyond(genomes).any():
            genomes = np.minimum(genomes, own.levels).astype(np.int8)  # the calibration knows the side
        columns, weights = self._weights
        v = len(weights)
        mean, log_std = np.empty(len(genomes)), np.empty(len(genomes))
        for start in range(0, len(genomes), CHUNK):
            part = slice(start, start + CHUNK)
            x = own.one_hot(genomes[part], np.float32)[:, columns]
            product = x @ weights
            mean[part] = np.einsum("ij,ij->i", product[:, :v], x) + product[:, v]
            log_std[part] = product[:, v + 1]
        return Prediction(np.minimum(self.constant + mean, self.ceiling), np.exp(self.log_std[0] + log_std))

    @cached_property
    def _weights(self) -> tuple[slice, NDArray[np.float32]]:
        """The one-hot columns from the first to the last that has an effect, and what multiplies them:
        (v, v + 2) the quadratic form, the linear one, and that of the standard deviation."""
        weights = np.column_stack([self.quadratic, self.linear, self.log_std[1:]]).astype(np.float32)
        used = np.flatnonzero(weights.any(axis=1))
        columns = slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(1)
        inside = [*range(len(weights))[columns], len(weights), len(weights) + 1]
        return columns, np.ascontiguousarray(weights[columns][:, inside])

    @property
    def measured(self) -> None:
        """Nothing: these are predictions."""

    def save(self, path: str | Path) -> None:
        arrays = {name: getattr(self, name).astype(np.float32) for name in ARRAYS}
        if self.calibration is not None:
            arrays |= self.calibration.arrays()
        facts = {"space": self.space, "constant": self.constant, "resolutions": list(self.resolutions)}
        facts |= {"about": dict(self.facts), "ceiling": self.ceiling}
        artifact.save(Path(path), KIND, arrays, facts)


def load(file: str | Path) -> AccuracySurrogate:
    """A saved surrogate: a path, or the name of one that ships."""
    path = Path(file)
    if path.suffix != ".npz":
        path = FITTED / f"accuracy_{file}.npz"
    arrays, facts = artifact.load(path, KIND)
    artifact.check_finite(arrays, path)
    with artifact.usable(path, "accuracy surrogate"):
        if np.any(arrays.get("extra_variance", 0)):
            raise ValueError("release 0.2 added fine-tuning in another way: fit it again")
        artifact.check_finite({"constant": np.array(float(facts["constant"]))}, path)
        loaded = AccuracySurrogate(
            space=facts["space"],
            constant=float(facts["constant"]),
            resolutions=SIDES.validate_python(facts["resolutions"]),
            facts=dict(facts["about"]),
            calibration=Calibration.from_arrays(arrays),
            ceiling=float(facts.get("ceiling", 1.0)),
            **{name: arrays[name].astype(np.float64) for name in ARRAYS},
        )
        v = get_space(loaded.space).one_hot_width
        if loaded.linear.shape != (v,) or loaded.quadratic.shape != (v, v):
            raise ValueError(f"its coefficients are for {loaded.linear.shape} columns, not {v}")
    return loaded


def with_finetuning(surrogate: AccuracySurrogate) -> AccuracySurrogate:
    """A surrogate of measured ImageNet accuracies, plus what fine-tuning gained published networks."""
    calibration = load(MEASURED).calibration
    assert calibration is not None  # it ships with one
    return replace(surrogate, calibration=calibration.at_any_side())


def transferred(surrogate: AccuracySurrogate, space: SearchSpace) -> AccuracySurrogate:
    """The same function of the genes that `space` has too; its other genes have no effect."""
    own = get_space(surrogate.space)
    places = {key: column for column, key in enumerate(_columns(space))}
    if unknown := [name for name, _ in _columns(own) if name not in space.index]:
        raise ValueError(
            f"{space.name} has no gene {unknown[0]}: the accuracy of {own.name} says nothing of it"
        )
    at = np.array([places[key] for key in _columns(own)])
    linear, quadratic = np.zeros(len(places)), np.zeros((len(places),) * 2)
    log_std = np.zeros(1 + len(places))
    linear[at], quadratic[np.ix_(at, at)] = surrogate.linear, surrogate.quadratic
    log_std[0], log_std[1 + at] = surrogate.log_std[0], surrogate.log_std[1:]
    return replace(surrogate, space=space.name, linear=linear, quadratic=quadratic, log_std=log_std)


def mixture(first: AccuracySurrogate, second: AccuracySurrogate, weight: float) -> AccuracySurrogate:
    """The mean of two surrogates of one space, `second` by the share `weight`; deviation and facts are those
    of `first`."""
    one, other = 1 - weight, weight
    return replace(
        first,
        constant=one * first.constant + other * second.constant,
        linear=one * first.linear + other * second.linear,
        quadratic=one * first.quadratic + other * second.quadratic,
    )


def _columns(space: SearchSpace) -> list[tuple[str, int]]:
    """(v,) name and value of each one-hot column."""
    return [(axis.name, value) for axis in space.axes for value in axis.values]
