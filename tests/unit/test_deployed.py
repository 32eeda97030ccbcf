"""Latency of single networks: predicted for other machines, one job per network and precision here."""

from types import SimpleNamespace

import numpy as np
import pytest

from latency.target import Target
from latency.zoo import catalogue, deployed
from supernet.space import get_space
from supernet.weights.subnet import Subnet

NAME = "ofa_mbv3_w1.0 r160 d2-2-2-2-2 k33-33-33-33-33 e33-33-33-33-33 ft0"


def subnet(**facts):
    return Subnet(NAME, 160, None, facts)


def test_other_machines_are_predicted():
    target = catalogue.target("p40_b64_w1.0")
    found = deployed.latency(target, {"mine": subnet()}, store=None)["mine"]
    expected = catalogue.predictor(target.name).predict(get_space(target.space).parse([NAME]), target)
    assert found["ms"] == pytest.approx(expected.mean[0])
    assert (found["how"], found["batch"]) == ("predicted", 64)
    with pytest.raises(ValueError, match="is pruned, which"):
        deployed.latency(target, {"mine": subnet(pruned=0.5)}, store=None)
    with pytest.raises(ValueError, match="is not this machine"):
        deployed.add_latencies({"mine": {"precision": "fp32"}}, {"mine": subnet()}, target, None)


def test_each_network_is_timed_once_in_its_precision(monkeypatch):
    """Weights do not matter for time, precision and pruning do."""
    sittings = []

    def time_jobs(target, jobs, how):
        sittings.append((target.precision, [job.name for job in jobs]))
        quartiles = {job.name: np.array([1.0, 2.0, 3.0]) * len(job.name) for job in jobs}
        return SimpleNamespace(failed={}, quartiles_ms=quartiles)

    monkeypatch.setattr(deployed, "time_jobs", time_jobs)
    monkeypatch.setattr(deployed, "is_here", lambda target: True)
    target = Target("here", "amd_epyc_f25_m17_2c", "ofa_mbv3_w1.0", batch=4, engine="onnxruntime", threads=1)
    networks = {"plain": subnet(), "tuned": subnet(), "cut": subnet(pruned=0.5), "small": subnet(pruned=0.5)}
    cards = {title: {"precision": "int8" if title == "small" else "fp32"} for title in networks}
    deployed.add_latencies(cards, networks, target, store=object())
    pruned = f"pruned 0.5 of {NAME}"
    assert sittings == [("fp32", [NAME, pruned]), ("int8", [pruned])]
    assert cards["plain"]["latency_ms"] == cards["tuned"]["latency_ms"] == 2 * len(NAME)
    assert cards["small"]["images_per_second"] == pytest.approx(1000 * 4 / cards["small"]["latency_ms"])
