"""Single figures that the README and docstrings state: `python -m benchmarks.claims` (seconds).

OFA's predictors on measured networks and against our surrogates; its lookup tables between their
resolutions; the rule that scales training to other GPUs.
"""

import numpy as np
from scipy.stats import kendalltau

from latency.predictors import lookup_table
from latency.zoo import catalogue
from supernet import device
from supernet.files.tables import data_dir, read_columns
from supernet.space import get_space
from supernet.surrogates import accuracy, training_cost
from supernet.surrogates.ofa_predictor import KNOWN, OfaAccuracy

UNSEEN = 2000  # subnets that no fit has seen
GPUS = {"rtx4090": "rtx_4090", "rtx5090": "rtx_5090", "pro6000maxq": "rtx_pro_6000_maxq"}  # column: device


def main() -> None:
    folder = data_dir()
    official = folder / "ofa_official"
    rows = read_columns(folder / "ofa_mbv3_accuracy.csv.gz")
    space = get_space("ofa_mbv3_w1.2")
    genomes = space.encode(rows)
    released = OfaAccuracy.read(official / "ofa_mbv3_w1.2_acc_predictor.pth").predict(genomes, space).mean
    error, tau = 100 * released - rows["top1"], kendalltau(released, rows["top1"]).statistic
    print(f"OFA's predictor on the measured w1.0 networks: tau {tau:.3f}, {error.std():.3f} points off")
    for name in ("ofa_mbv3_w1.2", "ofa_resnet50"):
        theirs, surrogate = OfaAccuracy.read(official / f"{name}_acc_predictor.pth"), accuracy.load(name)
        own = get_space(name)
        drawn = own.restrict("finetune_epochs", 0, 0).sample(UNSEEN, np.random.default_rng(99))
        sides = [r for r in own.axis("r").values if r in KNOWN[name]]
        levels = [1 + own.axis("r").values.index(r) for r in sides]
        drawn[:, own.index["r"]] = np.random.default_rng(98).choice(levels, UNSEEN)
        told, base = theirs.predict(drawn, own).mean, surrogate.uncalibrated(drawn).mean
        tau = kendalltau(told, surrogate.predict(drawn).mean).statistic
        print(f"{name} on {UNSEEN} random subnets: tau {tau:.3f} with OFA's predictor", end="")
        rmse = 100 * np.std(base - told)
        print(
            f", {rmse:.3f} points RMSE before calibration, but for a constant"
            if name == "ofa_resnet50"
            else ""
        )

    target = catalogue.target("note10_lut")
    five = lookup_table.read(sorted(official.glob("note10*.yaml"))).predictor(target)
    drawn = space.restrict("r", 160, 224).sample(5000, np.random.default_rng(0))
    full = catalogue.predictor("note10_lut").predict(drawn, target).mean
    off = 100 * np.abs(five.predict(drawn, target).mean / full - 1)
    print(f"OFA's five Note10 tables against the full one: {off.mean():.2f}%, at most {off.max():.1f}%")

    speeds = read_columns(folder / "imagenet_models.csv.gz")
    _, first = np.unique(speeds["arch"], return_index=True)
    small = first[speeds["gmacs"][first] < 2]
    for column, gpu in GPUS.items():
        ratio = speeds[f"infer_ips_{column}"][small] / speeds["infer_ips_rtx3090"][small]
        ratio = ratio[np.isfinite(ratio)]
        rule, spread = training_cost.speed_ratio(device.get(gpu)), np.log(ratio).std()
        print(f"{gpu}: {np.median(ratio):.2f} times an RTX 3090 (log sd {spread:.2f}), rule {rule:.2f}")


if __name__ == "__main__":
    main()
