"""Search and measure in rounds against one round, with equal measurements, on devices whose truth is known.

`python -m benchmarks.searches.rounds [targets=note10_lut,...] [seeds=6] [rounds=3] [out=FOLDER]`

The truth of a device is its shipped table. A simulated sitting returns it with noise (that of the table's own
rows, at most 1%) and a drift of its own (3%); the device's family is left out of what its predictor is
transferred from. As `make search target=here`, a run adapts from ten subnets and measures 24 members of the
front. Errors are on the scale of the last sitting.

`searched`: error (%) of the front's latencies as the search saw them last; `stated`: of the front that the
run ends with; `unmeasured`: of its rows that were not measured. `volume`: hypervolume of the true costs of
the verified members, as a share of the box of 1,000 random subnets.
"""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks import command
from latency.data import LatencyData
from latency.measuring import session, summary
from latency.measuring.jobs import anchor_subnets
from latency.measuring.known import Known, wander
from latency.predictors.interface import LatencyModel
from latency.predictors.transfer import Transfer
from latency.target import Target
from latency.zoo import adaptation, catalogue
from latency.zoo.adaptation import Adaptation
from search import models, pareto, problem
from search.archive import Archive
from search.problem import Problem
from search.run import Search
from search.searchers.nsga2 import NSGA2
from search.verify.rounds import Round, Rounds
from supernet.arrays import Floats, Genomes
from supernet.files import artifact
from supernet.files.tables import Table
from supernet.space import get_space

TARGETS = ("note10_lut", "i7_8700k_lut_w1.2", "titan_rtx_b64", "titan_xp_b64", "v100_b64")
MOST_NOISE, DRIFT = 0.01, 0.03
SAMPLES, MEASURED = 10, 24


@dataclass(frozen=True)
class Options:
    targets: str = ",".join(TARGETS)
    seeds: int = 6
    first: int = 0  # seed
    rounds: int = 3
    budget: int = 50_000
    out: Path = Path("runs/bench-rounds")


def family(target: Target) -> tuple[str, ...]:
    """The shipped targets of the same device."""
    names = catalogue.targets_of(target.space)
    return tuple(name for name in names if catalogue.target(name).spec.name == target.spec.name)


@dataclass
class Simulated:
    """A bench whose latencies are those of a shipped table, with noise and drift."""

    target: Target
    rng: np.random.Generator
    sittings: list[summary.Sitting] = field(default_factory=list)
    level: float = 1.0  # of the last sitting

    def true_ms(self, networks: Genomes) -> Floats:
        """(n,) on the scale of the last sitting."""
        return self.level * catalogue.predictor(self.target.name).predict(networks, self.target).mean

    def _measured(self, networks: Genomes) -> Floats:
        noise = min(catalogue.predictor(self.target.name).relative_std, MOST_NOISE)
        return self.true_ms(networks) * np.exp(noise * self.rng.standard_normal(len(networks)))

    def time(self, target: Target, networks: Genomes) -> session.Timed:
        self.level = float(np.exp(DRIFT * self.rng.standard_normal()))
        space = get_space(target.space)
        low, high = catalogue.predictor(target.name).resolutions
        anchors = anchor_subnets(space)
        anchors = anchors[(space.column(anchors, "r") >= low) & (space.column(anchors, "r") <= high)]
        usual = dict(zip(space.format(anchors), self._measured(anchors).tolist(), strict=True))
        data = LatencyData(target, networks, self._measured(networks), np.zeros(len(networks)))
        self.sittings.append((data, usual))
        quartiles = dict(zip(space.format(networks), np.repeat(data.ms[:, None], 3, axis=1), strict=True))
        return session.Timed(target, quartiles, {}, usual, 0.0, {"sitting": "simulated"})

    def known(self, target: Target) -> Known:
        data, anchors = summary.on_one_scale(target, self.sittings)
        return Known(data, "simulated", anchors, wander([usual for _, usual in self.sittings]))


