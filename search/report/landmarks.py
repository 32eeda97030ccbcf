"""Known networks beside a front, where both of their numbers are on its scales: top-1 on ImageNet's
validation images, and the latency that the predictor of the search tells.

`known_networks.json` has them, with the modules of torchvision's classifiers, so that no torch is needed;
`python -m scripts.known_networks` writes it.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from latency.modules.kinds.module_kind import Module
from latency.modules.predictor import ModulesLatency
from search.result import Result

FILE = Path(__file__).parent / "known_networks.json"
IMAGES = "ImageNet validation top-1"  # on which accuracies may be compared
BESIDE = 1.5  # times the latency of the slowest member: what is slower would squeeze the front


def of(result: Result) -> list[dict[str, Any]]:
    """The networks with `accuracy` and `latency_ms` not far beyond the front, and what they are; none where a
    number is missing."""
    objectives = {one.name: one for one in result.problem.evaluator.objectives}
    if not {"accuracy", "latency_ms"} <= set(objectives):
        return []
    if objectives["accuracy"].images != IMAGES:
        return []
    networks = json.loads(FILE.read_text())
    archive = result.archive
    slowest = float(archive.costs[archive.front(), archive.objectives.index("latency_ms")].max(initial=0))
    beside = _subnets(result, networks["ofa"]) + _classifiers(result, networks["torchvision"])
    return [one for one in beside if one["latency_ms"] <= BESIDE * slowest]


def _subnets(result: Result, networks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """OFA's published networks that are of the space, at input sides that the predictor knows."""
    models = result.problem.models
    space = models.space.owner
    assert models.latency is not None  # an objective needs it
    mine = [one for one in networks if one["architecture"].startswith(f"{space.name} ")]
    genomes = space.parse([one["architecture"] for one in mine])
    target = models.latency.target
    if not mine or target.space != space.name:
        return []
    low, high = models.latency.resolutions
    inside = [low <= side <= high for side in space.column(genomes, "r").tolist()]
    ms = models.latency.predict(genomes[inside], target).mean.tolist()
    about = "published by the OFA authors, specialised for this device or these MACs and fine-tuned; {}"
    kept = (one for one, there in zip(mine, inside, strict=True) if there)
    return [
        {
            "name": one["name"],
            "about": about.format(one["architecture"]),
            "accuracy": one["top1"],
            "latency_ms": ms,
        }
        for one, ms in zip(kept, ms, strict=True)
    ]


def _classifiers(result: Result, networks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Torchvision's, where latency is a sum over modules, which any network has."""
    latency: Any = result.problem.models.latency
    latency = getattr(latency, "predictor", latency)  # behind what was measured
    if not isinstance(latency, ModulesLatency):
        return []
    landmarks = []
    for one in networks:
        if {kind for kind, *_ in one["modules"]} <= set(latency.models):
            modules = [Module(kind, inputs) for kind, count, inputs in one["modules"] for _ in range(count)]
            ms = float(latency.network_ms([modules], np.asarray(latency.condition))[0])
            about = f"torchvision's classifier with its best published weights, {one['side']} px"
            name, top1 = one["name"], one["top1"]
            landmarks.append({"name": name, "about": about, "accuracy": top1, "latency_ms": ms})
    return landmarks
