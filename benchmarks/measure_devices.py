"""Measure the same subnets of `ofa_mbv3_w1.0` on every device that this machine can be: `python -m
benchmarks.measure_devices`.

A device is an engine, precision, instruction-set limit and batch size, each in a process of its own. What is
there already is left out, so the command can be stopped and repeated. Limits that change nothing here are not
listed: OpenVINO and PyTorch held to AVX2 (the CPU has no more), PyTorch held to AVX (as SSE4.1), ONNX Runtime
(takes no limit); neither is bf16, which this CPU lacks.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from latency.data import write_csv
from latency.measuring import instruction_sets, operators, session
from latency.measuring.here import here
from latency.measuring.jobs import Rounds
from latency.measuring.store import Store
from latency.predictors import sampling
from latency.target import Limit, Target
from latency.zoo import devices
from supernet.arrays import Genomes
from supernet.space import get_space

SPACE = "ofa_mbv3_w1.0"
MANY, FEW = 72, 60  # subnets; few where preparing (int8) or running (batch 8) one takes long
ROUNDS = Rounds(fewest=8, most=12, long_ms=40.0)  # fewer than usual: 14 devices in half an hour of one core
LOW_SHARE = 0.2  # of the subnets, below 160 pixels
DEVICES: dict[str, tuple[str, str, Limit | None, int, int]] = {
    "ort_fp32_b1": ("onnxruntime", "fp32", None, 1, MANY),
    "ov_fp32_b1": ("openvino", "fp32", None, 1, MANY),
    "ov_fp32_avx_b1": ("openvino", "fp32", "avx", 1, MANY),
    "ov_fp32_sse41_b1": ("openvino", "fp32", "sse41", 1, MANY),
    "eager_fp32_b1": ("torch_eager", "fp32", None, 1, MANY),
    "eager_fp32_sse41_b1": ("torch_eager", "fp32", "sse41", 1, MANY),
    "ort_int8_b1": ("onnxruntime", "int8", None, 1, FEW),
    "ov_int8_b1": ("openvino", "int8", None, 1, FEW),
    "ov_fp32_sse41_b8": ("openvino", "fp32", "sse41", 8, FEW),
    "eager_fp32_sse41_b8": ("torch_eager", "fp32", "sse41", 8, FEW),
    "ort_fp32_b8": ("onnxruntime", "fp32", None, 8, FEW),
    "ov_fp32_b8": ("openvino", "fp32", None, 8, FEW),
    "eager_fp32_b8": ("torch_eager", "fp32", None, 8, FEW),
    "ov_int8_sse41_b1": ("openvino", "int8", "sse41", 1, FEW),
}


def target(name: str) -> Target:
    """The device `name`, in a process that runs under its limit."""
    engine, precision, isa, batch, _ = DEVICES[name]
    return here(SPACE, engine=engine, precision=precision, batch=batch, isa=isa, name=name)


def subnets() -> Genomes:
    """(MANY, d) subnets, half uniform and half tilted; the first of them are as mixed as all."""
    rng, space = np.random.default_rng(20226), get_space(SPACE)
    low = round(LOW_SHARE * MANY / 2)
    parts = []
    for count, sides in ((low, (128, 156)), (MANY // 2 - low, (160, 224))):
        inside = space.restrict("r", *sides)
        parts += [sampling.draw(inside, count, rng), sampling.tilted(inside, count, rng)]
    drawn = np.concatenate(parts)
    return drawn[rng.permutation(len(drawn))]


def one(name: str, store: Path) -> None:
    """Measure what is missing of one device in this process: its subnets, then its operators."""
    this, csv = target(name), devices.FOLDER / f"{name}.csv.gz"
    if not csv.is_file():
        with Store(store) as opened:
            measured = session.measure(this, subnets()[: DEVICES[name][-1]], store=opened, rounds=ROUNDS)
        write_csv(csv, measured.data)
        spread = float(np.median(measured.data.spread_ms / measured.data.ms))
        took = f"{len(measured.data)} subnets, {measured.seconds:.0f} s"
        print(f"{name}: {took}, spread {spread:.1%}", flush=True)
    described = operators.describe(this)
    devices.save(this, described)
    print(f"{name}: {len(described.ms)} operators, {described.cpu_seconds:.0f} s CPU", flush=True)


def main() -> None:
    if len(sys.argv) > 2:
        one(sys.argv[1], Path(sys.argv[2]))
        return
    store = sys.argv[1] if len(sys.argv) > 1 else "runs/devices.sqlite"
    for name, (_, _, limit, _, _) in DEVICES.items():
        if not (devices.FOLDER / f"{name}.json").is_file():
            command = [sys.executable, "-m", "benchmarks.measure_devices", name, store]
            subprocess.run(command, check=True, env=instruction_sets.environment(limit))


if __name__ == "__main__":
    main()
