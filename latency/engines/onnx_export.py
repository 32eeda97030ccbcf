"""A network as ONNX bytes, for the engines that read ONNX."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

OPSET = 17
INPUT = "images"


def to_onnx(network: torch.nn.Module, images: torch.Tensor) -> bytes:
    """ONNX of the network for inputs of exactly this shape.

    By the TorchScript exporter: half a second per network where the newer one takes ten.
    """
    import torch

    file = io.BytesIO()
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the exporter does not know fused attention
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter(
                "ignore"
            )  # the exporter calls itself deprecated, and traces shape arithmetic
            torch.onnx.export(
                network,
                (images,),
                file,  # type: ignore[arg-type]  # what it takes without dynamo is not in its signature
                dynamo=False,
                opset_version=OPSET,
                input_names=[INPUT],
            )
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return file.getvalue()
