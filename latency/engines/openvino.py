"""OpenVINO on the CPU: fp32, bf16 where the CPU has it, int8 by NNCF's post-training quantisation."""

from __future__ import annotations

import contextlib
import io
import logging
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from latency.engines import NotInstalledError
from latency.engines.onnx_export import to_onnx

if TYPE_CHECKING:
    import torch

CALIBRATION_BATCHES = 4
HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}  # without a hint OpenVINO takes bf16 where it can


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class OpenVino:
    precision: Literal["fp32", "bf16", "int8"] = "fp32"
    threads: Annotated[int, Field(ge=1)] = 1

    def __post_init__(self) -> None:
        import openvino

        able = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if self.precision == "bf16" and "BF16" not in able:
            raise NotInstalledError("precision=bf16: this CPU has no bf16 arithmetic; take fp32 or int8")

    @property
    def version(self) -> str:
        import openvino

        return f"openvino {openvino.__version__}"

    def prepare(self, network: torch.nn.Module, images: torch.Tensor) -> tuple[Any, Any]:
        """An inference request of the compiled model and its input."""
        import openvino

        core = openvino.Core()
        model = core.read_model(to_onnx(network, images))
        if self.precision == "int8":
            model = _quantised(model, images)
        options = {
            "INFERENCE_PRECISION_HINT": HINTS[self.precision],
            "INFERENCE_NUM_THREADS": self.threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        }
        request = core.compile_model(model, "CPU", options).create_infer_request()
        request.set_input_tensor(openvino.Tensor(images.numpy()))
        return request, images

    def run(self, session: tuple[Any, Any]) -> None:
        session[0].infer()


def _quantised(model: Any, images: torch.Tensor) -> Any:
    import nncf
    import torch
    from nncf.quantization.advanced_parameters import OverflowFix

    from latency.descriptor import pairs_overflow

    noise = torch.Generator().manual_seed(0)
    batches = [torch.randn(images.shape, generator=noise).numpy() for _ in range(CALIBRATION_BATCHES)]
    logging.getLogger("nncf").setLevel(logging.ERROR)
    overflow = OverflowFix.ENABLE if pairs_overflow() else OverflowFix.FIRST_LAYER
    with contextlib.redirect_stdout(io.StringIO()):  # two progress bars per network
        return nncf.quantize(
            model,
            nncf.Dataset(batches),
            subset_size=CALIBRATION_BATCHES,
            advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=overflow),
        )
