"""Measure the same subnets of `ofa_mbv3_w1.0` on every device that this machine can be: `python -m
benchmarks.measure_devices`.

A device is an engine, precision, instruction-set limit and batch size, each in a process of its own. What is
there already is left out, so the command can be stopped and repeated. Limits that change nothing here are not
listed: OpenVINO and PyTorch held to AVX2 (the CPU has no more), PyTorch held to AVX (as SSE4.1), ONNX Runtime
(takes no limit); neither is bf16, which this CPU lacks.
"""

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
from latency.target import Limit
from latency.zoo import devices
from supernet.arrays import Genomes
from supernet.space import get_space

SPACE = "ofa_mbv3_w1.0"
MANY, FEW = 72, 60  # subnets; few where preparing (int8) or running (batch 8) one takes long
ROUNDS = Rounds(fewest=8, most=12, long_ms=40.0)  # fewer than usual: 14 devices in half an hour of one core
LOW_SHARE = 0.2  # of the subnets, below 160 pixels
ENGINES = {"ort": "onnxruntime", "ov": "openvino", "eager": "torch_eager"}
DEVICES = (  # engine, precision, limit if there is one, batch size
    *("ort_fp32_b1", "ov_fp32_b1", "ov_fp32_avx_b1", "ov_fp32_sse41_b1", "eager_fp32_b1"),
    *("eager_fp32_sse41_b1", "ort_int8_b1", "ov_int8_b1", "ov_fp32_sse41_b8", "eager_fp32_sse41_b8"),
    *("ort_fp32_b8", "ov_fp32_b8", "eager_fp32_b8", "ov_int8_sse41_b1"),
)


def limit(name: str) -> Limit | None:
    """The instruction-set limit of the device, under which its process has to run."""
    return next((isa for isa in instruction_sets.VALUES if isa in name.split("_")), None)


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
    engine, precision, *_, size = name.split("_")
    batch, csv = int(size[1:]), devices.FOLDER / f"{name}.csv.gz"
    this = here(SPACE, engine=ENGINES[engine], precision=precision, batch=batch, isa=limit(name), name=name)
    count = FEW if precision == "int8" or batch > 1 else MANY
    if not csv.is_file():
        with Store(store) as opened:
            measured = session.measure(this, subnets()[:count], store=opened, rounds=ROUNDS)
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
    for name in DEVICES:
        if not (devices.FOLDER / f"{name}.json").is_file():
            command = [sys.executable, "-m", "benchmarks.measure_devices", name, store]
            subprocess.run(command, check=True, env=instruction_sets.environment(limit(name)))
    print(f"{len(DEVICES)} devices are measured: {devices.FOLDER}")


if __name__ == "__main__":
    main()
