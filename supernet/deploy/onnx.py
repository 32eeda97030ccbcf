"""Networks as ONNX bytes: for the engines that read ONNX, and as the form that is deployed."""

import io
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from supernet.weights.quality import Run

OPSET = 17
INPUT, OUTPUT = "images", "logits"
PREFIX = "ofa_frontier."  # of keys in metadata that is shared with other programs


def to_onnx(network: torch.nn.Module, images: torch.Tensor, *, any_batch: bool = False) -> bytes:
    """ONNX of the network for inputs of exactly this shape, or with `any_batch` for any number of images.

    By the TorchScript exporter: half a second per network where the newer one takes ten.
    """
    file = io.BytesIO()
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the exporter does not know fused attention
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # it calls itself deprecated, and traces shape arithmetic
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
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return file.getvalue()


def compact(model: bytes) -> bytes:
    """The same ONNX model with short names inside and no inferred shapes; inputs and outputs keep theirs.

    Names are a fifth of the int8 file of a small network (ours: 503 to 414 kB for 0.35 M parameters).
    """
    import onnx

    parsed = onnx.load_from_string(model)
    graph = parsed.graph
    fixed = {value.name for value in (*graph.input, *graph.output)} | {""}
    short: dict[str, str] = {}

    def rename(name: str) -> str:
        return name if name in fixed else short.setdefault(name, f"{len(short):x}")

    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [rename(name) for name in names]
        node.ClearField("name")
        node.ClearField("doc_string")
    for tensor in graph.initializer:
        tensor.name = rename(tensor.name)
    del graph.value_info[:]
    return bytes(parsed.SerializeToString())


def runner(model: bytes | Path) -> Run:
    """A function that gives the (b, c) logits of an ONNX model, or of its file: ONNX Runtime, one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = 1, 1, 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda images: np.asarray(session.run(None, {INPUT: images})[0])


def weight_bytes(model: bytes) -> float:
    """Bytes of the tensors stored in an ONNX model, in whatever precision each is."""
    import onnx

    stored = onnx.load_from_string(model).graph.initializer
    return float(sum(onnx.numpy_helper.to_array(tensor).nbytes for tensor in stored))


def as_texts(facts: Mapping[str, Any]) -> dict[str, str]:
    """Facts as metadata: text as it is, everything else as JSON."""
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in facts.items()}


def with_metadata(model: bytes, facts: Mapping[str, Any]) -> bytes:
    """The ONNX model with the facts in its `metadata_props`."""
    import onnx

    parsed = onnx.load_from_string(model)
    onnx.helper.set_model_props(parsed, {PREFIX + key: text for key, text in as_texts(facts).items()})
    return bytes(parsed.SerializeToString())


def read_metadata(path: Path) -> dict[str, str]:
    """The facts in an ONNX file that `with_metadata` made."""
    import onnx

    props = onnx.load(path, load_external_data=False).metadata_props
    return {prop.key.removeprefix(PREFIX): prop.value for prop in props if prop.key.startswith(PREFIX)}
