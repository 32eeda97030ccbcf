"""Module types and the modules of networks, against PyTorch's own counts."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from latency.modules.design import build
from latency.modules.kinds.layers import Linear
from latency.modules.kinds.module_kind import Choice, Span, named
from latency.modules.networks import places as module_rows
from latency.modules.networks import tracing
from supernet import registry
from supernet.space import get_space
from supernet.weights import network

NAMES = registry.names("module")


def macs_of(module, images):
    plain = sdpa_kernel(SDPBackend.MATH)  # the counter does not know the fused kernel
    with torch.no_grad(), plain, FlopCounterMode(display=False) as counter:
        module(images)
    return counter.get_total_flops() / 2


@pytest.mark.parametrize("name", NAMES)
def test_work_on_paper_is_that_of_the_built_module(name):
    kind = named(name)
    rows, _ = kind.draw(6, (1,), seed=3)
    work = kind.work(rows)
    for i, row in enumerate(rows):
        module, images = build(kind, row, 1)
        assert macs_of(module, images) == work.macs[i]
        with torch.no_grad():
            found = module(images)
        assert images[0].numel() == work.read[i]
        if name not in ("activation", "norm", "elementwise", "movement"):
            assert found[0].numel() == work.written[i]
        if work.params[i]:
            weights = sum(p.numel() for p in module.parameters() if p.ndim > 1)
            assert weights <= work.params[i] <= weights + sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_designs_fill_their_ranges_and_repeat(name):
    kind = named(name)
    rows, batch = kind.draw(120, (1, 8), seed=0)
    again, batches = kind.draw(120, (1, 8), seed=0)
    assert (rows == again).all()
    assert (batch == batches).all()
    assert set(batch) == {1.0, 8.0}
    assert len(np.unique(rows, axis=0)) > 100
    columns = kind.columns(rows)
    for of, choice in kind.choices.items():
        assert set(columns[of]) == set(choice.values)
    for values in columns.values():
        assert (values == np.round(values)).all()


def test_batches_have_as_many_images():
    kind = named("mbconv_se")
    module, images = build(kind, kind.draw(1, (1,), seed=0)[0][0], 8)
    assert len(module(images)) == len(images) == 8


def test_wrong_ranges_are_refused():
    with pytest.raises(ValueError, match=r"low <= high, got 8 to 4"):
        Span(8, 4)
    with pytest.raises((ValueError, ValidationError), match=r"Did you mean 'linear'"):
        named("linea")
    with pytest.raises((ValueError, ValidationError), match=r"missing \['rows'\]"):
        Linear({"cin": Span(1, 2), "cout": Span(1, 2)})
    large = Linear({name: Span(40_000, 50_000) for name in ("cin", "cout", "rows")})
    with pytest.raises(ValueError, match=r"leave 0 of"):
        large.draw(4, (1,), 0)
    assert (Choice((3, 5)).at(np.array([0.0, 0.99])) == [3, 5]).all()


@pytest.mark.parametrize("name", ["ofa_mbv3_w1.0", "ofa_proxyless_w1.3", "ofa_resnet50"])
def test_layers_of_a_space_and_its_real_networks_have_the_same_modules(name, rng):
    space = get_space(name)
    genomes = space.network(space.sample(3, rng))
    places = module_rows.places(space.layers(genomes))
    supernet = network.supernet(space)
    for i in range(len(genomes)):
        subnet = network.extract(supernet, space, genomes[i : i + 1])
        side = network.resolution(space, genomes[i : i + 1])
        traced = [(m.kind, dict(m.inputs)) for m in tracing.modules(subnet, (3, side, side))]
        listed = [(p.kind, {k: float(v[i]) for k, v in p.inputs.items()}) for p in places if p.live[i]]
        assert traced == listed


def test_attention_is_covered():
    with torch.device("meta"):
        model = torch.nn.Sequential(torch.nn.LayerNorm(64), _Attention())
    found = [m.kind for m in tracing.modules(model.eval(), (10, 64))]
    assert found == ["norm", "movement", "attention", "movement"]


def test_attention_by_its_parts_has_all_its_macs():
    kind = named("attention")
    module, tokens = build(kind, np.array([20.0, 1.0, 64.0, 4.0]), 1)
    linear = named("linear")
    found = [m for m in tracing.modules(module, tuple(tokens.shape[1:])) if m.kind == "linear"]
    rows = np.array([[m.inputs[name] for name in linear.inputs] for m in found])
    assert linear.work(rows).macs.sum() == macs_of(module, tokens)


class _Attention(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.MultiheadAttention(64, 4, batch_first=True)

    def forward(self, x):
        return self.inner(x, x, x, need_weights=False)[0]
