"""The layers of transformers in a LayerTable against networks of torchvision and published rows of timm."""

import numpy as np
import pytest
import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models

from latency.gpu import kernels
from latency.modules.networks import places, tracing
from supernet.files.tables import read_columns
from supernet.layers import Heads, LayerBuilder, LayerKind
from supernet.weights.live_memory import live_peak_bytes


def vision_transformer(side, patch, width, depth, heads, *, hidden=None, classes=1000):
    """Dosovitskiy et al. (2020, arXiv 2010.11929), as torchvision and timm build it."""
    build = LayerBuilder(1, np.array([side]))
    build.add(LayerKind.CONV, 3, width, kernel=patch, stride=patch, bias=1, norm=0)
    build.tokens(1, width)
    build.position(width)
    for _ in range(depth):
        build.transformer(width, hidden or 4 * width, Heads(heads, width // heads))
    build.norm(width)
    build.keep_one_token()
    build.add(LayerKind.LINEAR, width, classes, bias=1, norm=0)
    return build.table()


def swin(side, width, depths, heads):
    """Liu et al. (2021, arXiv 2103.14030): windows of 7 x 7 tokens, four merged into one between stages."""
    build = LayerBuilder(1, np.array([side]))
    build.add(LayerKind.CONV, 3, width, kernel=4, stride=4, bias=1, norm=0)
    build.norm(width)
    for stage, (depth, count) in enumerate(zip(depths, heads, strict=True)):
        if stage:
            build.size = -(-build.size // 2)
            build.norm(4 * width)
            build.add(LayerKind.LINEAR, 4 * width, 2 * width, norm=0)
            width *= 2
        for _ in range(depth):
            build.transformer(width, 4 * width, Heads(count, width // count, window=7, relative=True))
    build.norm(width)
    build.add(LayerKind.GLOBAL_POOL, width, width, norm=0)
    build.add(LayerKind.LINEAR, width, 1000, bias=1, norm=0)
    return build.table()


def counted(make, side):
    """MACs by torch's counter, on shapes alone, and parameters; without gradients torch would fuse layers."""
    with torch.device("meta"):
        network = make()
        with FlopCounterMode(display=False) as counter:
            network(torch.zeros(1, 3, side, side))
    return counter.get_total_flops() / 2, sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("make", "side", "table"),
    [
        (models.vit_b_16, 224, vision_transformer(224, 16, 768, 12, 12)),
        (models.vit_b_32, 224, vision_transformer(224, 32, 768, 12, 12)),
        (models.swin_t, 224, swin(224, 96, (2, 2, 6, 2), (3, 6, 12, 24))),
        (models.swin_s, 224, swin(224, 96, (2, 2, 18, 2), (3, 6, 12, 24))),
    ],
    ids=["vit_b_16", "vit_b_32", "swin_t", "swin_s"],
)
def test_macs_and_params_equal_those_of_torchvision(make, side, table):
    macs, params = counted(make, side)
    assert table.macs().tolist() == [macs]
    assert table.params().tolist() == [params]


def test_macs_activations_and_params_are_those_timm_publishes(data):
    """DeiT and ViT: MACs (G), activations and parameters (M) to the last digit. In the MACs of timm (fvcore)
    each output of a layer norm counts 5."""
    rows = read_columns(data / "imagenet_models.csv.gz")
    published = {arch: i for i, arch in enumerate(rows["arch"])}
    for arch, sizes in {
        "deit_tiny_patch16_224": (224, 16, 192, 12, 3),
        "deit_small_patch16_224": (224, 16, 384, 12, 6),
        "deit_base_patch16_384": (384, 16, 768, 12, 12),
        "vit_large_patch16_224": (224, 16, 1024, 24, 16),
    }.items():
        table, i = vision_transformer(*sizes), published[arch]
        norms = table.cout * table.positions() * (table.kind == LayerKind.NORM)
        macs, activations = table.macs() + 5 * norms.sum(), table.layer_activations().sum()
        ours = macs[0] / 1e9, activations / 1e6, table.params()[0] / 1e6
        columns = ("gmacs", "macts_m", "params_m")
        assert [rows[name][i] for name in columns] == pytest.approx(ours, abs=0.00501), arch


class Engine(torch.nn.Module):
    """Runs torchvision's vision transformer as an inference engine does: activations, sums and the softmax in
    place, attention maps whole, every value dropped after its last use."""

    def __init__(self, network):
        super().__init__()
        self.network, self.heads = network, network.encoder.layers[0].num_heads

    def forward(self, images):
        net = self.network
        x = net.conv_proj(images).flatten(2).transpose(1, 2)
        x = torch.cat([net.class_token, x], dim=1)
        x += net.encoder.pos_embedding
        for block in net.encoder.layers:
            rows = block.ln_1(x)
            rows = functional.linear(
                rows, block.self_attention.in_proj_weight, block.self_attention.in_proj_bias
            )
            rows = self.attention(rows)
            rows = block.self_attention.out_proj(rows)
            x += rows
            del rows
            rows = block.ln_2(x)
            rows = block.mlp[0](rows)
            rows = torch.ops.aten.gelu_(rows)
            rows = block.mlp[3](rows)
            x += rows
            del rows
        x = net.encoder.ln(x)
        return net.heads(x[:, 0])

    def attention(self, rows):
        _, tokens, width = rows.shape
        q, k, v = rows[0].reshape(tokens, 3, self.heads, width // 3 // self.heads).permute(1, 2, 0, 3)
        scores = torch.baddbmm(rows.new_zeros(1), q, k.transpose(1, 2), beta=0, alpha=q.shape[-1] ** -0.5)
        torch.softmax(scores, dim=-1, out=scores)
        out = rows.new_empty(1, tokens, width // 3)
        torch.bmm(scores, v, out=out[0].reshape(tokens, self.heads, -1).transpose(0, 1))
        return out


@pytest.mark.parametrize(("patch", "hidden", "heads"), [(8, 32, 2), (4, 16, 8), (8, 512, 4)])
def test_peak_memory_is_what_an_engine_keeps_alive(patch, hidden, heads):
    """Networks whose worst layer is the attention map, or the hidden layer; eager torch keeps more."""
    torch.manual_seed(0)
    network = models.VisionTransformer(64, patch, 2, heads, 64, hidden, num_classes=5).eval()
    torch.nn.init.normal_(network.heads.head.weight)
    engine, images = Engine(network), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(engine(images), network(images), atol=1e-4)
    peak = vision_transformer(64, patch, 64, 2, heads, hidden=hidden, classes=5).peak_bytes()[0]
    assert peak <= live_peak_bytes(engine, images) <= 1.01 * peak


def test_modules_of_a_table_are_those_of_the_traced_network():
    """But for transposes of heads, and the projections of torch's own attention, which is one module."""
    table = vision_transformer(64, 8, 64, 2, 4, hidden=96, classes=10)
    with torch.device("meta"):
        network = models.VisionTransformer(64, 8, 2, 4, 64, 96, num_classes=10)
    traced = [(m.kind, m.inputs) for m in tracing.modules(network, (3, 64, 64)) if m.kind != "attention"]
    listed = [
        (p.kind, {name: float(column[0]) for name, column in p.inputs.items()}) for p in places.places(table)
    ]
    mine = [each for each in listed if each[0] != "linear" or each[1]["cin"] not in (64.0, 16.0)]
    others = [each for each in traced if each[0] != "movement" or each[1]["mode"] == 0]
    assert [each for each in others if each[0] != "linear" or each[1]["cin"] != 64] == mine
    products = [inputs for kind, inputs in listed if kind == "linear" and inputs["cin"] == 16]
    assert products == [{"cin": 16.0, "cout": 2 * 65.0, "rows": 4 * 65.0}] * 2


def test_a_gpu_moves_the_attention_maps_too():
    """Elements and kinds of kernels by hand: a block of 16 tokens of 8 channels, 2 heads, hidden 16."""
    build = LayerBuilder(1, np.array([4]))
    build.transformer(8, 16, Heads(2, 4))
    products = next(kernels.of_layers(build.table()))
    names = [kernels.Kind(kind).name for kind in products.kind[0]]
    assert names == ["ROWS", "LINEAR", "BATCHED", "LINEAR", "ROWS", "LINEAR", "LINEAR"]
    norm, attention = products.maps[0, 0], products.maps[0, names.index("BATCHED")]
    assert norm == 128 + 128
    assert attention == 3 * 128 + 128 + 2 * 2 * 16 * 16
    assert products.macs[0, names.index("BATCHED")] == 2 * 16 * 16 * 8


def test_tokens_are_added_once():
    build = LayerBuilder(1, np.array([4]))
    build.tokens(1, 8)
    with pytest.raises(ValueError, match="1 tokens are beside the map already"):
        build.tokens(4, 8)
