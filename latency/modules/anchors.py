"""Module predictors on another machine, from a handful of its modules that are timed first.

Machines of one model, and versions of one engine, differ by a fifth. What the networks asked for spend most
of their time in is timed in seconds; how much slower it is than predicted says how much slower the rest is
(ours).

Letters: n anchors, p inputs of a kind.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from latency.measuring import session
from latency.measuring.jobs import Job, Rounds
from latency.measuring.session import Measuring
from latency.modules import design
from latency.modules.data import ModuleData
from latency.modules.kinds import module_kind
from latency.modules.kinds.module_kind import Module
from latency.modules.networks import measured as networks
from latency.modules.predictor import ModulesLatency, Networks
from latency.target import Target
from supernet.arrays import Floats
from supernet.space import get_space

MACHINES = 0.2  # relative standard deviation between machines and versions without anchors
OF_A_KIND = 3  # anchors of one kind at most
ROUNDS = Rounds(fewest=4, most=6, block=64)


@dataclass(frozen=True, eq=False)
class Anchor:
    """A module to time: kind, (p,) whole inputs, share of the time of what is asked for, ms of a batch."""

    kind: str
    row: Floats
    share: float
    ms: float = np.nan


def choose(
    predictor: ModulesLatency, networks: Sequence[Sequence[Module]], target: Target, count: int
) -> list[Anchor]:
    """Up to `count` different modules that the networks spend most of their time in by the predictor."""
    shares: defaultdict[tuple[str, tuple[float, ...]], float] = defaultdict(float)
    there = elsewhere(predictor, target)
    for modules in networks:
        ms = there.module_ms(modules).clip(min=0)
        for module, share in zip(modules, (ms / ms.sum()).tolist(), strict=True):
            if not module.stands_for:
                row = tuple(float(round(module.inputs[n])) for n in module_kind.named(module.kind).inputs)
                shares[module.kind, row] += share
    chosen: list[Anchor] = []
    for (kind, row), share in sorted(shares.items(), key=lambda item: -item[1]):
        if sum(anchor.kind == kind for anchor in chosen) < OF_A_KIND and len(chosen) < count:
            chosen.append(Anchor(kind, np.array(row), share))
    return chosen


def elsewhere(predictor: ModulesLatency, target: Target) -> ModulesLatency:
    """The predictor for a machine that it was not measured on, with an interval that includes machines."""
    moved = replace(predictor, target=target, history=None)
    moved.spread.check(moved.condition)
    std = float(predictor.relative_stds(moved.condition)[0])
    return replace(moved, relative_std=float(np.hypot(std, MACHINES)))


def measure(chosen: Sequence[Anchor], target: Target, how: Measuring) -> tuple[list[Anchor], Networks]:
    """The anchors with their ms, those that the engine could not run left out, and the subnets of the space
    that every sitting times anyway."""
    names, jobs = [], []
    for anchor in chosen:
        kind = module_kind.named(anchor.kind)
        names.append(design.name_of(anchor.kind, kind.inputs, anchor.row, target.batch))
        jobs.append(Job(names[-1], partial(design.build, kind, anchor.row, target.batch)))
    timed = session.time_jobs(target, jobs, replace(how, rounds=ROUNDS))
    pairs = zip(chosen, names, strict=True)
    anchors = [
        replace(a, ms=float(timed.quartiles_ms[name][1])) for a, name in pairs if name in timed.quartiles_ms
    ]
    family = get_space(target.space).owner.family
    return anchors, networks.under(target, {} if family is None else timed.anchors_ms)


def anchored(
    predictor: ModulesLatency, target: Target, anchors: Sequence[Anchor], subnets: Networks
) -> ModulesLatency:
    """The predictor for the machine of the anchors and the subnets, shifted to what they took.

    How far anchors are off by the others widens the interval.
    """
    moved = elsewhere(predictor, target)
    if not anchors:
        return moved
    of_kind: dict[str, list[Anchor]] = {}
    for anchor in anchors:
        of_kind.setdefault(anchor.kind, []).append(anchor)
    modules = {kind: _data(kind, some, moved) for kind, some in of_kind.items()}
    shifted, errors = moved.shifted(subnets, modules, np.arange(len(subnets.ms)))
    shares = np.array([anchor.share for some in of_kind.values() for anchor in some])
    off = np.average(np.square(errors[: len(shares)]), weights=shares) if len(shares) > 1 else MACHINES**2
    std = float(predictor.relative_stds(moved.condition)[0])
    before = np.concatenate([moved.models[kind].ms(of.rows, of.conditions) for kind, of in modules.items()])
    took = np.concatenate([of.ms for of in modules.values()])
    slower = float(np.exp(np.average(np.log(took / before), weights=shares)))
    return replace(
        shifted,
        relative_std=float(np.hypot(std, np.sqrt(off / len(shares)))),
        facts={**moved.facts, "anchors": len(anchors), "anchored_by": slower},
    )


def _data(kind: str, anchors: Sequence[Anchor], predictor: ModulesLatency) -> ModuleData:
    """Anchors of one kind as measured modules."""
    ms, conditions = (
        np.array([anchor.ms for anchor in anchors]),
        np.tile(predictor.condition, (len(anchors), 1)),
    )
    names = predictor.models[kind].condition_names
    return ModuleData(kind, np.array([anchor.row for anchor in anchors]), conditions, names, ms, 0 * ms)
