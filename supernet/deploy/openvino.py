"""OpenVINO models: how they are run on this machine and written as IR."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from supernet.deploy.onnx import PREFIX, as_texts
from supernet.files import artifact
from supernet.weights.quality import Run


def read_model(model: bytes | Path) -> Any:
    """The OpenVINO model of an ONNX model or of a file."""
    import openvino

    return openvino.Core().read_model(model)


def runner(model: Any) -> Run:
    """A function that gives the (b, c) logits of an OpenVINO model, or of its .xml file, on one thread."""
    import openvino

    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = openvino.Core().compile_model(model, "CPU", options)
    return lambda images: np.array(compiled(images)[0])


def write(model: Any, path: Path, facts: Mapping[str, Any]) -> tuple[Path, Path]:
    """Write an OpenVINO model with the facts in its `rt_info`; returns its two files."""
    import openvino

    for key, text in as_texts(facts).items():
        model.set_rt_info(text, [PREFIX.rstrip("."), key])
    files = path, path.with_suffix(".bin")
    with tempfile.TemporaryDirectory() as folder:
        openvino.save_model(model, Path(folder) / path.name, compress_to_fp16=False)  # fp16 is its default
        for file in files:
            artifact.write_bytes(file, (Path(folder) / file.name).read_bytes())
    return files
