"""A subnet as files that other programs run: ONNX, torch.export, state dict with a loading snippet, OpenVINO
IR, ExecuTorch. Each file is loaded again and compared with the network before it counts as written.

All of them carry what is known of the network: name, resolution, preprocessing, accuracy, latency.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from supernet.deploy.onnx import INPUT, to_onnx
from supernet.registry import unknown_name
from supernet.weights import subnet as subnets
from supernet.weights.quality import Run
from supernet.weights.subnet import Subnet

if TYPE_CHECKING:
    import torch

TOLERANCE = 1e-4  # largest difference of a logit, relative to the largest logit
CHECKED_BATCHES = (1, 3)  # none is the batch of 2 that exporters see: where it is free, it must be
PREFIX = "ofa_frontier."  # of keys in metadata that is shared with other programs

SNIPPET = '''\
"""{architecture}: needs torch, ofa and safetensors only. Input: {preprocessing}."""
import json
from pathlib import Path
import torch
from ofa.imagenet_classification.networks import get_net_by_name
from safetensors.torch import load_file
folder = Path(__file__).parent
config = json.loads((folder / "subnet.json").read_text())["network"]
network = get_net_by_name(config["name"]).build_from_config(config).eval()
torch.nn.Module.load_state_dict(network, load_file(folder / "weights.safetensors"))
'''


@dataclass(frozen=True)
class Written:
    """A file (or folder) that was written and checked."""

    path: Path
    file_bytes: int
    difference: float  # largest of a logit, relative to the largest logit


@dataclass(frozen=True)
class Format:
    """How a format is written into a folder (giving its files, the model first), and how it runs."""

    requires: tuple[str, ...]
    install: str  # what pip installs
    write: Callable[[Subnet, Path, Mapping[str, Any]], tuple[Path, ...]]
    run: Callable[[Path, NDArray[np.float32]], NDArray[np.float32]]
    batches: tuple[int, ...] = CHECKED_BATCHES


def facts_of(subnet: Subnet) -> dict[str, Any]:
    """What every exported file says about itself."""
    facts = dict(subnet.facts)
    mean, std = facts.pop("mean"), facts.pop("std")
    preprocessing = {
        "color": "RGB",
        "layout": "NCHW",
        "side": subnet.side,
        "range": [0, 1],
        "mean": mean,
        "std": std,
    }
    if "resize" in facts:
        preprocessing["resize"] = facts.pop("resize")
    return {
        "name": subnet.architecture,
        "resolution": subnet.side,
        "preprocessing": preprocessing,
        **facts,
    }


def export(subnet: Subnet, folder: Path, formats: Sequence[str]) -> dict[str, Written]:
    """Write the subnet into `folder` in these formats; each is loaded again and must give the same logits.

    ValueError when a format is unknown or not installed, when the folder holds such a file already, or when a
    file computes something else (nothing of it is left then).
    """
    for name in formats:
        if name not in FORMATS:
            raise unknown_name("export format", name, FORMATS)
        if missing := [package for package in FORMATS[name].requires if find_spec(package) is None]:
            raise ValueError(
                f"formats={name} needs {', '.join(missing)}, not installed here: "
                f"pip install {FORMATS[name].install}"
            )
    if subnet.facts.get("precision", "fp32") != "fp32":
        raise ValueError(
            "this subnet is deployed in int8, and its int8 model is model.onnx (model.xml of OpenVINO) in "
            "the folder that weights= names; for other formats, which are fp32, export the step before"
        )
    facts = facts_of(subnet)
    folder.mkdir(parents=True, exist_ok=True)
    return {name: _export(FORMATS[name], name, subnet, folder, facts) for name in formats}


def _export(kind: Format, name: str, subnet: Subnet, folder: Path, facts: Mapping[str, Any]) -> Written:
    with tempfile.TemporaryDirectory(dir=folder) as aside:
        files = kind.write(subnet, Path(aside), facts)
        apart = max(difference(subnet, lambda images: kind.run(files[0], images), b) for b in kind.batches)
        if not apart <= TOLERANCE:
            raise ValueError(
                f"formats={name}: the logits of the file are off by {apart:.1e} of the largest, allowed is "
                f"{TOLERANCE:g}; it was not kept"
            )
        ends = [folder / file.name for file in files]
        if taken := [str(end) for end in ends if end.exists()]:
            raise ValueError(f"{', '.join(taken)} exists and is left alone; choose another out=")
        for file, end in zip(files, ends, strict=True):
            os.replace(file, end)
    return Written(ends[0], sum(end.stat().st_size for end in ends), apart)


def difference(
    subnet: Subnet, run: Callable[[NDArray[np.float32]], NDArray[np.float32]], batch: int
) -> float:
    """Largest difference between the logits of the subnet and those of `run` on a batch of noise, relative to
    the largest logit."""
    import torch

    noise = torch.randn((batch, 3, subnet.side, subnet.side), generator=torch.Generator().manual_seed(batch))
    with torch.inference_mode():
        expected = subnet.module(noise).numpy()
    found = run(noise.numpy())
    if found.shape != expected.shape:
        return float("inf")
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def _example(subnet: Subnet, batch: int = 2) -> torch.Tensor:
    import torch

    return torch.zeros((batch, 3, subnet.side, subnet.side))


def _texts(facts: Mapping[str, Any]) -> dict[str, str]:
    """Facts as strings: text as it is, everything else as JSON."""
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in facts.items()}


# ---------------------------------------------------------------------- ONNX
def onnx_bytes(subnet: Subnet) -> bytes:
    """ONNX of the subnet in fp32 for any number of images."""
    return to_onnx(subnet.module, _example(subnet), any_batch=True)


def with_metadata(model: bytes, facts: Mapping[str, Any]) -> bytes:
    """The ONNX model with the facts in its `metadata_props`."""
    import onnx

    parsed = onnx.load_from_string(model)
    onnx.helper.set_model_props(parsed, {PREFIX + key: text for key, text in _texts(facts).items()})
    return bytes(parsed.SerializeToString())


def read_metadata(path: Path) -> dict[str, str]:
    """The facts in an ONNX file of ours."""
    import onnx

    props = onnx.load(path, load_external_data=False).metadata_props
    return {one.key.removeprefix(PREFIX): one.value for one in props if one.key.startswith(PREFIX)}


def _write_onnx(subnet: Subnet, folder: Path, facts: Mapping[str, Any]) -> tuple[Path, ...]:
    path = folder / "model.onnx"
    path.write_bytes(with_metadata(onnx_bytes(subnet), facts))
    return (path,)


def onnx_runner(model: bytes) -> Run:
    """Something that gives the (b, c) logits of an ONNX model, by ONNX Runtime on one thread."""
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


def _run_onnx(path: Path, images: NDArray[np.float32]) -> NDArray[np.float32]:
    return onnx_runner(path.read_bytes())(images)


# ---------------------------------------------------------------------- torch.export
def _write_torch_export(subnet: Subnet, folder: Path, facts: Mapping[str, Any]) -> tuple[Path, ...]:
    import torch

    path = folder / "model.pt2"
    batch = ({0: torch.export.Dim("batch")},)
    with torch.no_grad():
        program = torch.export.export(subnet.module, (_example(subnet),), dynamic_shapes=batch)
    torch.export.save(program, path, extra_files=_texts(facts))
    return (path,)


def _run_torch_export(path: Path, images: NDArray[np.float32]) -> NDArray[np.float32]:
    import torch

    with torch.no_grad():
        found: torch.Tensor = torch.export.load(path).module()(torch.from_numpy(images))
    return found.numpy()


# ---------------------------------------------------------------------- state dict
def _write_state_dict(subnet: Subnet, folder: Path, facts: Mapping[str, Any]) -> tuple[Path, ...]:
    """weights.safetensors, subnet.json and load.py, which needs nothing of ours."""
    from safetensors.torch import save

    files = tuple(folder / name for name in ("load.py", "weights.safetensors", "subnet.json"))
    wanted = ", ".join(f"{key} {value}" for key, value in facts["preprocessing"].items())
    files[0].write_text(SNIPPET.format(architecture=subnet.architecture, preprocessing=wanted))
    tensors = {name: tensor.contiguous() for name, tensor in subnet.module.state_dict().items()}
    files[1].write_bytes(save(tensors, metadata=_texts(facts)))
    files[2].write_text(json.dumps({**facts, "network": subnet.config}, indent=1) + "\n")
    return files


def _run_state_dict(path: Path, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """As the snippet loads it, in this process."""
    import torch
    from safetensors.torch import load_file

    config = json.loads((path.parent / "subnet.json").read_text())["network"]
    module = subnets.build(config, load_file(path.parent / "weights.safetensors"))
    with torch.inference_mode():
        found: torch.Tensor = module(torch.from_numpy(images))
    return found.numpy()


# ---------------------------------------------------------------------- OpenVINO IR
def _write_openvino(subnet: Subnet, folder: Path, facts: Mapping[str, Any]) -> tuple[Path, ...]:
    import openvino

    model = openvino.Core().read_model(onnx_bytes(subnet))
    return save_openvino(model, folder / "model.xml", facts)


def save_openvino(model: Any, path: Path, facts: Mapping[str, Any]) -> tuple[Path, Path]:
    """Write an OpenVINO model with the facts in its `rt_info`; returns its two files."""
    import openvino

    for key, text in _texts(facts).items():
        model.set_rt_info(text, [PREFIX.rstrip("."), key])
    openvino.save_model(model, path, compress_to_fp16=False)  # fp16 weights are its default
    return path, path.with_suffix(".bin")


def _run_openvino(path: Path, images: NDArray[np.float32]) -> NDArray[np.float32]:
    import openvino

    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = openvino.Core().compile_model(path, "CPU", options)
    return np.array(compiled(images)[0])


# ---------------------------------------------------------------------- ExecuTorch
def _write_executorch(subnet: Subnet, folder: Path, facts: Mapping[str, Any]) -> tuple[Path, ...]:
    """A program for XNNPACK, one image at a time; its method `ofa_frontier` gives the facts as JSON."""
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    with torch.no_grad():
        program = torch.export.export(subnet.module, (_example(subnet, 1),))
    lowered = to_edge_transform_and_lower(
        program,
        partitioner=[XnnpackPartitioner()],
        constant_methods={PREFIX.rstrip("."): json.dumps(dict(facts))},
    )
    path = folder / "model.pte"
    path.write_bytes(lowered.to_executorch().buffer)
    return (path,)


def _run_executorch(path: Path, images: NDArray[np.float32]) -> NDArray[np.float32]:
    import torch
    from executorch.runtime import Runtime

    method = Runtime.get().load_program(path).load_method("forward")
    return np.asarray(method.execute([torch.from_numpy(images)])[0])


FORMATS: Mapping[str, Format] = {
    "onnx": Format(("onnx", "onnxruntime"), "'ofa-frontier[onnx]'", _write_onnx, _run_onnx),
    "torch_export": Format((), "torch", _write_torch_export, _run_torch_export),
    "state_dict": Format((), "torch", _write_state_dict, _run_state_dict),
    "openvino": Format(("openvino",), "'ofa-frontier[openvino]'", _write_openvino, _run_openvino),
    "executorch": Format(("executorch",), "executorch", _write_executorch, _run_executorch, (1,)),
}
