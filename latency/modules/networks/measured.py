"""Whole networks for the correction of module predictors, and to judge them: measured, and as their modules.

Subnets of the OFA spaces and classifiers of torchvision.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from latency.measuring import session, summary
from latency.measuring.jobs import Job, Rounds, subnet_jobs
from latency.measuring.session import Measuring
from latency.measuring.store import Store
from latency.modules.data import CONDITIONS
from latency.modules.kinds.module_kind import Module
from latency.modules.networks import classifiers, tracing
from latency.modules.networks import places as module_rows
from latency.modules.predictor import Networks
from latency.target import Target
from supernet import registry
from supernet.arrays import Floats
from supernet.files import tables
from supernet.space import get_space

ROUNDS = Rounds(fewest=6, most=10, block=32)
CLASSIFIER = "torchvision"
SPACES = ("ofa_mbv3_w1.0", "ofa_mbv3_w1.2", "ofa_proxyless_w1.3", "ofa_resnet50")
BATCHES = (1, 8)
CORRECTING = """
    mobilenet_v3_small efficientnet_b1 efficientnet_b2 mnasnet0_5 mnasnet0_75 mnasnet1_3 shufflenet_v2_x0_5
    shufflenet_v2_x1_5 shufflenet_v2_x2_0 regnet_x_400mf regnet_y_800mf regnet_x_1_6gf regnet_y_1_6gf
    resnet34 densenet169 squeezenet1_0 alexnet swin_t
"""  # classifiers of torchvision that correct


def subnets(space: str, count: int, seed: int) -> list[str]:
    """Names of random subnets of an OFA space."""
    ofa = get_space(space)
    return ofa.format(ofa.network(ofa.sample(count, np.random.default_rng(seed))))


def read(target: Target, store: Store) -> Networks:
    """All networks in the store that were measured on this target, in any space; the last sitting counts."""
    ms: dict[str, float] = {}
    kinds = (CLASSIFIER, *registry.names("space"))
    for sitting in store.sittings(engine_version=session.engine_of(target).version):
        if replace(sitting.target, space=target.space).key == target.key:
            quartiles, _ = summary.summarise(store.visits(sitting.id), sitting.target)
            ms |= {name: middle for name, (_, middle, _) in quartiles.items() if name.split(" ")[0] in kinds}
    return under(target, ms)


def under(target: Target, ms: Mapping[str, float]) -> Networks:
    """Networks by name with their ms, under the conditions of the target."""
    declared = [float(value) for _, value in sorted(target.declared.items())]
    condition = [float(target.batch), float(target.threads or 1), target.utilisation, *declared]
    return _networks(list(ms), np.tile(condition, (len(ms), 1)), np.array(list(ms.values())))


def for_correction(target: Target, count: int, models: Sequence[str], how: Measuring) -> Networks:
    """About `count` subnets of the OFA spaces, half of them of the first, and the classifiers `models`, at
    all BATCHES.

    What the store holds is not measured again; with a budget of seconds some may be missing.
    """
    shares = (-(-count // 2), *[-(-count // 6)] * (len(SPACES) - 1))
    names = [name for space, n in zip(SPACES, shares, strict=True) for name in subnets(space, n, seed=0)]
    how = replace(how, seconds=None if how.seconds is None else how.seconds / len(BATCHES), rounds=ROUNDS)
    parts = []
    for at in (replace(target, batch=batch) for batch in BATCHES):
        jobs, stored = _jobs(at, [*names, *models]), read(at, how.store)
        if missing := [job for job in jobs if job.name not in stored.names]:
            session.time_jobs(at, missing, how)
            stored = read(at, how.store)
        asked = {job.name for job in jobs}
        parts.append(stored.take(np.array([name in asked for name in stored.names], bool)))
    conditions, ms = (np.concatenate([getattr(part, key) for part in parts]) for key in ("conditions", "ms"))
    return _networks([name for part in parts for name in part.names], conditions, ms)


def read_csv(path: Path) -> Networks:
    """Networks and their ms, from a table of the columns name, CONDITIONS and ms; ValueError for another."""
    columns = tables.read_columns(path)
    wrong = [key for key in (*CONDITIONS, "ms") if key not in columns or columns[key].dtype.kind != "f"]
    if wrong or "name" not in columns:
        raise ValueError(f"{path} is no table of measured networks: no name or no numbers of {wrong}")
    conditions = np.stack([columns[key] for key in CONDITIONS], axis=1)
    return _networks(columns["name"].tolist(), conditions, columns["ms"])


def _networks(names: Sequence[str], conditions: Floats, ms: Floats) -> Networks:
    return Networks(tuple(names), tuple(map(modules_of, names)), conditions, ms)


@cache
def modules_of(name: str) -> tuple[Module, ...]:
    """The modules of a network by its name."""
    if name.startswith(CLASSIFIER):
        _, model, _ = name.split(" ")
        network, images = classifiers.network(classifiers.with_weights()[model], 1)
        return tuple(tracing.modules(network, tuple(images.shape[1:])))
    space = get_space(name.split(" ")[0])
    return tuple(
        Module(place.kind, {key: float(values[0]) for key, values in place.inputs.items()})
        for place in module_rows.places(space.layers(space.parse([name])))
        if place.live[0]
    )


def _jobs(target: Target, names: Sequence[str]) -> list[Job]:
    jobs: list[Job] = []
    for space in dict.fromkeys(name.split(" ")[0] for name in names if " " in name):
        listed = [name for name in names if name.startswith(f"{space} ")]
        jobs += subnet_jobs(replace(target, space=space), get_space(space).parse(listed))
    picked = classifiers.select([name for name in names if " " not in name], 0)
    return jobs + classifiers.jobs(picked, target.batch)
