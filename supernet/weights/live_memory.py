"""Footprint of one network, counted and measured on the network itself.

`executor` is what an inference engine does with a network. Plain eager PyTorch holds more alive: norms write
copies, OFA writes hard-swish out, and every Python frame keeps its arguments until it returns.
"""

import copy
import operator
import weakref
from typing import Any

import torch
from torch.fx.experimental.optimization import fuse
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from supernet.layers import BYTES_FP32

IN_PLACE = {operator.add: operator.iadd, operator.mul: operator.imul}


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
        first = node.args[0] if node.target in IN_PLACE else None
        if not isinstance(first, torch.fx.Node) or first.op in ("placeholder", "get_attr"):
            continue
        if max(place[user] for user in first.users) == place[node]:
            node.target = IN_PLACE[node.target]
    graph.recompile()
    return graph


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
