"""PyTorch, eager, on a CUDA GPU: fp32, fp16 weights, or AMP; timed by CUDA events around one forward pass."""

from typing import Any, ClassVar, Literal

import torch

from supernet.extras import NotInstalledError
from supernet.options import PositiveInt, options


@options
class TorchCuda:
    """`threads` is that of the host and matters little."""

    precision: Literal["fp32", "fp16", "amp"] = "fp32"
    threads: PositiveInt = 1
    version: ClassVar[str] = (
        f"torch {torch.__version__}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"  # type: ignore[no-untyped-call]
    )

    def __post_init__(self) -> None:
        if not torch.cuda.is_available():
            raise NotInstalledError(
                "engine=torch_cuda needs a CUDA GPU that PyTorch sees; torch.cuda.is_available() is False "
                "here. For the CPU take engine=onnxruntime or engine=torch_eager"
            )

    def prepare(self, network: torch.nn.Module, images: torch.Tensor) -> tuple[Any, torch.Tensor, Any, Any]:
        """The network and its (batch, 3, side, side) input on the GPU, and two events."""
        kind = torch.float16 if self.precision == "fp16" else torch.float32
        network = network.to("cuda", kind, memory_format=torch.channels_last)  # type: ignore[call-overload]
        images = images.to("cuda", kind)
        if images.ndim == 4:
            images = images.contiguous(memory_format=torch.channels_last)
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        return network, images, start, end

    def run(self, session: tuple[Any, torch.Tensor, Any, Any]) -> float:
        """Milliseconds between the events; waits for the GPU before and after."""
        network, images, start, end = session
        torch.cuda.synchronize()
        with torch.inference_mode(), torch.autocast("cuda", enabled=self.precision == "amp"):
            start.record()
            network(images)
            end.record()
        torch.cuda.synchronize()
        return float(start.elapsed_time(end))
