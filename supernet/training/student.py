"""One network that is trained alone, by one process or many: gradients, precision, and its checkpoint.

Letters: b images of a forward pass.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch.nn.functional import cross_entropy, softmax

from supernet.files import artifact
from supernet.training.depthwise import SmallMaps
from supernet.training.step import Processes, joined, momentum, parted, restore_momentum
from supernet.weights import network

Norms = Literal["frozen", "live"]
BatchNorm = torch.nn.modules.batchnorm._BatchNorm


@dataclass(eq=False)
class Student:
    """A network, where it is trained: on the device of `group`, in all its processes.

    Norms that are `frozen` normalise with the statistics they have, so that an image's gradient depends on no
    other image of its batch; `live` ones with those of the forward pass. The parameters of both are trained.
    """

    module: Any
    teacher: Any  # a network whose outputs are a second target, or None
    optimiser: torch.optim.Optimizer
    group: Processes
    norms: Norms
    label_smoothing: float
    precision: torch.dtype | None  # of forward passes; None: that of the weights
    keeps_zeros: bool = False  # weights that are 0 stay so: they were pruned
    scaler: torch.amp.GradScaler = field(init=False)

    def __post_init__(self) -> None:
        kind = self.group.device.type
        self.scaler = torch.amp.GradScaler(kind, enabled=self.precision == torch.float16)
        weights = [p for p in self.module.parameters() if p.ndim > 1 and self.keeps_zeros]
        self._masks = [(weight, weight.detach() != 0) for weight in weights]

    def begin(self) -> None:
        """Begin to train: as in the first process, norms in their mode."""
        self.group.alike(self.module)
        self.module.train()
        for module in self.module.modules():
            if self.norms == "frozen" and isinstance(module, BatchNorm):
                module.eval()

    def add_gradients(self, pictures: torch.Tensor, labels: torch.Tensor, share: float) -> torch.Tensor:
        """The loss of the (b, ...) images of a forward pass; adds its gradients times `share`. `labels` are
        (b,) numbers or (b, c) shares of the classes."""
        device = self.group.device
        pictures, labels = pictures.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        with SmallMaps(), self._autocast():
            logits = self.module(pictures).float()
        loss = cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        if self.teacher is not None:
            with torch.no_grad(), self._autocast():
                soft = softmax(self.teacher(pictures).float(), dim=1)
            loss = loss + cross_entropy(logits, soft)
        self.scaler.scale(share * loss).backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.precision is None:
            return nullcontext()
        return torch.autocast(self.group.device.type, dtype=self.precision)

    def move(self) -> None:
        """Move the weights by the gradients of a step, those of all processes."""
        self.group.share_gradients(self.module)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        with torch.no_grad():
            for weight, mask in self._masks:
                weight.mul_(mask)

    def tensors(self) -> dict[str, torch.Tensor]:
        """What `restore` needs, beside the state of the scaler, to go on bit by bit."""
        state = self.module.state_dict()
        return joined({"model": state, "momentum": momentum(self.module, self.optimiser)})

    def restore(self, tensors: Mapping[str, torch.Tensor], path: Path) -> None:
        """Take the state of `tensors` over; `path` is where they are from."""
        with artifact.usable(path, "checkpoint", "left as it is, choose another out="):
            parts = parted(tensors)
            network.fill(self.module, parts["model"], path)
            restore_momentum(self.module, self.optimiser, parts.get("momentum", {}))
