"""What int8 does to accuracy: measured on subnets of one's own, or declared from published models."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from supernet.arrays import Floats
from supernet.options import NonNegativeFloat, options
from supernet.prediction import Prediction
from supernet.surrogates.accuracy import POINT


@options
class Int8Change:
    """Change of top-1 in points by int8, the same for all networks up to `std_points`.

    The default is what torchvision publishes for its mobile networks on ImageNet: -.22 (MobileNetV2), -1.04
    (MobileNetV3-Large), -1.00, -.94, -.88 (ShuffleNetV2 x1, x1.5, x2); mean -.82, sd .34. Its ResNets lose
    .21 to .58.
    """

    points: float = -0.8
    std_points: NonNegativeFloat = 0.4

    def apply(self, fp32: Prediction) -> Prediction:
        """Top-1 in [0, 1] of the same networks in int8."""
        std = np.hypot(fp32.std, self.std_points * POINT)
        return replace(fp32, mean=fp32.mean + self.points * POINT, std=std)


def from_pairs(fp32: Floats, int8: Floats) -> Int8Change:
    """The change between measured top-1 (n,) of the same networks, and its spread between them."""
    if len(fp32) < 2:
        raise ValueError(f"{len(fp32)} accuracies: at least two pairs are needed")
    change = (int8 - fp32) / POINT
    return Int8Change(points=float(change.mean()), std_points=float(change.std(ddof=1)))


def load(path: Path) -> Int8Change:
    """The change measured by `python -m benchmarks.shrink int8`: a JSON list of {fp32, int8} top-1."""
    try:
        rows = json.loads(path.read_text())
        return from_pairs(*np.array([(row["fp32"], row["int8"]) for row in rows], float).reshape(-1, 2).T)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} holds no pairs of fp32 and int8 accuracies ({error})") from error
