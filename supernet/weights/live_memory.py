"""Footprint of one network, counted and measured on the network itself, or on paper: run without numbers.

`executor` is what an inference engine does with a network. Plain eager PyTorch holds more alive: norms write
copies, OFA writes hard-swish out, and every Python frame keeps its arguments until it returns.
"""

import copy
import operator
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx.experimental.optimization import fuse
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from supernet.layers import BYTES_FP32

IN_PLACE: dict[Any, Any] = {operator.add: operator.iadd, operator.mul: operator.imul}


def footprint(network: torch.nn.Module, side: int) -> dict[str, float]:
    """`params`, `macs`, `weight_bytes` (fp32) and `peak_bytes` for one image of `side` x `side` pixels.

    Also right for pruned networks, which have no genome. MACs are those of torch's flop counter; the peak is
    that of a real run. Attention is computed without fused kernels, whose work torch does not count.
    """
    image = torch.zeros((1, 3, side, side))
    with sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(image)
        peak = live_peak_bytes(executor(network), image)
    params = sum(parameter.numel() for parameter in network.parameters())
    return {
        "params": float(params),
        "macs": counter.get_total_flops() / 2,
        "weight_bytes": float(params * BYTES_FP32),
        "peak_bytes": float(peak),
    }


def executor(network: torch.nn.Module) -> torch.nn.Module:
    """The network in eval mode as a graph: norms folded, activations, sums and products in place, every value
    dropped after its last use. The network itself stays as it is.

    One that torch.fx cannot trace (weights cut to the shape of what comes in, say) is returned as a copy in
    eval mode: eager PyTorch holds more alive than an engine.
    """
    plain = copy.deepcopy(network).eval()
    try:
        graph: Any = fuse(plain)
    except Exception:  # whatever code of the network raises when torch.fx runs it without values
        return plain
    for module in graph.modules():
        if isinstance(module, torch.nn.ReLU | torch.nn.ReLU6 | torch.nn.Hardswish | torch.nn.Hardsigmoid):
            module.inplace = True
    place = {node: i for i, node in enumerate(graph.graph.nodes)}
    for node in graph.graph.nodes:
        if node.target in IN_PLACE:
            gone = [
                isinstance(part, torch.fx.Node)
                and part.op not in ("placeholder", "get_attr")
                and max(place[user] for user in part.users) == place[node]
                for part in node.args
            ]
            node.args, node.target = (*node.args, node.target.__name__, gone), written_over
    graph.recompile()
    return graph


def written_over(first: Any, second: Any, name: str, gone: Sequence[bool]) -> Any:
    """The sum or product (`name`) of two tensors or numbers, in the memory of one that is `gone` after it and
    has the shape of the result."""
    plain: Any = getattr(operator, name)
    sizes = [getattr(each, "shape", ()) for each in (first, second)]
    shape = torch.broadcast_shapes(*sizes)  # type: ignore[no-untyped-call]
    for over, other, last in ((first, second, gone[0]), (second, first, gone[1])):
        if last and isinstance(over, torch.Tensor) and over.shape == shape:
            return IN_PLACE[plain](over, other)
    return plain(first, second)


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of the storages that are alive, except those of `ignored` tensors, and the most there were."""

    def __init__(self, ignored: list[torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.ignored = {tensor.untyped_storage()._cdata for tensor in ignored}
        self.alive: dict[int, int] = {}
        self.now = self.peak = 0

    def _gone(self, key: int) -> None:
        self.now -= self.alive.pop(key)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                key = storage._cdata
                if key not in self.alive and key not in self.ignored:
                    self.alive[key] = storage.nbytes()
                    self.now += storage.nbytes()
                    weakref.finalize(storage, self._gone, key)
        self.peak = max(self.peak, self.now)
        return out


def live_peak_bytes(network: torch.nn.Module, images: torch.Tensor) -> int:
    """Most bytes of activations that exist at once in a forward pass; weights and images are the caller's."""
    with torch.no_grad(), _Watch([images, *network.parameters(), *network.buffers()]) as watch:
        network(images)
    return watch.peak


def inference_bytes(network: torch.nn.Module, shape: Sequence[int], batch: int) -> int:
    """Weights, and the most activations that exist at once in a forward pass of a batch of inputs of `shape`:
    of an inference engine in fp32, on paper.

    >>> inference_bytes(torchvision.models.resnet18(), (3, 224, 224), 1) / 1e6
    51.6
    """
    engine = executor(_on_paper(network))
    return _held(engine) + live_peak_bytes(engine, torch.empty((batch, *shape), device="meta"))


@dataclass(frozen=True)
class TrainingStep:
    """A training step on paper: its memory, and what `surrogates.training_cost` tells its time from."""

    activations: float  # elements of one image that convolutions and products write
    macs: float  # of one image, forward
    params: float
    peak_bytes: int  # weights, momentum, and the most activations and gradients at once: eager PyTorch, fp32


def training_step(network: torch.nn.Module, shape: Sequence[int], batch: int) -> TrainingStep:
    """Forward, backward and update with momentum of a batch of inputs of `shape`, without numbers.

    Whatever a network raises that cannot be trained on such a batch is raised.
    """
    trained, images = _on_paper(network).train(), torch.empty((batch, *shape), device="meta")
    held = [images, *trained.parameters(), *trained.buffers()]
    with sdpa_kernel(SDPBackend.MATH), torch.enable_grad(), _Watch(held) as watch:
        with _Products() as products:  # type: ignore[no-untyped-call]
            outputs = tree_leaves(trained(images))
        losses = [each.sum() for each in outputs if isinstance(each, torch.Tensor) and each.requires_grad]
        torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
    params = sum(parameter.numel() for parameter in trained.parameters())
    peak = _held(trained) + BYTES_FP32 * params + watch.peak
    return TrainingStep(products.elements / batch, products.macs / batch, float(params), peak)


class _Products(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what convolutions and matrix products multiply and write."""

    elements = 0
    macs = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if count := flop_registry.get(func.overloadpacket):
            self.macs += count(*args, **(kwargs or {}), out_val=out) / 2
            self.elements += out.numel()
        return out


def _on_paper(network: torch.nn.Module) -> torch.nn.Module:
    """A copy in fp32 whose weights are on the meta device, where all of them can be trained."""
    return copy.deepcopy(network).to("meta", torch.float32).requires_grad_()


def _held(network: torch.nn.Module) -> int:
    """Bytes of weights and statistics."""
    return sum(tensor.nbytes for tensor in (*network.parameters(), *network.buffers()))
