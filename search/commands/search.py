"""Search for the Pareto front of a device: `make search ARGS="target=titan_rtx_b64 latency_limit_ms=20"`."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from rich.console import Console

from latency import adaptation
from latency.measuring.here import in_int8, is_here
from latency.measuring.store import Store
from latency.predictors.by_precision import ByPrecision
from latency.predictors.interface import LatencyPredictor
from latency.target import Target
from latency.zoo import catalogue
from search import models, problem, run, sinks, verify
from search.commands import command
from search.commands.search_options import Options
from supernet import registry
from supernet.space import SearchSpace, get_space
from supernet.surrogates import accuracy, int8_change


def task(config: dict[str, Any]) -> None:
    options = Options(**config)
    target = registry.build(options.target)
    predictor = None if options.automatic else catalogue.find(options.predictor)
    space = registry.build(options.space)
    eight = catalogue.find(options.int8_predictor) if options.int8_predictor else None
    out = _folder(options, target, predictor)
    with Store(options.store) if _measures(options, target, predictor) else nullcontext() as store:
        if store is not None and predictor is None and target is not None and target.method == "measured":
            run.folder(out).check(config)  # before a minute of measuring, and before anything is written
            joint = eight is None and space is not None and "precision" in space.index
            small = in_int8(target) if joint else None
            predictor = _adapted(target, out / run.PREDICTORS[0], options, store)
            if small is not None:
                eight = _adapted(small, out / run.PREDICTORS[1], options, store)
        elif predictor is None and target is not None and "latency_ms" in options.objectives:
            predictor, why = catalogue.automatic(target)
            print(f"latency of {target.name}: {why}")
        chosen = models.choose(
            space=space,
            target=None if eight else target,
            latency=_by_precision(space, target, predictor, eight) if eight else predictor,
            accuracy=accuracy.load(options.accuracy_file)
            if options.accuracy_file
            else registry.build(options.evaluator or options.accuracy),
            training=registry.build(options.training),
            int8=int8_change.load(options.int8_accuracy) if options.int8_accuracy else None,
        )
        asked = problem.build(
            options.objectives,
            chosen,
            limits=options.all_limits(),
            confidence=options.confidence,
            resolution=options.resolution_range(),
        )
        if asked.evaluator.measures:
            print(f"accuracy is measured: {options.evaluations} evaluations, kept and never repeated")
        search(options, config, asked, out, store)


def search(
    options: Options, config: dict[str, Any], asked: problem.Problem, out: Path, store: Store | None
) -> None:
    """Run, or go on with, the search in `out` and print its front."""
    reports: list[sinks.Sink] = [sinks.Bar(options.evaluations)]
    if options.wandb != "disabled":
        reports.append(sinks.Wandb(out, config, options.wandb))
    plan: dict[str, Any] = {"budget": options.evaluations, "seed": options.seed}
    if store is not None and options.verify and asked.models.latency is not None:
        plan["verify"] = verify.verifier(store, options.verify)
    try:
        found = run.run(
            asked, registry.build(options.searcher), **plan, out=out, config=config, sinks=reports
        )
    except (run.Interrupted, KeyboardInterrupt):
        command.stop("search", out)
    (found.verified.front if found.verified is not None and len(found.verified.front) else found.front).show()
    print(found.describe(out))


def _by_precision(
    space: SearchSpace | None,
    target: Target | None,
    fp32: LatencyPredictor | None,
    int8: LatencyPredictor,
) -> ByPrecision:
    latency = models.latency_for(space, target, fp32)
    if latency is None:
        raise ValueError("int8_predictor= needs predictor= beside it: of the same machine in fp32")
    return ByPrecision(latency, int8, space or get_space(latency.target.space))


def _adapted(target: Target, kept: Path, options: Options, store: Store) -> LatencyPredictor:
    with Console().status("measuring") as status:
        watch = command.watcher(status)
        predictor = adaptation.for_run(target, kept, store=store, samples=options.samples, watch=watch)
    print(f"latency of {target.name}: {predictor.facts['samples']} subnets timed here (transfer)")
    return predictor


def _measures(options: Options, target: Target | None, predictor: LatencyPredictor | None) -> bool:
    """Whether this run times networks: to adapt to this machine, or to verify a front that is for it."""
    where = predictor.target if predictor is not None else target
    if where is None or "latency_ms" not in (*options.objectives, *options.all_limits()):
        return False
    wanted = options.verify > 0 or (predictor is None and where.method == "measured")
    return wanted and is_here(where)


def _folder(options: Options, target: Target | None, predictor: LatencyPredictor | None) -> Path:
    where = predictor.target if predictor is not None else target
    name = where.name if where is not None else (options.space or {}).get("name", models.DEFAULT_TARGET)
    return command.run_folder(options.out, name)


def main() -> None:
    command.run("search", task)
