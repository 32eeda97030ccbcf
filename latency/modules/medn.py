"""MEDN, the multi-task encoder-decoder network of arXiv 2312.06440: one network for all module kinds.

The paper names the idea; layers, losses and weights are ours. An encoder per module kind maps its features to
a latent space that all kinds share; one decoder, the same for all, predicts the latency from there, and a
decoder per kind reconstructs the features, which keeps the latent space from forgetting what a few hundred
latencies do not ask for. A line per kind carries the trend. It is trained on all kinds together: a step draws
as many rows of each. Loss: mean absolute error of the standardised log latency + `reconstruction` times the
mean squared error of the features. The prediction is the mean of `members` networks.

Letters: t module kinds, n rows, q features (padded to the longest), h hidden, z latent.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from latency.modules.fitted import LineAndNetwork, line, off_line
from latency.perceptron import Mlp, Training
from latency.predictors.mlp import Descent, one_thread
from supernet.arrays import Floats, Rng
from supernet.options import NonNegativeFloat, PositiveFloat, PositiveInt, options


@options
class Medn:
    """`hidden` of encoders and decoders, `latent` shared; `batch` rows of each kind per step."""

    hidden: PositiveInt = 64
    latent: PositiveInt = 32
    members: PositiveInt = 2
    steps: PositiveInt = 3000
    batch: PositiveInt = 32
    learning_rate: PositiveFloat = 4e-3
    weight_decay: NonNegativeFloat = 1e-2
    reconstruction: NonNegativeFloat = 0.1

    def fit_all(self, data: Mapping[str, tuple[Floats, Floats]], rng: Rng) -> dict[str, LineAndNetwork]:
        """The path of each kind through the network, from (n, q) features and (n,) log latencies by kind."""
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
        names, widest = list(data), max(x.shape[1] for x, _ in data.values())
        longest = max(len(y) for _, y in data.values())
        features = torch.zeros((len(names), longest, widest))
        targets, present = torch.zeros((len(names), longest)), torch.zeros((len(names), widest))
        for i, (x, y) in enumerate(data.values()):
            again = np.resize(np.arange(len(y)), longest)  # shorter kinds repeat: each weighs the same
            features[i, :, : x.shape[1]] = torch.tensor(x[again], dtype=torch.float32)
            targets[i] = torch.tensor(y[again], dtype=torch.float32)
            present[i, : x.shape[1]] = 1.0
        network = _Network(len(names), widest, self.hidden, self.latent, rng)
        training = Training(learning_rate=self.learning_rate, weight_decay=self.weight_decay)
        descent = Descent(network.parts, training, self.steps)
        kinds = torch.arange(len(names))[:, None]

        def loss(rows: torch.Tensor) -> torch.Tensor:
            drawn = features[kinds, rows]
            log_ms, reconstructed = network(drawn)
            missed = ((reconstructed - drawn) ** 2).mean(dim=1) * present
            wrong = (log_ms - targets[kinds, rows]).abs().mean()
            return wrong + self.reconstruction * missed.sum() / present.sum()

        size = len(names), self.batch
        with one_thread():
            descent.run((torch.from_numpy(rng.integers(0, longest, size)) for _ in range(self.steps)), loss)
        return {name: network.path(i, data[name][0].shape[1]) for i, name in enumerate(names)}


class _Network:
    """Encoders of all kinds side by side, one decoder of latencies, decoders of features."""

    def __init__(self, kinds: int, q: int, hidden: int, latent: int, rng: Rng) -> None:
        def layer(*shape: int) -> list[torch.Tensor]:
            """Weights as PyTorch draws them, and biases of 0."""
            bound = 1 / np.sqrt(shape[-2])
            weights = torch.tensor(rng.uniform(-bound, bound, shape), dtype=torch.float32)
            biases = torch.zeros((*shape[:-2], 1, shape[-1]) if len(shape) > 2 else shape[-1:])
            return [weights.requires_grad_(), biases.requires_grad_()]

        encoder = layer(kinds, q, hidden) + layer(kinds, hidden, latent)
        self.parts = encoder + layer(latent, hidden) + layer(hidden, 1) + layer(kinds, latent, q)

    def __call__(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(t, n) latencies and (t, n, q) features of (t, n, q) features."""
        w1, b1, w2, b2, w3, b3, w4, b4, w5, b5 = self.parts
        latent = torch.relu(torch.baddbmm(b2, torch.relu(torch.baddbmm(b1, x, w1)), w2))
        return (torch.relu(latent @ w3 + b3) @ w4 + b4)[..., 0], torch.baddbmm(b5, latent, w5)

    def path(self, i: int, q: int) -> Mlp:
        """The layers that the latency of kind i goes through."""
        w1, b1, w2, b2, w3, b3, w4, b4, *_ = (part.detach().numpy() for part in self.parts)
        layers: list[tuple[Any, Any]] = [(w1[i, :q], b1[i, 0]), (w2[i], b2[i, 0]), (w3, b3), (w4, b4)]
        return Mlp(tuple((weights.copy(), bias.copy()) for weights, bias in layers))
