"""The options of a search command, typed: a wrong type fails with its path before any work starts."""

from __future__ import annotations

from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from search.models import QUANTITIES

BUDGET = 50_000
MEASURED_BUDGET = 200


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Options:
    """What `make search` takes. The nodes of groups are built by the command."""

    training: dict[str, Any]
    searcher: dict[str, Any]
    target: dict[str, Any] | None = None  # v100_b64, or the first that fits space=
    space: dict[str, Any] | None = None  # that of the target
    accuracy: dict[str, Any] | None = None  # the surrogate that ships for the space
    evaluator: dict[str, Any] | None = None  # supernet: accuracy is measured, by a supernet of your own
    objectives: list[str] = field(default_factory=lambda: ["accuracy", "latency_ms", "training_hours"])
    latency_limit_ms: float | None = None  # short for limits.latency_ms
    limits: dict[str, float | None] = field(
        default_factory=lambda: dict.fromkeys(QUANTITIES)
    )  # of any objective
    confidence: float = 0.9  # limits are tested on the bound that holds with this probability
    resolution: int | tuple[int, int] | None = None  # one input side, or [lowest,highest]; all that is known
    budget: int | None = None  # evaluations; 50000, or 200 where accuracy is measured
    seed: int = 0
    out: Path | None = None  # run folder; runs/<target>-<time>. An unfinished one is resumed
    predictor: str = "auto"  # by the target; or run:FOLDER of make adapt, a name, or a .npz or .safetensors
    accuracy_file: Path | None = None  # a fitted accuracy surrogate (.npz) in place of the one that ships
    int8_predictor: str | None = None  # of a space with a precision gene: as predictor, but for int8
    int8_accuracy: Path | None = None  # measured change of accuracy by int8 (JSON); as torchvision publishes
    samples: Annotated[int, Field(ge=2)] = 10  # target=here: subnets to time, unless the store holds as many
    verify: Annotated[int, Field(ge=0)] = 24  # networks of the front to measure, when it is for this machine
    store: Path = Path("runs/measurements.sqlite")  # where measurements are kept
    wandb: Literal["offline", "online", "disabled"] = "offline"

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
