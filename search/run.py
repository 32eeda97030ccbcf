"""The search loop: budget, checkpoint, resume, run folder.

A run folder holds config.yaml, env.json, events.jsonl, and when it is finished front.csv, front.json,
objectives.json (unit and direction of each), report.html and archive.npz (written last: its presence means
finished). Until then checkpoint.npz lets the run go on where it was.
"""

import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from search import front_table
from search.archive import Archive
from search.bound import optimum
from search.objective import InfeasibleError
from search.problem import Problem
from search.report import devices, search_report
from search.result import Result
from search.searchers.searcher import InformedSearcher, Searcher
from search.verify import Verifier
from supernet.arrays import Genomes
from supernet.files import artifact
from supernet.files.run_folder import EVENTS, RunFolder
from supernet.files.sinks import Jsonl, Sink

KIND = "search checkpoint"
PREDICTORS = ("predictor.npz", "predictor_int8.npz")  # what a run here was adapted to, there before it starts


class Interrupted(Exception):
    """The run was asked to stop and wrote its checkpoint; the same command goes on."""


def folder(out: Path) -> RunFolder:
    """The run folder of a search."""
    return RunFolder(
        out,
        finished="archive.npz",
        reporting=frozenset({"bound", "out", "shortlist", "store", "verify", "wandb"}),
        beforehand=frozenset(PREDICTORS),
    )


