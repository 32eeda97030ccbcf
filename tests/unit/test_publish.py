"""What was measured on a device as a folder for others: written, refused without its facts, and used."""

import json
import shutil

import numpy as np
import pytest

from latency.data import LatencyData, write_csv
from latency.measuring.store import Sitting, Store, Visit
from latency.predictors.interface import with_facts
from latency.predictors.transfer import Transfer
from latency.target import Target
from latency.zoo import catalogue, shared
from search.cli import devices
from supernet.files import artifact
from supernet.space import get_space
from tests.e2e.commands import call

BOARD = Target("board", "jetson_nano", "ofa_mbv3_w1.0", engine="onnxruntime", threads=1, unit="0123456789ab")
FACTS = {"governors": ["performance"], "max_mhz": [1479], "host": "annas-board", "jobs": "x", "celsius": 41.5}


@pytest.fixture
def measured(tmp_path, rng):
    """The run folder of an adapt, and its store."""
    space = get_space(BOARD.space).restrict("r", 160, 224)
    genomes = space.network(space.sample(6, rng))
    data = LatencyData(BOARD, genomes, np.linspace(20, 60, 6), np.full(6, 0.5))
    sitting = Sitting.begin(BOARD, "onnxruntime 1.20.0", FACTS)
    with Store(tmp_path / "s.sqlite") as store:
        store.add(sitting, Visit(sitting.id, 1.0, "x", "candidate", 1, 1, (1.0,), (1.0,)))
    learner = Transfer()
    fitted = learner.fit_from(learner.sources(space), data)
    fitted = with_facts(fitted, {"engine": "onnxruntime 1.20.0", "sitting": sitting.id})
    run = tmp_path / "run"
    run.mkdir()
    fitted.save(run / "predictor.npz")
    write_csv(run / "samples.csv", data)
    table = {"transfer, 6 samples": {"n": 3, "mape": 4.2, "spearman": 0.9}}
    artifact.write_json(run / "scores.json", {"table": table})
    return run, tmp_path / "s.sqlite", genomes


def test_a_folder_is_written_and_others_search_with_it(measured, tmp_path):
    run, path, genomes = measured
    words = [f"run={run}", "licence=CC-BY-4.0", f"out={tmp_path / 'mine'}", f"store={path}"]
    code, out, err = call("publish", *words, cwd=tmp_path)
    assert code == 0, err
    assert out.splitlines()[-1] == f'next: make search ARGS="predictor=folder:{tmp_path / "mine"}"'
    card = json.loads((tmp_path / "mine" / "card.json").read_text())
    assert card["conditions"]["threads"] == 1
    assert card["device"] == {"governors": ["performance"], "max_mhz": [1479], "celsius": 41.5}
    page = (tmp_path / "mine" / "README.md").read_text()
    assert "annas-board" not in page
    for said in (
        "onnxruntime 1.20.0",
        "CC-BY-4.0",
        "| transfer, 6 samples | 3 | 4.2 | 0.900 |",
        "anchor subnets",
    ):
        assert said in page
    used = catalogue.find(f"folder:{tmp_path / 'mine'}")
    own = catalogue.find(str(run / "predictor.npz"))
    assert np.array_equal(used.predict(genomes, used.target).mean, own.predict(genomes, own.target).mean)
    assert devices.spelt_out([f"target=folder:{tmp_path / 'mine'}"]) == [
        f"predictor=folder:{tmp_path / 'mine'}"
    ]
    code, _, err = call("publish", *words, cwd=tmp_path)
    assert code == 1
    assert "exists and is left alone" in err


def test_latencies_without_the_facts_that_give_them_meaning_are_refused(measured, tmp_path):
    run, path, _ = measured
    out = tmp_path / "mine"
    with Store(path) as store:
        with pytest.raises(ValueError, match="without a licence"):
            shared.publish(run, out, store=store, licence=" ")
        (run / "scores.json").unlink()
        predictor = catalogue.find(str(run / "predictor.npz"))
        with_facts(predictor, {"engine": "", "left_out_mape": None}).save(run / "predictor.npz")
        with pytest.raises(
            ValueError, match=r"without the version of the engine, an error \(adapt with tests="
        ):
            shared.publish(run, out, store=store, licence="CC0-1.0")
    with (
        Store(tmp_path / "other.sqlite") as other,
        pytest.raises(ValueError, match="the sitting in the store"),
    ):
        shared.publish(run, out, store=other, licence="CC0-1.0")
    with Store(path) as store, pytest.raises(ValueError, match="no finished run of adapt"):
        shared.publish(tmp_path / "nothing", out, store=store, licence="CC0-1.0")
    assert not out.exists()


def test_a_folder_that_was_changed_is_refused(measured, tmp_path):
    run, path, _ = measured
    with Store(path) as store:
        shared.publish(run, tmp_path / "mine", store=store, licence="CC0-1.0")
    shutil.copyfile(run / "samples.csv", tmp_path / "mine" / "predictor.npz")
    with pytest.raises(ValueError, match="not the file that its card speaks of"):
        catalogue.find(f"folder:{tmp_path / 'mine'}")
    (tmp_path / "mine" / "card.json").write_text("[]")
    with pytest.raises(ValueError, match="no folder that publish has written"):
        catalogue.find(f"folder:{tmp_path / 'mine'}")
