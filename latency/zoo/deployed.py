"""Latency of single networks with their own weights: measured on this machine, predicted for others."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from latency.measuring.here import is_here
from latency.measuring.jobs import Job
from latency.measuring.session import Measuring, Watcher, time_jobs
from latency.measuring.store import Store
from latency.target import Target
from latency.zoo import catalogue
from supernet.deploy import export
from supernet.weights import subnet as subnets
from supernet.weights.subnet import Subnet


def latency(
    target: Target, networks: Mapping[str, Subnet], *, store: Store | None, watch: Watcher | None = None
) -> dict[str, dict[str, Any]]:
    """Latency facts of named networks on `target`: `ms` and `spread_ms` (interquartile range, or standard
    deviation of a prediction).

    On this machine they are timed in one sitting, interleaved. ValueError when one cannot be timed, or when
    the target is another machine and a network is pruned and so in no search space.
    """
    if is_here(target):
        if store is None:
            raise ValueError("store= must name the file that keeps what is measured")
        jobs = [Job(name, partial(_job, network, target.batch)) for name, network in networks.items()]
        timed = time_jobs(target, jobs, Measuring(store, watch=watch))
        if timed.failed:
            raise ValueError("; ".join(f"{name}: {why}" for name, why in timed.failed.items()))
        values = {name: (float(q[1]), float(q[2] - q[0])) for name, q in timed.quartiles_ms.items()}
    else:
        values = {name: _predicted(name, network, target) for name, network in networks.items()}
    how = "measured" if is_here(target) else "predicted"
    about = {"target": target.name, "on": str(target), "batch": target.batch, "how": how}
    return {name: {"ms": ms, "spread_ms": spread, **about} for name, (ms, spread) in values.items()}


def _predicted(name: str, network: Subnet, target: Target) -> tuple[float, float]:
    """(ms, standard deviation)."""
    if "pruned" in network.facts:
        raise ValueError(f"{name} is pruned, which {target.name} cannot predict: target=here times it")
    predictor, _ = catalogue.automatic(target)
    space, genome = subnets.parse(network.architecture)
    predicted = predictor.predict(space.embed(genome, target.space), target)
    return float(predicted.mean[0]), float(predicted.std[0])


def _job(network: Subnet, batch: int) -> tuple[Any, Any]:
    return copy.deepcopy(network.module), export.noise(network, batch)


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
    by_precision: dict[str, dict[str, str]] = {}  # precision: {title: what the store calls the network}
    for title, network in networks.items():
        pruned = network.facts.get("pruned")
        name = network.architecture if pruned is None else f"pruned {pruned:g} of {network.architecture}"
        by_precision.setdefault(cards[title]["precision"], {})[title] = name
    for precision, names in by_precision.items():
        where = replace(target, precision=precision, name=f"{target.name}_{precision}")
        different = {name: networks[title] for title, name in names.items()}
        timed = latency(where, different, store=store, watch=watch)
        for title, name in names.items():
            ms = timed[name]["ms"]
            cards[title] |= {"latency_ms": ms, "images_per_second": 1000 * target.batch / ms}
