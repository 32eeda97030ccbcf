"""Our searches against OFA's EvolutionFinder and other peers: same accuracy predictor, same latency tables.

`python -m benchmarks.ofa_search [seeds=5] [first=0] [budget=50000] [generations=500]`
`[only=local,nsga2,ageing,pymoo] [--tables FILE...] [--accuracy FILE] [--reference FILE] [out=FILE.json]`

By default the predictor that the OFA authors released and their Note10 tables (160, 176, 192, 208, 224 px);
`--tables` and `--accuracy` take other files of the same forms (tables also as CSV, which OFA's finder cannot
read), `--reference` another front (CSV with the columns accuracy and latency_ms). Ours and pymoo's are one
run for the whole front: its share of the hypervolume of the reference front (below accuracy .76, 36 ms),
and at each limit the most accurate subnet within it. The finder is the one of the installed `ofa` package,
as its tutorial uses it: population 100, 500 generations, one run per limit (`generations=0` leaves it out).
Runs alternate, one thread each; CPU seconds.
"""

import contextlib
import io
import json
import random
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks import command
from latency.predictors import lookup_table
from latency.zoo import catalogue
from search import pareto
from search.archive import Archive
from search.objective import Evaluator, Objective
from search.searchers.ageing import Ageing
from search.searchers.local import Local
from search.searchers.nsga2 import NSGA2
from search.searchers.searcher import InformedSearcher, Searcher
from supernet.arrays import Floats, Genomes
from supernet.files import artifact
from supernet.files.tables import Table, column, data_dir, read_columns
from supernet.prediction import exact
from supernet.space import SearchSpace, get_space
from supernet.surrogates.ofa_predictor import RESOLUTIONS, OfaAccuracy

LIMITS = (15.0, 20.0, 25.0, 30.0, 33.0)
SIDE = re.compile(r"_(\d{3})_lookup_table\.ya?ml$")  # the input side in the name of a table
WORST = np.array([-0.76, 36.0])  # costs: where the hypervolume ends
# The settings of Local were chosen on seeds 100 to 1005; seeds 0 to 4 are reported.
OURS: dict[str, Callable[[], Searcher]] = {"local": Local, "nsga2": NSGA2, "ageing": Ageing}
PYMOO = "pymoo"


@dataclass(frozen=True)
class Options:
    seeds: int = 5
    first: int = 0  # seed
    budget: int = 50_000  # evaluations of one of our runs
    generations: int = 500  # of OFA's finder; 0 leaves it out
    only: str = ",".join([*OURS, PYMOO])  # searches of ours and pymoo's, with commas
    tables: tuple[Path, ...] = ()  # lookup tables; OFA's of the Note10 if empty
    accuracy: Path | None = None  # OFA's predictor of w1.2 if none
    reference: Path | None = None  # the best front known for OFA's predictor and the Note10 if none
    out: Path = Path("runs/bench-ofa-search.json")


def subspace() -> SearchSpace:
    """OFA-MobileNetV3 w1.2 with the five resolutions that the finder knows, and no fine-tuning."""
    space = get_space("ofa_mbv3_w1.2")
    resolution, *genes, recipe = space.axes
    axes = (replace(resolution, values=RESOLUTIONS), *genes, replace(recipe, values=(0,)))
    return replace(space, name="ofa_mbv3_w1.2_note10", axes=axes)


def released_accuracy(folder: Path) -> OfaAccuracy:
    """The accuracy predictor for w1.2 that the OFA authors released."""
    return OfaAccuracy.read(folder / "ofa_official" / "ofa_mbv3_w1.2_acc_predictor.pth")


def evaluator(accuracy: Callable[[Genomes], Floats], latency: Callable[[Genomes], Floats]) -> Evaluator:
    """Accuracy and latency (ms) of genomes as objectives."""
    top1 = Objective("accuracy", "top-1", lambda genomes: exact(accuracy(genomes)), maximize=True)
    return Evaluator((top1, Objective("latency_ms", "ms", lambda genomes: exact(latency(genomes)))))


def search(
    space: SearchSpace,
    evaluate: Callable[[Genomes], tuple[Floats, Floats]],
    searcher: Searcher,
    budget: int,
    rng: np.random.Generator,
    reference: Sequence[float] | Floats,
) -> tuple[Archive, float]:
    """All that one search evaluates, and the CPU seconds that the searcher itself takes."""
    archive, seconds = Archive(space, ["accuracy", "cost"], np.asarray(reference, float)), 0.0
    if isinstance(searcher, InformedSearcher) and isinstance(evaluate, Evaluator):
        searcher.inform(evaluate)
    while len(archive) < budget:
        started = time.process_time()
        genomes = searcher.ask(space, archive, rng)[: budget - len(archive)]
        seconds += time.process_time() - started
        if not len(genomes):
            break
        costs, violation = evaluate(genomes)
        searcher.tell(genomes, costs, violation)
        archive.add(genomes, costs, violation)
    return archive, seconds


