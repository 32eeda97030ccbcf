"""Latency of single networks with their own weights: measured on this machine, predicted for others."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from latency.measuring.here import is_here
from latency.measuring.jobs import Job
from latency.measuring.session import Watcher, time_jobs
from latency.measuring.store import Store
from latency.target import Target
from latency.zoo import catalogue
from supernet.measures import images_per_second
from supernet.weights import subnet as subnets
from supernet.weights.subnet import Subnet

if TYPE_CHECKING:
    import torch


def latency(
    target: Target, networks: Mapping[str, Subnet], *, store: Store | None, watch: Watcher | None = None
) -> dict[str, dict[str, Any]]:
    """Latency facts of named networks on `target`: `ms` and `spread_ms` (interquartile range, or
    standard deviation of a prediction).

    On this machine they are timed in one sitting, interleaved. ValueError where the target is another machine
    and a network is none of its space (pruned), or when one cannot be timed.
    """
    about = {"target": target.name, "on": str(target), "batch": target.batch}
    if is_here(target):
        if store is None:
            raise ValueError("store= must name the file that keeps what is measured")
        jobs = [Job(name, partial(_job, network, target.batch)) for name, network in networks.items()]
        timed = time_jobs(target, jobs, store=store, watch=watch)
        if timed.failed:
            raise ValueError("; ".join(f"{name}: {why}" for name, why in timed.failed.items()))
        return {
            name: {"ms": float(q[1]), "spread_ms": float(q[2] - q[0]), "how": "measured", **about}
            for name, q in timed.quartiles_ms.items()
        }
    predictor, _ = catalogue.automatic(target)
    found = {}
    for name, network in networks.items():
        if "pruned" in network.facts:
            raise ValueError(f"{name} is pruned, which {target.name} cannot predict: target=here times it")
        space, genome = subnets.parse(network.architecture)
        predicted = predictor.predict(space.embed(genome, target.space), target)
        ms, spread = float(predicted.mean[0]), float(predicted.std[0])
        found[name] = {"ms": ms, "spread_ms": spread, "how": "predicted", **about}
    return found


def _job(network: Subnet, batch: int) -> tuple[torch.nn.Module, torch.Tensor]:
    import torch

    noise = torch.Generator().manual_seed(0)
    return copy.deepcopy(network.module), torch.randn((batch, 3, network.side, network.side), generator=noise)


def add_latencies(
    cards: Mapping[str, dict[str, Any]],
    networks: Mapping[str, Subnet],
    target: Target,
    store: Store,
    watch: Watcher | None = None,
) -> None:
    """Put `latency_ms` and `images_per_second` on the cards of these networks, each in its own precision.

    One sitting per precision; networks that differ in their weights only are timed once. ValueError for a
    target that is not this machine.
    """
    if not is_here(target):
        raise ValueError(f"{target.name} ({target}) is not this machine: the steps are timed, so target=here")
    named = {title: _name(network) for title, network in networks.items()}
    for precision in dict.fromkeys(cards[title]["precision"] for title in networks):
        titles = [title for title in networks if cards[title]["precision"] == precision]
        where = replace(target, precision=precision, name=f"{target.name}_{precision}")
        once = {named[title]: networks[title] for title in titles}
        found = latency(where, once, store=store, watch=watch)
        for title in titles:
            ms = found[named[title]]["ms"]
            cards[title]["latency_ms"] = ms
            cards[title]["images_per_second"] = images_per_second(ms, target.batch)


def _name(network: Subnet) -> str:
    """What a network is called in the store; a pruned one is no subnet of a space."""
    pruned = network.facts.get("pruned")
    return network.architecture if pruned is None else f"pruned {pruned:g} of {network.architecture}"
