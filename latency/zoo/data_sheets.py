"""Predictors of GPUs that were never measured, also of those whose data sheet is an estimate.

Letters: n architectures, k possible data sheets.
"""

from dataclasses import replace

import numpy as np

from latency.predictors.gpu_spec import GpuSpecLatency
from latency.predictors.sources import gpu_model
from latency.target import Target
from supernet.devices import estimates
from supernet.space import get_space

NETWORKS = 64  # random ones, on which possible data sheets are compared
# Each GPU that ships, estimated from cores, memory and bandwidth by the others: 21 of 22 are within 1.645
# spreads of the prediction from their whole data sheet, the T4 is not (tests/unit/test_gpu_catalogue.py).
LEAST = 0.1  # log; the spread where all possible data sheets agree
FEW = 1.22  # the spread of so few data sheets is itself uncertain: Student's 90% quantile by the normal one


def predictor(wanted: Target) -> tuple[GpuSpecLatency, str]:
    """The predictor of a GPU target by what is known of other GPUs, and the reason in words.

    Figures that its data sheet lacks are integrated over: the prediction is in the middle of those for
    `estimates.possible` data sheets, and their spread is part of its interval.
    """
    model = gpu_model()
    made, spec = model.predictor(wanted), wanted.spec
    why = f"nothing was measured on it: its data sheet, by what is known of {', '.join(model.facts['gpus'])}"
    if not spec.estimated:
        return made, why
    space = get_space(wanted.space).restrict("r", *made.resolutions)
    genomes = space.sample(NETWORKS, np.random.default_rng(0))
    likely = [replace(wanted, device=sheet) for sheet in estimates.possible(spec)]
    ms = [model.predictor(target).predict(genomes, target).mean for target in likely]
    logs = np.log(ms / made.predict(genomes, wanted).mean).mean(axis=1)  # (k,)
    spread = FEW * float(np.hypot(logs.std(ddof=1), LEAST))
    unknown = ", ".join(spec.estimated)
    why += (
        f"; {unknown} are estimated, which widens 90% intervals by a factor of {np.exp(1.645 * spread):.2f}"
    )
    return made.moved(float(logs.mean()), spread), why
