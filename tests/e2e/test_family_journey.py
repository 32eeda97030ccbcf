"""A family of networks that is no part of the package, through all commands, as a user types them."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from commands import call

from supernet import registry
from supernet.files.tables import read_columns
from supernet.space import get_space
from supernet.weights import subnet as subnets

CODE = Path(__file__).parents[1] / "unit" / "tiny_family.py"
DATA = ["data.train_images=128", "data.calibration=64", "data.val=100"]
TRAINING = [*DATA, "epochs=2", "batch=32", "forward_batch=32", "data.resolution=[16,20]", "wandb=disabled"]

SHRINKING = """
_target_: supernet.deploy.shrink.Recipe
steps:
  - {_target_: supernet.deploy.shrink.FineTune, epochs: 1}
  - {_target_: supernet.deploy.shrink.PruneWeights}
  - {_target_: supernet.deploy.shrink.Int8}
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """`own(command, words)`: what it prints, with the space `tiny` of a folder of the user."""
    monkeypatch.setattr(sys, "path", sys.path[:])
    (tmp_path / "mine" / "space").mkdir(parents=True)
    (tmp_path / "mine" / "space" / "tiny.yaml").write_text("_target_: tiny_family.space\nname: tiny\n")
    (tmp_path / "mine" / "shrink").mkdir()
    (tmp_path / "mine" / "shrink" / "mild.yaml").write_text(SHRINKING)
    shutil.copy(CODE, tmp_path)

    def run(name, *words):
        code, out, err = call(name, "--config-dir", "mine", *words, cwd=tmp_path)
        assert code == 0, err
        return out

    yield run
    registry.use_folders()
    get_space.cache_clear()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of exporters
def test_train_search_fine_tune_shrink_export_and_time(own, tmp_path):
    assert "largest subnet" in own("train", "space=tiny", *TRAINING, "out=net")
    assert "6 subnets of this supernet are in" in own("accuracy-data", "supernet=net", "subnets=6")
    rows = read_columns(tmp_path / "net" / "accuracies-val.csv")
    assert {*rows} >= {"d", "w", "ks0", "macs", "top1"}
    words = ["evaluator=supernet", "evaluator.weights=net", "recipe=0", "objectives=[accuracy,macs]"]
    budget = ["budget=16", "searcher=random", "out=found"]
    assert "architectures on the front" in own("search", "space=tiny", *words, *budget)
    name = str(read_columns(tmp_path / "found" / "front.csv")["architecture"][0])
    tuned = own("finetune", "supernet=net", f"architecture='{name}'", "epochs=1", "out=subnet")
    assert "test top-1" in tuned
    subnet = subnets.load(tmp_path / "subnet")
    assert subnet.architecture == name
    assert subnet.facts["accuracy"]["images"] > 100
    own("shrink", "supernet=net", f"architecture='{name}'", "shrink=mild", "plain=0", "out=small")
    cards = json.loads((tmp_path / "small" / "table.json").read_text())
    assert [card["precision"] for card in cards.values()] == ["fp32", "fp32", "fp32", "int8"]
    out = own("export", "weights=subnet", "target=here", "target.space=tiny", "out=phone")
    assert out.count("logits within") == 3
    about = json.loads((tmp_path / "phone" / "subnet.json").read_text())
    assert about["latency"]["how"] == "measured"
    assert about["latency"]["ms"] > 0
