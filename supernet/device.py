"""Data-sheet facts of devices; one YAML per device in `configs/device`."""

from functools import cache
from typing import Literal

from supernet import registry
from supernet.options import FileName, NonNegativeFloat, NonNegativeInt, PositiveFloat, options


@options
class Device:
    """What a data sheet says; None where it is not known. `source` names where the figures are from.

    `estimated` names the figures that no data sheet says (`supernet.devices.estimates`).
    """

    name: FileName
    title: str
    kind: Literal["gpu", "cpu", "mobile", "embedded", "fpga", "asic"]
    source: str
    year: NonNegativeInt | None = None
    cores: NonNegativeInt | None = None
    ram_gb: NonNegativeFloat | None = None
    bandwidth_gbs: NonNegativeFloat | None = None
    fp32_tflops: NonNegativeFloat | None = None
    tdp_w: NonNegativeFloat | None = None
    generation: str | None = None  # name of the microarchitecture's family: Pascal, Turing, ...
    sm: NonNegativeInt | None = None  # streaming multiprocessors
    base_mhz: NonNegativeFloat | None = None
    boost_mhz: NonNegativeFloat | None = None
    l2_mb: NonNegativeFloat | None = None
    tensor_cores: NonNegativeInt | None = None
    tensor_tflops: NonNegativeFloat | None = None  # dense fp16 products, sums in fp32; 0 without tensor cores
    usd_per_hour: PositiveFloat | None = None  # what you pay for it; none ships, since prices change
    estimated: tuple[str, ...] = ()


@cache
def get(name: str) -> Device:
    """The device `name`; ValueError with the known names and the nearest spelling otherwise."""
    device: Device = registry.get("device", name)
    return device
