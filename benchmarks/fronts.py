"""Whether predictions hold where a search ends: on its front, for devices that no source knows.

`python -m benchmarks.fronts [coverage] [efficiency] [limits] [targets=[v100_b64,mine.npz]] [seeds=6]
[out=DIR]`; all parts without a name, all shipped targets of OFA-MobileNetV3 without `targets`. A target may
be the file of `make fit`, of a device of your own.

The truth of a target is its own predictor. It is taken away with all others of the same device, and a new one
is adapted from a few samples as `make adapt` chooses them. Accuracy against that latency is searched; the
accuracy is taken as exact, so that only the errors of the latency are judged. Every part writes a JSON file
of rows:

- coverage: scores and coverages of intervals on random subnets and on the members of the front;
- efficiency: the sum of `p_efficient` over the front, how many members nothing that was evaluated dominates
  in truth, and the mean squared difference (Brier score);
- limits: of the members that a search with a limit returns, the share that holds it in truth. The limits are
  the latencies at a quarter, half and three quarters of the front.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks import command
from latency.data import LatencyData
from latency.predictors import interface
from latency.predictors.interface import LatencyPredictor
from latency.predictors.slots import SlotLatency
from latency.predictors.sources import Source
from latency.predictors.transfer import Transfer
from latency.scores import calibration, scores
from latency.zoo import adaptation, catalogue
from latency.zoo.adaptation import Adaptation
from search import pareto
from search.archive import Archive
from search.objective import Evaluator, Objective
from search.problem import RECIPE
from search.searchers.nsga2 import NSGA2
from supernet import registry
from supernet.arrays import Floats, Genomes
from supernet.files import artifact
from supernet.files.tables import Table
from supernet.prediction import Prediction, exact
from supernet.space import SearchSpace
from supernet.surrogates.accuracy import AccuracySurrogate

QUANTILES = (0.25, 0.5, 0.75)  # of the latencies of a front, where limits are set
SPACES = ("ofa_mbv3_w1.2", "ofa_mbv3_w1.0")


@dataclass(frozen=True)
class Options:
    targets: tuple[str, ...] = ()  # names, or files of `make fit`
    seeds: int = 6
    first: int = 0  # seed
    samples: int = 10
    budget: int = 10_000  # evaluations of a search
    random: int = 1000  # subnets
    confidence: float = 0.90  # of the limits
    out: Path = Path("runs/fronts")


@dataclass(frozen=True, eq=False)
class Device:
    """A device left out: its truth, and what is known without it."""

    name: str
    truth: LatencyPredictor
    space: SearchSpace
    sources: Sequence[Source]
    accuracy: AccuracySurrogate

    @classmethod
    def load(cls, name: str) -> "Device":
        """A shipped target, or the file of a predictor; ValueError where nothing tells accuracies."""
        is_file = Path(name).suffix == ".npz"
        truth = interface.load(Path(name)) if is_file else catalogue.predictor(name)
        target = truth.target
        if target.space not in registry.names("accuracy"):
            raise ValueError(
                f"{name} is of {target.space}, whose accuracy is not known: there is no front to judge"
            )
        accuracy = registry.build(registry.load("accuracy", target.space))
        family = [
            other
            for other in catalogue.targets_of(target.space)
            if catalogue.target(other).spec.name == target.spec.name
        ]
        space, sources = adaptation.plan(target, Adaptation(learner=Transfer(without=tuple(family))))
        for known in (truth, accuracy):
            space = space.restrict("r", *known.resolutions) if "r" in space.index else space
        if RECIPE in space.index:
            epochs = space.allowed(RECIPE)[0]
            space = space.restrict(RECIPE, epochs, epochs)
        return cls(name, truth, space, sources, accuracy)

    def ms(self, genomes: Genomes) -> Floats:
        """(n,) the truth."""
        return self.truth.predict(genomes, self.truth.target).mean

    def top1(self, genomes: Genomes) -> Prediction:
        """(n,) accuracies, taken as exact."""
        return exact(self.accuracy.predict(genomes, self.space).mean)


@dataclass(frozen=True, eq=False)
class Trial:
    """A device, adapted to and searched once."""

    device: Device
    options: Options
    seed: int

    @cached_property
    def adapted(self) -> SlotLatency:
        """The predictor from a few samples of the truth."""
        device, how = self.device, Adaptation(samples=self.options.samples, seed=self.seed)
        rng = np.random.default_rng(self.seed)
        target = device.truth.target
        picked = adaptation.choose_samples(target, how, device.space, device.sources, rng)
        data = LatencyData(target, picked, device.ms(picked), np.full(len(picked), np.nan))
        return how.learner.fit_from(device.sources, data)

    def predict(self, genomes: Genomes) -> Prediction:
        """(n,) ms as adapted."""
        return self.adapted.predict(genomes, self.device.truth.target)

    def evaluator(self, limit: float | None = None) -> Evaluator:
        """Accuracy and latency, perhaps with a limit."""
        latency = Objective("latency_ms", "ms", self.predict, limit=limit, confidence=self.options.confidence)
        return Evaluator((Objective("accuracy", "fraction", self.device.top1, maximize=True), latency))

    def search(self, limit: float | None = None) -> Archive:
        """All that a search evaluates."""
        space, evaluate, searcher = self.device.space, self.evaluator(limit), NSGA2()
        archive = Archive(space, ["accuracy", "latency_ms"], evaluate.reference(space)[0])
        rng = np.random.default_rng((self.seed, 1))
        while len(archive) < self.options.budget:
            genomes = searcher.ask(space, archive, rng)[: self.options.budget - len(archive)]
            costs, violation = evaluate(genomes)
            searcher.tell(genomes, costs, violation)
            archive.add(genomes, costs, violation)
        return archive

    @cached_property
    def archive(self) -> Archive:
        """Of the search without limit."""
        return self.search()

    @cached_property
    def front(self) -> Genomes:
        """(f, d) its front."""
        return self.archive.genomes[self.archive.front()]

    def row(self, part: str, values: Mapping[str, float]) -> dict[str, Any]:
        """A row of a file; `n` counts samples, `n_test` the subnets judged."""
        about = {"target": self.device.name, "part": part, "n": self.options.samples, "seed": self.seed}
        return about | {key: float(v) if np.isfinite(v) else None for key, v in values.items()}


def coverage(trial: Trial) -> Iterator[dict[str, Any]]:
    """Scores, coverages, bias and half width of 90% intervals (percent), on random subnets and the front."""
    rng = np.random.default_rng((trial.seed, 2))
    drawn = trial.device.space.network(trial.device.space.sample(trial.options.random, rng))
    for part, genomes in (("random", drawn), ("front", trial.front)):
        predicted, ms = trial.predict(genomes), trial.device.ms(genomes)
        low, high = predicted.interval(0.90)
        errors = scores(predicted, ms) | calibration(predicted, ms)
        errors |= {
            "n_test": errors.pop("n"),
            "bias_percent": float(100 * (predicted.mean / ms - 1).mean()),
            "half_width_90": float(50 * ((high - low) / predicted.mean).mean()),
        }
        yield trial.row(part, errors)


def efficiency(trial: Trial) -> Iterator[dict[str, Any]]:
    """The sum of `p_efficient`, the number truly efficient, and the Brier score."""
    archive = trial.archive
    probability = archive.efficiency(trial.evaluator())
    truth = np.stack([archive.costs[:, 0], trial.device.ms(archive.genomes)], axis=1)
    efficient = pareto.is_front(truth)[archive.front()]
    yield trial.row(
        "front",
        {
            "n_test": len(efficient),
            "sum_p_efficient": probability.sum(),
            "efficient": efficient.sum(),
            "brier": ((probability - efficient) ** 2).mean(),
        },
    )


def limits(trial: Trial) -> Iterator[dict[str, Any]]:
    """The share of a front under a limit that holds it."""
    for quantile in QUANTILES:
        limit = float(np.quantile(trial.predict(trial.front).mean, quantile))
        archive = trial.search(limit)
        ms = trial.device.ms(archive.genomes[archive.front()])
        held = float(100 * (ms <= limit).mean()) if len(ms) else float("nan")
        values = {"limit_ms": limit, "n_test": len(ms), "holds": held, "confidence": trial.options.confidence}
        yield trial.row("front", values)


PARTS: dict[str, Callable[[Trial], Iterator[dict[str, Any]]]] = {
    "coverage": coverage,
    "efficiency": efficiency,
    "limits": limits,
}
SHOWN = {
    "coverage": ["mape", "bias_percent", "half_width_90", *(f"coverage_{c}" for c in (50, 80, 90, 95, 99))],
    "efficiency": ["n_test", "sum_p_efficient", "efficient", "brier"],
    "limits": ["n_test", "holds"],
}


def table(part: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    """Means over the seeds (and limits) for each target, and over the targets."""
    groups: dict[tuple[str, str], list[list[float]]] = defaultdict(list)
    for row in rows:
        values = [np.nan if row[key] is None else float(row[key]) for key in SHOWN[part]]
        groups[row["target"], row["part"]].append(values)
    means = {group: np.nanmean(values, axis=0) for group, values in groups.items()}
    for where in dict.fromkeys(where for _, where in groups):
        means["mean", where] = np.mean([mean for (_, there), mean in means.items() if there == where], axis=0)
    lines = [[*group, *(f"{value:.3g}" for value in mean)] for group, mean in means.items()]
    return Table.from_rows(["target", "part", *SHOWN[part]], lines)


def main() -> None:
    parts, options = command.words(Options, PARTS)
    names = options.targets or tuple(name for space in SPACES for name in catalogue.targets_of(space))
    try:
        devices = [Device.load(name) for name in names]
    except ValueError as error:
        raise SystemExit(f"error: {error}") from error
    rows: dict[str, list[dict[str, Any]]] = {part: [] for part in parts}
    with threadpool_limits(1):
        for device in devices:
            for seed in range(options.first, options.first + options.seeds):
                trial = Trial(device, options, seed)
                for part in parts:
                    rows[part] += PARTS[part](trial)
                    artifact.write_json(options.out / f"{part}.json", rows[part])
    for part in parts:
        print(f"## {part}\n\n{table(part, rows[part]).markdown()}\n")


if __name__ == "__main__":
    main()
