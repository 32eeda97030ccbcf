"""A subnet as files that other programs run: ONNX, torch.export, a state dict that loads itself, the `ofa`
package's own form, OpenVINO IR and ExecuTorch.

Each file is loaded again and compared with the network before it counts as written. All of them carry what is
known of the network: name, resolution, preprocessing, accuracy and latency.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from safetensors.torch import save as safetensors_bytes

from supernet import extras
from supernet.deploy import onnx, openvino, specialised
from supernet.files import artifact, disk
from supernet.registry import unknown_name
from supernet.weights import family
from supernet.weights import subnet as subnets
from supernet.weights.quality import Run, runner
from supernet.weights.subnet import Subnet

TOLERANCE = 1e-4  # largest difference of a logit, relative to the largest logit
MOVED = ".exported.json"  # the files of an export that is not finished
CHECKED_BATCHES = (1, 3)  # none is the batch of 2 that exporters see: where it is free, it must be
SNIPPET = '''\
"""A subnet as `network`, in `about` what is known of it. Needs torch, safetensors and what is named below."""
import json
from pathlib import Path
import torch
from safetensors.torch import load_file
folder = Path(__file__).parent
about = json.loads((folder / "subnet.json").read_text())
{loading}
torch.nn.Module.load_state_dict(network.eval(), load_file(folder / "weights.safetensors"))
'''
Facts = Mapping[str, Any]


@dataclass(frozen=True)
class Written:
    """A file (or folder) that was written and checked."""

    path: Path
    file_bytes: int
    difference: float  # largest of a logit, relative to the largest logit


@dataclass(frozen=True)
class Format:
    """How a subnet is written into a folder (giving its files, the model first), and how the model runs."""

    requires: tuple[str, ...]
    write: Callable[[Subnet, Path, Facts], tuple[Path, ...]]
    load: Callable[[Path], Run]
    batches: tuple[int, ...] = CHECKED_BATCHES
    check: Callable[[Subnet], None] = lambda subnet: None  # ValueError for a network it cannot hold


def export(subnet: Subnet, folder: Path, formats: Sequence[str]) -> dict[str, Written]:
    """Write the subnet into `folder` in these formats, load each file again and compare its logits.

    A format that is unknown or not installed, and a file that the folder holds already, are a ValueError. So
    is a file whose logits differ from the network's; it is removed.

    >>> subnet = subnets.random("ofa_small r16 d1-1-1 k3-3-3 e2-2-2 ft0")
    >>> export(subnet, Path("phone"), ["onnx"])["onnx"].path
    PosixPath('phone/model.onnx')
    """
    for name in formats:
        if name not in FORMATS:
            raise unknown_name("export format", name, FORMATS)
        extras.require(f"formats={name}", FORMATS[name].requires)
        FORMATS[name].check(subnet)
    if subnet.facts.get("precision", "fp32") != "fp32":
        raise ValueError(
            "this subnet is deployed in int8, and its int8 model is model.onnx (model.xml of OpenVINO) in "
            "the folder that weights= names; for other formats, which are fp32, export the step before"
        )
    with disk.holding(folder, leave=False):
        written = {name: _export(name, subnet, folder) for name in formats}
        disk.remove(folder / MOVED)
    return written


def _export(name: str, subnet: Subnet, folder: Path) -> Written:
    form, aside, moved = FORMATS[name], folder / f".{name}", folder / MOVED
    with disk.scratch(aside):
        files = form.write(subnet, aside, facts_of(subnet))
        run = form.load(files[0])
        apart = max(difference(subnet, run, batch) for batch in form.batches)
        if not apart <= TOLERANCE:
            raise ValueError(
                f"formats={name}: the logits of the file are off by {apart:.1e} of the largest, allowed is "
                f"{TOLERANCE:g}; it was not kept"
            )
        ends = [folder / file.name for file in files]
        ours = json.loads(moved.read_text()) if moved.exists() else []  # of an export that was killed, too
        if taken := [str(end) for end in ends if end.exists() and end.name not in ours]:
            raise ValueError(f"{', '.join(taken)} exists and is left alone; choose another out=")
        artifact.write_json(moved, [*ours, *(end.name for end in ends)])
        for file, end in zip(files, ends, strict=True):
            disk.rename(file, end)
    return Written(ends[0], sum(end.stat().st_size for end in ends), apart)


def facts_of(subnet: Subnet) -> dict[str, Any]:
    """What every exported file says about itself."""
    facts = dict(subnet.facts)
    preprocessing = {"color": "RGB", "layout": "NCHW", "side": subnet.side, "range": [0, 1]}
    preprocessing |= {key: facts.pop(key) for key in ("mean", "std", "resize") if key in facts}
    return {"name": subnet.architecture, "resolution": subnet.side, "preprocessing": preprocessing, **facts}


def difference(subnet: Subnet, run: Run, batch: int) -> float:
    """Largest difference between the logits of the subnet and those of `run` on a batch of noise, relative to
    the largest logit."""
    images = noise(subnet, batch).numpy()
    expected, logits = runner(subnet.module)(images), run(images)
    if logits.shape != expected.shape:
        return float("inf")
    return float(np.abs(logits - expected).max() / np.abs(expected).max())


def noise(subnet: Subnet, batch: int) -> torch.Tensor:
    """(batch, 3, side, side) always the same images of noise."""
    shape = (batch, 3, subnet.side, subnet.side)
    return torch.randn(shape, generator=torch.Generator().manual_seed(batch))


def onnx_bytes(subnet: Subnet) -> bytes:
    """ONNX of the subnet in fp32 for any number of images."""
    return onnx.to_onnx(subnet.module, noise(subnet, 2), any_batch=True)


def _write_onnx(subnet: Subnet, folder: Path, facts: Facts) -> tuple[Path, ...]:
    path = folder / "model.onnx"
    artifact.write_bytes(path, onnx.with_metadata(onnx_bytes(subnet), facts))
    return (path,)


def _write_openvino(subnet: Subnet, folder: Path, facts: Facts) -> tuple[Path, ...]:
    return openvino.write(openvino.read_model(onnx_bytes(subnet)), folder / "model.xml", facts)


def _write_torch_export(subnet: Subnet, folder: Path, facts: Facts) -> tuple[Path, ...]:
    path = folder / "model.pt2"
    batch = ({0: torch.export.Dim("batch")},)
    with torch.no_grad():
        program = torch.export.export(subnet.module, (noise(subnet, 2),), dynamic_shapes=batch)
    with disk.replacing(path) as file:
        torch.export.save(program, file, extra_files=onnx.as_texts(facts))
    return (path,)


def _write_state_dict(subnet: Subnet, folder: Path, facts: Facts) -> tuple[Path, ...]:
    """weights.safetensors, subnet.json and load.py, which needs what the family's networks are made of."""
    files = tuple(folder / name for name in ("load.py", "weights.safetensors", "subnet.json"))
    # Facts may be of a file of somebody else: they are data in subnet.json, no text of the program.
    loading = family.of(subnets.parse(subnet.architecture)[0]).loading
    artifact.write_text(files[0], SNIPPET.format(loading=loading))
    tensors = {name: tensor.contiguous() for name, tensor in subnet.module.state_dict().items()}
    artifact.write_bytes(files[1], safetensors_bytes(tensors, metadata=onnx.as_texts(facts)))
    artifact.write_json(files[2], {**facts, "network": subnet.config})
    return files


