"""The search loop: budget, checkpoint, resume, run folder.

A run folder holds config.yaml, env.json, events.jsonl, and when it is finished front.csv, front.json,
report.html and archive.npz (written last: its presence means finished). Until then checkpoint.npz lets the
run go on where it was.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from search import front
from search.archive import Archive
from search.front import FrontTable
from search.objective import InfeasibleError
from search.problem import Problem
from search.report import search_report
from search.searchers.searcher import InformedSearcher, Searcher
from search.verify import Verification, Verifier
from supernet.files import artifact
from supernet.files.run_folder import EVENTS, RunFolder
from supernet.files.sinks import Jsonl, Sink

KIND = "search checkpoint"
PREDICTORS = ("predictor.npz", "predictor_int8.npz")  # what a run here was adapted to, there before it starts
CHECKPOINT_SECONDS = 1.0


class Interrupted(Exception):
    """The run was asked to stop and wrote its checkpoint; the same command goes on."""


def folder(out: Path) -> RunFolder:
    """The run folder of a search."""
    return RunFolder(
        out,
        finished="archive.npz",
        reporting=frozenset({"out", "store", "verify", "wandb"}),
        beforehand=frozenset(PREDICTORS),
    )


@dataclass(frozen=True)
class Result:
    """What a finished run gives."""

    archive: Archive
    front: FrontTable
    summary: Mapping[str, Any]
    verified: Verification | None = None

    def describe(self, out: Path) -> str:
        """A line on the front and one per limit, for the terminal."""
        seconds = self.summary["loop_seconds"]
        lines = [f"{len(self.front)} architectures on the front, {seconds:.1f} s: {out / 'report.html'}"]
        for name, limit in self.front.limits.items():
            holds = f"{limit['holds']} of {limit['of']} at {limit['confidence']:.0%} confidence"
            lines.append(f"{name} limit {limit['limit']:g} {limit['unit']}: holds for {holds}")
        if self.verified is not None:
            lines.append(self.verified.describe())
        if "verification_failed" in self.summary:
            lines.append(f"the front could not be measured: {self.summary['verification_failed']}")
        return "\n".join(lines)


def run(
    problem: Problem,
    searcher: Searcher,
    *,
    budget: int,
    seed: int,
    out: Path,
    config: Mapping[str, Any],
    sinks: Sequence[Sink] = (),
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    verify: Verifier | None = None,
) -> Result:
    """Search with `budget` evaluations and write the run folder `out`; goes on where an unfinished one
    stopped. With `verify` members of the front are measured before the folder is finished.

    Same config and seed give the same archive.npz byte for byte, also after stop and resume: sums of BLAS
    depend on the number of threads, so the loop runs on one.
    """
    if budget < 1:
        raise ValueError(f"budget={budget} must be at least 1 evaluation")
    if seed < 0:
        raise ValueError(f"seed={seed} must not be negative")
    with threadpool_limits(1):
        problem.evaluator.check_limits(problem.space)
    with folder(out).hold(config) as environment, threadpool_limits(1):
        worst, best = problem.evaluator.reference(problem.space)
        box = float(np.prod(np.where(worst > best, worst - best, 1.0)))
        names = [objective.name for objective in problem.evaluator.objectives]
        fingerprint = problem.evaluator.fingerprint(problem.space)
        state = _State(
            Archive(problem.space, names, worst), np.random.default_rng(seed), [], 0.0, fingerprint
        )
        if isinstance(searcher, InformedSearcher):
            searcher.inform(problem.evaluator)
        if (out / "checkpoint.npz").exists():
            state = _resume(out / "checkpoint.npz", problem, searcher, fingerprint)
        everyone = [Jsonl(out / EVENTS, "generation"), *sinks]
        try:
            facts = {
                "objectives": names,
                "budget": budget,
                "seed": seed,
            }
            facts["environment"] = environment
            for sink in everyone:
                sink.start(facts, state.history)
            state.started = time.perf_counter() - state.seconds
            _loop(problem, searcher, state, budget, box, out, everyone, checkpoint_seconds)
            seconds = time.perf_counter() - state.started
            table = front.table(state.archive, problem.evaluator)
            summary = _summary(problem, state, budget, seconds, worst, box)
            verified = None
            if verify is not None:
                _checkpoint(out / "checkpoint.npz", searcher, state)  # measuring takes longer than searching
                try:
                    verified = verify(problem, state.archive, table)
                except ValueError as error:  # the search itself is done: its front is not lost with it
                    summary["verification_failed"] = str(error)
                else:
                    table = verified.table
                    summary["verification"] = dict(verified.summary)
                    artifact.write_text(out / "verified_front.csv", verified.front.csv())
            artifact.write_text(out / "front.csv", table.csv())
            artifact.write_text(out / "front.json", table.json())
            about = {objective.name: objective.facts for objective in problem.evaluator.objectives}
            artifact.write_json(out / "objectives.json", about)
            report = search_report.render(
                problem, state.archive, table, state.history, summary, config, environment
            )
            artifact.write_text(out / "report.html", report)
            state.archive.save(out / "archive.npz")
            (out / "checkpoint.npz").unlink(missing_ok=True)
            for sink in everyone:
                sink.finish(summary, table)
        finally:
            for sink in everyone:
                sink.close()
        return Result(state.archive, table, summary, verified)


@dataclass
class _State:
    archive: Archive
    rng: np.random.Generator
    history: list[dict[str, float]]
    seconds: float  # of search before this process took over
    fingerprint: str  # of the models: a run goes on only with the same ones
    started: float = 0.0  # on this process's clock, had it searched from the beginning


def _loop(
    problem: Problem,
    searcher: Searcher,
    state: _State,
    budget: int,
    box: float,
    out: Path,
    sinks: Sequence[Sink],
    checkpoint_seconds: float,
) -> None:
    archive = state.archive
    saved, cost_of_saving = time.perf_counter(), 0.0
    with _stop_requests() as stop:
        while len(archive) < budget:
            genomes = searcher.ask(problem.space, archive, state.rng)[: budget - len(archive)]
            if not len(genomes):
                break  # the space is exhausted
            costs, violation = problem.evaluator(genomes)
            searcher.tell(genomes, costs, violation)
            archive.add(genomes, costs, violation)
            row = {
                "generation": len(state.history),
                "evaluations": len(archive),
                "front_size": archive.front_size,
                "hypervolume": archive.hypervolume() / box,
                "feasible_share": float((violation <= 0).mean()),
            }
            best = archive.best()
            if archive.front_size:
                for objective, value in zip(problem.evaluator.objectives, best, strict=True):
                    row[f"best_{objective.name}"] = float(objective.cost(value))
            state.history.append(row)
            for sink in sinks:
                sink.log(row)
            if stop:
                _checkpoint(out / "checkpoint.npz", searcher, state)
                raise Interrupted
            # Saving everything takes time that grows with the archive: never more than a twentieth of the
            # run.
            if time.perf_counter() - saved > max(checkpoint_seconds, 20 * cost_of_saving):
                begun = time.perf_counter()
                _checkpoint(out / "checkpoint.npz", searcher, state)
                saved = time.perf_counter()
                cost_of_saving = saved - begun
    if not archive.front_size:
        least = int(np.argmin(archive.violation))
        limits = ", ".join(f"{o.name} {o.limit:g} {o.unit}" for o in problem.evaluator.limited)
        raise InfeasibleError(
            f"none of {len(archive)} architectures meets all limits ({limits}) together; the nearest is "
            f"{problem.space.format(archive.genomes[least : least + 1])[0]}, {archive.violation[least]:.1%} "
            "over"
        )


def _checkpoint(path: Path, searcher: Searcher, state: _State) -> None:
    arrays = {f"archive.{key}": value for key, value in state.archive.arrays().items()}
    arrays |= {f"searcher.{key}": value for key, value in searcher.state().items()}
    facts = {
        "archive": state.archive.facts(),
        "rng": state.rng.bit_generator.state,
        "history": state.history,
        "seconds": time.perf_counter() - state.started,
        "fingerprint": state.fingerprint,
    }
    artifact.save(path, KIND, arrays, facts, compress=False)


def _resume(path: Path, problem: Problem, searcher: Searcher, fingerprint: str) -> _State:
    arrays, facts = artifact.load(path, KIND)
    try:
        parts: dict[str, dict[str, Any]] = {"archive": {}, "searcher": {}}
        for key, value in arrays.items():
            owner, _, name = key.partition(".")
            parts[owner][name] = value
        archive = Archive.restore(problem.space, parts["archive"], facts["archive"])
        rng = np.random.default_rng()
        rng.bit_generator.state = facts["rng"]
        searcher.restore(parts["searcher"])
        if facts["fingerprint"] != fingerprint:
            raise ValueError("its objectives or predictors were other ones")
        state = _State(archive, rng, facts["history"], facts["seconds"], fingerprint)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} does not fit this run ({error}); left as it is, choose another out="
        ) from error
    return state


def _summary(
    problem: Problem, state: _State, budget: int, seconds: float, worst: np.ndarray[Any, Any], box: float
) -> dict[str, Any]:
    archive = state.archive
    knee = archive.knee()
    return {
        "evaluations": len(archive),
        "exhausted": len(archive) < budget,  # the searcher found nothing new to propose
        "front_size": archive.front_size,
        "hypervolume": archive.hypervolume() / box,
        "hypervolume_reference": {
            objective.name: float(objective.cost(value))
            for objective, value in zip(problem.evaluator.objectives, worst, strict=True)
        },
        "knee": problem.space.format(archive.genomes[knee : knee + 1])[0],
        "loop_seconds": round(seconds, 3),
        "evaluations_per_second": round(len(archive) / seconds),
    }


@contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """A list that is not empty once SIGINT or SIGTERM has come; a second one stops at once."""
    received: list[int] = []
    before: dict[int, Any] = {}

    def handle(number: int, frame: FrameType | None) -> None:
        received.append(number)
        signal.signal(number, before[number])

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[int(number)] = signal.signal(number, handle)
    except ValueError:  # not in the main thread: no signals to handle
        before.clear()
    try:
        yield received
    finally:
        for which, handler in before.items():
            signal.signal(which, handler)
