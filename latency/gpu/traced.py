"""The kernels of any network, traced on the meta device: no weights and no arithmetic, only shapes.

Predictions of OFA subnets do not need it. It takes PyTorch, networks of the public tables `timm` too (the
extra `peers`).
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from latency.gpu import measurements
from latency.gpu.kernels import Kernels, Kind, concatenate, kernels
from latency.gpu.measurements import RUNS, Group
from supernet import extras
from supernet.files import tables
from supernet.weights import running

BATCH = 11  # a prime that divides no usual channel count or map: elements of maps are multiples of it
FREE = {  # operators that only change how a tensor is looked at, or make one
    "view", "_unsafe_view", "reshape", "permute", "transpose", "t", "expand", "slice", "select", "unsqueeze",
    "squeeze", "split", "split_with_sizes", "unbind", "detach", "alias", "empty", "zeros", "ones", "arange",
    "chunk", "as_strided", "unfold", "lift_fresh", "zeros_like", "ones_like", "empty_like", "new_empty",
    "full",
}  # fmt: skip
POOLS = {
    "mean",
    "sum",
    "amax",
    "max_pool2d_with_indices",
    "avg_pool2d",
    "_adaptive_avg_pool2d",
    "var",
    "var_mean",
}
ROWS = {"native_layer_norm", "_softmax", "native_group_norm"}
COPIES = {
    "clone",
    "cat",
    "constant_pad_nd",
    "copy_",
    "roll",
    "stack",
    "index",
    "_to_copy",
    "upsample_nearest2d",
}
MODELS, MOST_GMACS = "imagenet_models.csv.gz", 2.5
MERGED = ("fuse", "reparameterize", "switch_to_deploy")  # methods of layers that are merged before timing


class Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]  # of PyTorch
    """Collects the kernels of all operators that run under it, those of one image, and the name of the layer
    of each: the last of `running`."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kernels: list[Kernels] = []
        self.names: list[str] = []
        self.running = [""]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name not in FREE:
            self.kernels.append(_kernel(name, args, result))
            self.names.append(self.running[-1])
        return result


def _tensors(values: Any) -> Iterator[torch.Tensor]:
    for value in values if isinstance(values, (list, tuple)) else (values,):
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


def _elements(values: Any) -> tuple[float, float]:
    """Elements of maps of one image, and of weights."""
    sizes = [(t.numel(), t.dim() > 0 and t.numel() % BATCH == 0) for t in _tensors(values)]
    return sum(n / BATCH for n, scales in sizes if scales), float(sum(n for n, scales in sizes if not scales))


def _kernel(name: str, args: Any, result: Any) -> Kernels:
    """The kernel of one operator call."""
    (read, weights), (outputs, made) = _elements(args), _elements(result)
    moved: dict[str, Any] = dict(maps=read + outputs, weights=weights + made, outputs=outputs)
    if name == "convolution":
        return _convolution(args, result, moved)
    if name in ("addmm", "mm", "linear"):
        a, b = (args[1], args[2]) if name == "addmm" else (args[0], args[1])
        scale = BATCH if a.shape[0] % BATCH == 0 else 1
        return kernels(Kind.LINEAR, rows=a.shape[0] / scale, depth=a.shape[1], cols=b.shape[1], **moved)
    if name in ("bmm", "baddbmm"):
        a, b = args[-2], args[-1]
        copies, rows, depth = a.shape
        size = dict(rows=rows, depth=depth, cols=b.shape[2], copies=copies / BATCH)
        return kernels(Kind.BATCHED, **size, **moved)
    if "scaled_dot_product" in name:
        q, k = args[0], args[1]
        size = dict(
            rows=q.shape[-2], depth=2 * q.shape[-1], cols=k.shape[-2], copies=math.prod(q.shape[:-2]) / BATCH
        )
        return kernels(Kind.BATCHED, **size, **moved)
    if name in ("_native_batch_norm_legit_no_training", "native_batch_norm", "cudnn_batch_norm"):
        return kernels(Kind.NORM, **moved)
    kind = (
        Kind.ROWS
        if name in ROWS
        else Kind.POOL
        if name in POOLS
        else Kind.COPY
        if name in COPIES
        else Kind.ELEMENTWISE
    )
    return kernels(kind, **moved)


