"""What a machine is and does."""

import time

import numpy as np

from latency.measuring import machine


def test_rates_are_those_of_the_machine():
    """Against an independent measurement: numpy's matrix product is within a factor of six of PyTorch's."""
    from threadpoolctl import threadpool_limits

    begun = time.perf_counter()
    rates = machine.micro_benchmark(seconds_per_probe=0.06)
    assert time.perf_counter() - begun < 10
    assert all(rate > 0 for rate in rates.values())
    square = np.random.default_rng(0).random((512, 512), np.float32)
    best = np.inf
    with threadpool_limits(1):
        for _ in range(10):
            begun = time.process_time()
            square @ square
            best = min(best, time.process_time() - begun)
    assert 1 / 6 < rates["gemm_512"] * best * 1e9 / 512**3 < 6
    assert rates["triad_l2"] > rates["triad_memory"]


def test_specification_describes_this_machine():
    spec = machine.specification()
    assert spec.kind == "cpu"
    assert spec.cores >= 1
    assert spec.ram_gb > 0.5
    assert spec.name == spec.name.lower()
    assert " " not in spec.name
