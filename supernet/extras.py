"""Packages that this one needs for some commands only: which extra of `pip install` brings them."""

import os
import re
import sys
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, requires
from importlib.util import find_spec

DISTRIBUTION = "ofa-frontier"
# Modules whose distribution has another name.
SPELT = {"sklearn": "scikit-learn", "huggingface_hub": "huggingface-hub"}
# What libraries report to their makers: W&B its errors, ONNX Runtime and Ray how they are used.
QUIET = {"WANDB_ERROR_REPORTING": "false", "ORT_DISABLE_TELEMETRY": "1", "RAY_USAGE_STATS_ENABLED": "0"}
WITH_EXTRA = re.compile(r"""([\w.-]+).*\bextra == ['"](\w+)['"]""")


class NotInstalledError(ValueError):
    """A package that something needs is not installed, or this machine has no device for it."""


def missing(packages: Sequence[str]) -> list[str]:
    """Those of the packages that cannot be imported."""
    return [package for package in packages if find_spec(package) is None]


def quiet() -> None:
    """Keep libraries that are not imported yet from reporting to their makers, in this process and those that
    it starts, unless the environment says otherwise. OpenVINO reports where it finds its package for that."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None: it is not found


def require(what: str, packages: Sequence[str]) -> None:
    """NotInstalledError that says how `what` gets its packages, unless all of them are installed.

    >>> require("engine=onnxruntime", ["onnx", "onnxruntime"])
    """
    quiet()
    if absent := missing(packages):
        raise NotInstalledError(f"{what} needs {', '.join(absent)}, not installed here: {install(absent)}")


def install(packages: Sequence[str]) -> str:
    """The command that installs the packages, by the extra that has them where there is one."""
    for package in packages:
        if extra := _extra(SPELT.get(package, package)):
            return install_extra(extra)
    return f"pip install {' '.join(packages)}"


def install_extra(extra: str) -> str:
    """The command that installs an extra."""
    return f"pip install '{DISTRIBUTION}[{extra}]' (in a clone: .venv/bin/pip install -e '.[{extra}]')"


def explain(error: ModuleNotFoundError) -> str:
    """One line for an import that failed because an extra is not installed."""
    package = (error.name or str(error)).partition(".")[0]
    return f"this needs {package}, not installed here: {install([package])}"


def _extra(distribution: str) -> str | None:
    """The smallest extra that lists a distribution."""
    try:
        lines = requires(DISTRIBUTION) or []
    except PackageNotFoundError:  # the source tree, not installed
        return None
    listed = [(match[2], match[1].lower()) for line in lines if (match := WITH_EXTRA.match(line))]
    sizes = Counter(extra for extra, _ in listed)
    having = {extra for extra, name in listed if name == distribution.lower()}
    return max(having, key=lambda extra: (-sizes[extra], extra), default=None)
