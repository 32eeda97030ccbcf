"""The model that a subnet is deployed as: ONNX in fp32; in int8 ONNX or OpenVINO IR, ranges from images."""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from supernet import extras, registry
from supernet.deploy import onnx, openvino
from supernet.deploy.export import onnx_bytes
from supernet.deploy.int8 import CLIP, Pixels, nncf_int8, onnxruntime_int8
from supernet.registry import unknown_name
from supernet.weights.images import Images
from supernet.weights.quality import Run
from supernet.weights.subnet import Subnet

CALIBRATION_BATCH = 32
ENGINES = ("onnxruntime", "openvino")  # of int8 models
FILES = ("model.onnx", "model.xml")  # one of them is in a folder


@dataclass(frozen=True, eq=False)
class DeployedModel:
    """A model in its final precision; `files(facts)` returns {name: bytes}, the loadable file first."""

    run: Run
    weight_bytes: float
    files: Callable[[Mapping[str, Any]], dict[str, bytes]]


def check_engine(engine: str) -> None:
    """ValueError when no int8 model can be made for this engine here."""
    if engine not in ENGINES:
        raise unknown_name("int8_engine", engine, ENGINES)
    extras.require(f"int8_engine={engine}", registry.load("engine", engine)["requires"])


def from_subnet(subnet: Subnet, images: Images, *, narrow: bool) -> DeployedModel:
    """The model in the precision, and for the engine, that the subnet's facts name."""
    model = onnx_bytes(subnet)
    if subnet.facts.get("precision", "fp32") == "fp32":
        return _onnx(model)
    batches = calibration(subnet, images, int(subnet.facts["calibration_images"]))
    if subnet.facts.get("int8_engine", "onnxruntime") == "onnxruntime":
        return _onnx(onnxruntime_int8(model, batches, narrow=narrow, clip=CLIP))
    return _openvino(nncf_int8(openvino.read_model(model), batches, narrow=narrow, clip=CLIP))


def calibration(subnet: Subnet, images: Images, count: int) -> list[Pixels]:
    """The first `count` calibration images at the subnet's side, in batches."""
    batches = images.batches("calibration", subnet.side, CALIBRATION_BATCH, images=count)
    return [pictures.contiguous().numpy() for pictures, _ in batches]


def path(folder: Path) -> Path:
    """The model in a folder of `make shrink`; ValueError when there is none."""
    for name in FILES:
        if (folder / name).is_file():
            return folder / name
    raise ValueError(f"{folder} holds neither {' nor '.join(FILES)}")


def _onnx(model: bytes) -> DeployedModel:
    size = onnx.weight_bytes(model)
    return DeployedModel(onnx.runner(model), size, lambda facts: {FILES[0]: onnx.with_metadata(model, facts)})


def _openvino(model: Any) -> DeployedModel:
    def files(facts: Mapping[str, Any]) -> dict[str, bytes]:
        with tempfile.TemporaryDirectory() as folder:
            written = openvino.write(model, Path(folder) / FILES[1], facts)
            return {file.name: file.read_bytes() for file in written}

    _, weights = files({}).values()
    return DeployedModel(openvino.runner(model), float(len(weights)), files)
