"""Data-sheet facts of devices; one YAML per device in `configs/device`."""

from functools import cache
from typing import Literal

from pydantic import PositiveFloat

from supernet import registry
from supernet.options import FileName, options


@options
class Device:
    """What a data sheet says; None where it is not known. `source` names where the figures are from.

    `estimated` names the figures that no data sheet says (`supernet.devices.estimates`).
    """

    name: FileName
    title: str
    kind: Literal["gpu", "cpu", "mobile", "embedded", "fpga", "asic"]
    source: str
    year: int | None = None
    cores: int | None = None
    ram_gb: float | None = None
    bandwidth_gbs: float | None = None
    fp32_tflops: float | None = None
    tdp_w: float | None = None
    generation: str | None = None  # name of the microarchitecture's family: Pascal, Turing, ...
    sm: int | None = None  # streaming multiprocessors
    base_mhz: float | None = None
    boost_mhz: float | None = None
    l2_mb: float | None = None
    tensor_cores: int | None = None
    tensor_tflops: float | None = None  # dense fp16 products, sums in fp32; 0 without tensor cores
    usd_per_hour: PositiveFloat | None = None  # what you pay for it; none ships, since prices change
    estimated: tuple[str, ...] = ()


@cache
def get(name: str) -> Device:
    """The device `name`; ValueError with the known names and the nearest spelling otherwise."""
    device: Device = registry.get("device", name)
    return device
