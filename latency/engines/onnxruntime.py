"""ONNX Runtime on the CPU: fp32, or int8 by static quantisation (QDQ, per channel)."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from latency.engines.onnx_export import INPUT, to_onnx

if TYPE_CHECKING:
    import torch

CALIBRATION_BATCHES = 4  # random inputs: ranges matter for accuracy, not for speed


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class OnnxRuntime:
    precision: Literal["fp32", "int8"] = "fp32"
    threads: Annotated[int, Field(ge=1)] = 1

    @property
    def version(self) -> str:
        import onnxruntime

        return f"onnxruntime {onnxruntime.__version__}"

    def prepare(self, network: torch.nn.Module, images: torch.Tensor) -> tuple[Any, dict[str, Any]]:
        """An inference session and its input."""
        import onnxruntime

        model = to_onnx(network, images)
        if self.precision == "int8":
            model = _quantised(model, images)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
        options.log_severity_level = 3
        if self.threads > 1:
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return session, {INPUT: images.numpy()}

    def run(self, session: tuple[Any, dict[str, Any]]) -> None:
        session[0].run(None, session[1])


def _quantised(model: bytes, images: torch.Tensor) -> bytes:
    """Static int8 QDQ, unsigned activations and signed weights.

    Without the pre-processing (shape inference, fusion) int8 is slower than fp32; with signed activations,
    the library's default, three times slower (10.9 against 2.9 ms on a Zen 5 core with VNNI).
    """
    import torch
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    from latency.descriptor import pairs_overflow

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
        def __init__(self) -> None:
            noise = torch.Generator().manual_seed(0)
            self.left = [
                {INPUT: torch.randn(images.shape, generator=noise).numpy()}
                for _ in range(CALIBRATION_BATCHES)
            ]

        def get_next(self) -> dict[str, Any] | None:
            return self.left.pop() if self.left else None

    logging.getLogger().setLevel(logging.ERROR)  # it logs advice to the root logger with every network
    with tempfile.TemporaryDirectory() as folder:
        raw, clean, small = (Path(folder) / name for name in ("raw.onnx", "clean.onnx", "int8.onnx"))
        raw.write_bytes(model)
        quant_pre_process(raw, clean)
        quantize_static(
            clean,
            small,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            reduce_range=pairs_overflow(),
        )
        return small.read_bytes()
