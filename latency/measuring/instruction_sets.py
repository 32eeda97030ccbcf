"""Instruction-set limits: the libraries of some engines can be held to an older instruction set.

They read environment variables when they are loaded, so a limit holds for a whole process and has to be there
before it starts. A limit makes another device of the same machine: OpenVINO held to SSE4.1 takes 2.2 times as
long here, and not the same factor for every layer.
"""

import os
import sys
from collections.abc import Mapping

from latency.measuring.engine import minds_limits
from latency.measuring.machine import cpu_flags
from latency.target import Limit
from supernet import registry

VARIABLES = ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")
VALUES: dict[Limit, tuple[str, str]] = {  # PyTorch's own kernels know no step between SSE and AVX2
    "sse41": ("SSE41", "default"),
    "avx": ("AVX", "default"),
    "avx2": ("AVX2", "avx2"),
    "avx512": ("AVX512_CORE", "avx512"),
}
FLAGS: dict[Limit, str] = {"sse41": "sse4_1", "avx": "avx", "avx2": "avx2", "avx512": "avx512f"}


def variables(limit: Limit) -> dict[str, str]:
    """The environment variables of a limit; ValueError for one that we do not know."""
    if limit not in VALUES:
        raise registry.unknown_name("instruction set", limit, VALUES)
    return dict(zip(VARIABLES, VALUES[limit], strict=True))


def environment(limit: Limit | None) -> dict[str, str]:
    """The environment of this process with another limit, or without any: for a child process."""
    free = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    return free | (variables(limit) if limit else {})


def current(environ: Mapping[str, str] = os.environ) -> Limit | None:
    """The limit this process was started under; ValueError when its variables are none we know."""
    values_here = tuple(environ.get(name, "") for name in VARIABLES)
    if not any(values_here):
        return None
    for limit, values in VALUES.items():
        if tuple(map(str.lower, values_here)) == tuple(map(str.lower, values)):
            return limit
    setting = ", ".join(f"{name}={environ[name]}" for name in VARIABLES if environ.get(name))
    raise ValueError(
        f"{setting} is no limit that latencies are kept under: unset {' and '.join(VARIABLES)}, and take "
        f"target.isa= one of {', '.join(VALUES)}"
    )


def check(limit: Limit, engine: str) -> None:
    """ValueError unless this process runs under the limit, this CPU has it and the engine minds it."""
    wanted = " ".join(f"{name}={value}" for name, value in variables(limit).items())
    if not minds_limits(engine):
        raise ValueError(f"isa={limit}: {engine} takes no instruction-set limit; leave isa out")
    if FLAGS[limit] not in cpu_flags():
        raise ValueError(f"isa={limit}: this CPU has no {FLAGS[limit]}; leave isa out")
    if current() != limit:
        raise ValueError(
            f"isa={limit}: this process runs under {current() or 'no limit'}; start it with {wanted} (make "
            "measure, make adapt and make search do that themselves)"
        )


def restart_under(limit: Limit) -> None:
    """Start this command again, in place of this process, under another limit."""
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment(limit))
