"""PyTorch, eager, on the CPU; memory format channels_last (15-20% faster than NCHW on these networks)."""

from typing import Any, ClassVar, Literal

import torch

from supernet.options import PositiveInt, options


@options
class TorchEager:
    precision: Literal["fp32"] = "fp32"
    threads: PositiveInt = 1
    version: ClassVar[str] = f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}"

    def prepare(self, network: torch.nn.Module, images: torch.Tensor) -> tuple[Any, torch.Tensor]:
        """The network and its (batch, 3, side, side) input in channels_last; other inputs as they are."""
        last = torch.channels_last
        laid_out = images.contiguous(memory_format=last) if images.ndim == 4 else images
        return network.to(memory_format=last), laid_out

    def run(self, session: tuple[Any, torch.Tensor]) -> None:
        network, images = session
        with torch.inference_mode():
            network(images)
