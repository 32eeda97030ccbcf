"""Target: where a latency holds. One YAML per shipped target in `configs/target`, and `here` for this
machine."""

import re
from collections.abc import Mapping
from dataclasses import field
from typing import Any, Literal

from supernet.device import Device
from supernet.device import get as data_sheet
from supernet.devices import estimates
from supernet.options import FileName, Fraction, NonNegativeInt, Number, PositiveInt, checked, options
from supernet.registry import names, unknown_name
from supernet.space import get_space

PRECISIONS = ("fp32", "tf32", "amp")  # of which a GPU's data sheet tells times
NOT_STATED = "not stated"  # the engine of rows of which nobody said it
PUBLISHED = "published networks"  # the method of targets of which only a handful of networks is known
Limit = Literal["sse41", "avx", "avx2", "avx512"]  # instruction sets that an engine may be held to


@options
class Target:
    """Device x engine x precision x batch x threads, and the search space whose networks were timed on it.

    `device` is the name of a device, or a Device that has no file (this machine). `batch` images together
    take the latency; per image, divide. `isa` is the instruction set that the engine was held to, None
    where it was free, `utilisation` the share of every core that other work asked for meanwhile, `unit` the
    fingerprint of a single device that was measured over a connection, by facts of it, `declared` other
    numbers that the user says hold (a clock, a power limit). `rows` and `column` name the public table it
    was fitted on, `train` the rows used (first, past the last), `source` and `licence` where that comes
    from.
    """

    name: FileName
    device: str | Device
    space: str
    batch: PositiveInt = 1
    engine: FileName = NOT_STATED
    precision: FileName = "fp32"
    threads: PositiveInt | None = None
    method: str = "additive"
    rows: str = ""
    column: str = ""
    validation: tuple[NonNegativeInt, NonNegativeInt] | None = None
    test: tuple[NonNegativeInt, NonNegativeInt] | None = None
    source: str = ""
    licence: str = ""
    note: str = ""
    isa: Limit | None = None
    utilisation: Fraction = 0.0
    unit: str = ""
    declared: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.device, str):
            sheet = data_sheet(self.device)  # a library's is kept: files hold all that they need
            object.__setattr__(self, "device", sheet.name if sheet.name in names("device") else sheet)
        if self.space not in names("space"):
            get_space(self.space)

    @property
    def spec(self) -> Device:
        """The data sheet of the device."""
        return data_sheet(self.device) if isinstance(self.device, str) else self.device

    @property
    def conditions(self) -> dict[str, str | float | None]:
        """Everything a latency depends on, not where it was found."""
        rest = ("engine", "precision", "batch", "threads", "space", "isa", "utilisation", "unit")
        stated = {f"declared.{name}": float(value) for name, value in sorted(self.declared.items())}
        return {"device": self.spec.name, **{name: getattr(self, name) for name in rest}, **stated}

    @property
    def key(self) -> tuple[tuple[str, str | float | None], ...]:
        """What makes two targets the same."""
        return tuple(self.conditions.items())

    def differences(self, other: "Target") -> str:
        """What another target has different: `batch 1, not 4`."""
        mine, theirs = self.conditions, other.conditions
        return ", ".join(
            f"{name} {mine.get(name)}, not {theirs.get(name)}"
            for name in {**mine, **theirs}
            if mine.get(name) != theirs.get(name)
        )

    def __str__(self) -> str:
        threads = f", {self.threads} thread(s)" if self.threads else ""
        isa = f", at most {self.isa}" if self.isa else ""
        busy = f", {self.utilisation:.0%} utilised by others" if self.utilisation else ""
        stated = "".join(f", {name} {value:g}" for name, value in sorted(self.declared.items()))
        about = f"{self.spec.title}, {self.engine}, {self.precision}, batch {self.batch}"
        return about + threads + isa + busy + stated