def _convolution(args: Any, result: torch.Tensor, moved: dict[str, Any]) -> Kernels:
    x, weight, groups = args[0], args[1], args[8]
    cin = x.shape[1]
    positions, cout = math.prod(result.shape[2:]), result.shape[1]
    size: dict[str, Any] = dict(side=max(result.shape[2:]), window=max(weight.shape[2:]), stride=args[3][0])
    if groups == cin and groups > 1:
        return kernels(
            Kind.DEPTHWISE, rows=positions, cols=cout, depth=math.prod(weight.shape[2:]), **size, **moved
        )
    vector, pointwise = math.prod(x.shape[2:]) == 1, max(weight.shape[2:]) == 1
    kind = Kind.LINEAR if vector else Kind.POINTWISE if pointwise and groups == 1 else Kind.CONV
    return kernels(
        kind,
        rows=positions,
        cols=cout / groups,
        depth=cin / groups * math.prod(weight.shape[2:]),
        copies=groups,
        **size,
        **moved,
    )


def kernels_of(network: torch.nn.Module, shape: Sequence[int]) -> tuple[Kernels, list[str]]:
    """(k,) kernels of one input of this shape in the order they run, and the name of the layer of each.

    ValueError for a network that cannot run without numbers.
    """
    tracer, images = Tracer(), torch.empty((BATCH, *shape), device="meta")
    try:
        with torch.no_grad(), running.naming(network, tracer.running), tracer:
            running.run_without_numbers(network, images)
    except Exception as error:  # whatever the code of a network raises
        size = "x".join(map(str, shape))
        raise ValueError(f"this network cannot be traced on inputs of {size}: {error}") from error
    return concatenate(tracer.kernels), tracer.names


@cache
def trace(architecture: str, size: int) -> Kernels | None:
    """The kernels of one image of a timm network with inputs of this side.

    None for networks whose layers timm merges before it times them. NotInstalledError without timm.
    """
    extras.require("tracing networks", ["timm"])
    import timm

    with torch.device("meta"):
        model = timm.create_model(architecture).eval()
    if any(hasattr(module, method) for module in model.modules() for method in MERGED):
        return None
    return kernels_of(model, (3, size, size))[0].merged()


def networks(names: Iterable[tuple[str, int]]) -> dict[tuple[str, int], Kernels]:
    """The kernels of timm's networks by architecture and side, without those that cannot be traced here.

    A network that this version of timm does not know, or that refuses the side, is left out.
    """
    traced: dict[tuple[str, int], Kernels] = {}
    for name in names:
        try:
            kernels = trace(*name)
        except (RuntimeError, ValueError, TypeError, AttributeError):
            continue
        if kernels is not None:
            traced[name] = kernels
    return traced


@cache
def groups(data: Path, most: int | None = None, most_gmacs: float = MOST_GMACS) -> list[Group]:
    """The speeds of timm's networks, up to so large ones, of the public tables in the folder `data`.

    With `most`, only so many of each GPU are traced. It takes a tenth of a second for each.
    """
    models = tables.read_columns(data / MODELS)
    sides = models["img_size"].astype(int).tolist()
    small = models["gmacs"] <= most_gmacs
    names = {(str(arch), side) for arch, side, keep in zip(models["arch"], sides, small, strict=True) if keep}
    runs = list(measurements.runs(tables.read_columns(data / RUNS)))
    asked = dict.fromkeys(name for run in runs for name in [n for n in run.names if n in names][:most])
    traced = networks(asked)
    return [run.group(data, traced) for run in runs]
