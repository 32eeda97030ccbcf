"""What a finished search gives."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search import shortlist
from search.archive import Archive
from search.front_table import FrontTable
from search.problem import RECIPE, Problem
from search.verify.verdict import Verification
from supernet import registry
from supernet.arrays import Ints
from supernet.files.command_line import typed

NONE: Mapping[str, str] = {}


@dataclass(frozen=True)
class Result:
    """The front of a search, everything it evaluated, and one row of `history` per generation."""

    problem: Problem
    archive: Archive
    front: FrontTable
    history: Sequence[Mapping[str, float]]
    summary: Mapping[str, Any]
    verified: Verification | None = None

    @property
    def rows(self) -> Ints:
        """(f,) the rows of the archive that `front` shows."""
        return self.archive.front() if self.verified is None else self.verified.rows

    def describe(self, out: Path) -> str:
        """A line on the front and one per limit, for the terminal."""
        seconds = self.summary["loop_seconds"]
        lines = [f"{len(self.front)} architectures on the front, {seconds:.1f} s: {out / 'report.html'}"]
        lines.append(self.shortlist_line())
        lines += [f"{one.name}: {one.scale}" for one in self.problem.evaluator.asked if one.scale]
        lines += self.front.limit_lines() + self.bound_lines()
        if self.verified is not None:
            lines += self.verified.lines()
        if "verification_failed" in self.summary:
            lines.append(f"the front could not be measured: {self.summary['verification_failed']}")
        return "\n".join(lines)

    def figures(self) -> dict[str, float]:
        """What searches are compared by: hypervolume, and best of each objective within the limits."""
        last = self.history[-1] if self.history else {}
        best = {name: value for name, value in last.items() if name.startswith("best_")}
        return {"hypervolume": self.summary["hypervolume"], "front": len(self.front), **best}

    def bound_lines(self) -> list[str]:
        """How far the front is from the best within the limits, or how to know; nothing without limits."""
        if "bound" in self.summary:
            return [str(self.summary["bound"]["line"])]
        if "bound_failed" in self.summary:
            return [f"no bound on the accuracy within the limits: {self.summary['bound_failed']}"]
        how = 'how far from the best there can be: make bound ARGS="run=FOLDER", or search with bound=20'
        return [how] if self.front.limits else []

    def shortlist_line(self) -> str:
        """How much of the front the shortlist stands for."""
        costs, rows = self.archive.costs[self.rows], self.front.shortlist()
        kept = shortlist.share(costs, self.archive.reference, rows)
        return f"shortlist: {len(rows)} of them keep {kept:.1%} of its hypervolume; front.csv marks them"

    def export_command(
        self, weights: str, out: Path, images: Mapping[str, str] = NONE, row: int | None = None
    ) -> str | None:
        """The command that exports a row of the front; without one the chosen member, a measured one where
        there is one: the most accurate one within the limits, or the knee without limits.

        None for a space without networks to export. `weights` and `out` are what `make export` takes, and
        `images` its words for the images that weights which are no run folder are calibrated on. A
        subnet of one's own supernet is fine-tuned first where its name says so.
        """
        front, space = self.front, self.problem.space
        if space.owner.family is None:
            return None
        genome = space.parse([front.columns["architecture"][front.chosen if row is None else row]])
        name = space.owner.format(space.embed(genome, space.owner.name))[0]
        accuracy, target = self.problem.models.accuracy, str(out)
        if accuracy is None or accuracy.measured is None or not space.column(genome, RECIPE)[0]:
            return typed("export", weights=weights, architecture=name, **images, out=target)
        tuned = str(out.with_name("subnet"))
        first = typed("finetune", supernet=weights, architecture=name, **images, out=tuned)
        return first + "\n" + typed("export", weights=tuned, out=target)


def weights_and_images(config: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """What `Result.export_command` takes, by the configuration of a search: the weights that its accuracies
    are of, and the words of a command line that name the images of its supernet."""
    evaluator, node = config.get("evaluator") or {}, config.get("data")
    weights = str(evaluator.get("weights") or evaluator.get("folder") or "random")
    if node is None:
        return weights, {}
    source, root = node["source"], node.get("root")
    known = source in registry.names("data")
    words = {"data": source} if known else {"data": "torchvision", "data.source": source}
    return weights, words if root is None else words | {"data.root": str(root)}
