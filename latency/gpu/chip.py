"""What the formula of a kernel's time needs of a data sheet."""

import math
import re
from dataclasses import dataclass

from latency.target import PRECISIONS
from supernet.device import Device

DOUBLED = 0.78  # of the promised fp32 rate where half of the units share their slot with integer instructions
SHARED_SLOTS = (
    "Ampere",
    "Ada",
    "Blackwell",
)  # generations of such units, where a multiprocessor has 128 cores
MACS_PER_MS = 0.5e9  # of a TFLOPS
BEFORE_VOLTA = ("Kepler", "Maxwell", "Pascal")  # their first-level cache is apart from shared memory
BEFORE_AMPERE = (*BEFORE_VOLTA, "Volta", "Turing")
USUAL_GFLOPS_PER_WATT = {  # of desktop and server cards; cards of few watts promise more than they hold
    "Kepler": 22.0, "Maxwell": 28.0, "Pascal": 46.0, "Volta": 55.0, "Turing": 56.0, "Ampere": 80.0,
    "Ada": 180.0, "Hopper": 110.0, "Blackwell": 185.0,
}  # fmt: skip
CONSUMER = re.compile("geforce|titan|radeon rx|jetson|a gpu of", re.IGNORECASE)  # titles of cards that do not
BYTES = {"fp32": 4, "tf32": 4, "amp": 2}  # of an element of a map


@dataclass(frozen=True)
class Chip:
    """A data sheet as the formula sees it, at one precision."""

    name: str
    generation: str
    matrix: float  # multiply-accumulates per ms, of matrix products
    scalar: float  # of everything else
    bandwidth: float  # bytes per ms
    cache: float  # bytes of the second level
    processors: float
    clock: float  # log(base / boost)
    power: float  # log of promised over usual GFLOPS per watt, of its generation
    ecc: bool  # checks its memory at the cost of bandwidth, as professional cards without HBM do
    tensor: bool  # matrix products on tensor cores
    bytes: int  # of an element

    @property
    def before_volta(self) -> bool:
        """Whether it has the older design of caches."""
        return self.generation in BEFORE_VOLTA


def chip(spec: Device, precision: str = "fp32") -> Chip:
    """The chip of a data sheet; ValueError that names what is missing."""
    missing = [name for name in ("bandwidth_gbs", "fp32_tflops") if getattr(spec, name) is None]
    if missing or spec.kind != "gpu":
        reason = "is no GPU" if spec.kind != "gpu" else f"has no {' and no '.join(missing)}"
        raise ValueError(
            f"{spec.name} {reason}: its bandwidth_gbs and fp32_tflops are needed; or use make adapt"
        )
    if precision not in PRECISIONS:
        raise ValueError(f"precision={precision}: a data sheet tells times of {', '.join(PRECISIONS)}")
    fp32, tensor = (spec.fp32_tflops or 0.0) * MACS_PER_MS, (spec.tensor_tflops or 0.0) * MACS_PER_MS
    generation, processors = spec.generation or "", float(spec.sm or (spec.cores or 4096) / 64)
    if generation in SHARED_SLOTS and (spec.cores or 0) > 100 * processors:
        fp32 *= DOUBLED
    if precision != "amp":  # TF32 products run at half the rate of fp16, on no generation before Ampere
        tensor = 0.0 if precision == "fp32" or generation in BEFORE_AMPERE else tensor / 2
    usual = USUAL_GFLOPS_PER_WATT.get(generation, 100.0)
    power = math.log((spec.fp32_tflops or 0.0) * 1e3 / spec.tdp_w / usual) if spec.tdp_w else 0.0
    base, boost = spec.base_mhz, spec.boost_mhz
    return Chip(
        name=spec.name,
        generation=generation,
        matrix=max(tensor, fp32),
        scalar=fp32,
        bandwidth=(spec.bandwidth_gbs or 0.0) * 1e6,
        cache=(spec.l2_mb or 4.0) * 2**20,
        processors=processors,
        clock=math.log(base / boost) if base and boost else math.log(0.85),
        power=power,
        ecc=not CONSUMER.search(spec.title) and not hbm(spec),
        tensor=tensor > fp32,
        bytes=BYTES[precision],
    )


def hbm(spec: Device) -> bool:
    """Whether its memory is stacked, whose checks cost nothing: the chips with fp64 units, by their cores."""
    few = spec.cores is not None and spec.sm is not None and spec.cores <= 64 * spec.sm
    return spec.generation == "Hopper" or (spec.generation in ("Pascal", "Volta", "Ampere") and few)
