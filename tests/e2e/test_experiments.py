"""Every file of configs/experiment runs with its command, at a tiny budget."""

import numpy as np
import pytest
from PIL import Image

from latency.data import LatencyData, write_csv
from latency.zoo import catalogue
from search.cli import listing
from supernet import registry
from supernet.space import get_space
from tests.e2e.commands import call

SEARCH = ["wandb=disabled", "budget=400"]
SMALL = {  # {experiment: words that make it small}
    "phone_15ms": ["wandb=disabled", "budget=3000"],
    "this_machine": [*SEARCH, "samples=3", "verify=2", "rounds=1", "store=store.sqlite"],
    "proven_bound": ["resolution=192", "genes.kernel=[3]", "genes.depth=[2]"],
    "int8_cpu": ["samples=2", "tests=0", "store=store.sqlite", "target.space=ofa_small"],
    "s1_paper": ["rows=my.csv", "column=lat_ms", "learner.training.epochs=2"],
    "own_images": [
        "data.root=images",
        "data.val=8",
        "data.calibration=8",
        "data.resolution=[16,16]",
        "epochs=2",
    ],
    "digits": ["data.train_images=64", "data.calibration=64", "epochs=6"],
    "torchvision_here": [
        "table.names=[squeezenet1_1,shufflenet_v2_x0_5]",
        "seconds=40",
        "draws=200",
        "store=store.sqlite",
    ],
}
TRAIN = ["batch=16", "forward_batch=16", "wandb=disabled"]
SLOW = ("this_machine", "torchvision_here", "int8_cpu")  # they measure for some seconds
NAMES = [
    pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else [])
    for name in registry.names("experiment")
]


def command_of(name):
    """The command that the comment of an experiment names."""
    lines = registry.find("experiment", name).path.read_text().splitlines()
    return next(line.split()[2] for line in lines if line.startswith("# ofa-frontier "))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Rows of measurements, and a folder of images."""
    path = tmp_path_factory.mktemp("experiments")
    target, space = catalogue.target("v100_b64"), get_space("ofa_mbv3_w1.2")
    genomes = space.network(space.sample(40, np.random.default_rng(0)))
    genomes[:, space.index["r"]] = space.levels[space.index["r"]]  # s1 knows steps of 16 pixels only
    ms = catalogue.predictor("v100_b64").predict(genomes, target).mean
    write_csv(path / "my.csv", LatencyData(target, genomes, ms, np.full(40, np.nan)))
    draw = np.random.default_rng(1)
    for part, count in (("train", 24), ("test", 4)):
        for label in ("cat", "dog"):
            (path / "images" / part / label).mkdir(parents=True)
            for number in range(count):
                pixels = draw.integers(0, 255, (20, 20, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(path / "images" / part / label / f"{number}.png")
    return path


@pytest.mark.filterwarnings("ignore")  # of exporters, and of statistics of few rows
@pytest.mark.parametrize("name", NAMES)
def test_an_experiment_runs(name, folder):
    command = command_of(name)
    words = SMALL.get(name, SEARCH) + (TRAIN if command == "train" else [])
    words += [] if command == "bound" else [f"out={name}{'.safetensors' if command == 'fit' else ''}"]
    code, out, err = call(command, f"experiment={name}", *words, cwd=folder)
    assert code == 0, err
    assert out.strip()
    shown = {row["name"]: row["what for"] for row in listing.table("experiment").rows()}
    assert shown[name]


def test_an_experiment_of_another_command_is_refused(tmp_path):
    code, _, err = call("train", "experiment=phone_15ms", cwd=tmp_path)
    assert code == 1
    assert err == "error: experiment=phone_15ms is one of search, not of train\n"
