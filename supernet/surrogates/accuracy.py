"""Accuracy surrogates: ImageNet top-1 of a subnet with calibrated uncertainty, at 200,000 subnets/s or more.

A surrogate is a quadratic form in the canonical one-hot of the genes, which `accuracy_fit` fits. Its standard
deviation is the exponential of a linear form, calibrated on rows left out of the fit.

Letters: n architectures, v one-hot columns of the space.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from supernet.arrays import Floats, Genomes
from supernet.files import artifact
from supernet.prediction import Prediction
from supernet.space import SearchSpace, get_space

KIND = "accuracy surrogate"
FITTED = Path(__file__).parent / "fitted"  # the surrogates that ship
CHUNK = 8192  # rows at a time: one-hot and product stay in the cache
ARRAYS = ("linear", "quadratic", "log_std", "extra_variance")
POINT = 0.01  # one point of top-1 as a fraction

# Gain of top-1 by epochs of fine-tuning, and its standard deviation. OFA's own fine-tuned subnet (230 M MACs)
# has 76.0 without, 76.4 after 25, 76.9 after 75 epochs (arXiv 1908.09791). One network is all that is
# published, so the deviation is our assumption: a third of the gain.
FINETUNE_GAIN = {0: (0.0, 0.0), 25: (0.004, 0.0013), 75: (0.009, 0.003)}


@dataclass(frozen=True, eq=False)
class AccuracySurrogate:
    """Top-1 (fraction) as constant + linear.x + x'quadratic x over the one-hot x of a space."""

    space: str
    constant: float
    linear: Floats  # (v,)
    quadratic: Floats  # (v, v) symmetric
    log_std: Floats  # (1 + v,) intercept and slopes of the logarithm of the standard deviation
    extra_variance: Floats  # (v,) added to the variance where a column is on: resolution, fine-tuning
    resolutions: tuple[int, int]  # lowest and highest input side it is valid for
    facts: Mapping[str, Any] = field(default_factory=dict)  # source, licence, command, scores, scale

    def predict(self, genomes: Genomes, space: SearchSpace | None = None) -> Prediction:
        """Top-1 in [0, 1] of canonical genomes of `space` (default: the surrogate's own).

        ValueError for a space that is not part of the surrogate's, and for resolutions it was not fitted for.

        >>> space = get_space("ofa_mbv3_w1.0").restrict("r", 160, 224)
        >>> load("ofa_mbv3_w1.0").predict(space.sample(10, np.random.default_rng(0))).mean
        """
        own = get_space(self.space)
        if space is not None:
            genomes = space.embed(genomes, self.space)
        own.check_resolutions(genomes, self.resolutions, f"the accuracy of {self.space}")
        v = own.one_hot_width
        columns = (self.quadratic, self.linear, self.log_std[1:], self.extra_variance)
        weights = np.column_stack(columns).astype(np.float32)
        mean, std = np.empty(len(genomes)), np.empty(len(genomes))
        for start in range(0, len(genomes), CHUNK):
            part = slice(start, start + CHUNK)
            x = own.one_hot(genomes[part], np.float32)
            product = x @ weights
            mean[part] = self.constant + np.einsum("ij,ij->i", product[:, :v], x) + product[:, v]
            std[part] = np.sqrt(np.exp(2 * (self.log_std[0] + product[:, v + 1])) + product[:, v + 2])
        return Prediction(mean, std)

    @property
    def measured(self) -> None:
        """Nothing: these are predictions."""

    def save(self, path: str | Path) -> None:
        arrays = {name: getattr(self, name).astype(np.float32) for name in ARRAYS}
        facts = {"space": self.space, "constant": self.constant, "resolutions": list(self.resolutions)}
        facts["about"] = dict(self.facts)
        artifact.save(Path(path), KIND, arrays, facts)


def load(file: str | Path) -> AccuracySurrogate:
    """A saved surrogate: a path, or the name of one that ships."""
    path = Path(file)
    if path.suffix != ".npz":
        path = FITTED / f"accuracy_{file}.npz"
    arrays, facts = artifact.load(path, KIND)
    try:
        low, high = facts["resolutions"]
        loaded = AccuracySurrogate(
            space=facts["space"],
            constant=float(facts["constant"]),
            resolutions=(low, high),
            facts=facts["about"],
            **{name: arrays[name].astype(np.float64) for name in ARRAYS},
        )
        v = get_space(loaded.space).one_hot_width
        if loaded.linear.shape != (v,) or loaded.quadratic.shape != (v, v):
            raise ValueError(f"its coefficients are for {loaded.linear.shape} columns, not {v}")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no usable accuracy surrogate ({error}); left as it is") from error
    return loaded


def with_resolution_effect(
    surrogate: AccuracySurrogate, other: AccuracySurrogate, relative_std: float = 0.15
) -> AccuracySurrogate:
    """`surrogate`, fitted at one resolution, with the loss of `other` (same genes) at lower resolutions.

    Whether the loss carries over from one width to the other is not known from public data: `relative_std` of
    the mean loss is added as a standard deviation (our assumption).
    """
    space = get_space(surrogate.space)
    if [axis.name for axis in space.axes] != [axis.name for axis in get_space(other.space).axes]:
        raise ValueError(
            f"{other.space} has other genes than {surrogate.space}: its resolution effect does not carry over"
        )
    r = space.index["r"]
    first = int(space.one_hot_offsets[r])
    at = np.arange(first, first + len(space.axes[r].values))
    reference = first + space.axes[r].values.index(surrogate.resolutions[1])
    linear, quadratic = surrogate.linear.copy(), surrogate.quadratic.copy()
    linear[at] += other.linear[at] - other.linear[reference]
    shift = other.quadratic[at] - other.quadratic[reference]
    quadratic[at] += shift
    quadratic[:, at] += shift.T
    variance = surrogate.extra_variance.copy()
    x = space.one_hot(space.sample(1000, np.random.default_rng(0)))
    x[:, at] = 0
    loss = linear[at] + 2 * (x @ shift.T).mean(axis=0)
    variance[at] += (relative_std * loss) ** 2
    return replace(
        surrogate, linear=linear, quadratic=quadratic, extra_variance=variance, resolutions=other.resolutions
    )


def with_finetuning(
    surrogate: AccuracySurrogate, gains: Mapping[int, tuple[float, float]] = FINETUNE_GAIN
) -> AccuracySurrogate:
    """`surrogate` plus what epochs of fine-tuning gain, the same for all subnets.

    `gains` holds by epochs the gain and its standard deviation, fractions of top-1.
    """
    space = get_space(surrogate.space)
    j = space.index["finetune_epochs"]
    linear, variance = surrogate.linear.copy(), surrogate.extra_variance.copy()
    for column, epochs in enumerate(space.axes[j].values, start=int(space.one_hot_offsets[j])):
        gain, std = gains[epochs]
        linear[column] += gain
        variance[column] += std**2
    return replace(surrogate, linear=linear, extra_variance=variance)
