"""Whole networks for the correction of module predictors, and to judge them: measured, and as their modules.

Subnets of the OFA spaces and classifiers of torchvision.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from latency.measuring import session, summary
from latency.measuring.jobs import Job, Rounds, subnet_jobs
from latency.measuring.session import Watcher
from latency.measuring.store import Store
from latency.modules import classifiers, tracing
from latency.modules import places as module_rows
from latency.modules.data import CONDITIONS
from latency.modules.kinds.module_kind import Module
from latency.modules.predictor import Networks
from latency.target import Target
from supernet import registry
from supernet.files import artifact
from supernet.space import get_space

ROUNDS = Rounds(fewest=6, most=10, block=32)
CLASSIFIER = "torchvision"
SPACES = ("ofa_mbv3_w1.0", "ofa_mbv3_w1.2", "ofa_proxyless_w1.3", "ofa_resnet50")
BATCHES = (1, 8)
SEED = 0  # of the subnets that correct


def subnets(space: str, count: int, seed: int) -> list[str]:
    """Names of random subnets of an OFA space."""
    of = get_space(space)
    return of.format(of.network(of.sample(count, np.random.default_rng(seed))))


def collect(
    target: Target,
    names: Sequence[str],
    *,
    store: Store,
    seconds: float | None = None,
    watch: Watcher | None = None,
) -> Networks:
    """These networks with their latencies on a target: one-line names of subnets, or names of torchvision.

    What the store holds is not measured again; with a budget of `seconds` some may be missing.
    """
    known, jobs = read(target, store), _jobs(target, names)
    if missing := [job for job in jobs if job.name not in known.names]:
        session.time_jobs(target, missing, store=store, seconds=seconds, watch=watch, rounds=ROUNDS)
        known = read(target, store)
    asked = {job.name for job in jobs}
    return known.take(np.array([name in asked for name in known.names], bool))


def read(target: Target, store: Store) -> Networks:
    """All networks in the store that were measured on this target, in any space; the last sitting counts."""
    version = session.engine_of(target).version
    found: dict[str, float] = {}
    for sitting in store.sittings(engine_version=version):
        if replace(sitting.target, space=target.space).key == target.key:
            quartiles, _ = summary.summarise(store.visits(sitting.id), sitting.target)
            found |= {name: q[1] for name, q in quartiles.items() if _is_network(name)}
    batch, threads = float(target.batch), float(target.threads or 1)
    condition = np.array([batch, threads, target.utilisation])
    names = tuple(found)
    return Networks(
        names,
        tuple(map(modules_of, names)),
        np.tile(condition, (len(names), 1)),
        np.array(list(found.values())),
    )


def for_correction(
    target: Target,
    count: int,
    models: Sequence[str],
    *,
    store: Store,
    seconds: float | None = None,
    watch: Watcher | None = None,
) -> Networks:
    """About `count` subnets of the OFA spaces, half of them of the first, and these classifiers, at all
    BATCHES."""
    shares = (-(-count // 2), *[-(-count // 6)] * (len(SPACES) - 1))
    names = [name for space, n in zip(SPACES, shares, strict=True) for name in subnets(space, n, SEED)]
    left = None if seconds is None else seconds / len(BATCHES)
    return join(
        collect(replace(target, batch=batch), [*names, *models], store=store, seconds=left, watch=watch)
        for batch in BATCHES
    )


def write_csv(path: Path, networks: Networks) -> None:
    """A line per measured network, what `read_csv` reads."""
    lines = [",".join(["name", *CONDITIONS, "ms"])]
    for name, condition, ms in zip(networks.names, networks.conditions, networks.ms, strict=True):
        lines.append(",".join([name, *(f"{value:g}" for value in condition), f"{ms:.6g}"]))
    artifact.write_text(path, "\n".join(lines) + "\n")


def read_csv(path: Path) -> Networks:
    """Measured networks of a file; ValueError that names it when it is something else."""
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    try:
        names = tuple(line["name"] for line in lines)
        conditions = np.array([[float(line[key]) for key in CONDITIONS] for line in lines])
        ms = np.array([float(line["ms"]) for line in lines])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no table of measured networks ({error})") from error
    return Networks(names, tuple(map(modules_of, names)), conditions, ms)


def join(parts: Iterable[Networks]) -> Networks:
    """Measurements on several targets of one engine."""
    every = list(parts)
    return Networks(
        tuple(name for part in every for name in part.names),
        tuple(modules for part in every for modules in part.modules),
        np.concatenate([part.conditions for part in every]),
        np.concatenate([part.ms for part in every]),
    )


@cache
def modules_of(name: str) -> tuple[Module, ...]:
    """The modules of a network by its name."""
    if name.startswith(CLASSIFIER):
        _, model, _ = name.split(" ")
        each = classifiers.with_weights()[model]
        network, images = classifiers.network(each, 1)
        return tuple(tracing.modules(network, tuple(images.shape[1:])))
    space = get_space(name.split(" ")[0])
    places = module_rows.places(space.layers(space.parse([name])))
    return tuple(
        Module(place.kind, {key: float(values[0]) for key, values in place.inputs.items()})
        for place in places
        if place.live[0]
    )


def _is_network(name: str) -> bool:
    return name.split(" ")[0] in (CLASSIFIER, *registry.names("space"))


def _jobs(target: Target, names: Sequence[str]) -> list[Job]:
    jobs: list[Job] = []
    by_space: dict[str, list[str]] = {}
    for name in names:
        if " " in name:
            by_space.setdefault(name.split(" ")[0], []).append(name)
    for space, listed in by_space.items():
        jobs += subnet_jobs(replace(target, space=space), get_space(space).parse(listed))
    picked = classifiers.select([name for name in names if " " not in name], 0)
    return jobs + classifiers.jobs(picked, target.batch)
