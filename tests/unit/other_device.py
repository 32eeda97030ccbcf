"""A device that is not the CPU, for machines that have none.

Under `OtherDevice()` every operator that mixes tensors of this device with tensors of the CPU fails, as it
would with CUDA, and so does `.numpy()`. What it computes is computed by the CPU.
"""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

try:
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend
except ImportError:  # an older PyTorch, which makes no device in Python
    DEVICE = None
else:
    _setup_privateuseone_for_python_backend("elsewhere")
    # `torch.random.fork_rng` asks every device that there is.
    torch.elsewhere.get_rng_state = lambda device: None
    torch.elsewhere.set_rng_state = lambda state, device: None
    DEVICE = torch.device("elsewhere:0")
COPY = torch.ops.aten.copy_.default
MOVES = (torch.ops.aten._to_copy.default, COPY)


class Elsewhere(torch.Tensor):
    """A tensor of the other device; `raw` holds its values."""

    raw: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, raw):
        layout = {"strides": raw.stride(), "storage_offset": raw.storage_offset(), "dtype": raw.dtype}
        tensor = torch.Tensor._make_wrapper_subclass(cls, raw.shape, device=DEVICE, **layout)
        tensor.raw = raw
        return tensor

    @classmethod
    def __torch_dispatch__(cls, operator, types, args=(), kwargs=None):
        return compute(operator, args, kwargs or {})


class OtherDevice(TorchDispatchMode):
    """Inside the block, tensors can be made on and moved to `DEVICE`."""

    def __init__(self):
        if DEVICE is None:
            pytest.skip(f"PyTorch {torch.__version__} makes no device in Python")
        super().__init__()

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        return compute(operator, args, kwargs or {})


def compute(operator: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The operator on the raw values, its result where PyTorch would leave it."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    there = [tensor for tensor in tensors if isinstance(tensor, Elsewhere)]
    here = [tensor for tensor in tensors if not isinstance(tensor, Elsewhere) and tensor.ndim]
    if there and here and operator not in MOVES:
        raise RuntimeError(f"{operator} mixes tensors of {DEVICE} with tensors of the CPU")
    device = kwargs.get("device")
    stays_there = bool(there) if device is None else torch.device(device).type == DEVICE.type
    if operator is COPY:
        stays_there = isinstance(args[0], Elsewhere)
    args, kwargs = tree_map_only(Elsewhere, lambda tensor: tensor.raw, (args, kwargs))
    if device is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    result = operator(*args, **kwargs)
    if not stays_there:
        return result
    same = {id(tensor.raw): tensor for tensor in there}  # what is changed in place stays the same object

    def wrapped(raw: torch.Tensor) -> Elsewhere:
        return same[id(raw)] if id(raw) in same else Elsewhere(raw)

    return tree_map_only(torch.Tensor, wrapped, result)
