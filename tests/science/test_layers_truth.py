"""The layer tables against the networks that the ofa package builds, and against published rows."""

import numpy as np
import pytest

from supernet import spaces
from supernet.tidy import read_columns

OFA = [
    "ofa_mbv3_w1.0",
    "ofa_mbv3_w1.2",
    "ofa_proxyless_w1.3",
    "ofa_resnet50",
    "compofa_fixed",
    "compofa_elastic",
]


@pytest.fixture(scope="module")
def torch():
    """torch and the ofa package, imported once; their own import-time warnings are not ours."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ofa.imagenet_classification.elastic_nn.networks  # noqa: F401
        import torch

    torch.set_num_threads(1)
    return torch


@pytest.mark.parametrize("name", OFA)
def test_macs_and_params_equal_those_of_the_extracted_subnet(name, torch):
    """20 random subnets per space: torch's flop counter (2 per MAC) and numel, to the last digit."""
    from torch.utils.flop_counter import FlopCounterMode

    from supernet import network

    space = spaces.get(name)
    supernet = network.supernet(space)
    genomes = space.sample(20, np.random.default_rng(1))
    table = space.layers(genomes)
    for i in range(len(genomes)):
        subnet = network.extract(supernet, space, genomes[i : i + 1])
        r = network.resolution(space, genomes[i : i + 1])
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            subnet(torch.zeros(1, 3, r, r))
        assert counter.get_total_flops() == 2 * table.macs()[i]
        assert sum(p.numel() for p in subnet.parameters()) == table.params()[i]


def fold_for_inference(torch, subnet):
    """What an inference engine does: batch norm folded into its convolution, activations in place.

    Without it eager PyTorch keeps up to 1.8 times as much alive: batch norm writes a copy, and OFA writes
    hard-swish out as x * relu6(x + 3) / 6.
    """
    from ofa.utils.pytorch_modules import Hsigmoid, Hswish

    swap = {
        Hswish: lambda: torch.nn.Hardswish(inplace=True),
        Hsigmoid: lambda: torch.nn.Hardsigmoid(inplace=True),
        torch.nn.BatchNorm2d: torch.nn.Identity,
    }
    for module in list(subnet.modules()):
        for name, child in list(module.named_children()):
            if type(child) in swap:
                setattr(module, name, swap[type(child)]())


def live_peak(torch, subnet, r):
    """Bytes of live activations at the worst moment of a forward pass, seen from the storages that exist."""
    import weakref

    from torch.utils._python_dispatch import TorchDispatchMode

    class Watch(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.alive, self.now, self.peak = {}, 0, 0

        def _gone(self, key):
            self.now -= self.alive.pop(key)

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, (tuple, list)) else (out,):
                if isinstance(tensor, torch.Tensor):
                    storage = tensor.untyped_storage()
                    key = storage._cdata
                    if key not in self.alive and key not in known:
                        self.alive[key] = storage.nbytes()
                        self.now += storage.nbytes()
                        weakref.finalize(storage, self._gone, key)
            self.peak = max(self.peak, self.now)
            return out

    image = torch.zeros(1, 3, r, r)
    known = {p.untyped_storage()._cdata for p in [*subnet.parameters(), *subnet.buffers()]}
    with torch.no_grad(), Watch() as watch:
        subnet(image)
    return watch.peak


def test_peak_memory_is_near_what_is_really_alive(torch):
    """Analytic peak against the storages that really exist during a forward pass of the folded network."""
    from supernet import network

    space = spaces.get("ofa_mbv3_w1.0")
    supernet = network.supernet(space)
    genomes = space.sample(8, np.random.default_rng(2))
    ratio = []
    for i, peak in enumerate(space.layers(genomes).peak_bytes()):
        subnet = network.extract(supernet, space, genomes[i : i + 1])
        fold_for_inference(torch, subnet)
        ratio.append(live_peak(torch, subnet, network.resolution(space, genomes[i : i + 1])) / peak)
    assert min(ratio) >= 0.95
    assert max(ratio) <= 1.25


def test_published_rows_have_the_same_macs_and_params(data):
    """All 1,513 rows of DyNAS-T's evaluations of OFA-MobileNetV3 w1.0."""
    rows = read_columns(data / "ofa_mbv3_accuracy.csv.gz")
    space = spaces.get("ofa_mbv3_w1.0")
    table = space.layers(space.encode(rows))
    assert (table.macs() == rows["macs"]).all()
    assert (table.params() == rows["params"]).all()
