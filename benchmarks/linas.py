"""Small budgets: LINAS against NSGA-II, random search, BoTorch and Optuna at equal numbers of evaluations.

`python -m benchmarks.linas imagenet [seeds=5] [first=0] [budget=500] [only=linas,botorch]`
`python -m benchmarks.linas run RUN_FOLDER [seeds=5] [part=test]`

imagenet: OFA-MobileNetV3 w1.0 at 224 px, top-1 against MACs. The truth stands for the evaluation on
ImageNet: a support vector regression fitted to all 1,513 measured networks, plus a deviation per network,
always the same, as large as the regression's error on held-out networks. Hypervolume as share of the box
that DyNAS-T's released runs span; its own figures are published in that box. BoTorch takes 3 seconds of CPU
for ten evaluations and needs, as Optuna does, `pip install "ofa-frontier[peers]"`; `only=` leaves it out.

run: the supernet that `make train` left in RUN_FOLDER, evaluated for real; accuracy against MACs. The box
is spanned by the 95% intervals of the smallest and the largest network. All searches share one store of
evaluations, so a benchmark that was stopped goes on. LINAS makes 200 evaluations, NSGA-II 500.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks import command
from benchmarks.ofa_search import search
from search import models, pareto, problem
from search.objective import Evaluator, Objective
from search.searchers.linas import LINAS
from search.searchers.nsga2 import NSGA2
from search.searchers.random import RandomSearch
from search.searchers.searcher import Searcher
from supernet import footprint
from supernet.arrays import Floats, Genomes
from supernet.files import artifact
from supernet.files.tables import Table, data_dir, read_columns
from supernet.fits import folds
from supernet.prediction import exact
from supernet.space import SearchSpace, get_space

MARKS = (50, 100, 150, 200, 250, 350, 500)
SEARCHERS: dict[str, Callable[[], Searcher]] = {
    "linas": LINAS,
    "nsga2-20": lambda: NSGA2(population=20),
    "random": lambda: RandomSearch(batch=50),
}
PEERS = {"botorch": "botorch", "optuna-tpe": "optuna", "optuna-nsga2": "optuna"}  # {searcher: its package}
PUBLISHED = {  # DyNAS-T's released files, one run each
    "LINAS (published)": {50: 0.664, 100: 0.711, 150: 0.763, 250: 0.772, 350: 0.791, 500: 0.805},
    "NSGA-II (published)": {50: 0.649, 100: 0.683, 150: 0.718, 250: 0.740, 350: 0.761, 500: 0.779},
}
DYNAS_BOX = np.array([[-0.70998, 506.5e6], [-0.77466, 123.0e6]])  # worst and best costs
REAL = {"linas": 200, "nsga2-20": 500}  # evaluations of `run`, by searcher


@dataclass(frozen=True)
class Options:
    seeds: int = 5
    first: int = 0  # seed
    only: str = ""  # searchers with commas, for `imagenet`; all that are installed if empty
    part: Literal["val", "test"] = "val"  # the images that count, for `run`
    budget: int = MARKS[-1]  # evaluations of a search; of `run` at most
    out: Path = Path("runs/bench-linas.json")


@dataclass(frozen=True)
class Task:
    """What is searched; `box` (2, m) holds the worst and the best costs."""

    space: SearchSpace
    evaluator: Evaluator
    box: Floats

    def share(self, costs: Floats) -> float:
        worst, best = self.box
        return pareto.hypervolume(costs, worst) / float(np.prod(worst - best))


def deviation(genomes: Genomes, sd: float) -> Floats:
    """(n,) a normal deviate per genome: its own, whoever asks, whenever."""
    seeds = [blake2b(row.tobytes(), digest_size=8).digest() for row in np.ascontiguousarray(genomes)]
    draws = [np.random.default_rng(int.from_bytes(seed, "little")).standard_normal() for seed in seeds]
    return sd * np.array(draws)


def imagenet() -> Task:
    from sklearn.svm import SVR

    space = get_space("ofa_mbv3_w1.0").restrict("r", 224, 224).restrict("finetune_epochs", 0, 0)
    rows = read_columns(data_dir() / "ofa_mbv3_accuracy.csv.gz")
    x, y = space.one_hot(space.encode(rows)), rows["top1"]
    centre, scale = y.mean(), y.std()

    def fitted(inside: Any) -> Any:
        return SVR(C=10, gamma=0.01, epsilon=0.02).fit(x[inside], (y[inside] - centre) / scale)

    said = folds.left_out(folds.random_folds(len(y), 5), lambda kept, out: fitted(kept).predict(x[out]))
    model, sd = fitted(slice(None)), float(np.sqrt(np.mean((centre + scale * said - y) ** 2)))
    print(f"the truth: regression on {len(y)} networks, {sd:.3f} points off on held-out ones")

    def top1(genomes: Genomes) -> Floats:
        smooth = centre + scale * model.predict(space.one_hot(genomes))
        return (smooth + deviation(genomes, sd)) / 100

    accuracy = Objective("accuracy", "top-1", lambda g: exact(top1(g)), maximize=True, measured="the truth")
    macs = Objective("macs", "MACs", lambda g: exact(footprint.compute(space, g, "macs")))
    return Task(space, Evaluator((accuracy, macs)), DYNAS_BOX)


def supernet(folder: Path, part: Literal["val", "test"]) -> Task:
    from supernet.training.measured_accuracy import SupernetAccuracy

    accuracy = SupernetAccuracy(folder=folder, part=part)
    asked = problem.build(["accuracy", "macs"], models.choose(accuracy=accuracy))
    return Task(asked.space, asked.evaluator, np.stack(asked.evaluator.reference(asked.space)))


def make(name: str) -> Searcher:
    """A searcher of ours or of a peer, whose packages are imported only where it is asked for."""
    if name in SEARCHERS:
        return SEARCHERS[name]()
    if name == "botorch":
        from benchmarks.searches.botorch_peer import BoTorch

        return BoTorch()
    from benchmarks.searches import optuna_peer

    return optuna_peer.Optuna(optuna_peer.tpe if name == "optuna-tpe" else optuna_peer.nsga2)


def names(only: str) -> list[str]:
    """The searchers that are asked for; SystemExit for one that is unknown or not installed."""
    absent = {name for name, package in PEERS.items() if find_spec(package) is None}
    install = f'{", ".join(sorted(absent))}: pip install "ofa-frontier[peers]"'
    if not only:
        if absent:
            print(f"left out are {install}")
        return [name for name in (*SEARCHERS, *PEERS) if name not in absent]
    asked = only.split(",")
    if unknown := [name for name in asked if name not in (*SEARCHERS, *PEERS)]:
        raise SystemExit(f"error: only={','.join(unknown)} must be some of {', '.join((*SEARCHERS, *PEERS))}")
    if absent.intersection(asked):
        raise SystemExit(f"error: not installed are {install}")
    return asked


def compare(
    task: Task, seeds: Iterable[int], budgets: Mapping[str, int]
) -> tuple[dict[str, list[list[float]]], dict[str, float]]:
    """{searcher: [shares of the box at MARKS, of each seed]} and {searcher: mean seconds of its own}."""
    shares: dict[str, list[list[float]]] = {name: [] for name in budgets}
    seconds: dict[str, list[float]] = {name: [] for name in budgets}
    for seed in seeds:
        for name, budget in budgets.items():
            rng = np.random.default_rng(seed)
            archive, took = search(task.space, task.evaluator, make(name), budget, rng, task.box[0])
            seconds[name].append(took)
            shares[name].append([task.share(archive.costs[:mark]) for mark in MARKS if mark <= budget])
            print(f"seed {seed}, {name}:", *(f"{share:.3f}" for share in shares[name][-1]), flush=True)
    return shares, {name: float(np.mean(times)) for name, times in seconds.items()}


def table(shares: Mapping[str, list[list[float]]], seconds: Mapping[str, float], published: bool) -> str:
    lines: list[list[Any]] = []
    for name, runs in shares.items():
        means, spreads = np.mean(runs, axis=0), np.std(runs, axis=0)
        cells = [f"{m:.3f} +- {s:.3f}" for m, s in zip(means, spreads, strict=True)]
        lines.append([f"{name} ({seconds[name]:.1f} s)", *cells, *[""] * (len(MARKS) - len(cells))])
    if published:
        lines += [[f"*{name}*", *map(marks.get, MARKS)] for name, marks in PUBLISHED.items()]
    return Table.from_rows(["evaluations", *map(str, MARKS)], lines).markdown()


def verdict(shares: Mapping[str, list[list[float]]]) -> str:
    """Whether LINAS reaches after 200 evaluations what NSGA-II has at the end; empty for smaller budgets
    and other searchers."""
    if not shares.keys() >= REAL.keys():
        return ""
    linas, nsga2 = (np.mean(shares[name], axis=0) for name in REAL)
    if len(linas) <= (place := MARKS.index(200)):
        return ""
    word = "reaches" if linas[place] >= nsga2[-1] else "does not reach"
    return f"linas after 200: {linas[place]:.3f}, {word} nsga2 after {MARKS[-1]}: {nsga2[-1]:.3f}"


def main() -> None:
    words, options = command.words(Options)
    if words[:1] not in (["imagenet"], ["run"]) or len(words) != (2 if words[0] == "run" else 1):
        raise SystemExit("error: please say imagenet, or run FOLDER with a folder of make train")
    real = words[0] == "run"
    budgets = REAL if real else dict.fromkeys(names(options.only), MARKS[-1])
    budgets = {name: min(budget, options.budget) for name, budget in budgets.items()}
    with threadpool_limits(1):
        asked = supernet(Path(words[1]), options.part) if real else imagenet()
        shares, seconds = compare(asked, range(options.first, options.first + options.seeds), budgets)
    print(f"\n{table(shares, seconds, published=not real)}")
    print(f"\nmean +- sd of {options.seeds} seeds; in brackets the CPU time of the searcher itself")
    print(verdict(shares))
    artifact.write_json(options.out, {"marks": MARKS, "shares": shares})


if __name__ == "__main__":
    main()
