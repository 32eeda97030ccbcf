"""Traps of engines that are not run in every test."""

import pytest

from latency.measuring.engine import build_engine
from supernet.extras import NotInstalledError


@pytest.mark.filterwarnings("ignore")
def test_compiled_networks_stay_compiled(monkeypatch):
    """The tenth network too: the limit of recompilations is per code object, which networks share."""
    import torch

    try:
        engine = build_engine("torch_compile")
    except NotInstalledError as error:
        pytest.skip(str(error))
    compiled = []

    def count(graph, inputs):
        compiled.append(graph)
        return graph.forward

    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda network, **options: real(network, backend=count, **options))
    # the signature that the engine asks for is that of the real one
    for width in range(4, 16):
        engine.prepare(torch.nn.Sequential(torch.nn.Conv2d(3, width, 1)).eval(), torch.randn(1, 3, 8, 8))
    assert len(compiled) == 12
