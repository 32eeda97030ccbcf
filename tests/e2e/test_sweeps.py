"""Multiruns: names of their folders, the table at the end, exit codes, launchers and sweepers of Hydra."""

import json
import re

import pytest
import yaml

from tests.e2e.commands import call, run

SMALL = ["budget=250", "wandb=disabled", "out=sweep"]


def jobs(folder):
    return {path.stem: json.loads(path.read_text()) for path in (folder / "sweep" / "jobs").glob("*.json")}


@pytest.mark.filterwarnings("ignore")  # of the sweeper
@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_optuna_goes_by_the_hypervolume(direction, tmp_path):
    """It is to be large unless something else is asked for; three trials end with the best of them."""
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    words = ["-m", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=3", "hydra.sweeper.sampler.seed=1"]
    words += [] if direction == "maximize" else ["hydra.sweeper.direction=minimize"]
    words += ["searcher=random", "searcher.batch=choice(20,60,200)", "seed=range(1,9)"]
    code, out, err = call("search", *words, *SMALL, cwd=tmp_path)
    assert code == 0, err
    best = yaml.safe_load((tmp_path / "sweep" / "optimization_results.yaml").read_text())
    volumes = [job["figures"]["hypervolume"] for job in jobs(tmp_path).values()]
    assert best["best_value"] == (max if direction == "maximize" else min)(volumes)
    assert re.search(r"job +hypervolume +front +best_accuracy", out)
    assert all((tmp_path / "sweep" / name / "front.csv").is_file() for name in jobs(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_a_failing_job_in_another_process_gives_exit_code_1(launcher, tmp_path):
    """Jobs there know the folder of the user, run under their names, and the others go on."""
    pytest.importorskip(f"hydra_plugins.hydra_{launcher.partition('_')[0]}_launcher")
    (tmp_path / "mine" / "searcher").mkdir(parents=True)
    text = "_target_: search.searchers.random.RandomSearch\n"
    (tmp_path / "mine" / "searcher" / "plain.yaml").write_text(text)
    words = [f"hydra/launcher={launcher}", "searcher=plain", "recipe=25", "latency_limit_ms=1,30"]
    words = [*words, *SMALL, "-m", "--config-dir", "mine"]  # flags may stand anywhere
    code, out, err = run("search", *words, cwd=tmp_path)
    assert code == 1
    assert err.strip().splitlines()[-1] == "error: 1 job(s) failed, see above"
    assert "meets latency_ms <= 1 ms" in jobs(tmp_path)["latency_limit_ms-1"]["error"]
    assert jobs(tmp_path)["latency_limit_ms-30"]["figures"]["hypervolume"] > 0
    assert (tmp_path / "sweep" / "latency_limit_ms-30" / "report.html").is_file()
    assert "latency_limit_ms-30" in out


def test_a_repeated_multirun_keeps_what_is_finished_and_goes_on(tmp_path):
    code, _, err = call("search", "-m", "seed=1,2", *SMALL, cwd=tmp_path)
    assert code == 0, err
    before = jobs(tmp_path)
    code, out, err = call("search", "-m", "seed=1,2,3", *SMALL, cwd=tmp_path)
    assert code == 0, err
    after = jobs(tmp_path)
    assert set(after) == {"seed-1", "seed-2", "seed-3"}
    assert all(after[name]["figures"] == job["figures"] for name, job in before.items())
    assert "3 job(s) in sweep" in out
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"sweep"}
