"""OpenVINO on the CPU: fp32, bf16 where the CPU has it, int8 by NNCF's post-training quantisation."""

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import openvino

from latency.measuring.machine import pairs_overflow
from supernet.deploy.int8 import nncf_int8, random_batches
from supernet.deploy.onnx import to_onnx
from supernet.extras import NotInstalledError
from supernet.options import PositiveInt, options

if TYPE_CHECKING:
    import torch


@options
class OpenVino:
    precision: Literal["fp32", "bf16", "int8"] = "fp32"
    threads: PositiveInt = 1
    version: ClassVar[str] = f"openvino {openvino.__version__}"

    def __post_init__(self) -> None:
        able = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if self.precision == "bf16" and "BF16" not in able:
            raise NotInstalledError("precision=bf16: this CPU has no bf16 arithmetic; take fp32 or int8")

    def prepare(self, network: "torch.nn.Module", images: "torch.Tensor") -> tuple[Any, Any]:
        """An inference request of the compiled model and its input."""
        core = openvino.Core()
        model = core.read_model(to_onnx(network, images))
        if self.precision == "int8":
            model = nncf_int8(model, random_batches(images, 4), narrow=pairs_overflow())
        options = {  # without a hint of the precision OpenVINO takes bf16 where it can
            "INFERENCE_PRECISION_HINT": "bf16" if self.precision == "bf16" else "f32",
            "INFERENCE_NUM_THREADS": self.threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        }
        request = core.compile_model(model, "CPU", options).create_infer_request()
        request.set_input_tensor(openvino.Tensor(images.numpy()))
        return request, images

    def run(self, session: tuple[Any, Any]) -> None:
        session[0].infer()
