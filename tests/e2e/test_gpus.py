"""One predictor of several GPUs, from their tables to a search on a GPU that has none."""

import json
import re

import numpy as np
import pytest

from latency.data import LatencyData, write_csv
from latency.predictors import interface
from latency.target import gpu
from latency.zoo import catalogue
from supernet.space import get_space
from tests.e2e.commands import call

GPUS = {"rtx_2080ti": "2080ti_b64", "v100": "v100_b64"}
SHORT = ["learner=neural", "learner.hidden=[64,64]", "learner.training.epochs=20"]


def table(path, name, seed):
    """200 networks as a shipped target has them, in a file."""
    target = catalogue.target(name)
    genomes = get_space(target.space).restrict("r", 160, 224).sample(200, np.random.default_rng(seed))
    ms = catalogue.predictor(name).predict(genomes, target).mean
    data = LatencyData(target, genomes, ms, np.full(200, np.nan))
    write_csv(path, data)
    return data


@pytest.fixture
def words(tmp_path):
    """What `fit` is told of two GPUs, whose tables lie in the folder."""
    for seed, (device, name) in enumerate(GPUS.items()):
        table(tmp_path / f"{device}.csv", name, seed)
    rows = ",".join(f"{device}.csv" for device in GPUS)
    return [f"devices=[{','.join(GPUS)}]", f"rows=[{rows}]", "column=lat_ms", "batch=64", *SHORT]


def test_two_tables_become_a_predictor_and_a_search_on_a_third_gpu(words, tmp_path):
    """The Titan RTX is between the two in cores and bandwidth: within 40%, and ranked."""
    code, out, err = call("fit", *words, "engine=PyTorch", "out=gpus.safetensors", cwd=tmp_path)
    assert code == 0, err
    assert re.search(r"predicted by the others: rtx_2080ti [0-9.]+% off, v100 [0-9.]+% off", out)
    assert "predictor=gpus.safetensors target=gpu target.device=a100_40 target.space=ofa_mbv3_w1.2" in out
    figures = ["target.device.cores=4608", "target.device.ram_gb=24", "target.device.bandwidth_gbs=672"]
    search = ["predictor=gpus.safetensors", "target=gpu", *figures, "target.batch=64", "budget=300"]
    code, out, err = call("search", *search, "resolution=[160,224]", "out=run", cwd=tmp_path)
    assert code == 0, err
    assert "4608 cores" in (tmp_path / "run/report.html").read_text()
    fitted = interface.load(tmp_path / "gpus.safetensors")
    asked = gpu({"cores": 4608, "ram_gb": 24, "bandwidth_gbs": 672}, batch=64)
    front = json.loads((tmp_path / "run/front.json").read_text())
    genomes = get_space(asked.space).parse([row["architecture"] for row in front])
    predicted = [row["latency_ms"] for row in front]
    assert predicted == pytest.approx(fitted.at(asked).ms(genomes), rel=1e-4)
    table(tmp_path / "titan.csv", "titan_rtx_b64", 7)
    rows = ["rows=titan.csv", "column=lat_ms", "out=score.json"]
    code, out, err = call("score", "predictor=gpus.safetensors", *search[1:6], *rows, cwd=tmp_path)
    assert code == 0, err
    errors = json.loads((tmp_path / "score.json").read_text())
    assert errors["mape"] < 40
    assert errors["spearman"] > 0.9
    assert "target.device.cores=4608" in out.splitlines()[-1]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["rows=[rtx_2080ti.csv]"], "rows= lists 1, devices= 2"),
        (["learner=additive"], "Additive fits one device"),
        (["devices=[]"], "are lists with devices= only"),
        (["target=here"], "leave target= out"),
        (["what=accuracy"], "leave it out with what=accuracy"),
        (["devices=[v100,v1000]"], "v1000"),
        (["devices=[v100,{cores:4352}]"], "target.device.ram_gb"),
    ],
)
def test_what_does_not_belong_together_is_refused(words, wrong, said, tmp_path):
    options = [word.split("=")[0] for word in wrong]
    kept = [word for word in words if word.split("=")[0] not in options]
    kept = [word for word in kept if "learner" not in options or not word.startswith("learner.")]
    code, _, err = call("fit", *kept, *wrong, cwd=tmp_path)
    assert code != 0
    assert said in err
    assert "Traceback" not in err
