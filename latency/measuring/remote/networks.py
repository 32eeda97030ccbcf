"""Networks as they are sent to a device: ONNX whose weights repeat, so that it deflates fifty-fold.

What a network takes depends on its shapes and not on the values of its weights, which are noise before and
after. A board behind a radio link then waits for kilobytes where a network has megabytes.
"""

from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from latency.measuring.jobs import Job

if TYPE_CHECKING:
    import torch

ONE_AT_A_TIME = Lock()  # PyTorch's exporter has one state for the process
PERIOD = 4096  # numbers of a tensor until they repeat: 16 kB, within the 32 kB that deflate looks back


def export(job: Job, precision: str, *, narrow: bool) -> bytes:
    """The ONNX file of a network for inputs of its shape; `narrow` as in `supernet.deploy.int8`."""
    with ONE_AT_A_TIME:
        return exported(*job.build(), precision, narrow=narrow)


def exported(network: "torch.nn.Module", images: "torch.Tensor", precision: str, *, narrow: bool) -> bytes:
    """The same of a network that is built."""
    from supernet.deploy.int8 import onnxruntime_int8, random_batches
    from supernet.deploy.onnx import to_onnx

    model = to_onnx(network, images)
    if precision == "int8":
        # random inputs: ranges matter for accuracy, not for speed
        model = onnxruntime_int8(model, random_batches(images, 4), narrow=narrow)
    return repeating(model)


def repeating(model: bytes) -> bytes:
    """The ONNX model with tensors of more than PERIOD numbers replaced by repetitions of their first ones."""
    import onnx

    parsed: Any = onnx.load_from_string(model)
    for number, tensor in enumerate(parsed.graph.initializer):
        values = onnx.numpy_helper.to_array(tensor)
        if values.size > PERIOD:
            first = np.roll(values.reshape(-1)[:PERIOD], number)  # no two tensors of a network are equal
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.resize(first, values.shape), tensor.name))
    return bytes(parsed.SerializeToString())
