"""A multi-layer perceptron evaluated with numpy, so that a search needs no PyTorch, and how one is trained.

`latency.predictors.mlp` trains it. Letters: n rows, p inputs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from supernet.arrays import Floats, Rng
from supernet.files.artifact import Arrays
from supernet.options import FractionBelowOne, NonNegativeFloat, PositiveFloat, PositiveInt, options

Singles = NDArray[np.float32]
CHUNK = 4096  # rows at a time: their activations stay in the cache


@dataclass(frozen=True, eq=False)
class Mlp:
    """Linear layers with ReLU between them, one output."""

    layers: tuple[tuple[Singles, Singles], ...]  # (weights (in, out), bias (out,))

    @classmethod
    def random(cls, widths: tuple[int, ...], rng: Rng) -> "Mlp":
        """A network of these layer widths, weights uniform in +-1/sqrt(inputs), as PyTorch draws them."""
        layers = []
        for inputs, outputs in pairwise(widths):
            bound = 1 / np.sqrt(inputs)
            weights = rng.uniform(-bound, bound, (inputs, outputs)).astype(np.float32)
            layers.append((weights, rng.uniform(-bound, bound, outputs).astype(np.float32)))
        return cls(tuple(layers))

    @classmethod
    def mean(cls, networks: "Sequence[Mlp]") -> "Mlp":
        """The mean of the weights: networks tuned from one start stay close enough for it."""
        parts = [[part for layer in net.layers for part in layer] for net in networks]
        means = [np.asarray(np.mean(part, axis=0), np.float32) for part in zip(*parts, strict=True)]
        return cls(tuple(zip(means[0::2], means[1::2], strict=True)))

    def __call__(self, x: ArrayLike) -> Floats:
        """(n,) outputs of (n, p) inputs."""
        rows = np.asarray(x, np.float32)
        outputs = np.empty(len(rows))
        for first in range(0, len(rows), CHUNK):
            hidden = rows[first : first + CHUNK]
            for i, (weights, bias) in enumerate(self.layers):
                hidden = hidden @ weights + bias
                if i < len(self.layers) - 1:
                    np.maximum(hidden, 0, out=hidden)
            outputs[first : first + CHUNK] = hidden[:, 0]
        return outputs

    @property
    def inputs(self) -> int:
        """The number p of inputs."""
        return len(self.layers[0][0])

    def fixed(self, last: Floats) -> "Mlp":
        """The network of all inputs but the last ones, which always have these values."""
        (weights, bias), *rest = self.layers
        kept = len(weights) - len(last)
        return Mlp(((weights[:kept], bias + np.asarray(last, np.float32) @ weights[kept:]), *rest))

    def scaled(self, factor: float) -> "Mlp":
        """The same network, its outputs times a factor."""
        *hidden, (weights, bias) = self.layers
        return Mlp((*hidden, (np.float32(factor) * weights, np.float32(factor) * bias)))

    def stored(self) -> tuple[Arrays, None]:
        """Named arrays, for a file."""
        named: Arrays = {f"weight{i}": weights for i, (weights, _) in enumerate(self.layers)}
        return named | {f"bias{i}": bias for i, (_, bias) in enumerate(self.layers)}, None

    @classmethod
    def restored(cls, arrays: Arrays, _: Any = None) -> "Mlp":
        """From `stored()`; ValueError when the shapes do not follow one another."""
        count = sum(name.startswith("weight") for name in arrays)
        layers = tuple(
            (np.asarray(arrays[f"weight{i}"], np.float32), np.asarray(arrays[f"bias{i}"], np.float32))
            for i in range(count)
        )
        widths = [weights.shape for weights, _ in layers]
        following = all(a[1] == b[0] for a, b in pairwise([*widths, (1, 1)]))
        if not layers or not following or any(bias.shape != weights.shape[1:] for weights, bias in layers):
            raise ValueError(f"layers of shapes {widths} are no network with one output")
        return cls(layers)


@options
class Training:
    """How a network is trained.

    `loss` "rmse" is the root of the mean squared error of each batch. `patience` epochs without a better
    validation loss end the training; without validation rows all `epochs` are run.
    """

    epochs: PositiveInt = 60
    batch: PositiveInt = 64
    learning_rate: PositiveFloat = 4e-3
    weight_decay: NonNegativeFloat = 1e-2
    momentum: FractionBelowOne = 0.0  # of SGD
    loss: Literal["rmse", "mse", "l1"] = "l1"
    optimiser: Literal["sgd", "adamw"] = "adamw"
    schedule: Literal["constant", "cosine"] = "cosine"
    patience: PositiveInt | None = None
