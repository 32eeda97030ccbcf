"""What a machine is and does."""

import numpy as np

from latency.measuring import machine


def test_rates_are_those_of_the_machine():
    """Against an independent measurement: numpy's matrix product is within a factor of six of PyTorch's."""
    import time

    from threadpoolctl import threadpool_limits

    found = machine.micro_benchmark(seconds_per_probe=0.06)
    assert found.seconds < 10
    assert all(rate > 0 for rate in found.rates.values())
    square = np.random.default_rng(0).random((512, 512), np.float32)
    best = np.inf
    with threadpool_limits(1):
        for _ in range(10):
            begun = time.process_time()
            square @ square
            best = min(best, time.process_time() - begun)
    assert 1 / 6 < found.rates["gemm_512"] * best * 1e9 / 512**3 < 6
    assert found.rates["triad_l2"] > found.rates["triad_memory"]


def test_specification_describes_this_machine():
    spec = machine.specification()
    assert spec.kind == "cpu"
    assert spec.cores >= 1
    assert spec.ram_gb > 0.5
    assert spec.name == spec.name.lower()
    assert " " not in spec.name
