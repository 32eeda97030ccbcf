"""What a machine is (specification) and what it does (micro-benchmarks): hardware descriptors.

The descriptor is a dozen rates that the layers of mobile networks live on, measured in a few seconds with
PyTorch on one thread. It needs no privileges and, unlike a data sheet, it responds to instruction sets,
threads and throttling (ours; it stands in for the performance counters of MAPLE, arXiv 2111.15106).
"""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import psutil

from supernet.device import Device

if TYPE_CHECKING:
    import torch

ROUNDS = 3  # over all probes, so that a slow moment does not hit one of them alone


@cache
def specification(kind: Literal["cpu", "gpu"] = "cpu") -> Device:
    """This machine as a Device: its CPU (py-cpuinfo, psutil) or its first CUDA GPU (NVML)."""
    return _cpu() if kind == "cpu" else _gpu()


@cache
def _cpu_info() -> dict[str, Any]:
    import cpuinfo

    return dict(cpuinfo.get_cpu_info())  # takes a second


def cpu_flags() -> frozenset[str]:
    """What this machine's CPU says it can do, in Linux's words (sse4_1, avx2, ...)."""
    return frozenset(_cpu_info().get("flags", ()))


def pairs_overflow() -> bool:
    """Whether int8 needs weights of 7 bits: x86 processors without VNNI add pairs of products in 16 bits."""
    return "sse2" in cpu_flags() and not {"avx512_vnni", "avx_vnni"} & cpu_flags()


def _cpu() -> Device:
    info = _cpu_info()
    brand = str(info.get("brand_raw") or info.get("arch_string_raw") or "unknown CPU")
    cores = psutil.cpu_count(logical=False) or psutil.cpu_count() or 1
    model = [f"{letter}{info[key]}" for letter, key in (("f", "family"), ("m", "model")) if key in info]
    return Device(
        name="_".join([_slug(brand), *model, f"{cores}c"]),
        title=f"{brand} ({cores} cores)",
        kind="cpu",
        source="py-cpuinfo and psutil on the machine itself",
        cores=cores,
        ram_gb=round(psutil.virtual_memory().total / 2**30, 1),
    )


def _gpu() -> Device:
    import pynvml

    pynvml.nvmlInit()
    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        title = str(pynvml.nvmlDeviceGetName(handle))
        clock_mhz = pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_MEM)
        cores = pynvml.nvmlDeviceGetNumGpuCores(handle)
        sm_mhz = pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_SM)
        return Device(
            name=_slug(title),
            title=title,
            kind="gpu",
            source="NVML on the machine itself; peak rates from its clocks and bus width",
            cores=cores,
            ram_gb=round(pynvml.nvmlDeviceGetMemoryInfo(handle).total / 2**30, 1),
            bandwidth_gbs=round(2 * clock_mhz * pynvml.nvmlDeviceGetMemoryBusWidth(handle) / 8 / 1000, 1),
            fp32_tflops=round(2 * cores * sm_mhz / 1e6, 2),
            tdp_w=pynvml.nvmlDeviceGetPowerManagementDefaultLimit(handle) / 1000,
        )
    finally:
        pynvml.nvmlShutdown()


def _slug(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", title.lower()).strip("_")


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """PyTorch runs on this many threads within the block."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def micro_benchmark(seconds_per_probe: float = 0.25) -> dict[str, float]:
    """Rates of this machine's CPU, one thread, in about 5 s; the best of all runs of each probe.

    In 1e9 multiply-accumulates or bytes per second, and launches per microsecond.
    """
    import torch

    with torch_threads(1), torch.inference_mode():
        probes = _probes()
        best = dict.fromkeys(probes, float("inf"))
        for _ in range(ROUNDS):
            for name, (run, _) in probes.items():
                run()
                end = time.perf_counter() + seconds_per_probe / ROUNDS
                while time.perf_counter() < end:
                    # of this thread: the process's clock can stand still for microseconds
                    start = time.thread_time_ns()
                    run()
                    best[name] = min(best[name], max(time.thread_time_ns() - start, 1) / 1e9)
    rates = {name: amount / best[name] / 1e9 for name, (_, amount) in probes.items()}
    rates["launches_per_us"] *= 1e3
    return {name: float(f"{rate:.4g}") for name, rate in rates.items()}


def _probes() -> dict[str, tuple[Callable[[], object], float]]:
    """What is run and how much it does (multiply-accumulates, or bytes)."""
    import torch

    noise = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> "torch.Tensor":
        return torch.randn(shape, generator=noise)

    def conv(
        cin: int, cout: int, side: int, kernel: int, groups: int = 1, stride: int = 1
    ) -> tuple[Callable[[], object], float]:
        layer = torch.nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False)
        layer = layer.to(memory_format=torch.channels_last)
        images = normal(1, cin, side, side).contiguous(memory_format=torch.channels_last)
        out = -(-side // stride)
        return lambda: layer(images), float(cin // groups * cout * kernel**2 * out**2)

    def triad(megabytes: float) -> tuple[Callable[[], object], float]:
        count = int(megabytes * 1e6 / 12)
        a, b, c = normal(count), normal(count), normal(count)
        return lambda: torch.add(a, b, alpha=3.0, out=c), 12.0 * count

    square, small, hidden = normal(512, 512), normal(96, 96), normal(1, 240, 28, 28)
    tiny = normal(4)

    def launches() -> None:
        for _ in range(200):
            torch.neg(tiny, out=tiny)

    return {
        "gemm_512": (lambda: square @ square, 512.0**3),
        "gemm_96": (lambda: small @ small, 96.0**3),
        "stem_3x3": conv(3, 16, 224, 3, stride=2),
        "pointwise_24_112": conv(24, 96, 112, 1),
        "pointwise_80_14": conv(80, 480, 14, 1),
        "pointwise_160_7": conv(160, 960, 7, 1),
        "depthwise_3_56": conv(96, 96, 56, 3, groups=96),
        "depthwise_5_28": conv(240, 240, 28, 5, groups=240),
        "depthwise_7_14": conv(480, 480, 14, 7, groups=480),
        "hardswish": (lambda: torch.nn.functional.hardswish(hidden), 8.0 * hidden.numel()),
        "triad_l2": triad(0.4),
        "triad_memory": triad(200),
        "launches_per_us": (launches, 200.0),
    }
