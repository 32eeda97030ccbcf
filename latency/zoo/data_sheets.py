"""Predictors of GPUs that were never measured, also of those whose data sheet is an estimate.

Letters: n architectures, k possible data sheets.
"""

from dataclasses import replace
from functools import cache

import numpy as np

from latency.gpu import model
from latency.gpu.model import GpuModel
from latency.gpu.predictor import GpuLatency
from latency.predictors.sources import FOLDER
from latency.target import Target
from supernet import footprint
from supernet.devices import estimates
from supernet.space import get_space

MODEL = "gpus"  # the file of the model of all GPUs
NETWORKS = 64  # random ones, on which possible data sheets are compared
# Each GPU that ships, estimated from cores, memory and bandwidth by the others: 20 of 22 are within 1.645
# spreads of the prediction from their whole data sheet (tests/unit/test_gpu_catalogue.py).
LEAST = 0.1  # log; the spread where all possible data sheets agree
FEW = 1.22  # the spread of so few data sheets is itself uncertain: Student's 90% quantile by the normal one


@cache
def gpu_model() -> GpuModel:
    """What the known GPUs say of one that was never measured, as it ships."""
    return model.load(FOLDER / f"{MODEL}.npz")


def serves(space: str) -> bool:
    """Whether a data sheet tells latencies of a space: its networks are sums of blocks."""
    return footprint.table(get_space(space), "layers") is not None


def predictor(wanted: Target) -> tuple[GpuLatency, str]:
    """The predictor of a GPU target by what is known of other GPUs, and the reason in words.

    Figures that its data sheet lacks are integrated over: the prediction is in the middle of those for
    `estimates.possible` data sheets, and their spread is part of its interval.
    """
    known = gpu_model()
    made, spec = known.predictor(wanted), wanted.spec
    why = f"nothing was measured on it: its data sheet, by what is known of {', '.join(known.facts['gpus'])}"
    if not spec.estimated:
        return made, why
    shift, spread = by_estimates(known, wanted)
    unknown = ", ".join(spec.estimated)
    why += (
        f"; {unknown} are estimated, which widens 90% intervals by a factor of {np.exp(1.645 * spread):.2f}"
    )
    return made.moved(shift, spread), why


def by_estimates(known: GpuModel, wanted: Target) -> tuple[float, float]:
    """How much longer a GPU takes by its possible data sheets than by their middle; their spread (logs)."""
    space = get_space(wanted.space)
    table = space.layers(space.sample(NETWORKS, np.random.default_rng(0)))
    likely = [wanted.spec, *estimates.possible(wanted.spec)]
    ms = [known.errors.seen(known.parts(replace(wanted, device=sheet), table)) for sheet in likely]
    logs = np.log(np.array(ms[1:]) / ms[0]).mean(axis=1)  # (k,)
    return float(logs.mean()), FEW * float(np.hypot(logs.std(ddof=1), LEAST))
