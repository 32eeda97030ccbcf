"""The command predict: tables against its own sums, its page in a browser, what it refuses."""

import csv
import subprocess
import sys

import pytest

from latency.modules.networks import named
from latency.target import gpu
from latency.zoo import data_sheets, needs
from supernet.space import get_space
from tests.e2e.browser import Visit, needs_chromium, visit
from tests.e2e.commands import call

MODELS = ("torchvision:resnet18", "torchvision:mobilenet_v2")


@pytest.fixture(scope="module")
def predicted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("predict")
    words = (f"model={','.join(MODELS)}", "batches=[1,8]", "target=modules", "out=p")
    code, out, err = call("predict", *words, cwd=folder)
    assert (code, err) == (0, "")
    return folder / "p", out


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_layers_add_up_to_the_predictions(predicted):
    folder, out = predicted
    predictions, layers = rows_of(folder / "predictions.csv"), rows_of(folder / "layers.csv")
    assert [(row["network"], row["batch"]) for row in predictions] == [
        (name, batch) for name in ("resnet18", "mobilenet_v2") for batch in ("1", "8")
    ]
    for row in predictions[::2]:
        own = [layer for layer in layers if layer["network"] == row["network"]]
        assert sum(float(layer["ms"]) for layer in own) == pytest.approx(float(row["ms"]), rel=1e-3)
        assert sum(float(layer["share"]) for layer in own) == pytest.approx(1, abs=1e-3)
        assert float(row["ms at least"]) < float(row["ms"]) < float(row["ms at most"])
    assert float(predictions[0]["million MACs"]) == pytest.approx(1814.1, abs=0.1)  # of torchvision's table
    assert "layer4.1.conv1" in out
    weights, batch_1, batch_8 = 4 * 11.69, *(float(row["MB"]) for row in predictions[:2])  # 11.69 M of them
    assert batch_1 - weights == pytest.approx((batch_8 - weights) / 8, rel=0.05)
    (training, _) = rows_of(folder / "training.csv")
    assert float(training["MB in fp32"]) > 2 * weights + 32 * (batch_1 - weights)
    assert "ms" not in training  # of a processor no training time is known
    assert 'make search ARGS="predictor=p/predictor.npz"' in out


@needs_chromium
def test_the_page_shows_both_plots(predicted, tmp_path):
    text = (predicted[0] / "report.html").read_text()
    script = "return ['kinds', 'layers'].map(id => document.querySelectorAll(`#${id} .bars path`).length);"
    wide, narrow = visit(tmp_path, Visit(text, 1400, 900, script), Visit(text, 390, 800, script))
    layers = len(rows_of(predicted[0] / "layers.csv"))
    for seen in (wide, narrow):
        assert seen["problems"] == []
        assert seen["overflow"] == 0
        kinds, bars = seen["answer"]
        assert kinds >= 6
        assert 0 < bars < layers  # of the first network


def test_a_gpu_by_its_data_sheet_takes_as_long_for_a_subnet_as_a_search_says(tmp_path):
    """The kernels of the traced network against those that a search counts from its genes."""
    space = get_space("ofa_proxyless_w1.3")
    genome = space.network(space.extremes()[:1])
    (name,) = space.format(genome)
    word = f"model={name}"
    code, out, err = call(
        "predict", word, "target=gpu", "target.device=t4", "batches=[1,64]", "out=p", cwd=tmp_path
    )
    assert (code, err) == (0, "")
    assert 'make search ARGS="target=gpu target.device=t4' in out
    for row in rows_of(tmp_path / "p" / "predictions.csv"):
        target = gpu("t4", space=space.name, batch=int(row["batch"]))
        fitted, _ = data_sheets.predictor(target)
        said = fitted.predict(genome, target)
        assert float(row["ms"]) == pytest.approx(said.mean[0], rel=0.02)
        assert float(row["ms at most"]) == pytest.approx(said.mean[0] + 1.645 * said.std[0], rel=0.02)
    assert not (tmp_path / "p" / "predictor.npz").exists()


def test_a_training_step_on_a_gpu_takes_what_timm_measured(tmp_path):
    """ResNet-50 on an RTX 3090 in timm's table, AMP: 419.5 ms for a batch of 512. The fit knows it."""
    words = ("model=torchvision:resnet50", "target=gpu", "target.device=rtx_3090", "training_batch=512")
    code, out, err = call("predict", *words, "out=p", cwd=tmp_path)
    assert (code, err) == (0, "")
    assert "training steps" in out
    (row,) = rows_of(tmp_path / "p" / "training.csv")
    assert float(row["ms"]) == pytest.approx(419.5, rel=0.15)
    assert float(row["ms at least"]) < 419.5 < float(row["ms at most"])
    assert "Training steps" in (tmp_path / "p" / "report.html").read_text()


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("resnet18", "resnet"),
        ("mnasnet0_5", "mobile"),
        ("vit_b_32", "transformer"),
        ("swin_t", "transformer"),
    ],
)
def test_the_family_of_a_network_is_seen_in_its_work(name, family):
    assert needs.family(named.network(f"torchvision:{name}")) == family


def test_what_cannot_be_trained_is_said():
    network = named.network("torchvision:resnet18", (3, 32, 32))  # its last map is one pixel
    unknown = needs.of(network, [1], 1, gpu("t4"))
    assert unknown.training is unknown.training_ms is None
    assert (
        "resnet18: a training step of 1 is not known: ValueError: Expected more than 1" in unknown.unknown[0]
    )
    assert unknown.inference_bytes[1] > 4 * 11.6e6
    grouped = needs.of(named.network("torchvision:regnet_x_400mf", (3, 64, 64)), [1], 2, gpu("t4"))
    assert grouped.training.peak_bytes > 8 * 5.1e6
    assert grouped.training_ms is None
    assert "grouped convolutions" in grouped.unknown[0]


def test_what_cannot_be_predicted_is_refused(tmp_path):
    for words, said in (
        (("model=torchvision:resnet18", "target=v100_b64"), "knows subnets only"),
        (("model=net.onnx", "target=gpu", "target.device=t4"), "no such file"),
        (("model=torchvision:resnet18", "target=gpu", "target.device=t4", "threads=[2]"), "of processors"),
        (("model=torchvision:resnet18", "target=modules", "input=3x0"), "is no shape"),
        (
            ("model=torchvision:resnet18", "target=modules", "batches=[100000]"),
            "too far from what was measured",
        ),
        (("target=modules",), "please give model="),
    ):
        code, _, err = call("predict", *words, cwd=tmp_path)
        assert code == 1
        assert err.startswith("error: ")
        assert said in err
        assert len(err.splitlines()) == 1


def test_an_onnx_file_is_predicted_without_the_import_of_torchvision():
    """Which takes as long as that of torch."""
    code = "import sys; from search.commands.judging import predict; assert 'torchvision' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
