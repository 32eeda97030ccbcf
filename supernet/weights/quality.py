"""Quality of a classifier from its logits: top-1, top-5, loss, calibration error.

Letters: n images, c classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from supernet.arrays import Floats, Ints

if TYPE_CHECKING:
    import torch

BINS = 15
Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]  # (b, 3, r, r) images to (b, c) logits


@dataclass(frozen=True)
class Quality:
    """Of one model on `images` images; accuracies are fractions."""

    top1: float
    top5: float
    loss: float  # mean cross entropy, nats
    ece: float  # expected calibration error, a fraction
    images: int


def quality(logits: Floats, labels: Ints) -> Quality:
    """Quality of (n, c) logits on (n,) labels.

    The calibration error is that of Guo et al. (2017, arXiv 1706.04599): the mean over 15 equal bins of the
    confidence, weighted by their images, of |accuracy - mean confidence|.
    """
    logits = np.asarray(logits, np.float64)
    n, classes = logits.shape
    if len(labels) != n or not n or labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"{len(labels)} labels in 0..{classes - 1} are needed for logits {logits.shape}")
    rows = np.arange(n)
    shifted = logits - logits.max(axis=1, keepdims=True)
    chances = np.exp(shifted)
    chances /= chances.sum(axis=1, keepdims=True)
    of_label = logits[rows, labels]
    better = (logits > of_label[:, None]).sum(axis=1)
    loss = np.log(np.exp(shifted).sum(axis=1)) - shifted[rows, labels]
    guess = logits.argmax(axis=1)
    right, confidence = guess == labels, chances[rows, guess]
    place = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    apart = np.bincount(place, right - confidence, BINS)  # sums over the images of a bin
    return Quality(
        top1=float(right.mean()),
        top5=float((better < 5).mean()),
        loss=float(loss.mean()),
        ece=float(np.abs(apart).sum() / n),
        images=n,
    )


def evaluate(run: Run, batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> Quality:
    """Quality of whatever gives logits, on batches of (images, labels)."""
    logits, labels = [], []
    for images, truth in batches:
        logits.append(run(images.contiguous().numpy()))
        labels.append(truth.numpy())
    return quality(np.concatenate(logits), np.concatenate(labels))


def runner(module: torch.nn.Module) -> Run:
    """A network in eval mode as something that gives logits."""
    import torch

    def run(images: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            pictures = torch.from_numpy(images).contiguous(memory_format=torch.channels_last)
            found: torch.Tensor = module(pictures)
        return found.numpy()

    return run
