"""This machine as a target."""

from collections.abc import Mapping

from latency.measuring import instruction_sets
from latency.measuring.engine import build_engine, minds_limits
from latency.measuring.machine import specification
from latency.measuring.remote import reached
from latency.measuring.remote import target as remote
from latency.target import Limit, Target, condition_words
from supernet.extras import NotInstalledError
from supernet.options import FileName, Fraction, Number, PositiveInt, checked
from supernet.registry import names


@checked
def here(
    space: str = "ofa_mbv3_w1.0",
    *,
    engine: FileName = "onnxruntime",
    precision: FileName = "fp32",
    batch: PositiveInt = 1,
    threads: PositiveInt = 1,
    isa: Limit | None = None,
    utilisation: Fraction = 0.0,
    declared: Mapping[str, Number] | None = None,
    name: FileName | None = None,
) -> Target:
    """This machine as a target: what `configs/target/here.yaml` builds.

    `declared` are numbers that you hold constant meanwhile, a clock, say. `isa` None takes the limit this
    process runs under, for an engine that minds it. ValueError when the engine is not installed or does not
    know the precision, or when this process does not run under `isa`.
    """
    build_engine(engine, precision=precision, threads=threads)
    if isa is not None:
        instruction_sets.check(isa, engine)
    elif minds_limits(engine):
        isa = instruction_sets.current()
    spec = specification("gpu" if engine == "torch_cuda" else "cpu")
    words = [spec.name, engine, precision, *([isa] if isa else [])]
    words += condition_words(batch, threads, utilisation)
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
        declared=declared or {},
    )


def in_int8(target: Target) -> Target:
    """A target that can be measured, in int8 instead of fp32; ValueError where that cannot be."""
    if target.precision != "fp32":
        raise ValueError(
            f"target.precision={target.precision}: a precision gene compares fp32 with int8, leave it out"
        )
    if target.unit:
        return remote.in_int8(target)
    try:
        build_engine(target.engine, precision="int8", threads=target.threads or 1)
    except NotInstalledError:
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
    """Whether this process can measure the target: its device, engine and instruction-set limit, or a device
    that its command line named."""
    if target.unit:
        return reached.is_reached(target)
    if target.threads is None or target.engine not in names("engine"):
        return False
    try:
        build_engine(target.engine, precision=target.precision, threads=target.threads)
    except NotInstalledError:
        return False
    if target.isa != (instruction_sets.current() if minds_limits(target.engine) else None):
        return False
    return target.spec.name == specification("gpu" if target.engine == "torch_cuda" else "cpu").name