def ofa_finder(tables: Sequence[Path], accuracy: Path, generations: int) -> Callable[[float, int], float]:
    """(limit, seed) -> accuracy by OFA's finder, with its released predictor and copies of its tables."""
    named = {int(side[1]): path for path in tables if (side := SIDE.search(path.name))}
    if missing := [r for r in RESOLUTIONS if r not in named]:
        raise ValueError(
            f"OFA's finder reads tables *_RESOLUTION_lookup_table.yaml, and there is none of {missing}: "
            "leave it out with generations=0"
        )
    import torch
    import yaml
    from ofa.tutorial import AccuracyPredictor, EvolutionFinder, LatencyTable
    from ofa.tutorial.latency_table import LatencyEstimator

    torch.set_num_threads(1)
    latency = object.__new__(LatencyTable)  # its constructor downloads
    safely = partial(yaml.load, Loader=yaml.CSafeLoader)  # ofa names no Loader, as PyYAML below 6 allowed
    with mock.patch.object(yaml, "load", safely):
        latency.latency_tables = {r: LatencyEstimator(url=str(named[r])) for r in RESOLUTIONS}
    predictor = AccuracyPredictor(pretrained=False, device="cpu")
    state = torch.load(accuracy, map_location="cpu", weights_only=True)
    predictor.model.load_state_dict(state)

    def run(limit: float, seed: int) -> float:
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 the finder draws from the global generator
        sizes = {"population_size": 100, "max_time_budget": generations}
        finder = EvolutionFinder("note10", limit, latency, predictor, **sizes)
        with contextlib.redirect_stderr(io.StringIO()):
            _, (accuracy, _, _) = finder.run_evolution_search()
        return float(accuracy)

    return run


def cpu_timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """What the function returns, and the CPU seconds it takes."""
    begun = time.process_time()
    return function(), time.process_time() - begun


def summary(costs: Floats, whole: float, seconds: float) -> dict[str, Any]:
    """The share of the hypervolume, {limit: best accuracy within it} and seconds of one run."""
    within = {limit: float(-costs[costs[:, 1] <= limit, 0].min(initial=0)) for limit in LIMITS}
    return {"share": pareto.hypervolume(costs, WORST) / whole, "accuracy": within, "seconds": seconds}


