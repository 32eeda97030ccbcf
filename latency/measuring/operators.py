"""Operator descriptor: what the primitive operators of mobile networks cost on a target, in its own engine.

A dozen operators, sized as they occur in the middle of the MobileNetV3 space, each run alone through the
target's engine with its precision, batch and instruction set. MAPLE and MAPLE-Edge (arXiv 2111.15106,
2204.12950) describe hardware by performance counters per operator; MAPLE-Edge divides them by the operator's
latency. Where the kernel counts hardware events (`perf stat`) they are there too, as events per ms of the
operator; elsewhere the latencies alone are the descriptor. No subnet is timed.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from latency.measuring import conditions
from latency.measuring import session as measure
from latency.target import Target
from supernet.arrays import Floats

if TYPE_CHECKING:
    import torch

EVENTS = (
    "cpu-cycles", "instructions", "cache-references", "cache-misses", "L1-dcache-loads",
    "L1-dcache-load-misses", "LLC-loads", "LLC-load-misses", "LLC-stores", "LLC-store-misses",
    "cpu-migrations",
)  # fmt: skip  # MAPLE-Edge's list
SOFTWARE = ("cpu-migrations",)  # counted everywhere, and says nothing of the hardware
ROUNDS = 5  # over all operators, so that a slow moment does not hit one of them alone
MIN_RUNS, SECONDS_PER_VISIT = 3, 0.03
SECONDS_PER_COUNT = 0.4  # of which perf needs some to start


@dataclass(frozen=True)
class Operators:
    """`ms` of one batch by operator; `counters` are events per ms by operator and event, empty without."""

    ms: Mapping[str, float]
    gmacs_per_s: Mapping[str, float]  # of the operators that multiply
    cpu_seconds: float  # what the descriptor took to make
    batch: int = 1
    counters: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)

    def vector(self) -> Floats:
        """(p,) log ms per image by operator, in the order of their names, then log counters."""
        times = np.log([self.ms[name] / self.batch for name in sorted(self.ms)])
        events = [np.log1p(self.counters[o][e]) for o in sorted(self.counters) for e in EVENTS]
        return np.concatenate([times, np.array(events)])


def describe(target: Target) -> Operators:
    """The operators of a target of this machine, in some seconds (int8: half a minute of quantising).

    The latency is the least CPU time of all runs where that is the latency (one thread), else wall time.
    """
    import torch

    begun = time.process_time()
    engine = measure.engine_of(target)
    noise = torch.Generator().manual_seed(0)
    sessions, macs = {}, {}
    on_host = target.threads == 1 and target.spec.kind == "cpu"
    with conditions.undisturbed(engine.threads):
        for name, (build, shape) in primitives().items():
            module, images = build().eval(), torch.randn((target.batch, *shape), generator=noise)
            macs[name] = target.batch * _macs(module, images[:1])
            sessions[name] = engine.prepare(module, images)
        best = dict.fromkeys(sessions, float("inf"))
        for _ in range(ROUNDS):
            for name, session in sessions.items():
                best[name] = min(best[name], _least_ms(engine.run, session, on_host))
        events = countable(EVENTS) if on_host else ()
        hardware = [event for event in events if event not in SOFTWARE]
        counted = sessions if hardware else {}
        counters = {name: _counted(partial(engine.run, s), events) for name, s in counted.items()}
    used = f"perf stat: {', '.join(events)}" if hardware else "none: perf counts no hardware events here"
    return Operators(
        ms={name: float(f"{ms:.5g}") for name, ms in best.items()},
        gmacs_per_s={n: float(f"{macs[n] / ms / 1e6:.4g}") for n, ms in best.items() if macs[n]},
        cpu_seconds=round(time.process_time() - begun, 1),
        batch=target.batch,
        counters=counters,
        facts={"engine": engine.version, "counters": used},
    )


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


def countable(events: Sequence[str]) -> tuple[str, ...]:
    """Those of `events` that `perf stat` counts on this machine; none where perf is not installed."""
    if shutil.which("perf") is None:
        return ()
    command = ["perf", "stat", "-x,", "-e", ",".join(events), "true"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return tuple(parse_perf(done.stderr)) if done.returncode == 0 else ()


def parse_perf(text: str) -> dict[str, float]:
    """Counts by event of the output of `perf stat -x,`; what it could not count is left out."""
    counts = {}
    for line in text.splitlines():
        fields = line.split(",")
        if len(fields) > 2 and fields[0].replace(".", "", 1).isdigit():
            counts[fields[2].removesuffix(":u")] = float(fields[0])
    return counts


def _counted(run: Callable[[], object], events: Sequence[str]) -> dict[str, float]:
    """Events per ms of this process while it does nothing but `run`; 0 for what cannot be counted."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "perf.csv"
        words = ["-x,", "-o", str(path), "-p", str(os.getpid()), "-e", ",".join([*events, "task-clock"])]
        process = subprocess.Popen(["perf", "stat", *words])
        end = time.perf_counter() + SECONDS_PER_COUNT
        while time.perf_counter() < end:
            run()
        process.send_signal(signal.SIGINT)
        process.wait()
        counts = parse_perf(path.read_text())
    busy = counts.get("task-clock", 0.0)  # ms
    return {event: float(f"{counts.get(event, 0.0) / busy:.5g}") if busy else 0.0 for event in EVENTS}
