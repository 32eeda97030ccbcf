"""A network that is run once without numbers, to see what it does."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def run_without_numbers(network: torch.nn.Module, images: torch.Tensor) -> None:
    """Run a network in eval mode on images of the meta device. Its weights stay where they are, and it stays
    in its mode."""
    state = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    bare = {name: torch.empty_like(tensor, device="meta") for name, tensor in state.items()}
    was_training = network.training
    network.eval()
    try:
        torch.func.functional_call(network, bare, (images,))
    finally:
        network.train(was_training)


@contextmanager
def naming(network: torch.nn.Module, names: list[str]) -> Iterator[None]:
    """Keeps the name of the module that is running on top of `names`."""

    def before(name: str) -> Any:
        return lambda module, inputs: names.append(name)

    hooks = []
    for name, module in network.named_modules():
        hooks.append(module.register_forward_pre_hook(before(name)))
        hooks.append(module.register_forward_hook(lambda *call: names.pop() and None))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
