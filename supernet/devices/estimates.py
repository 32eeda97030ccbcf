"""GPUs of which only a few figures are known: the others as GPUs of about the same size have them.

Cores, memory and bandwidth, the three inputs of arXiv 2101.00732, are enough. What depends on the design
(clock, cores of a multiprocessor, cache, power) is taken from each of the nearest GPUs that ship, in
proportion to the cores; they differ, and by how much is what an estimate does not know. Ours.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from supernet import device, registry
from supernet.device import Device

NEEDED = ("cores", "ram_gb", "bandwidth_gbs")
DONORS = 6  # nearest GPUs that an estimate is from
FIGURES = (  # that are estimated where they are not known
    "fp32_tflops", "tdp_w", "sm", "base_mhz", "boost_mhz", "l2_mb", "tensor_cores", "tensor_tflops",
    "generation", "year",
)  # fmt: skip
WHOLE = ("sm", "tensor_cores")
BY_NEAREST = ("generation", "year")  # have no middle


def from_facts(stated: Mapping[str, Any]) -> Device:
    """The GPU with these figures, options of `Device`; with the `name` of a known one, what that one's data
    sheet says beside them.

    ValueError for an unknown figure, and unless `NEEDED` are among them.

    >>> from_facts({"cores": 3584, "ram_gb": 12, "bandwidth_gbs": 360}).estimated[:2]
    ('fp32_tflops', 'tdp_w')
    """
    options = registry.defaults(Device)
    if unknown := [name for name in stated if name not in options]:
        raise registry.unknown_name("option of target.device", unknown[0], options)
    if "name" in stated and not all(name in stated for name in NEEDED):
        sheet = device.get(str(stated["name"]))
        figures = {name: value for name, value in stated.items() if name != "name"}
        if not figures:
            return sheet
        words = ", ".join(f"{name} {value}" for name, value in figures.items())
        own = asdict(sheet) | {"name": _called(figures, sheet.name), "title": f"{sheet.title} ({words})"}
        return Device(**own | figures)
    if missing := [name for name in NEEDED if stated.get(name) is None]:
        raise ValueError(
            "please give target.device=NAME (ofa-frontier list devices), or of a GPU without a data sheet "
            + " ".join(f"target.device.{name}=..." for name in missing)
        )
    told = {"kind": "gpu", "source": "figures given by the user", **stated}
    title = f"a GPU of {told['cores']} cores, {told['ram_gb']:g} GB at {told['bandwidth_gbs']:g} GB/s"
    figures = {name: value for name, value in stated.items() if name not in ("name", "title", "source")}
    return completed(Device(**{"name": _called(figures), "title": title, **told}))


def completed(sheet: Device) -> Device:
    """The GPU with all figures: those that are not known at the middle of what `possible` ones have."""
    unknown = tuple(name for name in FIGURES if getattr(sheet, name) is None)
    made = _like_donors(sheet, unknown)
    values: dict[str, Any] = {name: getattr(made[0], name) for name in unknown}
    for name in unknown:
        if name not in BY_NEAREST:
            figures = [figure for one in made if (figure := getattr(one, name)) is not None]
            values[name] = float(f"{np.median(figures):.4g}") if figures else None
    if "fp32_tflops" in values:
        values["fp32_tflops"] = _peak(sheet.cores, sheet.boost_mhz or values["boost_mhz"])
    return _with(sheet, values, unknown)


def possible(sheet: Device, donors: Sequence[Device] | None = None) -> list[Device]:
    """What a GPU with estimated figures may be: one for each of the nearest GPUs, or of other donors."""
    return _like_donors(_with(sheet, dict.fromkeys(sheet.estimated), ()), sheet.estimated, donors)


def _with(sheet: Device, values: Mapping[str, Any], estimated: tuple[str, ...]) -> Device:
    """The GPU with other figures."""
    whole = {name: round(values[name]) for name in WHOLE if values.get(name) is not None}
    return Device(**asdict(sheet) | dict(values) | whole | {"estimated": estimated})


def _like_donors(
    sheet: Device, unknown: Sequence[str], donors: Sequence[Device] | None = None
) -> list[Device]:
    """The GPU with the unknown figures of each donor, nearest first."""
    everyone = _gpus() if donors is None else donors
    alike = [one for one in everyone if sheet.generation in (None, one.generation)] or everyone
    nearest = sorted((one for one in alike if one.name != sheet.name), key=lambda one: _distance(sheet, one))
    return [_like(sheet, unknown, one) for one in nearest[:DONORS]]


def _like(sheet: Device, unknown: Sequence[str], donor: Device) -> Device:
    """The GPU with the unknown figures in proportion to its size as the donor has them."""
    assert sheet.cores
    assert donor.cores
    size = sheet.cores / donor.cores
    boost = sheet.boost_mhz or (sheet.fp32_tflops or 0) * 5e5 / sheet.cores or donor.boost_mhz
    peak = sheet.fp32_tflops or _peak(sheet.cores, boost)
    speed = peak / (donor.fp32_tflops or peak)
    scales = {"sm": size, "l2_mb": size, "tensor_cores": size, "tdp_w": speed, "tensor_tflops": speed}
    values: dict[str, Any] = {"boost_mhz": boost, "fp32_tflops": peak}
    for name in unknown:
        value = getattr(donor, name)
        if name not in values:
            values[name] = value * scales[name] if name in scales and value is not None else value
    return _with(sheet, {name: values[name] for name in unknown}, ())


def _peak(cores: int | None, boost_mhz: float | None) -> float:
    """TFLOPS of so many cores, a multiply-accumulate of each in a clock."""
    return float(f"{2e-6 * (cores or 0) * (boost_mhz or 0):.4g}")


def _distance(sheet: Device, other: Device) -> float:
    """In logarithms of cores, memory and bandwidth."""
    pairs = [(getattr(sheet, name), getattr(other, name)) for name in NEEDED]
    return math.hypot(*(math.log(a / b) for a, b in pairs if a and b))


def _gpus() -> list[Device]:
    """The GPUs that ship, with all that an estimate takes from them."""
    sheets = [device.get(name) for name in registry.shipped("device")]
    return [one for one in sheets if one.kind == "gpu" and one.cores and one.boost_mhz and one.fp32_tflops]


def _called(figures: Mapping[str, Any], name: str = "gpu") -> str:
    """A name that says the figures, as a latency depends on them."""
    words = [f"{option}{value}" for option, value in figures.items() if option != "kind"]
    return "_".join([name, *words]).replace(" ", "_")
