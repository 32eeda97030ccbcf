"""Post-training int8: ONNX models with quantised weights and activations, by ONNX Runtime or by NNCF.

Ranges of activations come from batches: images for a model that is deployed, anything for one that is only
timed. `clip` is the share of an activation's values that may lie beyond its range; 0 takes
the extremes, and for networks that are deployed `CLIP` is far better: outliers otherwise cost more accuracy
than all the rest of int8 (docs/my_images.md). `narrow` keeps weights to 7 bits, for processors that add
pairs of products in 16 bits (x86 without VNNI) and would overflow.
"""

import contextlib
import io
import logging
import math
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from supernet.deploy.onnx import INPUT, compact
from supernet.files import artifact

Pixels = NDArray[np.float32]  # (b, 3, r, r) images, normalised
CLIP = 0.002
SAMPLE = 2**16  # about as many values of a batch are what a quantile is taken of


def onnxruntime_int8(model: bytes, batches: Iterable[Pixels], *, narrow: bool, clip: float = 0.0) -> bytes:
    """The ONNX model in static int8 QDQ: weights signed and per channel, activations unsigned and per tensor.

    Without the pre-processing (shape inference, fusion) int8 is slower than fp32; with signed activations,
    the library's default, three times slower (10.9 against 2.9 ms on a Zen 5 core with VNNI).
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    images = list(batches)
    remaining = ({INPUT: batch} for batch in images)

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
        def get_next(self) -> dict[str, Any] | None:
            return next(remaining, None)

    with tempfile.TemporaryDirectory() as folder, _quiet(logging.getLogger()):
        raw, clean, small = (Path(folder) / name for name in ("raw.onnx", "clean.onnx", "int8.onnx"))
        artifact.write_bytes(raw, model)
        # Its symbolic shape inference fails on the reshapes of attention; the plain one is enough.
        quant_pre_process(raw, clean, skip_symbolic_shape=True)
        ranges = activation_ranges(clean.read_bytes(), images, clip) if clip else {}
        overrides = {
            name: [dict(rmin=np.float32(low), rmax=np.float32(high))] for name, (low, high) in ranges.items()
        }
        quantize_static(
            clean,
            small,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            reduce_range=narrow,
            extra_options={"TensorQuantOverrides": overrides},
        )
        return compact(small.read_bytes())


def activation_ranges(model: bytes, batches: Iterable[Pixels], clip: float) -> dict[str, tuple[float, float]]:
    """`value_range` of every activation inside the ONNX model, mean over the batches.

    Its input is left out. Logits are not clipped, because the argmax depends on the largest. ONNX Runtime's
    own percentiles hold the activations of all batches in memory at once.
    """
    import onnx
    import onnxruntime

    parsed = onnx.shape_inference.infer_shapes(onnx.load_from_string(model))
    logits = {output.name for output in parsed.graph.output}
    # The exporter merges equal weights, as biases of an untrained network are, and leaves their names.
    computed = {name for node in parsed.graph.node for name in node.output} - logits
    parsed.graph.output.extend(
        value
        for value in parsed.graph.value_info
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT and value.name in computed
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(parsed.SerializeToString(), options, ["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs() if output.name not in logits]
    per_batch = [[value_range(a, clip) for a in session.run(names, {INPUT: images})] for images in batches]
    means = np.mean(per_batch, axis=0).tolist()
    return {name: (low, high) for name, (low, high) in zip(names, means, strict=True)}


def value_range(values: NDArray[np.float32], clip: float) -> tuple[float, float]:
    """(low, high) of values without the share `clip` that is largest in magnitude, zero included."""
    flat = values.reshape(-1)
    low, high = min(0.0, float(flat.min())), max(0.0, float(flat.max()))
    stride = max(1, len(flat) // SAMPLE)
    while math.gcd(stride, len(flat)) > 1:  # else it could miss channels, or columns of the maps
        stride += 1
    most = float(np.quantile(np.abs(flat[::stride]), 1 - clip)) if clip else np.inf
    return max(low, -most), min(high, most)


def nncf_int8(model: Any, batches: Iterable[Pixels], *, narrow: bool, clip: float = 0.0) -> Any:
    """The OpenVINO model in int8 by NNCF's post-training quantisation, on the grid of `onnxruntime_int8`.

    Activations without a zero point, NNCF's default, cost accuracy and save no time.
    """
    import nncf
    from nncf.quantization import range_estimator
    from nncf.quantization.advanced_parameters import OverflowFix

    images = list(batches)
    overflow = OverflowFix.ENABLE if narrow else OverflowFix.FIRST_LAYER
    advanced = nncf.AdvancedQuantizationParameters(overflow_fix=overflow)
    if clip:
        ends = range_estimator.StatisticsCollectorParameters(
            statistics_type=range_estimator.StatisticsType.QUANTILE,
            aggregator_type=range_estimator.AggregatorType.MEAN,
            quantile_outlier_prob=clip / 2,  # at either end; mean over the batches
        )
        advanced.activations_range_estimator_params = range_estimator.RangeEstimatorParameters(ends, ends)
    # NNCF draws two progress bars per network
    with contextlib.redirect_stdout(io.StringIO()), _quiet(logging.getLogger("nncf")):
        return nncf.quantize(
            model,
            nncf.Dataset(images),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(images),
            advanced_parameters=advanced,
        )


def random_batches(like: torch.Tensor, count: int) -> list[Pixels]:
    """`count` fixed batches of noise in the shape of a batch: enough to time an int8 model, not to use it."""
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
