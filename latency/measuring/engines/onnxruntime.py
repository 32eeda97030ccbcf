"""ONNX Runtime on the CPU: fp32, or int8 by static quantisation (QDQ, per channel)."""

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import onnxruntime

from latency.measuring.machine import pairs_overflow
from supernet.deploy.int8 import onnxruntime_int8, random_batches
from supernet.deploy.onnx import INPUT, to_onnx
from supernet.options import PositiveInt, options

if TYPE_CHECKING:
    import torch


@options
class OnnxRuntime:
    precision: Literal["fp32", "int8"] = "fp32"
    threads: PositiveInt = 1
    version: ClassVar[str] = f"onnxruntime {onnxruntime.__version__}"

    def prepare(self, network: "torch.nn.Module", images: "torch.Tensor") -> tuple[Any, dict[str, Any]]:
        """An inference session and its input."""
        model = to_onnx(network, images)
        if self.precision == "int8":
            # random inputs: ranges matter for accuracy, not for speed
            model = onnxruntime_int8(model, random_batches(images, 4), narrow=pairs_overflow())
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
        options.log_severity_level = 3
        if self.threads > 1:
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return session, {INPUT: images.numpy()}

    def run(self, session: tuple[Any, dict[str, Any]]) -> None:
        session[0].run(None, session[1])
