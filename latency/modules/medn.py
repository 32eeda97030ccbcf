"""MEDN, the multi-task encoder-decoder network of arXiv 2312.06440: one network for all module types.

The paper names the idea; layers, losses and weights are ours. An encoder per module type maps its features to
a latent space that all types share; one decoder, the same for all, says the latency from there, and a decoder
per type reconstructs the features, which keeps the latent space from forgetting what a few hundred latencies
do not ask for. A line per type carries the trend. Trained on all types together: a step draws as many rows of
every type. Loss: mean absolute error of the standardised log latency + `reconstruction` times the mean
squared error of the features. The answer is the mean of `members` networks.

Letters: t module types, n rows, q features (padded to the longest), h hidden, z latent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from latency.modules.fitted import LineAndNetwork, line, off_line
from latency.perceptron import Mlp, Training
from latency.predictors.mlp import Descent, one_thread
from supernet.arrays import Floats, Rng

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Medn:
    """`hidden` of encoders and decoders, `latent` shared; `batch` rows of every type per step."""

    hidden: Annotated[int, Field(ge=1)] = 64
    latent: Annotated[int, Field(ge=1)] = 32
    members: Annotated[int, Field(ge=1)] = 2
    steps: Annotated[int, Field(ge=1)] = 3000
    batch: Annotated[int, Field(ge=1)] = 32
    learning_rate: Annotated[float, Field(gt=0)] = 4e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    reconstruction: Annotated[float, Field(ge=0)] = 0.1

    def fit_all(self, data: Mapping[str, tuple[Floats, Floats]], rng: Rng) -> dict[str, LineAndNetwork]:
        """The path of each type through the network, from (n, q) features and (n,) log latencies by type."""
        lines = {name: line(x, y) for name, (x, y) in data.items()}
        residual = {name: off_line(lines[name], x, y) for name, (x, y) in data.items()}
        unit = float(np.sqrt(np.mean([np.mean(r**2) for r in residual.values()]))) or 1.0
        rows = {name: (x, residual[name] / unit) for name, (x, _) in data.items()}
        members = [self._train(rows, rng) for _ in range(self.members)]
        return {
            name: LineAndNetwork(lines[name], tuple(paths[name].scaled(unit) for paths in members))
            for name in data
        }

    def _train(self, data: Mapping[str, tuple[Floats, Floats]], rng: Rng) -> dict[str, Mlp]:
        import torch

        names, widest = list(data), max(x.shape[1] for x, _ in data.values())
        longest = max(len(y) for _, y in data.values())
        features = torch.zeros((len(names), longest, widest))
        wished, known = torch.zeros((len(names), longest)), torch.zeros((len(names), widest))
        for i, (given, y) in enumerate(data.values()):
            again = np.resize(np.arange(len(y)), longest)  # shorter types repeat: each weighs the same
            features[i, :, : given.shape[1]] = torch.tensor(given[again], dtype=torch.float32)
            wished[i] = torch.tensor(y[again], dtype=torch.float32)
            known[i, : given.shape[1]] = 1.0
        network = _Network.start(len(names), widest, self.hidden, self.latent, rng)
        training = Training(learning_rate=self.learning_rate, weight_decay=self.weight_decay)
        descent = Descent(network.parts, training, self.steps)
        types = torch.arange(len(names))[:, None]

        def loss(rows: torch.Tensor) -> torch.Tensor:
            x = features[types, rows]
            log_ms, features_again = network(x)
            missed = ((features_again - x) ** 2).mean(dim=1) * known
            wrong = (log_ms - wished[types, rows]).abs().mean()
            return wrong + self.reconstruction * missed.sum() / known.sum()

        size = len(names), self.batch
        with one_thread():
            descent.run((torch.from_numpy(rng.integers(0, longest, size)) for _ in range(self.steps)), loss)
        return {name: network.path(i, data[name][0].shape[1]) for i, name in enumerate(names)}


class _Network:
    """Encoders of all types side by side, one decoder of latencies, decoders of features."""

    def __init__(self, parts: list[torch.Tensor]) -> None:
        self.parts = parts

    @classmethod
    def start(cls, types: int, q: int, hidden: int, latent: int, rng: Rng) -> _Network:
        import torch

        def drawn(*shape: int) -> torch.Tensor:
            bound = 1 / np.sqrt(shape[-2])
            return torch.tensor(rng.uniform(-bound, bound, shape), dtype=torch.float32).requires_grad_()

        def zeros(*shape: int) -> torch.Tensor:
            return torch.zeros(shape).requires_grad_()

        encoder = [drawn(types, q, hidden), zeros(types, 1, hidden)]
        encoder += [drawn(types, hidden, latent), zeros(types, 1, latent)]
        decoder = [drawn(latent, hidden), zeros(hidden), drawn(hidden, 1), zeros(1)]
        features = [drawn(types, latent, q), zeros(types, 1, q)]
        return cls(encoder + decoder + features)

    def __call__(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(t, n) latencies and (t, n, q) features of (t, n, q) features."""
        import torch

        w1, b1, w2, b2, w3, b3, w4, b4, w5, b5 = self.parts
        latent = torch.relu(torch.baddbmm(b2, torch.relu(torch.baddbmm(b1, x, w1)), w2))
        return (torch.relu(latent @ w3 + b3) @ w4 + b4)[..., 0], torch.baddbmm(b5, latent, w5)

    def path(self, i: int, q: int) -> Mlp:
        """What the latency of type i goes through."""
        w1, b1, w2, b2, w3, b3, w4, b4, *_ = (part.detach().numpy() for part in self.parts)
        layers: list[tuple[Any, Any]] = [(w1[i, :q], b1[i, 0]), (w2[i], b2[i, 0]), (w3, b3), (w4, b4)]
        return Mlp(tuple((weights.copy(), bias.copy()) for weights, bias in layers))