def _load_state_dict(path: Path) -> Run:
    """As the snippet loads it, in this process."""
    about, state = json.loads((path.parent / "subnet.json").read_text()), path.parent / "weights.safetensors"
    return runner(subnets.build(about["name"], about["network"], load_file(state)))


def _write_executorch(subnet: Subnet, folder: Path, facts: Facts) -> tuple[Path, ...]:
    """A program for XNNPACK, one image at a time; its method `ofa_frontier` gives the facts as JSON."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    with torch.no_grad():
        program = torch.export.export(subnet.module, (noise(subnet, 1),))
    lowered = to_edge_transform_and_lower(
        program,
        partitioner=[XnnpackPartitioner()],
        constant_methods={onnx.PREFIX.rstrip("."): json.dumps(dict(facts))},
    )
    path = folder / "model.pte"
    artifact.write_bytes(path, lowered.to_executorch().buffer)
    return (path,)


def _load_executorch(path: Path) -> Run:
    from executorch.runtime import Runtime

    method = Runtime.get().load_program(path).load_method("forward")
    return lambda images: np.asarray(method.execute([torch.from_numpy(images)])[0])


FORMATS: Mapping[str, Format] = {
    "onnx": Format(("onnx", "onnxruntime"), _write_onnx, onnx.runner),
    "torch_export": Format((), _write_torch_export, lambda path: runner(torch.export.load(path).module())),
    "state_dict": Format((), _write_state_dict, _load_state_dict),
    "net_config": Format(("ofa",), specialised.write, specialised.runner, check=specialised.check),
    "openvino": Format(("openvino",), _write_openvino, openvino.runner),
    "executorch": Format(("executorch",), _write_executorch, _load_executorch, (1,)),
}
