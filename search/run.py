"""The search loop: budget, checkpoint, resume, run folder.

A run folder holds config.yaml, env.json, events.jsonl, and when it is finished front.csv, front.json,
objectives.json (unit and direction of each), report.html and archive.npz (written last: its presence means
finished). Until then checkpoint.npz lets the run go on where it was. What is measured on the way is in
round_1.npz, round_2.npz, .. and, at the end, in measured.csv.
"""

import copy
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from search.verify import verdict
from search.verify.rounds import Round, Rounds
from supernet.arrays import Genomes
from supernet.files import artifact
from supernet.files.run_folder import EVENTS, LOGGING, RunFolder
from supernet.files.sinks import Jsonl, Sink

KIND, CHECKPOINT = "search checkpoint", "checkpoint.npz"
PREDICTORS = ("predictor.npz", "predictor_int8.npz")  # of a run here: what its front ended with
BEGUN = "begun_"  # before their names: what the run was adapted to before it started, until it is finished
ON_DEVICES = tuple(f"predictor_{number}.npz" for number in range(1, 33))  # of several devices


class Interrupted(Exception):
    """The run was asked to stop and wrote its checkpoint; the same command goes on."""


def folder(out: Path) -> RunFolder:
    """The run folder of a search."""
    return RunFolder(
        out,
        finished="archive.npz",
        reporting=frozenset({"bound", "out", "shortlist", "store", *LOGGING}),
        scratch=frozenset({CHECKPOINT, *(BEGUN + name for name in PREDICTORS)}),
    )


def begun(out: Path, name: str) -> Path:
    """The file of the predictor that a run was begun with; release 0.2.0.dev0 kept it under its last name."""
    path = out / f"{BEGUN}{name}"
    return out / name if (out / name).exists() and not path.exists() else path


