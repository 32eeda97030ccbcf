"""From what a network of a supernet shows at 224 px to its ImageNet validation accuracy at its own input side
and after its fine-tuning.

    log(1 - top1) = log e + c_t . (1, u, rho)        u = log(e / .24), rho = log(side / 224)        (ours)

e is the top-1 error that a surrogate tells of the network, c_t belongs to its recipe t of fine-tuning; where
the line of a recipe lies above that of no fine-tuning, the latter holds. In the logarithm of the error one
line holds for strong and for weak networks: errors fall by the same power of the side, and fine-tuning takes
a share of them. `calibration_fit` fits it to published networks.

Letters: n architectures, t recipes, k errors that networks share.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from supernet.arrays import Floats, Ints
from supernet.prediction import Prediction

REFERENCE_ERROR = 0.24  # where u is 0: a network of average strength
REFERENCE_SIDE = 224  # where rho is 0: the side at which surrogates are fitted
FIELDS = ("coefficients", "loadings", "own")


@dataclass(frozen=True, eq=False)
class Calibration:
    """The line of each recipe, and how far it may be wrong, all in the logarithm of the error."""

    coefficients: Floats  # (t, 3) of 1, u and rho
    loadings: Floats  # (t, 3, k) what one standard deviation of each shared error does to them
    own: Floats  # (t, 2) standard deviation of one network around the line: everywhere, and per unit of |rho|

    def __post_init__(self) -> None:
        shapes = {name: getattr(self, name).shape for name in FIELDS}
        t = len(self.own)
        if (
            shapes["coefficients"] != (t, 3)
            or shapes["loadings"][:2] != (t, 3)
            or shapes["own"] != (t, 2)
            or self.loadings.ndim != 3
        ):
            raise ValueError(f"its calibration has the shapes {shapes}")

    def apply(self, base: Prediction, recipe: Ints, side: Ints) -> Prediction:
        """(n,) top-1 of networks whose top-1 at 224 px without fine-tuning is `base`.

        `recipe` (n,) counts the recipes from 0, `side` (n,) is in pixels.
        """
        error, rho = 1 - base.mean, np.log(side / REFERENCE_SIDE)
        u = np.log(error / REFERENCE_ERROR)
        gain = (self.coefficients - self.coefficients[0])[recipe]
        recipe = np.where(gain[:, 0] + gain[:, 1] * u > 0, 0, recipe)  # no network loses by fine-tuning
        shift, slope, power = self.coefficients[recipe].T
        after = error * np.exp(shift + slope * u + power * rho)
        parts = self.loadings[recipe]
        shared = parts[:, 0] + u[:, None] * parts[:, 1] + rho[:, None] * parts[:, 2]
        everywhere, per_rho = self.own[recipe].T
        variance = ((1 + slope) * base.std / error) ** 2 + everywhere**2 + (per_rho * rho) ** 2
        std = after * np.sqrt(variance + np.einsum("ij,ij->i", shared, shared))
        return Prediction(1 - after, std, -after[:, None] * shared)

    def at_any_side(self) -> "Calibration":
        """Without an effect of the side: for a surrogate that knows it already."""
        coefficients, loadings, own = self.coefficients.copy(), self.loadings.copy(), self.own.copy()
        coefficients[:, 2], loadings[:, 2], own[:, 1] = 0, 0, 0
        return replace(self, coefficients=coefficients, loadings=loadings, own=own)

    def arrays(self) -> dict[str, Floats]:
        """What `from_arrays` restores it from."""
        return {f"calibration.{name}": getattr(self, name) for name in FIELDS}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any]) -> "Calibration | None":
        """The calibration in the arrays of a file; None where it holds none."""
        parts = [arrays.get(f"calibration.{name}") for name in FIELDS]
        if all(part is None for part in parts):
            return None
        return cls(*(np.asarray(part, np.float64) for part in parts))
