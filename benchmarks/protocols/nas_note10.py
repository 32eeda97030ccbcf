"""Search with a predictor against search with the true table, on the Note10: the last claim of OFANAS.

OFA-MobileNetV3 w1.2 with OFA's released accuracy predictor; the truth is the sum of the Note10's block table.
One NSGA-II run of 50,000 evaluations with the table, one with each predictor, the same seed; the fronts are
scored by the table. Predictors know N subnets of the Note10 (drawn from the fitting rows of OFANAS, arXiv
2101.00732, whose Note10 column is such sums) and start from its measurements of the 2080 Ti: its network,
fine-tuned, and transfer.
`hypervolume_ratio` is that of the front found to that found with the table; for limits of 15 to 35 ms,
`accuracy_<limit>` is that (percent) of the most accurate subnet of the front within the limit by the table,
`lost_<limit>` how much less that is than with the table.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from benchmarks.ofa_search import evaluator, released_accuracy, search, subspace
from benchmarks.protocols.protocol import OFANAS, Row, Setting, read, source
from benchmarks.protocols.s1 import learner
from latency.predictors.additive import Additive
from latency.predictors.interface import LatencyPredictor
from latency.predictors.sources import sources_of
from latency.predictors.transfer import Transfer
from latency.zoo import catalogue
from search import pareto
from search.searchers.nsga2 import NSGA2
from supernet.arrays import Floats, Genomes
from supernet.space import SearchSpace, get_space

BUDGET = 50_000
LIMITS = (15.0, 20.0, 25.0, 30.0, 35.0)
COUNTS = (10, 100, 700)
REFERENCE = (0.0, 40.0)  # costs: accuracy 0, 40 ms


def run(setting: Setting) -> Iterator[Row]:
    space, whole = subspace(), get_space("ofa_mbv3_w1.2")
    released = released_accuracy(setting.data)
    table = catalogue.predictor("note10_lut").table
    measured = read(setting.data, *OFANAS)
    gpu = measured.data("rtx2080ti_64", slice(0, 7000))
    near = source(Additive(ridge=1e-3), gpu)
    footprints = [of for of in sources_of(get_space(measured.space)) if of.target is None]
    base = learner(setting, "neural", validation=(5950, 7000)).fit(gpu)
    tuning = learner(setting, "fine_tune")

    def true(genomes: Genomes) -> Floats:
        return table.evaluate(whole, as_whole(space, whole, genomes))

    def accuracy(genomes: Genomes) -> Floats:
        return released.predict(genomes, space).mean

    def front(latency: Callable[[Genomes], Floats], seed: int) -> Genomes:
        rng, budget = np.random.default_rng(seed), 500 if setting.small else BUDGET
        archive, _ = search(space, evaluator(accuracy, latency), NSGA2(), budget, rng, REFERENCE)
        return archive.genomes[archive.front()]

    def said(predictor: LatencyPredictor, genomes: Genomes) -> Floats:
        return predictor.predict(as_whole(space, whole, genomes), predictor.target).mean

    for seed, rng in setting.draws():
        best = front(true, seed)
        volume = _volume(accuracy(best), true(best))
        limits = _scores(accuracy(best), true(best), volume, {})
        row = Row("nas_note10", "the table itself", "note10", 0, seed, "all", limits)
        yield row
        order = rng.permutation(7000)
        for n in setting.some(COUNTS):
            samples = measured.data("note10_lut", order[:n])
            predictors: dict[str, LatencyPredictor] = {
                "network of the 2080 Ti, fine-tuned": replace(tuning, seed=seed).tune(base, samples),
                "transfer from the 2080 Ti": Transfer().fit_from([near, *footprints], samples),
            }
            for method, predictor in predictors.items():
                genomes = front(partial(said, predictor), seed)
                scores = _scores(accuracy(genomes), true(genomes), volume, limits)
                yield replace(row, method=method, n=n, scores=scores)


def as_whole(space: SearchSpace, whole: SearchSpace, genomes: Genomes) -> Genomes:
    """The same networks in the space of all resolutions."""
    moved, gene = genomes.copy(), space.index["r"]
    levels = 1 + np.searchsorted(whole.axis("r").values, space.axis("r").values)
    moved[:, gene] = levels[genomes[:, gene] - 1]
    return moved


def _volume(accuracy: Floats, ms: Floats) -> float:
    return pareto.hypervolume(np.stack([-accuracy, ms], axis=1), np.array(REFERENCE))


def _scores(accuracy: Floats, ms: Floats, volume: float, best: Mapping[str, float]) -> dict[str, float]:
    scores = {"hypervolume_ratio": _volume(accuracy, ms) / volume}
    for limit in LIMITS:
        name = f"accuracy_{limit:.0f}"
        scores[name] = 100 * float(accuracy[ms <= limit].max(initial=0))
        if best:
            scores[f"lost_{limit:.0f}"] = best[name] - scores[name]
    return scores