def pymoo_costs(space: SearchSpace, evaluate: Evaluator, budget: int, seed: int) -> Floats:
    """(n, 2) what pymoo's NSGA-II evaluates, with the population, crossover and mutation of ours."""
    from pymoo.algorithms.moo.nsga2 import NSGA2 as Peer
    from pymoo.core.mutation import Mutation
    from pymoo.core.problem import Problem
    from pymoo.operators.crossover.ux import UniformCrossover
    from pymoo.optimize import minimize

    ours, rng, seen = NSGA2(), np.random.default_rng(seed), []
    start = rng.integers(0, space.width, (ours.population, space.d))

    class Redraw(Mutation):  # type: ignore[misc]  # pymoo has no types
        def _do(self, problem: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
            again = rng.random(x.shape) < ours.mutation
            return np.where(again, rng.integers(0, space.width, x.shape), x)

    class Task(Problem):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(n_var=space.d, n_obj=2, xl=0, xu=space.width - 1, vtype=int)

        def _evaluate(self, x: Any, out: dict[str, Any], *args: Any, **kwargs: Any) -> None:
            out["F"] = evaluate(space.at(np.asarray(x, np.int64)))[0]
            seen.append(out["F"])

    crossover = UniformCrossover(prob=ours.crossover)
    peer = Peer(ours.population, sampling=start, crossover=crossover, mutation=Redraw())
    minimize(Task(), peer, ("n_eval", budget), seed=seed)
    return np.concatenate(seen)[:budget]


def one_run(name: str, space: SearchSpace, evaluate: Evaluator, budget: int, seed: int) -> Floats:
    """(n, 2) costs of all that one run evaluates."""
    if name == PYMOO:
        return pymoo_costs(space, evaluate, budget, seed)
    return search(space, evaluate, OURS[name](), budget, np.random.default_rng(seed), WORST)[0].costs


@dataclass(frozen=True)
class Task:
    """What is searched, the files that it is made of, and the hypervolume of the reference front."""

    space: SearchSpace
    evaluate: Evaluator
    tables: Sequence[Path]
    accuracy: Path
    fastest_ms: float
    reference: Path
    whole: float

    @classmethod
    def from_options(cls, options: Options) -> "Task":
        """ValueError for a file that is absent or of another form."""
        folder, space = data_dir() / "ofa_official", subspace()
        accuracy = options.accuracy or folder / "ofa_mbv3_w1.2_acc_predictor.pth"
        tables = options.tables or sorted(folder.glob("note10_w1.2_*_lookup_table.yaml"))
        reference = options.reference or data_dir() / "note10_best_known_front.csv"
        columns = read_columns(reference)
        costs = np.stack(
            [-column(columns, "accuracy", reference), column(columns, "latency_ms", reference)], 1
        )
        whole = pareto.hypervolume(costs, WORST)
        if not whole > 0 or costs[:, 0].min() < -1:
            raise ValueError(
                f"{reference}: accuracies must be fractions, and a member must be above {-WORST[0]:g} within "
                f"{WORST[1]:g} ms, where the hypervolume ends"
            )
        released = OfaAccuracy.read(accuracy)
        if not space.name.startswith(released.space):
            raise ValueError(f"{accuracy} predicts {released.space}; give a predictor of ofa_mbv3_w1.2")
        table = lookup_table.read(tables).predictor(catalogue.target("note10_lut"), space).table
        evaluate = evaluator(lambda g: released.predict(g, space).mean, lambda g: table.evaluate(space, g))
        fastest_ms = float(table.evaluate(space, space.extremes()[:1])[0])
        return cls(space, evaluate, tables, accuracy, fastest_ms, reference, whole)

    def finder(self, generations: int) -> Callable[[float, int], float]:
        """OFA's finder; 0 at limits below the smallest network's latency, where it would search for ever."""
        run = ofa_finder(self.tables, self.accuracy, generations)
        return lambda limit, seed: run(limit, seed) if limit > self.fastest_ms else 0.0

    def doubt(self, options: Options) -> str:
        """What to add where the reference front may be of something else."""
        other = (options.tables or options.accuracy) and not options.reference
        return ": of OFA's predictor and the Note 10, --reference FILE takes another" if other else ""


def main() -> None:
    _, options = command.words(Options, ())
    names = options.only.split(",")
    if unknown := [name for name in names if name not in (*OURS, PYMOO)]:
        raise SystemExit(f"error: only={','.join(unknown)} must be some of {', '.join((*OURS, PYMOO))}")
    try:
        task = Task.from_options(options)
        finder = task.finder(options.generations) if options.generations else None
    except ValueError as error:
        raise SystemExit(f"error: {error}") from error
    rows: list[dict[str, Any]] = []
    for seed in range(options.first, options.first + options.seeds):
        row: dict[str, Any] = {"seed": seed}
        for name in names:
            with threadpool_limits(1):
                costs, seconds = cpu_timed(
                    partial(one_run, name, task.space, task.evaluate, options.budget, seed)
                )
            row[name] = summary(costs, task.whole, seconds)
        if finder is not None:
            peer = {limit: cpu_timed(partial(finder, limit, seed)) for limit in LIMITS}
            accuracies = {limit: best for limit, (best, _) in peer.items()}
            row["ofa"] = {"accuracy": accuracies, "seconds": float(np.median([s for _, s in peer.values()]))}
        rows.append(row)
        print(json.dumps(row), flush=True)
    report(rows)
    print(f"shares are of the hypervolume of {task.reference}" + task.doubt(options))
    artifact.write_json(options.out, rows)


def report(rows: Sequence[dict[str, Any]]) -> None:
    """Print the medians over the seeds."""
    who = [name for name in rows[0] if name != "seed"]

    def median(name: str, *keys: Any) -> float:
        values = [row[name] for row in rows]
        for key in keys:
            values = [value[key] for value in values]
        return float(np.median(values))

    shares = [f"{median(name, 'share'):.4f}" if name != "ofa" else "" for name in who]
    lines = [["share of the hypervolume", *shares]]
    lines += [
        [f"{limit:g} ms", *(f"{median(name, 'accuracy', limit):.4f}" for name in who)] for limit in LIMITS
    ]
    lines.append(["CPU seconds", *(f"{median(name, 'seconds'):.2f}" for name in who)])
    print("\n" + Table.from_rows(["", *who], lines).markdown())
    print(f"\nmedians of {len(rows)} seeds; ours and pymoo: seconds for all limits, ofa: for one limit")
    for name in who if "ofa" in who else ():
        if name != "ofa":
            ratio = median("ofa", "seconds") / median(name, "seconds")
            print(f"{name}: all five limits in 1/{ratio:.1f} of the time OFA needs for one")


if __name__ == "__main__":
    main()