@dataclass(frozen=True)
class Watched(Rounds):
    """Rounds that note how far off the front was before each of them, in percent."""

    searched: list[float] = field(default_factory=list)

    def measure(self, problem: Problem, archive: Archive, turn: int, before: Sequence[Round]) -> Round | None:
        genomes = archive.genomes[archive.front()]
        assert isinstance(self.bench, Simulated)
        target = self.bench.target
        truth = self.bench.true_ms(problem.space.embed(genomes, target.space))
        self.searched.append(_mape(problem.models.predict_latency(genomes).mean, truth))
        return super().measure(problem, archive, turn, before)


def _mape(stated: Floats, truth: Floats) -> float:
    return float(100 * np.abs(stated / truth - 1).mean()) if len(truth) else float("nan")


def one_run(name: str, seed: int, rounds: int, budget: int) -> dict[str, float | str | int]:
    """Adapt, search and measure on one simulated device; its figures."""
    target = catalogue.target(name)
    bench = Simulated(target, np.random.default_rng([seed, 1]))
    how = Adaptation(samples=SAMPLES, seed=seed, learner=Transfer(without=family(target)))
    space, sources = adaptation.plan(target, how)
    low, high = catalogue.predictor(name).resolutions
    sides = [side for side in space.allowed("r") if low <= side <= high]
    space = space.restrict("r", sides[0], sides[-1])
    rng = np.random.default_rng(seed)
    bench.time(target, adaptation.choose_samples(target, how, space, sources, rng))

    def refit(predictor: LatencyModel, known: Known) -> LatencyModel:
        return adaptation.from_known(how, known)

    predictor = adaptation.from_known(how, bench.known(target))
    chosen = models.choose(latency=predictor)
    asked = problem.build(["accuracy", "latency_ms"], chosen, resolution=(sides[0], sides[-1]))
    true = problem.build(
        ["accuracy", "latency_ms"],
        models.choose(latency=catalogue.predictor(name)),
        resolution=(sides[0], sides[-1]),
    ).evaluator
    turns = Watched(bench, refit, MEASURED, rounds)
    with tempfile.TemporaryDirectory() as folder:
        result = Search(asked, NSGA2(), budget, seed, Path(folder) / "run", rounds=turns).run()
    assert result.verified is not None
    genomes = result.archive.genomes[result.verified.rows]
    stated = result.archive.costs[result.verified.rows][:, 1]
    truth = bench.true_ms(asked.space.embed(genomes, target.space))
    verified = np.array(result.front.columns["on_verified_front"], bool)
    worst, best = true.reference(asked.space)
    costs = true(genomes[verified])[0]
    return {
        "target": name,
        "seed": seed,
        "rounds": rounds,
        "searched": turns.searched[-1],
        "stated": _mape(stated, truth),
        "unmeasured": _mape(stated[~verified], truth[~verified]),
        "volume": pareto.hypervolume(costs, worst) / float(np.prod(worst - best)),
        "whole": pareto.hypervolume(true(genomes)[0], worst) / float(np.prod(worst - best)),
        "members": len(verified),
        "verified": int(verified.sum()),
        "networks": int(result.verified.summary["networks"]),
        "covered": int(result.verified.summary["covered"]),
    }


def main() -> None:
    _, options = command.words(Options)
    rows = []
    for name in options.targets.split(","):
        for seed in range(options.first, options.first + options.seeds):
            rows += [one_run(name, seed, rounds, options.budget) for rounds in (1, options.rounds)]
        artifact.write_text(options.out / "rounds.json", json.dumps(rows, indent=1))
    table = []
    for name in options.targets.split(","):
        for rounds in (1, options.rounds):
            own = [row for row in rows if row["target"] == name and row["rounds"] == rounds]
            figures = ("searched", "stated", "unmeasured", "volume", "whole", "verified")
            table.append(
                [name, rounds, *(round(float(np.mean([r[key] for r in own])), 4) for key in figures)]
            )
    Table.from_rows(
        ["target", "rounds", "searched", "stated", "unmeasured", "volume", "whole", "verified"], table
    ).show()


if __name__ == "__main__":
    main()
