"""A training step in PyTorch, eager, on the CPU: forward, backward and SGD update of one batch."""

from typing import Any, ClassVar, Literal

import torch

from supernet.options import PositiveInt, options
from supernet.training.depthwise import SmallMaps


@options
class TorchTraining:
    """What training cost is made of; the "latency" is that of a step on `batch` images."""

    precision: Literal["fp32"] = "fp32"
    threads: PositiveInt = 1
    version: ClassVar[str] = (
        f"torch {torch.__version__} training, small maps, {torch.backends.cpu.get_cpu_capability()}"
    )

    def prepare(self, network: torch.nn.Module, images: torch.Tensor) -> tuple[Any, ...]:
        """The network in training mode, its (batch, 3, side, side) images, labels and optimiser."""
        last = torch.channels_last
        network = network.train().to(memory_format=last)
        network.requires_grad_(True)
        optimiser = torch.optim.SGD(network.parameters(), lr=1e-6, momentum=0.9)
        labels = torch.zeros(len(images), dtype=torch.long)
        return network, images.contiguous(memory_format=last), labels, optimiser

    def run(self, session: tuple[Any, ...]) -> None:
        network, images, labels, optimiser = session
        optimiser.zero_grad(set_to_none=True)
        with SmallMaps():  # as `make train` and `make finetune`
            logits = network(images)
        torch.nn.functional.cross_entropy(logits, labels).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
