"""A network as ONNX bytes, for the engines that read ONNX and for export."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

OPSET = 17
INPUT, OUTPUT = "images", "logits"


def to_onnx(network: torch.nn.Module, images: torch.Tensor, *, any_batch: bool = False) -> bytes:
    """ONNX of the network for inputs of exactly this shape, or with `any_batch` for any number of images.

    By the TorchScript exporter: half a second per network where the newer one takes ten.
    """
    import torch

    file = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter calls itself deprecated, and traces shape arithmetic
        torch.onnx.export(
            network,
            (images,),
            file,  # type: ignore[arg-type]  # what it takes without dynamo is not in its signature
            dynamo=False,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_axes={INPUT: {0: "batch"}, OUTPUT: {0: "batch"}} if any_batch else None,
        )
    return file.getvalue()
