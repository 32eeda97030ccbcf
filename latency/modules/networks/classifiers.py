"""The classifiers of torchvision, timed on this machine: published accuracies without any download.

Accuracies are in the metadata of the package's weights. Weights are random: they do not change the time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

import torch

from latency.measuring import session
from latency.measuring.here import here
from latency.measuring.jobs import Job
from latency.measuring.session import Measuring
from supernet.arrays import Floats
from supernet.registry import unknown_name

SLOW = ("googlenet", "inception_v3")  # to initialise, and with side outputs
SLOW_OPTIONS = {"init_weights": False, "aux_logits": False}


def library() -> Any:
    """`torchvision.models`; imported here, because that takes as long as the import of torch."""
    return import_module("torchvision.models")


@dataclass(frozen=True)
class Classifier:
    """What the package says of one model with its best published weights."""

    name: str
    top1: float  # fraction, on the 50,000 images of ImageNet's validation set
    side: int  # input in pixels, as tested
    gmacs: float
    params: int


def with_weights() -> dict[str, Classifier]:
    """The classifiers of torchvision that have ImageNet weights, by name, from small to large."""
    classifiers, models = [], library()
    for name in models.list_models(module=models):
        best = models.get_model_weights(name).DEFAULT
        facts, side = best.meta, best.transforms().crop_size[0]
        top1 = facts["_metrics"].get("ImageNet-1K", {}).get("acc@1")
        if top1 is not None:
            classifiers.append(Classifier(name, top1 / 100, side, facts["_ops"], facts["num_params"]))
    return {each.name: each for each in sorted(classifiers, key=lambda each: each.gmacs)}


def select(names: Sequence[str] | None, max_gmacs: float) -> list[Classifier]:
    """The named classifiers; without names, all with at most `max_gmacs`."""
    classifiers = with_weights()
    if names is None:
        names = [name for name, each in classifiers.items() if each.gmacs <= max_gmacs]
        if not names:
            raise ValueError(f"no classifier has at most max_gmacs={max_gmacs:g}; the smallest has .04")
    for name in names:
        if name not in classifiers:
            raise unknown_name("classifier of torchvision", name, classifiers)
    return [classifiers[name] for name in names]


def times(
    classifiers: Sequence[Classifier], how: Measuring, *, engine: str, batch: int
) -> Mapping[str, Floats]:
    """Quartiles (3,) of ms per batch by model, on one thread; without those that the engine cannot run."""
    timed, target = jobs(classifiers, batch), here(engine=engine, batch=batch)
    quartiles = session.time_jobs(target, timed, how).quartiles_ms
    names = [each.name for each in classifiers]
    return {n: quartiles[job.name] for n, job in zip(names, timed, strict=True) if job.name in quartiles}


def jobs(classifiers: Sequence[Classifier], batch: int) -> list[Job]:
    """What times them, in their order."""
    return [
        Job(f"torchvision {each.name} {each.side}px", partial(network, each, batch)) for each in classifiers
    ]


def network(each: Classifier, batch: int) -> tuple[torch.nn.Module, torch.Tensor]:
    """The model with random weights in eval mode, and noise of its input side."""
    model = library().get_model(each.name, weights=None, **(SLOW_OPTIONS if each.name in SLOW else {}))
    noise = torch.Generator().manual_seed(0)
    return model.eval(), torch.randn((batch, 3, each.side, each.side), generator=noise)
