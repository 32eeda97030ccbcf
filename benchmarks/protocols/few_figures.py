"""GPUs estimated from cores, memory and bandwidth alone, against their whole data sheets.

Each GPU that ships is estimated from the others (`supernet.devices.estimates`), and then GPUs of the extra
`gpus`, which are no donors. The truth is the prediction from the whole data sheet, on random subnets at batch
64: this is what the missing figures cost, beside the error of the model. `off` is the mean of log(estimate /
whole), `z` the same in units of the spread that the estimate adds to the interval.
"""

from collections.abc import Iterator

import numpy as np

from benchmarks.protocols.protocol import Row, Setting
from latency import target
from latency.scores import scores
from latency.zoo import data_sheets
from supernet import device, registry
from supernet.devices import catalogue, estimates
from supernet.space import get_space

SUBNETS = 200
OTHERS = (  # looked at once with each model of GPU time
    "rtx_3060_12_gb", "rtx_4080", "rtx_4060", "l4", "l40s", "a10g", "rtx_a6000", "gtx_1080", "gtx_1060_6_gb",
    "rtx_2060", "a30_pcie", "quadro_rtx_8000", "rtx_5080", "rtx_3080", "rtx_4070_ti", "h100_nvl_94_gb",
    "gtx_1660_ti", "quadro_p5000", "rtx_5070", "a40_pcie",
)  # fmt: skip


def run(setting: Setting) -> Iterator[Row]:
    sheets = [device.get(name) for name in registry.shipped("device")]
    ours = [one.name for one in sheets if one.kind == "gpu"]
    names = [*ours, *(OTHERS if catalogue.installed() else ())]
    for name in setting.some(names):
        whole = target.gpu(name)
        stated = {figure: getattr(whole.spec, figure) for figure in estimates.NEEDED}
        few = target.gpu({**stated, "name": whole.spec.name})
        fitted, _ = data_sheets.predictor(few)
        space = get_space(whole.space).restrict("r", *fitted.resolutions)
        genomes = space.sample(SUBNETS, np.random.default_rng(0))
        truth = data_sheets.gpu_model().predictor(whole).predict(genomes, whole)
        predicted = fitted.predict(genomes, few)
        off = float(np.log(predicted.mean / truth.mean).mean())
        added = np.sqrt(fitted.relative_std**2 - data_sheets.gpu_model().predictor(few).relative_std ** 2)
        more = {"off": off, "z": off / float(added)}
        part = "ships" if name in ours else "other"
        yield Row("few_figures", "three figures", name, 0, None, part, scores(predicted, truth.mean) | more)
