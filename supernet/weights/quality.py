"""Quality of a classifier from its logits: top-1, top-5, loss, calibration error.

Letters: n images, c classes.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from supernet.arrays import Floats, Ints

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

    @property
    def correct(self) -> int:
        """Images that are classified correctly."""
        return round(self.top1 * self.images)


def evaluate(run: Run, batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> Quality:
    """Quality of whatever gives logits, on batches of (images, labels).

    The calibration error is that of Guo et al. (2017, arXiv 1706.04599): the mean over 15 equal bins of the
    confidence, weighted by their images, of |accuracy - mean confidence|.
    """
    return from_sums([sums(run(images.contiguous().numpy()), labels.numpy()) for images, labels in batches])


def from_sums(batches: Sequence[Floats]) -> Quality:
    """Quality by the `sums` of all batches, added in their order."""
    whole = np.zeros(4 + BINS)
    for one in batches:
        whole += one
    count = int(whole[0])
    top1, top5, loss = (whole[1:4] / count).tolist()
    return Quality(top1, top5, loss, float(np.abs(whole[4:]).sum() / count), count)


def sums(logits: NDArray[np.floating], labels: Ints) -> Floats:
    """(4 + BINS,) images, those that are right in the first and the first five places, loss, and in each bin
    the sum of whether an image is right less its confidence."""
    logits = np.asarray(logits, np.float64)
    n, classes = logits.shape
    if len(labels) != n or not n or labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"{len(labels)} labels in 0..{classes - 1} are needed for logits {logits.shape}")
    if not np.isfinite(logits).all():
        raise ValueError(
            "the outputs of the network are NaN or infinite: its weights have diverged. Train with a lower "
            "rate=, or with norms=live"
        )
    rows = np.arange(n)
    shifted = logits - logits.max(axis=1, keepdims=True)
    total = np.exp(shifted).sum(axis=1)
    better = (logits > logits[rows, labels][:, None]).sum(axis=1)
    loss = np.log(total) - shifted[rows, labels]
    right, confidence = logits.argmax(axis=1) == labels, 1 / total
    place = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    excess = np.bincount(place, right - confidence, BINS)
    return np.concatenate([[n, right.sum(), (better < 5).sum(), loss.sum()], excess])


def runner(
    module: torch.nn.Module, device: torch.device | None = None, precision: torch.dtype | None = None
) -> Run:
    """A network in eval mode, on a device (default: the CPU), as something that gives logits. With a
    `precision` (bfloat16, float16) its forward passes are autocast to that."""
    where = "cpu" if device is None else device.type
    mixed = nullcontext() if precision is None else torch.autocast(where, precision)

    def run(images: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode(), mixed:
            pictures = torch.from_numpy(images).contiguous(memory_format=torch.channels_last).to(device)
            logits: torch.Tensor = module(pictures)
        return logits.float().cpu().numpy()

    return run
