"""Prove how accurate a network can be: `make bound ARGS="target=note10_lut latency_limit_ms=20"`.

With `run=FOLDER` of a finished search also how far its most accurate network is from that.
"""

from dataclasses import field, replace
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from rich.console import Console

from search import command
from search.archive import Archive
from search.bound.optimum import SECONDS, Optimum, most_accurate, search_gap
from search.commands import search
from search.models import QUANTITIES
from supernet.files import run_folder
from supernet.files.command_line import then
from supernet.options import NonNegativeFloat, NonNegativeInt, OpenFraction, PositiveFloat, Sides


@command.options
class Options:
    """What `make bound` takes; what the problem is, as `make search` does."""

    target: command.Node | None = None  # v100_b64, or the first that fits space=
    space: command.Node | None = None  # that of the target
    accuracy: command.Node | None = None  # the surrogate that ships for the space
    accuracy_file: Path | None = None  # a fitted accuracy surrogate (.npz) in place of the one that ships
    training: command.Node  # of limits.training_hours
    predictor: str = "auto"  # by the target; or run:FOLDER of make adapt, a name, or a .npz
    latency_limit_ms: PositiveFloat | None = None  # short for limits.latency_ms
    limits: dict[str, NonNegativeFloat | None] = field(default_factory=lambda: dict.fromkeys(QUANTITIES))
    confidence: OpenFraction = (
        0.9  # limits are tested on the bound that holds with this probability; .5: the mean
    )
    resolution: Sides = None  # one input side, or [lowest,highest]; all that is known
    genes: dict[str, int | list[int]] = field(default_factory=dict)  # as in make search
    recipe: NonNegativeInt | None = None  # epochs of fine-tuning; none
    run: Path | None = None  # folder of a finished search: its problem, whose limits others here replace
    seconds: PositiveFloat = SECONDS  # afterwards the bound is what has been proven until then


@command.named("bound")
def main(options: Options, config: dict[str, Any]) -> None:
    limited = options.latency_limit_ms is not None or any(one is not None for one in options.limits.values())
    if options.run is None:
        if not limited:
            raise ValueError(
                "give a limit, latency_limit_ms=20 or limits.macs=3e8, or run=FOLDER of a search"
            )
        asked = command.take(search.Options, options, searcher={}, objectives=["accuracy", "latency_ms"])
        with Console().status("proving"):
            best = most_accurate(search.problem_of(asked, Path()), options.seconds)
        _show(best)
        given = [word for word in HydraConfig.get().overrides.task if not word.startswith("seconds=")]
        print(then("search", *given))
        return
    archive = options.run / "archive.npz"
    if not archive.is_file():
        raise ValueError(f"run={options.run} is no finished search: there is no {archive}")
    settings = run_folder.settings(options.run)
    if settings.get("evaluator") is not None:
        raise ValueError(
            f"run={options.run} measured its accuracies (evaluator=): only a surrogate's are bounded"
        )
    asked = search.Options(**settings)
    if limited:
        asked = replace(asked, latency_limit_ms=options.latency_limit_ms, limits=options.limits)
    problem = search.problem_of(asked, options.run)
    if not problem.evaluator.limited:
        raise ValueError(f"the search {options.run} has no limit: give one, for instance latency_limit_ms=20")
    with Console().status("proving"):
        gap = search_gap(problem, Archive.load(archive, problem.space).genomes, options.seconds)
    _show(gap.optimum)
    print(f"search {options.run}: {gap.line()}")
    print(then("export", weights="random", architecture=f"{options.run}:best", out=options.run / "export"))


def _show(best: Optimum) -> None:
    print(best.architecture)
    print(best.line())
