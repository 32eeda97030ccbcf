"""PyTorch, eager, on a CUDA GPU: fp32, fp16 weights, or AMP; timed by CUDA events around one forward pass."""

import time
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

    def meter(self) -> "Nvml":
        """Of the GPU that PyTorch uses; NotInstalledError where there is none."""
        return Nvml(str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid))


class Nvml:
    """The energy that a GPU has taken, by its driver; the host's is not in it.

    Its counter where it has one (from Volta on), else its power at the ends of what is asked for. Both
    advance ten times a second at most (arXiv 2312.02741), so visits are long.
    """

    seconds = 0.5

    def __init__(self, uuid: str) -> None:
        try:
            import pynvml
        except ImportError:
            raise NotInstalledError(
                "energy of a GPU needs its driver's library: pip install nvidia-ml-py"
            ) from None
        self._nvml = pynvml
        try:
            pynvml.nvmlInit()
            self._gpu = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
            self._watts()
        except pynvml.NVMLError as error:
            raise NotInstalledError(f"NVML does not tell the energy of this GPU: {error}") from None
        try:
            pynvml.nvmlDeviceGetTotalEnergyConsumption(self._gpu)
            self.name = "NVML: energy counter of the GPU"
        except pynvml.NVMLError:
            self.name = "NVML: power samples of the GPU"
        self._counts = "counter" in self.name
        self._sum, self._last = 0.0, (time.perf_counter(), self._watts())

    def _watts(self) -> float:
        return float(self._nvml.nvmlDeviceGetPowerUsage(self._gpu)) / 1000

    def joules(self) -> float | None:
        """Since some moment; None where the driver does not answer."""
        try:
            if self._counts:
                return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._gpu)) / 1000
            before, now = self._last, (time.perf_counter(), self._watts())
        except self._nvml.NVMLError:
            return None
        self._sum += (now[0] - before[0]) * (now[1] + before[1]) / 2
        self._last = now
        return self._sum
