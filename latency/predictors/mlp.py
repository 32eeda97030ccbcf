"""Trains a multi-layer perceptron with PyTorch.

Letters: n rows, p inputs.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike

from latency.perceptron import Mlp, Training
from supernet.arrays import Rng

Batch = TypeVar("Batch")


@dataclass(frozen=True, eq=False)
class Rows:
    """What a network is trained or judged on: (n, p) inputs, (n,) outputs, and how much each row counts."""

    x: ArrayLike
    y: ArrayLike
    weight: ArrayLike | None = None  # (n,) of its part of the loss; None: all alike

    def tensors(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Inputs, outputs and weights of mean 1."""
        x, y = torch.tensor(np.asarray(self.x, np.float32)), torch.tensor(np.asarray(self.y, np.float32))
        if self.weight is None:
            return x, y, torch.ones(len(y))
        weight = torch.tensor(np.asarray(self.weight, np.float32))
        return x, y, weight / weight.mean()


def train(
    network: Mlp,
    rows: Rows,
    *,
    training: Training,
    rng: Rng,
    validation: Rows | None = None,
    only_head: bool = False,
) -> Mlp:
    """`network` trained further, on one thread; reproducible for a state of `rng`.

    With `validation` rows the weights of the best epoch are returned, else those of the last. `only_head`
    leaves all but the last layer as it is. ValueError when the loss stops being a number.
    """
    x, y, weight = rows.tensors()
    judged = None if validation is None else validation.tensors()
    parameters = [torch.tensor(part) for layer in network.layers for part in layer]
    steps = training.epochs * -(-len(y) // training.batch)
    descent = Descent(parameters[-2:] if only_head else parameters, training, steps)

    def loss(batch: torch.Tensor) -> torch.Tensor:
        return _loss(_forward(parameters, x[batch]), y[batch], weight[batch], training.loss)

    best, best_loss, waited = network, np.inf, 0
    with one_thread():
        for _ in range(training.epochs):
            descent.run(torch.split(torch.from_numpy(rng.permutation(len(y))), training.batch), loss)
            if judged is None:
                continue
            with torch.no_grad():
                now = float(_loss(_forward(parameters, judged[0]), *judged[1:], training.loss))
            if now < best_loss:
                best, best_loss, waited = _network(parameters), now, 0
            else:
                waited += 1
                if training.patience is not None and waited >= training.patience:
                    break
    return best if judged is not None else _network(parameters)


class Descent:
    """Gradient steps on some parameters, with a schedule of the learning rate over `steps` of them."""

    def __init__(self, parameters: list[torch.Tensor], training: Training, steps: int) -> None:
        for parameter in parameters:
            parameter.requires_grad_()
        rate, decay = training.learning_rate, training.weight_decay
        self.training = training
        self.optimiser: torch.optim.Optimizer
        if training.optimiser == "sgd":
            self.optimiser = torch.optim.SGD(parameters, rate, training.momentum, weight_decay=decay)
        else:
            self.optimiser = torch.optim.AdamW(parameters, rate, weight_decay=decay)
        warm = max(steps // 20, 1)

        def factor(step: int) -> float:
            if training.schedule == "constant":
                return 1.0
            if step < warm:
                return (step + 1) / warm
            return float(0.5 * (1 + np.cos(np.pi * min((step - warm) / max(steps - warm, 1), 1))))

        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimiser, factor)

    def run(self, batches: Iterable[Batch], loss_of: Callable[[Batch], torch.Tensor]) -> None:
        """A step for each batch; ValueError when the last loss is no number."""
        for batch in batches:
            loss = loss_of(batch)
            self.optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch's own
            self.optimiser.step()
            self.schedule.step()
        if not torch.isfinite(loss):
            rate = self.training.learning_rate
            raise ValueError(f"training diverged (loss {loss.item()}): lower learning_rate={rate:g}")


def _forward(parameters: list[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    for i in range(0, len(parameters), 2):
        x = torch.addmm(parameters[i + 1], x, parameters[i])
        if i + 2 < len(parameters):
            x = torch.relu_(x)
    return x[:, 0]


def _loss(outputs: torch.Tensor, wanted: torch.Tensor, weight: torch.Tensor, kind: str) -> torch.Tensor:
    if kind == "l1":
        return (weight * (outputs - wanted).abs()).mean()
    squared = (weight * (outputs - wanted) ** 2).mean()
    return squared.sqrt() if kind == "rmse" else squared


def _network(parameters: list[torch.Tensor]) -> Mlp:
    arrays = [parameter.detach().numpy().copy() for parameter in parameters]
    return Mlp(tuple(zip(arrays[0::2], arrays[1::2], strict=True)))


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch on one thread inside: as fast for small networks, and the same sums on every machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
