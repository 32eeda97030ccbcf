"""What a finished search gives."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search.archive import Archive
from search.front_table import FrontTable
from search.problem import Problem
from search.verify import Verification


@dataclass(frozen=True)
class Result:
    """The front of a search, everything it evaluated, and one row of `history` per generation."""

    problem: Problem
    archive: Archive
    front: FrontTable
    history: Sequence[Mapping[str, float]]
    summary: Mapping[str, Any]
    verified: Verification | None = None

    def describe(self, out: Path) -> str:
        """A line on the front and one per limit, for the terminal."""
        seconds = self.summary["loop_seconds"]
        lines = [f"{len(self.front)} architectures on the front, {seconds:.1f} s: {out / 'report.html'}"]
        lines += self.front.limit_lines()
        if self.verified is not None:
            lines += self.verified.lines()
        if "verification_failed" in self.summary:
            lines.append(f"the front could not be measured: {self.summary['verification_failed']}")
        return "\n".join(lines)
