"""Searches that begin with what another run found."""

import importlib
import sys

import numpy as np
import pytest

from search import problem, run, search
from search.archive import Archive
from search.searchers.nsga2 import NSGA2
from tests.unit.test_run import StopAfter

OBJECTIVES = ["accuracy", "latency_ms", "training_hours"]


def limited(ms):
    return problem.build(OBJECTIVES, limits={"latency_ms": ms})


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    """The archive of a search under another limit."""
    return go(limited(20.0), tmp_path_factory.mktemp("before") / "run", budget=12_000)


def go(asked, out, budget, seed=0, **options):
    return run.Search(asked, NSGA2(), budget=budget, seed=seed, out=out, **options).run().archive


def test_seeds_are_near_the_front_and_within_the_new_limit(before):
    asked = limited(15.0)
    seeds = before.seeds(asked.space, asked.evaluator, 400)
    assert len(seeds) == len(np.unique(seeds, axis=0)) == 400
    latency = asked.evaluator.objectives[1].of(seeds).mean
    assert latency.max() <= 15
    inside = before.costs[before.costs[:, 1] <= 15]
    known = {row.tobytes(): cost for row, cost in zip(before.genomes, before.costs, strict=True)}
    chosen = np.array([known[row.tobytes()] for row in seeds])
    dominators = (inside[None] <= chosen[:, None]).all(axis=2) & (inside[None] < chosen[:, None]).any(axis=2)
    depth_of_others = [(inside <= cost).all(axis=1).sum() for cost in inside[:200]]
    assert dominators.sum(axis=1).mean() < np.mean(depth_of_others)
    narrow = asked.space.keep_genes({"kernel": [3, 5]})
    kept = before.seeds(narrow, asked.evaluator, 400)
    assert all(set(narrow.column(kept, f"ks{i}")) <= {0, 3, 5} for i in range(20))


def test_a_fifth_of_the_evaluations_after_a_changed_limit(before, tmp_path):
    """docs/search.md has the figures of 50,000 evaluations; here NSGA-II alone with a fifth is behind."""
    asked = limited(15.0)
    cold = go(asked, tmp_path / "cold", 12_000, seed=1).hypervolume()
    seeds = before.seeds(asked.space, asked.evaluator, 480)
    warm = go(asked, tmp_path / "warm", 2400, seed=2, warm=seeds)
    assert len(warm) == 2400
    assert (warm.genomes[:480] == seeds).all()
    assert warm.hypervolume() >= 0.99 * cold
    assert go(asked, tmp_path / "small", 2400, seed=2).hypervolume() < 0.97 * cold


def test_a_stopped_warm_start_goes_on_to_the_same_bytes(before, tmp_path):
    asked = limited(22.0)
    seeds = before.seeds(asked.space, asked.evaluator, 300)
    go(asked, tmp_path / "whole", 1500, warm=seeds)
    for stop in (0, 3):
        with pytest.raises(run.Interrupted):
            go(asked, tmp_path / f"cut{stop}", 1500, warm=seeds, sinks=[StopAfter(stop)])
        go(asked, tmp_path / f"cut{stop}", 1500, warm=seeds)
        whole, cut = ((tmp_path / name / "archive.npz").read_bytes() for name in ("whole", f"cut{stop}"))
        assert whole == cut


def test_the_command_takes_a_run_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    search(budget=3000, latency_limit_ms=20, out="before")
    words = [
        "search",
        "warm_start=before",
        "budget=500",
        "latency_limit_ms=15",
        "out=after",
        "wandb=disabled",
    ]
    monkeypatch.setattr(sys, "argv", words)
    importlib.import_module("search.commands.search").main()
    assert "warm start: 100 architectures of before are evaluated first" in capsys.readouterr().out
    space = limited(15.0).space
    assert len(Archive.load(tmp_path / "after" / "archive.npz", space)) == 500
    with pytest.raises(ValueError, match="warm_start=nowhere holds no finished search"):
        search(warm_start="nowhere")
    with pytest.raises(ValueError, match=r"this archive is of ofa_mbv3_w1.2, not of ofa_mbv3_w1.0"):
        search(warm_start="before", target="2080ti_b64_w1.0")
