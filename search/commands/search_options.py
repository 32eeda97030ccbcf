"""The options of a search command, typed: a wrong type fails with its path before any work starts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

BUDGET = 50_000
MEASURED_BUDGET = 200


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Options:
    """`configs/search.yaml`, which says what each option means.

    Nodes of groups are built by `configs.build`.
    """

    objectives: list[str]
    latency_limit_ms: float | None
    limits: dict[str, float | None]
    confidence: float
    resolution: int | tuple[int, int] | None
    budget: int | None
    seed: int
    out: Path | None
    predictor: str
    accuracy_file: Path | None
    samples: Annotated[int, Field(ge=2)]
    verify: Annotated[int, Field(ge=0)]
    store: Path
    wandb: Literal["offline", "online", "disabled"]
    training: dict[str, Any]
    searcher: dict[str, Any]
    target: dict[str, Any] | None = None
    space: dict[str, Any] | None = None
    accuracy: dict[str, Any] | None = None
    evaluator: dict[str, Any] | None = None
    int8_predictor: str | None = None
    int8_accuracy: Path | None = None

    def __post_init__(self) -> None:
        if sum(one is not None for one in (self.evaluator, self.accuracy_file, self.accuracy)) > 1:
            raise ValueError("evaluator=, accuracy_file= and accuracy= all say what tells accuracy: give one")

    @property
    def evaluations(self) -> int:
        """The budget; where accuracy is measured it is smaller unless one is given."""
        if self.budget is not None:
            return self.budget
        return BUDGET if self.evaluator is None else MEASURED_BUDGET

    @property
    def automatic(self) -> bool:
        """Whether the predictor follows from what is known of the target."""
        return self.predictor == "auto"

    def all_limits(self) -> dict[str, float]:
        """The limits that are set, by objective."""
        limits = {name: limit for name, limit in self.limits.items() if limit is not None}
        if self.latency_limit_ms is not None:
            if limits.get("latency_ms", self.latency_limit_ms) != self.latency_limit_ms:
                raise ValueError(
                    f"latency_limit_ms={self.latency_limit_ms:g} and "
                    f"limits.latency_ms={limits['latency_ms']:g}: give one"
                )
            limits["latency_ms"] = self.latency_limit_ms
        return limits

    def resolution_range(self) -> tuple[int, int] | None:
        return (self.resolution, self.resolution) if isinstance(self.resolution, int) else self.resolution