def condition_words(batch: int, threads: int, utilisation: float) -> list[str]:
    """The parts of a target's name that say its batch, threads and utilisation, what is usual left out."""
    words = [f"b{batch}", *([f"t{threads}"] if threads > 1 else [])]
    return [*words, *([f"u{100 * utilisation:.0f}"] if utilisation else [])]


@checked
def modules(
    space: str = "ofa_mbv3_w1.0",
    *,
    device: str = "amd_epyc_f25_m17_2c",
    engine: FileName = "onnxruntime",
    batch: PositiveInt = 1,
    threads: PositiveInt = 1,
    utilisation: Fraction = 0.0,
    declared: Mapping[str, Number] | None = None,
    name: FileName | None = None,
) -> Target:
    """A device whose modules we measured, in fp32, under any of these conditions.

    What `configs/target/modules.yaml` builds.
    """
    words = [device, engine, *condition_words(batch, threads, utilisation), "modules"]
    return Target(
        name=name or "_".join(words),
        device=device,
        space=space,
        batch=batch,
        engine=engine,
        threads=threads,
        method="modules",
        source="modules measured by us",
        utilisation=utilisation,
        declared=declared or {},
    )


@checked
def gpu(
    device: str | Mapping[str, Any],
    *,
    space: str = "ofa_mbv3_w1.2",
    batch: PositiveInt = 64,
    engine: FileName = "PyTorch",
    precision: FileName = "fp32",
    name: FileName | None = None,
) -> Target:
    """A GPU known only by its data sheet: what `configs/target/gpu.yaml` builds.

    `device` is the name of a device, or figures of a GPU (`estimates.from_facts`). With `precision` amp
    (automatic mixed precision) products and maps are in two bytes, on tensor cores where there are any; with
    tf32 products of fp32 numbers are, from Ampere on. ValueError for a device that is no GPU, and for another
    precision.

    >>> gpu("rtx_4090", batch=32).name
    'rtx_4090_b32_data_sheet'
    """
    sheet = data_sheet(device) if isinstance(device, str) else estimates.from_facts(device)
    if sheet.kind != "gpu":
        gpus = [one for one in names("device") if data_sheet(one).kind == "gpu"]
        raise ValueError(
            f"target.device={sheet.name} is no GPU; there are {', '.join(gpus)}, or write its YAML"
        )
    if precision not in PRECISIONS:
        raise unknown_name("target.precision of a data sheet", precision, PRECISIONS)
    return Target(
        name=name or f"{sheet.name}_b{batch}{'' if precision == 'fp32' else f'_{precision}'}_data_sheet",
        device=sheet.name if isinstance(device, str) else sheet,
        space=space,
        batch=batch,
        engine=engine,
        precision=precision,
        method="data sheet",
        source="the data sheet of the device; nothing was measured on it",
    )


@checked
def phone(
    device: str,
    *,
    space: str = "ofa_mbv3_w1.0",
    batch: PositiveInt = 1,
    engine: FileName = NOT_STATED,
    precision: FileName = "fp32",
    threads: PositiveInt | None = None,
) -> Target:
    """A phone of which a few networks were timed: what `configs/target/phone.yaml` builds.

    `device` need not be one that ships; ValueError for one that is no phone.

    >>> phone("pixel2").name
    'pixel2_b1'
    """
    name = re.sub(r"[^a-z0-9]+", "_", device.lower()).strip("_")
    if not name:
        raise ValueError("please give target.device=NAME, what the phone is called")
    known = name in names("device")
    sheet = data_sheet(name) if known else Device(name=name, title=device, kind="mobile", source="not known")
    if sheet.kind != "mobile":
        raise ValueError(
            f"target.device={device} is no phone but a {sheet.kind}: target=gpu, or make fit device="
        )
    return Target(
        name="_".join([name, *condition_words(batch, threads or 1, 0.0)]),
        device=sheet.name if known else sheet,
        space=space,
        batch=batch,
        engine=engine,
        precision=precision,
        threads=threads,
        method=PUBLISHED,
        source="a few networks that somebody timed on it",
    )