@dataclass
class Search:
    """A search with `budget` evaluations that writes the run folder `out`.

    Where `out` holds an unfinished search of the same configuration, it goes on. With `rounds`, members of
    the front are measured in between and at the end, and the search goes by what was measured. The same
    configuration, seed and measurements give the same archive.npz byte for byte, also after stop and resume;
    the loop runs on one thread, because the sums of BLAS depend on the number of threads.

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
    rounds: Rounds | None = None
    shortlist: int = front_table.SHORTLIST  # members that stand for all of the front
    bound_seconds: float = 0.0  # to prove how far the front is from the best within the limits
    warm: Genomes | None = None  # proposed first, in place of what the searcher would draw
    checkpoint_seconds: float = 1.0  # at least, between two checkpoints
    finishing: Callable[[Result], None] = lambda result: None  # writes more of the result, before the archive

    def __post_init__(self) -> None:
        if self.budget < 1:
            raise ValueError(f"budget={self.budget} must be at least 1 evaluation")
        if self.seed < 0:
            raise ValueError(f"seed={self.seed} must not be negative")
        self._beginning = self.problem if self.rounds is None else self.rounds.begin(self.problem)
        self._checkpoint = self.out / CHECKPOINT

    def run(self) -> Result:
        """Search, measure if asked to, and finish the folder."""
        with folder(self.out).hold(self.config) as environment:
            return self.run_held(environment)

    def run_held(self, environment: Mapping[str, Any]) -> Result:
        """The same in a folder that is held already."""
        with threadpool_limits(1):
            self._beginning.evaluator.check_limits(self._beginning.space)
            self._prepare()
            record = Jsonl(self.out / EVENTS, "generation")
            sinks = [record, *self.sinks]
            try:
                facts = {"objectives": list(self._archive.objectives), "budget": self.budget}
                facts |= {"seed": self.seed, "environment": environment}
                for sink in sinks:
                    sink.start(facts, self._history)
                self._take_turns(sinks)
                result = self._result()
                self._write(result, environment)
                record.finish(result.summary)
                self.finishing(result)
                result.archive.save(self.out / "archive.npz")
                for sink in self.sinks:
                    sink.finish(result.summary, result.front)
            finally:
                for sink in sinks:
                    sink.close()
        return result

    def _prepare(self) -> None:
        """The state of a new search, or that of the checkpoint."""
        evaluator, space = self._beginning.evaluator, self._beginning.space
        worst, best = evaluator.reference(space)
        self._box = float(np.prod(np.where(worst > best, worst - best, 1.0)))
        self._archive = Archive(space, [objective.name for objective in evaluator.objectives], worst)
        self._rng = np.random.default_rng(self.seed)
        self._history: list[dict[str, float]] = []
        self._turn, self._measured = 0, list[Round]()
        self._verification_failed = ""
        self._adopt(self._beginning)
        seconds = self._resume() if self._checkpoint.exists() else 0.0
        self._started = time.perf_counter() - seconds  # had this process searched from the beginning

    def _adopt(self, problem: Problem) -> None:
        """Go on with these models, and with a searcher that has seen nothing yet."""
        self._problem, self._evaluator, self._space = problem, problem.evaluator, problem.space
        self._fingerprint = self._evaluator.fingerprint(self._space)
        self._searcher = copy.deepcopy(self.searcher)
        if isinstance(self._searcher, InformedSearcher):
            self._searcher.inform(self._evaluator)

    def _take_turns(self, sinks: Sequence[Sink]) -> None:
        """Search and, where asked to, measure in turns. Each turn has an equal part of the evaluations."""
        turns = 1 if self.rounds is None else self.rounds.rounds
        while self._turn < turns:
            until = self.budget if self.rounds is None else self.rounds.until(self._turn, self.budget)
            self._loop(sinks, until)
            if self.rounds is not None and self._archive.front_size and not self._verification_failed:
                self._measure(self.rounds)
            self._turn += 1
        if not self._archive.front_size:
            least = int(np.argmin(self._archive.violation))
            limits = ", ".join(f"{o.name} {o.limit:g} {o.unit}" for o in self._evaluator.limited)
            raise InfeasibleError(
                f"none of {len(self._archive)} architectures meets all limits ({limits}) together; the "
                f"nearest is {self._space.format(self._archive.genomes[least : least + 1])[0]}, "
                f"{self._archive.violation[least]:.1%} over"
            )

    def _measure(self, rounds: Rounds) -> None:
        """Measure members of the front, unless that was done before a kill, and go on with what it says: the
        costs of everything evaluated are asked again."""
        path = self.out / f"round_{len(self._measured) + 1}.npz"
        if not path.exists():
            self._save()  # measuring takes longer than searching
            begun = time.perf_counter()
            try:
                measured = rounds.measure(self._problem, self._archive, self._turn, self._measured)
            except ValueError as error:  # the search itself is done: its front is not lost with it
                self._verification_failed = str(error)
                return
            finally:
                self._started += time.perf_counter() - begun  # no time of the search
            if measured is None:
                return
            measured.save(path)
        self._take_over(rounds, Round.load(path, rounds.targets(self._beginning)))
        genomes, before = self._archive.genomes, self._archive
        costs, violation = self._evaluator(genomes)
        self._archive = Archive(self._space, before.objectives, before.reference)
        self._archive.add(genomes, costs, violation)
        self._searcher.tell(genomes, costs, violation)

    def _take_over(self, rounds: Rounds, measured: Round) -> None:
        self._measured.append(measured)
        self._adopt(rounds.apply(self._problem, self._beginning, measured))

    def _loop(self, sinks: Sequence[Sink], budget: int) -> None:
        """Search until the archive holds `budget` architectures."""
        archive = self._archive
        saved, cost_of_saving = time.perf_counter(), 0.0
        with _stop_requests() as stop:
            while len(archive) < budget:
                genomes = self._proposals()[: budget - len(archive)]
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

    def _proposals(self) -> Genomes:
        if self.warm is not None and len(self.warm) and not len(self._archive):
            return self.warm
        return self._searcher.ask(self._space, self._archive, self._rng)

    def _generation(self, genomes: Genomes) -> dict[str, float]:
        """Evaluate the genomes, tell searcher and archive, and sum up where the search stands."""
        archive = self._archive
        costs, violation = self._evaluator(genomes)
        self._searcher.tell(genomes, costs, violation)
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
        arrays |= {f"searcher.{key}": value for key, value in self._searcher.state().items()}
        facts = {
            "archive": self._archive.facts(),
            "rng": self._rng.bit_generator.state,
            "history": self._history,
            "seconds": time.perf_counter() - self._started,
            "fingerprint": self._fingerprint,
            "turn": self._turn,
            "rounds": len(self._measured),
        }
        artifact.save(self._checkpoint, KIND, arrays, facts, compress=False)

    def _resume(self) -> float:
        """Take over the state of the checkpoint; returns the seconds that were searched before."""
        arrays, facts = artifact.load(self._checkpoint, KIND)
        with artifact.usable(self._checkpoint, KIND, "left as it is, choose another out="):
            parts: dict[str, dict[str, Any]] = {"archive": {}, "searcher": {}}
            for key, value in arrays.items():
                owner, _, name = key.partition(".")
                parts[owner][name] = value
            for number in range(1, facts.get("rounds", 0) + 1):
                assert self.rounds is not None  # or the configuration would be another one
                path = self.out / f"round_{number}.npz"
                self._take_over(self.rounds, Round.load(path, self.rounds.targets(self._beginning)))
            self._turn = facts.get("turn", 0)
            self._archive = Archive.restore(self._space, parts["archive"], facts["archive"])
            self._rng.bit_generator.state = facts["rng"]
            self._history = [dict(row) for row in facts["history"]]
            self._try({name: array.copy() for name, array in parts["searcher"].items()})
            self._searcher.restore(parts["searcher"])
            if facts["fingerprint"] != self._fingerprint:
                raise ValueError("its objectives or predictors were other ones")
            return float(facts["seconds"])

    def _try(self, state: Mapping[str, Any]) -> None:
        """Ask a searcher with this state once: what is no state of it shows before the run goes on."""
        self._searcher.restore(state)
        before = self._rng.bit_generator.state
        if len(self._archive) < self.budget:
            self._searcher.ask(self._space, self._archive, self._rng)
        self._rng.bit_generator.state = before

    def _result(self) -> Result:
        archive = self._archive
        seconds = time.perf_counter() - self._started
        worst = zip(self._evaluator.objectives, archive.reference, strict=True)
        summary = {
            "evaluations": len(archive),
            "exhausted": len(archive) < self.budget,  # the searcher found nothing new to propose
            "front_size": archive.front_size,
            "hypervolume": archive.hypervolume() / self._box,
            "hypervolume_reference": {one.name: float(one.cost(value)) for one, value in worst},
            "loop_seconds": round(seconds, 3),
            "evaluations_per_second": round(len(archive) / seconds),
        }
        # The proof is about predictions; after measuring, limits are held against measurements and drift.
        if self.bound_seconds and self._evaluator.limited and not self._measured:
            self._save()  # a proof may take longer than the search
            summary |= self._bound()
        if self._verification_failed:
            summary["verification_failed"] = self._verification_failed
        if self._measured:
            verified = verdict.verification(self._problem, archive, self._measured, self.shortlist)
            table, figures = verified.front, dict(verified.summary)
            figures["verified_hypervolume"] /= self._box
            summary["verification"] = figures
        else:
            verified, table = None, front_table.table(archive, self._evaluator, self.shortlist)
        summary["knee"] = table.columns["architecture"][table.knee]
        return Result(self._problem, archive, table, self._history, summary, verified)

    def _bound(self) -> dict[str, Any]:
        """The entry of the summary about how much better a network within the limits can be."""
        try:
            gap = optimum.search_gap(self.problem, self._archive.genomes, self.bound_seconds)
        except ValueError as error:  # of a predictor that is no sum over blocks, say
            return {"bound_failed": str(error)}
        return {"bound": {**gap.facts(), "line": gap.line()}}

    def _write(self, result: Result, environment: Mapping[str, Any]) -> None:
        """The files of a finished run but the archive, which comes last."""
        texts = {
            front_table.FRONT: result.front.csv(),
            "front.json": result.front.json(),
            "report.html": search_report.render(result, self.config, environment, self.out),
        }
        if (fronts := devices.compare(result)) is not None:
            texts[devices.REGRET] = fronts.table(result).csv()
        if result.verified is not None:
            texts["measured.csv"] = result.verified.measured.csv()
        for name, text in texts.items():
            artifact.write_text(self.out / name, text)
        front = result.archive.genomes[result.rows]
        names = result.front.columns["architecture"]
        about = {one.name: one.described(front, names) for one in self._evaluator.objectives}
        artifact.write_json(self.out / front_table.ABOUT, about)


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