@dataclass
class Search:
    """A search with `budget` evaluations that writes the run folder `out`.

    Where `out` holds an unfinished search of the same configuration, it goes on. With `verify`, members of
    the front are measured before the folder is finished. The same configuration and seed give the same
    archive.npz byte for byte, also after stop and resume; the loop runs on one thread, because the sums of
    BLAS depend on the number of threads.

    >>> asked = problem.build(["accuracy", "latency_ms", "training_hours"])
    >>> Search(asked, NSGA2(), budget=50_000, seed=0, out=Path("runs/mine")).run().front.show()
    """

    problem: Problem
    searcher: Searcher
    budget: int
    seed: int
    out: Path
    config: Mapping[str, Any] = field(default_factory=dict)
    sinks: Sequence[Sink] = ()
    verify: Verifier | None = None
    shortlist: int = front_table.SHORTLIST  # members that stand for all of the front
    bound_seconds: float = 0.0  # to prove how far the front is from the best within the limits
    checkpoint_seconds: float = 1.0  # at least, between two checkpoints

    def __post_init__(self) -> None:
        if self.budget < 1:
            raise ValueError(f"budget={self.budget} must be at least 1 evaluation")
        if self.seed < 0:
            raise ValueError(f"seed={self.seed} must not be negative")
        self._space, self._evaluator = self.problem.space, self.problem.evaluator
        self._checkpoint = self.out / "checkpoint.npz"

    def run(self) -> Result:
        """Search, measure if asked to, and finish the folder."""
        with threadpool_limits(1):
            self._evaluator.check_limits(self._space)
        with folder(self.out).hold(self.config) as environment, threadpool_limits(1):
            self._prepare()
            sinks = [Jsonl(self.out / EVENTS, "generation"), *self.sinks]
            try:
                facts = {"objectives": list(self._archive.objectives), "budget": self.budget}
                facts |= {"seed": self.seed, "environment": environment}
                for sink in sinks:
                    sink.start(facts, self._history)
                self._loop(sinks)
                result = self._result()
                self._write(result, environment)
                for sink in sinks:
                    sink.finish(result.summary, result.front)
            finally:
                for sink in sinks:
                    sink.close()
        return result

    def _prepare(self) -> None:
        """The state of a new search, or that of the checkpoint."""
        worst, best = self._evaluator.reference(self._space)
        self._box = float(np.prod(np.where(worst > best, worst - best, 1.0)))
        names = [objective.name for objective in self._evaluator.objectives]
        self._fingerprint = self._evaluator.fingerprint(self._space)
        self._archive = Archive(self._space, names, worst)
        if isinstance(self.searcher, InformedSearcher):
            self.searcher.inform(self._evaluator)
        self._rng = np.random.default_rng(self.seed)
        self._history: list[dict[str, float]] = []
        seconds = self._resume() if self._checkpoint.exists() else 0.0
        self._started = time.perf_counter() - seconds  # had this process searched from the beginning

    def _loop(self, sinks: Sequence[Sink]) -> None:
        archive = self._archive
        saved, cost_of_saving = time.perf_counter(), 0.0
        with _stop_requests() as stop:
            while len(archive) < self.budget:
                genomes = self.searcher.ask(self._space, archive, self._rng)[: self.budget - len(archive)]
                if not len(genomes):
                    break  # the space is exhausted
                self._history.append(self._generation(genomes))
                for sink in sinks:
                    sink.log(self._history[-1])
                if stop:
                    self._save()
                    raise Interrupted
                # Saving takes time that grows with the archive: never more than a twentieth of the run.
                if time.perf_counter() - saved > max(self.checkpoint_seconds, 20 * cost_of_saving):
                    begun = time.perf_counter()
                    self._save()
                    saved = time.perf_counter()
                    cost_of_saving = saved - begun
        if not archive.front_size:
            least = int(np.argmin(archive.violation))
            limits = ", ".join(f"{o.name} {o.limit:g} {o.unit}" for o in self._evaluator.limited)
            raise InfeasibleError(
                f"none of {len(archive)} architectures meets all limits ({limits}) together; the nearest is "
                f"{self._space.format(archive.genomes[least : least + 1])[0]}, "
                f"{archive.violation[least]:.1%} over"
            )

    def _generation(self, genomes: Genomes) -> dict[str, float]:
        """Evaluate the genomes, tell searcher and archive, and sum up where the search stands."""
        archive = self._archive
        costs, violation = self._evaluator(genomes)
        self.searcher.tell(genomes, costs, violation)
        archive.add(genomes, costs, violation)
        row = {
            "generation": len(self._history),
            "evaluations": len(archive),
            "front_size": archive.front_size,
            "hypervolume": archive.hypervolume() / self._box,
            "feasible_share": float((violation <= 0).mean()),
        }
        if archive.front_size:
            for objective, value in zip(self._evaluator.objectives, archive.best(), strict=True):
                row[f"best_{objective.name}"] = float(objective.cost(value))
        return row

    def _save(self) -> None:
        arrays = {f"archive.{key}": value for key, value in self._archive.arrays().items()}
        arrays |= {f"searcher.{key}": value for key, value in self.searcher.state().items()}
        facts = {
            "archive": self._archive.facts(),
            "rng": self._rng.bit_generator.state,
            "history": self._history,
            "seconds": time.perf_counter() - self._started,
            "fingerprint": self._fingerprint,
        }
        artifact.save(self._checkpoint, KIND, arrays, facts, compress=False)

    def _resume(self) -> float:
        """Take over the state of the checkpoint; returns the seconds that were searched before."""
        arrays, facts = artifact.load(self._checkpoint, KIND)
        try:
            parts: dict[str, dict[str, Any]] = {"archive": {}, "searcher": {}}
            for key, value in arrays.items():
                owner, _, name = key.partition(".")
                parts[owner][name] = value
            self._archive = Archive.restore(self._space, parts["archive"], facts["archive"])
            self._rng.bit_generator.state = facts["rng"]
            self._history = facts["history"]
            self.searcher.restore(parts["searcher"])
            if facts["fingerprint"] != self._fingerprint:
                raise ValueError("its objectives or predictors were other ones")
            return float(facts["seconds"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{self._checkpoint} does not fit this run ({error}); left as it is, choose another out="
            ) from error

    def _result(self) -> Result:
        archive, knee = self._archive, self._archive.knee()
        seconds = time.perf_counter() - self._started
        table = front_table.table(archive, self._evaluator, self.shortlist)
        worst = zip(self._evaluator.objectives, archive.reference, strict=True)
        summary = {
            "evaluations": len(archive),
            "exhausted": len(archive) < self.budget,  # the searcher found nothing new to propose
            "front_size": archive.front_size,
            "hypervolume": archive.hypervolume() / self._box,
            "hypervolume_reference": {one.name: float(one.cost(value)) for one, value in worst},
            "knee": self._space.format(archive.genomes[knee : knee + 1])[0],
            "loop_seconds": round(seconds, 3),
            "evaluations_per_second": round(len(archive) / seconds),
        }
        if self.bound_seconds and self._evaluator.limited:
            self._save()  # a proof may take longer than the search
            summary |= self._bound()
        verified = None
        if self.verify is not None:
            self._save()  # measuring takes longer than searching
            try:
                verified = self.verify(self.problem, archive, table)
            except ValueError as error:  # the search itself is done: its front is not lost with it
                summary["verification_failed"] = str(error)
            else:
                table = verified.table
                summary["verification"] = dict(verified.summary)
        return Result(self.problem, archive, table, self._history, summary, verified)

    def _bound(self) -> dict[str, Any]:
        """The entry of the summary about how much better a network within the limits can be."""
        try:
            gap = optimum.search_gap(self.problem, self._archive.genomes, self.bound_seconds)
        except ValueError as error:  # of a predictor that is no sum over blocks, say
            return {"bound_failed": str(error)}
        return {"bound": {**gap.facts(), "line": gap.line()}}

    def _write(self, result: Result, environment: Mapping[str, Any]) -> None:
        """The files of a finished run, the archive last."""
        texts = {
            "front.csv": result.front.csv(),
            "front.json": result.front.json(),
            "report.html": search_report.render(result, self.config, environment),
        }
        if (fronts := devices.compare(result)) is not None:
            texts[devices.REGRET] = fronts.table(result).csv()
        if result.verified is not None:
            texts["verified_front.csv"] = result.verified.front.csv()
        for name, text in texts.items():
            artifact.write_text(self.out / name, text)
        front = result.archive.genomes[result.archive.front()]
        about = {one.name: one.described(self.problem.space, front) for one in self._evaluator.objectives}
        artifact.write_json(self.out / "objectives.json", about)
        result.archive.save(self.out / "archive.npz")
        self._checkpoint.unlink(missing_ok=True)


@contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """A list that is not empty once SIGINT or SIGTERM has come; a second one stops at once."""
    received: list[int] = []
    before: dict[int, Any] = {}

    def handle(number: int, frame: FrameType | None) -> None:
        received.append(number)
        signal.signal(number, before[number])

    with suppress(ValueError):  # not in the main thread: no signals to handle
        before.update({number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)})
    try:
        yield received
    finally:
        for which, handler in before.items():
            signal.signal(which, handler)
