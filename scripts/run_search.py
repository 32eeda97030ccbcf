"""Search for the Pareto front of a device: `make search ARGS="target=titan_rtx_b64 latency_limit_ms=20"`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig

import configs
from latency.predictors import slot_latency
from scripts import command
from search import problem, run, sinks
from search.options import Options
from supernet import accuracy

EXIT_INTERRUPTED = 130


def task(config: dict[str, Any]) -> None:
    options = Options(**config)
    asked = problem.build(
        options.objectives,
        space=configs.build(options.space),
        target=configs.build(options.target),
        predictor=slot_latency.load(options.predictor_file) if options.predictor_file else None,
        accuracy=accuracy.load(options.accuracy_file)
        if options.accuracy_file
        else configs.build(options.accuracy),
        training=configs.build(options.training),
        limits=options.all_limits(),
        confidence=options.confidence,
        resolution=options.resolution_range(),
    )
    out = _folder(options.out, asked)
    reports: list[sinks.Sink] = [sinks.Bar(options.budget)]
    if options.wandb != "disabled":
        reports.append(sinks.Wandb(out, config, options.wandb))
    searcher, plan = configs.build(options.searcher), {"budget": options.budget, "seed": options.seed}
    try:
        found = run.run(asked, searcher, **plan, out=out, config=config, sinks=reports)
    except (run.Interrupted, KeyboardInterrupt):
        words = [word for word in sys.argv[1:] if not word.startswith("out=")]
        again = " ".join([*words, f"out={out.parent if _is_sweep() else out}"])
        print(f'\nstopped; go on with: make search ARGS="{again}"', file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    except run.FinishedRun as finished:
        if not _is_sweep():
            raise
        print(finished)
        return
    found.front.show()
    print(found.describe(out))


def _is_sweep() -> bool:
    mode = HydraConfig.get().mode
    return mode is not None and mode.name == "MULTIRUN"


def _folder(out: Path | None, asked: problem.Problem) -> Path:
    if _is_sweep():
        return out / str(HydraConfig.get().job.num) if out else Path(HydraConfig.get().runtime.output_dir)
    name = asked.models.latency.target.name if asked.models.latency else asked.space.name
    return out or Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"


def main() -> None:
    command.run("search", task)


if __name__ == "__main__":
    main()
