"""Target: where a latency holds. One YAML per shipped target in `configs/target`."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from configs import names
from supernet import device, spaces


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Target:
    """Device x engine x precision x batch x threads, and the search space whose networks were timed on it.

    `batch` images together take the latency; per image, divide. `rows` and `column` name the public table it
    was fitted on, `train` the rows used (first, past the last), `source` and `licence` where that comes from.
    """

    name: str
    device: str
    space: str
    batch: Annotated[int, Field(ge=1)] = 1
    engine: str = "not stated"
    precision: str = "fp32"
    threads: int | None = None
    method: str = "additive"
    rows: str = ""
    column: str = ""
    validation: tuple[int, int] | None = None
    test: tuple[int, int] | None = None
    source: str = ""
    licence: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        device.get(self.device)
        if self.space not in names("space"):
            spaces.get(self.space)

    @property
    def key(self) -> tuple[str | int | None, ...]:
        """What makes two targets the same: everything a latency depends on, not where it was found."""
        return (self.device, self.engine, self.precision, self.batch, self.threads, self.space)

    def __str__(self) -> str:
        threads = f", {self.threads} thread(s)" if self.threads else ""
        return (
            f"{device.get(self.device).title}, {self.engine}, {self.precision}, batch {self.batch}{threads}"
        )
