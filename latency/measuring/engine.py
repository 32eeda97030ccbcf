"""Engines: what runs a network. One file here and one YAML in `configs/engine`.

An engine is built for one precision and number of threads; `prepare` makes a session of a network, `run` runs
it once. Nothing is imported before an engine is built.
"""

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from supernet import extras, registry
from supernet.extras import NotInstalledError

if TYPE_CHECKING:
    import torch


class Engine(Protocol):
    """`run` returns milliseconds when the device has a clock of its own, else None: the caller times it."""

    @property
    def precision(self) -> str: ...
    @property
    def threads(self) -> int: ...
    @property
    def version(self) -> str: ...
    def prepare(self, network: "torch.nn.Module", images: "torch.Tensor") -> Any: ...
    def run(self, session: Any) -> float | None: ...


class Meter(Protocol):
    """What tells energy: `joules` since some moment, None where it cannot be read now. It is exact enough
    over `seconds`."""

    @property
    def name(self) -> str: ...
    @property
    def seconds(self) -> float: ...
    def joules(self) -> float | None: ...


@runtime_checkable
class OwnMeter(Protocol):
    """An engine of a device that has a meter beside the processor's."""

    def meter(self) -> Meter: ...


def build_engine(name: str, *, precision: str = "fp32", threads: int = 1) -> Engine:
    """The engine `name` of `configs/engine`.

    ValueError that names the pip command when it is not installed, and the known precisions for another one.
    """
    node = registry.load("engine", name)
    node.pop("minds_limits", None)
    extras.require(f"engine={name}", node.pop("requires", ()))
    try:
        engine: Engine = registry.build({**node, "precision": precision, "threads": threads})
    except NotInstalledError:
        raise
    except ValueError as error:
        raise ValueError(f"engine={name}: {error}") from error
    return engine


def minds_limits(name: str) -> bool:
    """Whether the engine's libraries heed the limits of `instruction_sets`."""
    return bool(registry.load("engine", name).get("minds_limits", False))
