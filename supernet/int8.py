"""Post-training int8: ONNX models with quantised weights and activations, by ONNX Runtime or by NNCF.

Ranges of activations come from the batches that are given: images for a model that is deployed, anything for
one that is only timed. `narrow` keeps weights to 7 bits, for processors that add pairs of products in 16 bits
(x86 without VNNI) and would overflow.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from supernet.onnx_export import INPUT, compact

if TYPE_CHECKING:
    import torch

Images = NDArray[np.float32]  # (b, 3, r, r), normalised


def onnxruntime_int8(model: bytes, batches: Iterable[Images], *, narrow: bool) -> bytes:
    """The ONNX model in static int8 QDQ: weights signed and per channel, activations unsigned and per tensor.

    Without the pre-processing (shape inference, fusion) int8 is slower than fp32; with signed activations,
    the library's default, three times slower (10.9 against 2.9 ms on a Zen 5 core with VNNI).
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
        def __init__(self) -> None:
            self.left: Iterator[Images] = iter(batches)

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.left, None)
            return None if batch is None else {INPUT: batch}

    with tempfile.TemporaryDirectory() as folder, _quiet(logging.getLogger()):
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
            reduce_range=narrow,
        )
        return compact(small.read_bytes())


def nncf_int8(model: Any, batches: Iterable[Images], *, narrow: bool) -> Any:
    """The OpenVINO model in int8 by NNCF's post-training quantisation."""
    import nncf
    from nncf.quantization.advanced_parameters import OverflowFix

    images = list(batches)
    overflow = OverflowFix.ENABLE if narrow else OverflowFix.FIRST_LAYER
    # NNCF draws two progress bars per network
    with contextlib.redirect_stdout(io.StringIO()), _quiet(logging.getLogger("nncf")):
        return nncf.quantize(
            model,
            nncf.Dataset(images),
            subset_size=len(images),
            advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=overflow),
        )


def random_batches(like: torch.Tensor, count: int) -> list[Images]:
    """`count` fixed batches of noise in the shape of a batch: enough to time an int8 model, not to use it."""
    import torch

    noise = torch.Generator().manual_seed(0)
    return [torch.randn(like.shape, generator=noise).numpy() for _ in range(count)]


@contextlib.contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    """Errors only: both libraries log advice with every network, ONNX Runtime to the root logger."""
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
