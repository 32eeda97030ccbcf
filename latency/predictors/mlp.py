"""A multi-layer perceptron: trained with PyTorch, evaluated with numpy, so that a search needs no PyTorch.

Letters: n rows, p inputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import ConfigDict, Field
from pydantic import dataclasses as pydantic

from supernet.arrays import Floats

if TYPE_CHECKING:
    import torch

Singles = NDArray[np.float32]
CHUNK = 4096  # rows at a time: their activations stay in the cache


@dataclass(frozen=True, eq=False)
class Mlp:
    """Linear layers with ReLU between them, one output."""

    layers: tuple[tuple[Singles, Singles], ...]  # (weights (in, out), bias (out,))

    def __call__(self, x: ArrayLike) -> Floats:
        """(n,) outputs of (n, p) inputs."""
        rows = np.asarray(x, np.float32)
        found = np.empty(len(rows))
        for first in range(0, len(rows), CHUNK):
            hidden = rows[first : first + CHUNK]
            for i, (weights, bias) in enumerate(self.layers):
                hidden = hidden @ weights + bias
                if i < len(self.layers) - 1:
                    np.maximum(hidden, 0, out=hidden)
            found[first : first + CHUNK] = hidden[:, 0]
        return found

    def scaled(self, factor: float) -> Mlp:
        """The same network, its outputs times a factor."""
        *hidden, (weights, bias) = self.layers
        return Mlp((*hidden, (np.float32(factor) * weights, np.float32(factor) * bias)))

    def arrays(self) -> dict[str, Singles]:
        """Named arrays, for a file."""
        named = {f"weight{i}": weights for i, (weights, _) in enumerate(self.layers)}
        return named | {f"bias{i}": bias for i, (_, bias) in enumerate(self.layers)}

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]]) -> Mlp:
        """From `arrays()`; ValueError when the shapes do not follow one another."""
        count = sum(name.startswith("weight") for name in arrays)
        layers = tuple(
            (np.asarray(arrays[f"weight{i}"], np.float32), np.asarray(arrays[f"bias{i}"], np.float32))
            for i in range(count)
        )
        widths = [weights.shape for weights, _ in layers]
        fits = all(a[1] == b[0] for a, b in zip(widths, [*widths[1:], (1, 1)], strict=True)) and all(
            bias.shape == weights.shape[1:] for weights, bias in layers
        )
        if not layers or not fits:
            raise ValueError(f"layers of shapes {widths} are no network with one output")
        return cls(layers)


@pydantic.dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Training:
    """How a network is trained.

    `loss` "rmse" is the root of the mean squared error of each batch. `patience` epochs without a better
    validation loss end the training; without validation rows all `epochs` are run.
    """

    epochs: Annotated[int, Field(ge=1)] = 60
    batch: Annotated[int, Field(ge=1)] = 64
    learning_rate: Annotated[float, Field(gt=0)] = 4e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0  # of SGD
    loss: Literal["rmse", "mse", "l1"] = "l1"
    optimiser: Literal["sgd", "adamw"] = "adamw"
    schedule: Literal["constant", "cosine"] = "cosine"
    patience: Annotated[int, Field(ge=1)] | None = None


def start(widths: tuple[int, ...], rng: np.random.Generator) -> Mlp:
    """A network of these layer widths with weights uniform in +-1/sqrt(inputs), as PyTorch draws them."""
    layers = []
    for inputs, outputs in pairwise(widths):
        bound = 1 / np.sqrt(inputs)
        weights = rng.uniform(-bound, bound, (inputs, outputs)).astype(np.float32)
        layers.append((weights, rng.uniform(-bound, bound, outputs).astype(np.float32)))
    return Mlp(tuple(layers))


def train(
    network: Mlp,
    x: ArrayLike,
    y: ArrayLike,
    *,
    training: Training,
    rng: np.random.Generator,
    validation: tuple[ArrayLike, ArrayLike] | None = None,
    sample_weight: ArrayLike | None = None,
    only_head: bool = False,
) -> Mlp:
    """`network` trained further on (n, p) inputs and (n,) outputs, on one thread; reproducible for a state of
    `rng`.

    With `validation` rows the weights of the best epoch are returned, else those of the last. `sample_weight`
    (n,) scales each row's part of the loss. `only_head` leaves all but the last layer as it is. ValueError
    when the loss stops being a number.
    """
    import torch

    inputs, wished = torch.tensor(np.asarray(x, np.float32)), torch.tensor(np.asarray(y, np.float32))
    trust = torch.ones(len(wished))
    if sample_weight is not None:
        trust = torch.tensor(np.asarray(sample_weight, np.float32))
        trust = trust / trust.mean()
    parameters = [torch.tensor(part) for layer in network.layers for part in layer]
    learned = parameters[-2:] if only_head else parameters
    for parameter in learned:
        parameter.requires_grad_()
    optimiser = _optimiser(learned, training)
    steps = training.epochs * -(-len(wished) // training.batch)
    rate = torch.optim.lr_scheduler.LambdaLR(optimiser, _schedule(training, steps))
    judged = None
    if validation is not None:
        judged = tuple(torch.tensor(np.asarray(part, np.float32)) for part in validation)
    best, best_loss, waited = network, np.inf, 0
    with one_thread():
        for _ in range(training.epochs):
            order = torch.from_numpy(rng.permutation(len(wished)))
            for batch in torch.split(order, training.batch):
                loss = _loss(_forward(parameters, inputs[batch]), wished[batch], trust[batch], training.loss)
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]  # torch's own
                optimiser.step()
                rate.step()
            if not torch.isfinite(loss):
                raise ValueError(
                    f"training diverged (loss {loss.item()}): lower learning_rate={training.learning_rate:g}"
                )
            if judged is None:
                continue
            with torch.no_grad():
                shown = _forward(parameters, judged[0])
                now = float(_loss(shown, judged[1], torch.ones(len(shown)), training.loss))
            if now < best_loss:
                best, best_loss, waited = _network(parameters), now, 0
            else:
                waited += 1
                if training.patience is not None and waited >= training.patience:
                    break
    return best if judged is not None else _network(parameters)


def _forward(parameters: list[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    import torch

    for i in range(0, len(parameters), 2):
        x = torch.addmm(parameters[i + 1], x, parameters[i])
        if i + 2 < len(parameters):
            x = torch.relu_(x)
    return x[:, 0]


def _loss(found: torch.Tensor, wished: torch.Tensor, trust: torch.Tensor, kind: str) -> torch.Tensor:
    if kind == "l1":
        return (trust * (found - wished).abs()).mean()
    squared = (trust * (found - wished) ** 2).mean()
    return squared.sqrt() if kind == "rmse" else squared


def _optimiser(parameters: list[torch.Tensor], training: Training) -> torch.optim.Optimizer:
    import torch

    rate, decay = training.learning_rate, training.weight_decay
    if training.optimiser == "sgd":
        return torch.optim.SGD(parameters, rate, momentum=training.momentum, weight_decay=decay)
    return torch.optim.AdamW(parameters, rate, weight_decay=decay)


def _schedule(training: Training, steps: int) -> Any:
    warm = max(steps // 20, 1)

    def factor(step: int) -> float:
        if training.schedule == "constant":
            return 1.0
        if step < warm:
            return (step + 1) / warm
        return float(0.5 * (1 + np.cos(np.pi * min((step - warm) / max(steps - warm, 1), 1))))

    return factor


def _network(parameters: list[torch.Tensor]) -> Mlp:
    arrays = [parameter.detach().numpy().copy() for parameter in parameters]
    return Mlp(tuple(zip(arrays[0::2], arrays[1::2], strict=True)))


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch on one thread inside: as fast for small networks, and the same sums on every machine."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
