"""Tracing tells the truth: multiply-accumulates against PyTorch's own counter, nothing silently free."""

import sys
import warnings
from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models

from latency.modules.kinds.module_kind import named
from latency.modules.networks import onnx_graph, tracing
from latency.modules.networks.named import network
from supernet.deploy.onnx import to_onnx

SHAPES = [(3, 224, 224), (3, 200, 200), (3, 129, 129), (3, 192, 256), (3, 317, 251)]
FIXED = ("vit_", "maxvit_")  # models that take images of one size only


def counted(module, shape):
    """Multiply-accumulates by PyTorch's counter, which does not know fused attention."""
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        module(torch.empty((1, *shape), device="meta"))
    return counter.get_total_flops() / 2


def on_paper(modules):
    total = 0.0
    for module in modules:
        kind = named(module.kind)
        total += float(kind.work(np.array([[module.inputs[name] for name in kind.inputs]])).macs[0])
    return total


def of_torchvision(name):
    options = {"weights": None}
    if name in models.list_models(models.segmentation):
        options["weights_backbone"] = None
    if name in ("googlenet", "inception_v3"):
        options |= {"init_weights": False, "aux_logits": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with torch.device("meta"):
                return models.get_model(name, **options).eval()
        except NotImplementedError:  # RegNet computes its widths with tensors
            return models.get_model(name, **options).eval().to("meta")


@pytest.mark.parametrize("shape", SHAPES[2:])
@pytest.mark.parametrize(
    "name",
    ["squeezenet1_1", "shufflenet_v2_x0_5", "regnet_y_400mf", "lraspp_mobilenet_v3_large", "swin_v2_t"],
)
def test_odd_sizes_have_all_their_work(name, shape):
    model = of_torchvision(name)
    assert on_paper(tracing.modules(model, shape)) == pytest.approx(counted(model, shape), rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [models, models.segmentation])
def test_all_of_torchvision_traces(kind):
    off = {}
    for name in models.list_models(kind):
        model = of_torchvision(name)
        for shape in SHAPES[:1] if name.startswith(FIXED) else SHAPES:
            ratio = on_paper(tracing.modules(model, shape)) / counted(model, shape)
            if abs(ratio - 1) > 1e-3:
                off[name, shape] = ratio
    assert off == {}


def test_a_stride_is_the_layers_own():
    """A pointwise layer of stride 2 has 16 of the 49 pixels that it reads."""
    (module,) = tracing.modules(nn.Conv2d(8, 16, 1, stride=2), (8, 7, 7))
    assert module.inputs["stride"] == 2
    assert on_paper([module]) == 8 * 16 * 16


class Wrapped(nn.Module):
    def __init__(self, function, *parts):
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(parts)

    def forward(self, images):
        return self.function(images, *self.parts)


OPERATIONS = {
    "conv1d": Wrapped(lambda x, layer: layer(x.flatten(2)), nn.Conv1d(8, 16, 5, stride=3)),
    "conv_transpose2d": nn.ConvTranspose2d(8, 4, 3, stride=2, padding=1),
    "lstm": Wrapped(lambda x, layer: layer(x.flatten(2).mT)[0], nn.LSTM(8, 6, batch_first=True)),
    "interpolate": Wrapped(lambda x: nn.functional.interpolate(x, scale_factor=2)),
    "pixel_shuffle": nn.PixelShuffle(2),
    "group_norm": nn.GroupNorm(2, 8),
    "rms_norm": Wrapped(lambda x, layer: layer(x.flatten(2).mT), nn.RMSNorm(8)),
    "leaky_relu": nn.LeakyReLU(),
    "tanh": nn.Tanh(),
    "sort": Wrapped(lambda x: x.sort(dim=1)[0]),
    "embedding": Wrapped(lambda x, layer: layer(x.long()), nn.Embedding(10, 4)),
    "cos": Wrapped(torch.cos),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_what_was_never_measured_is_stood_in_for_and_said(name):
    model, shape = OPERATIONS[name], (8, 9, 11)
    found = tracing.modules(model, shape)
    assert [module.stands_for for module in found if module.stands_for] == [name]
    bare = model.to("meta")
    assert on_paper(found) == pytest.approx(counted(bare, shape), rel=1e-6)
    assert sum(on_elements(module) for module in found) >= 8 * 9 * 11 / 4


def on_elements(module):
    kind = named(module.kind)
    work = kind.work(np.array([[module.inputs[name] for name in kind.inputs]]))
    return float(work.read[0] + work.written[0])


def test_scaled_dot_product_attention_has_the_work_of_both_products():
    model = Wrapped(lambda x: nn.functional.scaled_dot_product_attention(x, x, x[..., :5]))
    found = tracing.modules(model, (4, 10, 16))
    assert on_paper(found) == 4 * 10 * 10 * (16 + 5)


def test_layers_are_named_and_constants_are_free():
    class Small(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.bias = nn.Conv2d(3, 8, 3), nn.Parameter(torch.zeros(8, 1, 1))

        def forward(self, images):
            return self.stem(images) * (self.bias.exp() + 1)

    found = tracing.modules(Small(), (3, 16, 16))
    assert [(module.kind, module.layer) for module in found] == [("dense", "stem"), ("elementwise", "")]


def test_what_needs_numbers_is_refused_with_operation_and_line():
    def forward(images):
        return images if images.sum() > 0 else -images

    with pytest.raises(ValueError, match=r"3x8x8: operation __bool__, line \d+ of .*test_tracing.py"):
        tracing.modules(Wrapped(forward), (3, 8, 8))
    with pytest.raises(ValueError, match=r"line \d+ of .*vision_transformer.py"):
        tracing.modules(of_torchvision("vit_b_16"), (3, 200, 200))
    with pytest.raises(ValueError, match=r"operation conv2d, layer 1.0: RuntimeError: Invalid channel dim"):
        tracing.modules(nn.Sequential(nn.ReLU(), nn.Sequential(nn.Conv2d(4, 8, 1))), (3, 8, 8))
    with pytest.raises(ValueError, match=r"input of 3x8x8: TypeError: .* missing 1 required .* 'input2'"):
        tracing.modules(nn.Bilinear(3, 3, 8), (3, 8, 8))


def bare(module):
    return module.kind, sorted(module.inputs.items())


class Block(nn.Module):
    """A ConvNeXt block: gelu is written out by the exporter, and its linear layers are products and sums."""

    def __init__(self):
        super().__init__()
        self.deep, self.norm = nn.Conv2d(16, 16, 7, padding=3, groups=16), nn.LayerNorm(16)
        self.wide, self.thin, self.act = nn.Linear(16, 64), nn.Linear(64, 16), nn.GELU()

    def forward(self, images):
        rows = self.norm(self.deep(images).permute(0, 2, 3, 1))
        return images + self.thin(self.act(self.wide(rows))).permute(0, 3, 1, 2)


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "shufflenet_v2_x0_5", "efficientnet_b0", "block"])
def test_an_onnx_file_has_the_modules_of_its_network(name, tmp_path):
    model = Block() if name == "block" else models.get_model(name, weights=None)
    shape = (16, 12, 12) if name == "block" else (3, 96, 96)
    file = tmp_path / "net.onnx"
    file.write_bytes(to_onnx(model.eval(), torch.zeros((1, *shape)), any_batch=True))
    found, own = onnx_graph.modules(file)
    assert own == shape
    ours, theirs = (Counter(map(repr, map(bare, each))) for each in (tracing.modules(model, shape), found))
    assert ours == theirs  # in whatever order branches come


def test_an_onnx_file_that_computes_its_shapes_has_all_its_work(tmp_path):
    model = models.swin_transformer.SwinTransformer([4, 4], 24, [2, 2], [2, 2], [7, 7]).eval()
    file = tmp_path / "net.onnx"
    file.write_bytes(to_onnx(model, torch.zeros((1, 3, 64, 64))))
    found, shape = onnx_graph.modules(file)
    assert on_paper(found) == pytest.approx(counted(model.to("meta"), shape), rel=1e-6)


def test_onnx_files_that_cannot_be_read_say_why(tmp_path):
    import onnx
    from onnx import TensorProto, helper

    def file(nodes, inputs, constants=()):
        floats = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs]
        out = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
        graph = helper.make_graph(nodes, "g", floats, [out], list(constants))
        path = tmp_path / "odd.onnx"
        opset = [helper.make_opsetid("", 17)]
        onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
        return path

    relu = helper.make_node("Relu", ["x"], ["y"])
    with pytest.raises(ValueError, match=r"takes inputs of 3x\?x\?: please give input="):
        onnx_graph.modules(file([relu], [("x", [1, 3, None, None])]))
    assert onnx_graph.modules(file([relu], [("x", [1, 3, None, None])]), (3, 8, 8))[1] == (3, 8, 8)
    with pytest.raises(ValueError, match="takes only 4 where input= says 8"):
        onnx_graph.modules(file([relu], [("x", [1, 3, 4, 4])]), (3, 8, 8))
    both = helper.make_node("Add", ["x", "z"], ["y"])
    with pytest.raises(ValueError, match="has 2 inputs, one is needed: x, z"):
        onnx_graph.modules(file([both], [("x", [1, 4]), ("z", [1, 4])]))
    weights = helper.make_tensor("w", TensorProto.FLOAT, [2, 16, 4], [0.0] * 128)
    other = helper.make_tensor("r", TensorProto.FLOAT, [2, 16, 4], [0.0] * 128)
    lstm = helper.make_node("LSTM", ["x", "w", "r"], ["y"], "cell", hidden_size=4, direction="bidirectional")
    with pytest.raises(ValueError, match=r"covers the operator LSTM \(cell\)"):
        onnx_graph.modules(file([lstm], [("x", [1, 1, 4])], [weights, other]))


