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
from numpy.typing import NDArray

from latency.measuring import session
from latency.measuring.jobs import Job, Rounds
from latency.measuring.session import Measuring
from latency.modules import design
from latency.modules.kinds import module_kind
from latency.modules.kinds.module_kind import Module
from latency.modules.predictor import Correction, ModulesLatency
from latency.target import Target
from supernet.arrays import Floats

MACHINES = 0.2  # relative standard deviation between machines and versions without anchors
OF_A_KIND = 3  # anchors of one kind at most
KIND_WEIGHT = 1.0  # anchors of a kind that weigh as much as all others do for it
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


def measure(chosen: Sequence[Anchor], target: Target, how: Measuring) -> list[Anchor]:
    """The anchors with their ms, those that the engine could not run left out."""
    names, jobs = [], []
    for anchor in chosen:
        kind = module_kind.named(anchor.kind)
        names.append(design.name_of(anchor.kind, kind.inputs, anchor.row, target.batch))
        jobs.append(Job(names[-1], partial(design.build, kind, anchor.row, target.batch)))
    timed = session.time_jobs(target, jobs, replace(how, rounds=ROUNDS)).quartiles_ms
    pairs = zip(chosen, names, strict=True)
    return [replace(anchor, ms=float(timed[name][1])) for anchor, name in pairs if name in timed]


def anchored(predictor: ModulesLatency, target: Target, anchors: Sequence[Anchor]) -> ModulesLatency:
    """The predictor for the machine of the anchors: a factor for each kind that has some, one for the rest.

    Factors are weighted means of logarithms of measured over predicted ms; how far anchors are off by the
    others widens the interval.
    """
    moved = elsewhere(predictor, target)
    if not anchors:
        return moved
    predicted = [
        float(moved.models[anchor.kind].ms(anchor.row[None], moved.condition)[0]) for anchor in anchors
    ]
    off = np.log([anchor.ms for anchor in anchors]) - np.log(predicted)
    kinds, share = np.array([anchor.kind for anchor in anchors]), np.array([a.share for a in anchors])
    names = list(moved.models)
    level, common = _levels(names, kinds, off, share)
    weights = moved.correction.weights(names) * np.exp([*(level[name] for name in names), common, common])
    left_out = []
    for i in range(len(anchors)):
        rest = np.arange(len(anchors)) != i
        others, _ = _levels(names, kinds[rest], off[rest], share[rest])
        left_out.append(off[i] - others[str(kinds[i])])
    residual = np.sqrt(np.average(np.square(left_out), weights=share)) if len(anchors) > 1 else MACHINES
    std = float(predictor.relative_stds(moved.condition)[0])
    facts = {"anchors": len(anchors), "anchored_by": float(np.exp(common))}
    return replace(
        moved,
        correction=Correction.from_weights(names, weights),
        relative_std=float(np.hypot(std, residual / np.sqrt(len(anchors)))),
        facts={**moved.facts, **facts},
    )


def _levels(
    names: Sequence[str], kinds: NDArray[np.str_], off: Floats, share: Floats
) -> tuple[dict[str, float], float]:
    """The logarithm of the factor of each named kind, and of all."""
    if not len(off):
        return dict.fromkeys(names, 0.0), 0.0
    common = float(np.average(off, weights=share))
    level = {}
    for name in names:
        own = off[kinds == name]
        level[name] = (own.sum() + KIND_WEIGHT * common) / (len(own) + KIND_WEIGHT)
    return level, common
