"""Few-shot transfer on HELP's OFA latencies, whole GPUs left out: `python -m benchmarks.transfer`.

Sources are fitted on rows 0-2999, samples drawn from or chosen among them, and all rows of the test part
(3500-3999; with --validation 3000-3499, where everything was chosen) are scored; 5 seeds.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np

from latency import adaptation, sampling, zoo
from latency.data import LatencyData, read_csv
from latency.predictors.additive import Additive
from latency.predictors.transfer import Source, Transfer, sources
from latency.scores import scores
from supernet import spaces
from supernet.prediction import exact
from supernet.space import Ints
from supernet.tidy import data_dir

SPACE = "ofa_mbv3_w1.2"
FITTED, POOL, SEEDS = 3000, 600, 5
COUNTS = (3, 5, 10, 20, 50)


def gpu(name: str) -> str:
    return name.rsplit("_b", 1)[0]


def chosen_rows(data: LatencyData, known: Sequence[Source], n: int, rng: np.random.Generator) -> Ints:
    """(n,) rows among a random pool of the fitted ones, by the rule of `sampling.choose`."""
    space = spaces.get(SPACE)
    pool = rng.choice(FITTED, POOL, replace=False)
    kernel = sampling.kernel(space, data.genomes[pool], known)
    return pool[sampling.greedy(kernel, n)]


def main() -> None:
    first = 3000 if "--validation" in sys.argv else 3500
    names = [name for name in zoo.targets_of(SPACE) if zoo.target(name).rows.startswith("ofa_mbv3_gpu")]
    data, fitted = {}, {}
    for name in names:
        target = zoo.target(name)
        data[name] = read_csv(data_dir() / target.rows, target, target.column)
        predictor = Additive(validation=(2500, FITTED)).fit(data[name].take(slice(0, FITTED)))
        fitted[name] = Source(name, predictor.table, predictor.resolutions, target)
    others = [
        source for source in sources(spaces.get(SPACE), without=["note10_lut"]) if source.name not in names
    ]
    print(f"sources: the other three GPUs at three batch sizes, {', '.join(s.name for s in others)}")
    mape: dict[str, dict[str, list[float]]] = {}
    covered: dict[str, list[float]] = {}
    for name in names:
        known = [source for other, source in fitted.items() if gpu(other) != gpu(name)] + others
        test = data[name].take(slice(first, first + 500))
        for seed in range(SEEDS):
            for n in COUNTS:
                draw = np.random.default_rng(seed).choice(FITTED, n, replace=False)
                pick = chosen_rows(data[name], known, n, np.random.default_rng(seed))
                for way, rows in (("random", draw), ("chosen", pick)):
                    samples = data[name].take(rows)
                    predicted = Transfer().fit_from(known, samples).predict(test.genomes, test.target)
                    score = scores(predicted, test.ms)
                    mape.setdefault(f"transfer, {n} {way}", {}).setdefault(name, []).append(score["mape"])
                    covered.setdefault(f"transfer, {n} {way}", []).append(score["coverage_90"])
                    if way == "random" and n in (10, 50):
                        for label, predicted in adaptation.baselines(known, samples, test.genomes).items():
                            error = scores(predicted, test.ms)["mape"]
                            mape.setdefault(f"{label}, {n} random", {}).setdefault(name, []).append(error)
                        scratch = Additive(ridge=0.1).fit(samples).table.of(spaces.get(SPACE), test.genomes)
                        error = scores(exact(scratch), test.ms)["mape"]
                        mape.setdefault(f"from scratch, {n} random", {}).setdefault(name, []).append(error)
        guess = Transfer().specification_from(known, test.target).predict(test.genomes, test.target)
        mape.setdefault("specification, 0", {}).setdefault(name, []).append(scores(guess, test.ms)["mape"])
    print(f"MAPE %, mean of {SEEDS} seeds, rows {first}-{first + 499}")
    print("| | mean | " + " | ".join(names) + " | 90% covers |")
    print("|---|" + "---:|" * (len(names) + 2))
    for label, by_name in mape.items():
        cells = [float(np.mean(by_name[name])) for name in names]
        cover = f"{np.mean(covered[label]):.0f}" if label in covered else ""
        print(
            f"| {label} | {np.mean(cells):.2f} | " + " | ".join(f"{c:.2f}" for c in cells) + f" | {cover} |"
        )


if __name__ == "__main__":
    main()
