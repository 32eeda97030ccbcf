"""Peak memory of activations, measured: the storages that exist while a network runs.

`executor` is what an inference engine does with a network. Plain eager PyTorch holds more alive: norms write
copies, OFA writes hard-swish out, and every Python frame keeps its arguments until it returns.
"""

from __future__ import annotations

import copy
import operator
import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

IN_PLACE = {operator.add: operator.iadd, operator.mul: operator.imul}


def executor(network: torch.nn.Module) -> torch.nn.Module:
    """The network in eval mode as a graph: norms folded, activations, sums and products in place, every value
    dropped after its last use. The network itself stays as it is."""
    import torch
    from torch.fx.experimental.optimization import fuse

    from supernet.weights.network import with_native_activations

    graph: Any = fuse(with_native_activations(copy.deepcopy(network).eval()))
    for module in graph.modules():
        if isinstance(module, torch.nn.ReLU | torch.nn.ReLU6 | torch.nn.Hardswish | torch.nn.Hardsigmoid):
            module.inplace = True
    place = {node: i for i, node in enumerate(graph.graph.nodes)}
    for node in graph.graph.nodes:
        if node.target not in IN_PLACE or node.args[0].op == "placeholder":
            continue
        if max(place[user] for user in node.args[0].users) == place[node]:
            node.target = IN_PLACE[node.target]
    graph.recompile()
    return graph


def live_peak_bytes(network: torch.nn.Module, images: torch.Tensor) -> int:
    """Most bytes of activations that exist at once in a forward pass; weights and images are the caller's."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    given = [images, *network.parameters(), *network.buffers()]
    known = {tensor.untyped_storage()._cdata for tensor in given}

    class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __init__(self) -> None:
            super().__init__()  # type: ignore[no-untyped-call]
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
                    if key not in self.alive and key not in known:
                        self.alive[key] = storage.nbytes()
                        self.now += storage.nbytes()
                        weakref.finalize(storage, self._gone, key)
            self.peak = max(self.peak, self.now)
            return out

    with torch.no_grad(), Watch() as watch:
        network(images)
    return watch.peak
