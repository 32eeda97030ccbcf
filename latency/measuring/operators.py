"""Operator descriptor: what the primitive operators of mobile networks cost on a target, in its own engine.

A dozen operators, sized as they occur in the middle of the MobileNetV3 space, each run alone through the
target's engine with its precision, batch and instruction set. MAPLE and MAPLE-Edge (arXiv 2111.15106,
2204.12950) describe hardware by performance counters per operator; MAPLE-Edge divides them by the operator's
latency. Where hardware events are counted (`counters`) they are there too, as events per ms of the operator;
elsewhere the latencies alone are the descriptor. No subnet is timed.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from latency.descriptors import OPERATORS, Descriptor
from latency.measuring import conditions
from latency.measuring import session as measure
from latency.measuring.counters import cachegrind, perf
from latency.measuring.counters.events import EVENTS, Counters, per_ms
from latency.measuring.engine import Engine
from latency.target import Target

if TYPE_CHECKING:
    import torch

ROUNDS = 5  # over all operators, so that a slow moment does not hit one of them alone
MIN_RUNS, SECONDS_PER_VISIT = 3, 0.03
COUNTERS = ("perf", "cachegrind")  # where events are counted; or a folder of recorded files
# what valgrind runs: this module, on the target and for the file that it is told
SIMULATED = "import sys; from latency.measuring import operators; operators.fork(*sys.argv[1:])"


@dataclass(frozen=True)
class Operators:
    """`ms` of one batch by operator; `counters` are events per ms by operator and event, empty without."""

    ms: Mapping[str, float]
    gmacs_per_s: Mapping[str, float]  # of the operators that multiply
    cpu_seconds: float  # what the descriptor took to make
    batch: int = 1
    counters: Counters = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)

    def descriptor(self) -> Descriptor:
        """Log ms per image by operator, in the order of their names; where events were counted, also the log
        of events per ms by operator and event, NaN for an event that was not."""
        names = sorted(self.ms)
        parts = {OPERATORS: np.log([self.ms[name] / self.batch for name in names])}
        if self.counters:
            counts = [self.counters.get(name, {}).get(event, np.nan) for name in names for event in EVENTS]
            parts["counters"] = np.log1p(counts)
        return parts


def describe(target: Target, counters: str = "perf") -> Operators:
    """The operators of a target of this machine, in some seconds (int8: half a minute of quantising).

    The latency is the least CPU time of all runs where that is the latency (one thread), else wall time.
    `counters` says where hardware events come from, on a CPU and one thread: "perf" counts them where the
    kernel does; "cachegrind" simulates them in some minutes; else it is a folder of files that perf wrote
    (`counters.perf.recorded`).
    """
    begun = time.process_time()
    on_host = target.threads == 1 and target.spec.kind == "cpu"
    recorded = {} if counters in COUNTERS else perf.recorded(Path(counters), list(primitives()))
    engine = measure.engine_of(target)
    with conditions.undisturbed(engine.threads):
        sessions, macs = _prepared(engine, target.batch)
        best = dict.fromkeys(sessions, float("inf"))
        for _ in range(ROUNDS):
            for name, session in sessions.items():
                best[name] = min(best[name], _least_ms(engine.run, session, on_host))
        events = perf.countable() if on_host and counters == "perf" else ()
        if events:
            recorded = {name: perf.count(partial(engine.run, s), events) for name, s in sessions.items()}
    if counters == "cachegrind" and on_host:
        simulated = cachegrind.simulate(SIMULATED, json.dumps(asdict(target)))
        recorded = {name: per_ms(counts, best[name]) for name, counts in simulated.items()}
    counted = sorted({event for of in recorded.values() for event in of})
    return Operators(
        ms={name: float(f"{ms:.5g}") for name, ms in best.items()},
        gmacs_per_s={n: float(f"{macs[n] / ms / 1e6:.4g}") for n, ms in best.items() if macs[n]},
        cpu_seconds=round(time.process_time() - begun, 1),
        batch=target.batch,
        counters=recorded,
        facts={
            "engine": engine.version,
            "counters": f"{counters}: {', '.join(counted)}"
            if counted
            else f"none: {counters} counts none here",
        },
    )


def fork(names: str, target: str) -> None:
    """Run each operator of a target in a child process of its own, as `cachegrind.simulate` asks for."""
    wanted = Target(**json.loads(target))
    engine = measure.engine_of(wanted)
    sessions, _ = _prepared(engine, wanted.batch)
    cachegrind.fork_each({name: partial(engine.run, s) for name, s in sessions.items()}, Path(names))


def _prepared(engine: Engine, batch: int) -> tuple[dict[str, Any], dict[str, float]]:
    """The session and the multiply-accumulates of each operator."""
    import torch

    noise = torch.Generator().manual_seed(0)
    sessions, macs = {}, {}
    for name, (build, shape) in primitives().items():
        module, images = build().eval(), torch.randn((batch, *shape), generator=noise)
        macs[name] = batch * _macs(module, images[:1])
        sessions[name] = engine.prepare(module, images)
    return sessions, macs


def primitives() -> "dict[str, tuple[Callable[[], torch.nn.Module], tuple[int, ...]]]":
    """What builds each operator, and the shape of its input without the batch."""
    from torch import nn
    from torchvision.ops import SqueezeExcitation

    def conv(cin: int, cout: int, kernel: int, groups: int = 1, stride: int = 1) -> Any:
        return lambda: nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups)

    gate = partial(SqueezeExcitation, 320, 80, scale_activation=nn.Hardsigmoid)
    return {
        "stem_3x3_192": (conv(3, 16, 3, stride=2), (3, 192, 192)),
        "pointwise_24_96_48": (conv(24, 96, 1), (24, 48, 48)),
        "pointwise_160_40_24": (conv(160, 40, 1), (160, 24, 24)),
        "pointwise_80_320_12": (conv(80, 320, 1), (80, 12, 12)),
        "pointwise_160_640_6": (conv(160, 640, 1), (160, 6, 6)),
        "depthwise_3_96_48": (conv(96, 96, 3, groups=96), (96, 48, 48)),
        "depthwise_5_160_24": (conv(160, 160, 5, groups=160), (160, 24, 24)),
        "depthwise_7_320_12": (conv(320, 320, 7, groups=320), (320, 12, 12)),
        "squeeze_excite_320_12": (gate, (320, 12, 12)),
        "hardswish_160_24": (nn.Hardswish, (160, 24, 24)),
        "pool_960_6": (lambda: nn.AdaptiveAvgPool2d(1), (960, 6, 6)),
        "linear_1280_1000": (lambda: nn.Linear(1280, 1000), (1280,)),
        "launch": (nn.ReLU, (4, 2, 2)),
    }


def _macs(module: "torch.nn.Module", images: "torch.Tensor") -> float:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(images)
    return counter.get_total_flops() / 2


def _least_ms(run: Callable[[Any], float | None], session: Any, on_host: bool) -> float:
    run(session)
    best, taken = float("inf"), 0
    end = time.perf_counter() + SECONDS_PER_VISIT
    while taken < MIN_RUNS or time.perf_counter() < end:
        start, start_cpu = time.perf_counter_ns(), time.process_time_ns()
        on_device = run(session)
        cpu, wall = time.process_time_ns() - start_cpu, time.perf_counter_ns() - start
        ms = on_device if on_device is not None else (cpu if on_host else wall) / 1e6
        best, taken = min(best, ms) if ms > 0 else best, taken + 1  # that clock can stand still
    return best