def test_functions_that_make_no_network_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "nets_of_mine", raising=False)
    lines = (
        "import torch, warnings",
        "def broken(): return 1 / 0",
        "def compiled():",
        "    warnings.simplefilter('ignore')  # that torch.jit is deprecated",
        "    return torch.jit.trace(torch.nn.Linear(4, 2), torch.zeros(1, 4))",
        "def broken_in_torch(): return torch.zeros(2).reshape(3)",
    )
    (tmp_path / "nets_of_mine.py").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"broken fails, line 2 of .*nets_of_mine.py .*ZeroDivisionError"):
        network("nets_of_mine:broken")
    with pytest.raises(
        ValueError, match=r"broken_in_torch fails, line 6 of .*nets_of_mine.py .*RuntimeError"
    ):
        network("nets_of_mine:broken_in_torch")
    with (
        warnings.catch_warnings(),
        pytest.raises(ValueError, match=r"compiled torch.jit module, .*, or give an ONNX file"),
    ):
        network("nets_of_mine:compiled")


def test_a_detector_is_refused_without_the_internet():
    with pytest.raises(ValueError, match=r"operation where, layer rpn, line \d+"):
        network("torchvision:fasterrcnn_mobilenet_v3_large_320_fpn")


def test_words_that_name_no_network_are_refused(tmp_path):
    for word, said in {
        "resnet18": "give FILE.onnx, torchvision:NAME",
        "nothing.onnx": "no such file",
        "torchvision:resnet19": "Did you mean 'resnet1",
        "no_such_module:build": "No module named 'no_such_module'",
        "json:build": "json has no function build",
        "json:detect_encoding": "detect_encoding",
    }.items():
        with pytest.raises((ValueError, TypeError), match=said):
            network(word)
