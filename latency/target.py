"""Target: where a latency holds. One YAML per shipped target in `configs/target`, and `here` for this
machine."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from latency.measuring import instruction_sets
from latency.measuring.instruction_sets import Limit
from supernet import device
from supernet.device import Device
from supernet.device import get as data_sheet
from supernet.registry import names
from supernet.space import get_space


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Target:
    """Device x engine x precision x batch x threads, and the search space whose networks were timed on it.

    `device` is a name of `configs/device`, or a Device that is not there (this machine). `batch` images
    together take the latency; per image, divide. `isa` is the instruction set that the engine was held to,
    None where it was free, `utilisation` the share of every core that other work asked for meanwhile. `rows`
    and `column` name the public table it was fitted on, `train` the rows used (first, past the last),
    `source` and `licence` where that comes from.
    """

    name: str
    device: str | Device
    space: str
    batch: Annotated[int, Field(ge=1)] = 1
    engine: str = "not stated"
    precision: str = "fp32"
    threads: Annotated[int, Field(ge=1)] | None = None
    method: str = "additive"
    rows: str = ""
    column: str = ""
    validation: tuple[int, int] | None = None
    test: tuple[int, int] | None = None
    source: str = ""
    licence: str = ""
    note: str = ""
    isa: Limit | None = None
    utilisation: Annotated[float, Field(ge=0, le=1)] = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.device, str):
            device.get(self.device)
        if self.space not in names("space"):
            get_space(self.space)

    @property
    def spec(self) -> Device:
        """The data sheet of the device."""
        return device.get(self.device) if isinstance(self.device, str) else self.device

    @property
    def key(self) -> tuple[str | float | None, ...]:
        """What makes two targets the same: everything a latency depends on, not where it was found."""
        where = (self.spec.name, self.engine, self.precision, self.batch, self.threads, self.space, self.isa)
        return (*where, self.utilisation)

    def __str__(self) -> str:
        threads = f", {self.threads} thread(s)" if self.threads else ""
        isa = f", at most {self.isa}" if self.isa else ""
        busy = f", {self.utilisation:.0%} utilised by others" if self.utilisation else ""
        return f"{self.spec.title}, {self.engine}, {self.precision}, batch {self.batch}{threads}{isa}{busy}"


def here(
    space: str = "ofa_mbv3_w1.0",
    *,
    engine: str = "onnxruntime",
    precision: str = "fp32",
    batch: int = 1,
    threads: int = 1,
    isa: Limit | None = None,
    utilisation: float = 0.0,
    name: str | None = None,
) -> Target:
    """This machine as a target: what `configs/target/here.yaml` builds.

    `isa` None takes the limit this process runs under, for an engine that minds it. ValueError when the
    engine is not installed or does not know the precision, or when this process does not run under `isa`.
    """
    from latency.measuring import engine as engines
    from latency.measuring.machine import specification

    engines.build(engine, precision=precision, threads=threads)
    if isa is not None:
        instruction_sets.check(isa, engine)
    elif engines.minds_limits(engine):
        isa = instruction_sets.current()
    spec = specification("gpu" if engine == "torch_cuda" else "cpu")
    words = [spec.name, engine, precision, *([isa] if isa else []), f"b{batch}"]
    words += [f"t{threads}"] if threads > 1 else []
    words += [f"u{100 * utilisation:.0f}"] if utilisation else []
    return Target(
        name=name or "_".join(words),
        device=spec,
        space=space,
        batch=batch,
        engine=engine,
        precision=precision,
        threads=threads,
        method="measured",
        source="measured on this machine",
        isa=isa,
        utilisation=utilisation,
    )


def modules(
    space: str = "ofa_mbv3_w1.0",
    *,
    device: str = "amd_epyc_f25_m17_2c",
    engine: str = "onnxruntime",
    batch: int = 1,
    threads: int = 1,
    utilisation: float = 0.0,
    name: str | None = None,
) -> Target:
    """A device whose modules we measured, in fp32, under any of these conditions.

    What `configs/target/modules.yaml` builds.
    """
    words = [device, engine, f"b{batch}", *([f"t{threads}"] if threads > 1 else [])]
    words += [f"u{100 * utilisation:.0f}"] if utilisation else []
    return Target(
        name=name or "_".join([*words, "modules"]),
        device=device,
        space=space,
        batch=batch,
        engine=engine,
        threads=threads,
        method="modules",
        source="modules measured by us",
        utilisation=utilisation,
    )


def in_int8(target: Target) -> Target:
    """This machine, as a target of `here`, in int8 instead of fp32; ValueError where that cannot be."""
    from latency.measuring import engine as engines

    if target.precision != "fp32":
        raise ValueError(
            f"target.precision={target.precision}: a precision gene compares fp32 with int8, leave it out"
        )
    try:
        engines.build(target.engine, precision="int8", threads=target.threads or 1)
    except engines.NotInstalledError:
        raise
    except ValueError as error:
        raise ValueError(
            f"target.engine={target.engine} has no int8, which the precision gene needs: choose "
            "target.engine=onnxruntime or openvino, or a space without the gene"
        ) from error
    return here(
        target.space, engine=target.engine, precision="int8", batch=target.batch, threads=target.threads or 1,
        isa=target.isa, utilisation=target.utilisation,
    )  # fmt: skip


def is_here(target: Target) -> bool:
    """Whether this process can measure the target: its device, engine and instruction-set limit."""
    from latency.measuring import engine as engines
    from latency.measuring.machine import specification

    if target.threads is None or target.engine not in names("engine"):
        return False
    try:
        engines.build(target.engine, precision=target.precision, threads=target.threads)
    except engines.NotInstalledError:
        return False
    if target.isa != (instruction_sets.current() if engines.minds_limits(target.engine) else None):
        return False
    return target.spec.name == specification("gpu" if target.engine == "torch_cuda" else "cpu").name


def gpu(
    device: str,
    *,
    space: str = "ofa_mbv3_w1.2",
    batch: int = 64,
    engine: str = "PyTorch",
    name: str | None = None,
) -> Target:
    """A GPU known only by its data sheet, `configs/device/<device>.yaml`, in fp32.

    What `configs/target/gpu.yaml` builds. ValueError for a device that is no GPU.
    """
    if not isinstance(device, str) or data_sheet(device).kind != "gpu":
        gpus = [known for known in names("device") if data_sheet(known).kind == "gpu"]
        raise ValueError(f"target.device={device} is no GPU; there are {', '.join(gpus)}, or write its YAML")
    return Target(
        name=name or f"{device}_b{batch}_data_sheet",
        device=device,
        space=space,
        batch=batch,
        engine=engine,
        method="data sheet",
        source="the data sheet of the device; nothing was measured on it",
    )
