"""Fit the seconds per image of a training step on timm's speeds: `python -m scripts.fit_training_cost`."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np

from supernet.files import artifact
from supernet.files.tables import data_dir, read_columns, select
from supernet.surrogates import training_cost


def main() -> None:
    rows = read_columns(data_dir() / "imagenet_models.csv.gz")
    same_size = rows["train_img_size"] == rows["img_size"]
    rows = select(rows, same_size & np.isfinite(rows["train_ips_rtx3090"]))
    _, first = np.unique(
        rows["arch"], return_index=True
    )  # models that differ only in their weights share the speed
    rows = select(rows, first)
    family = np.array([training_cost.family_of(arch) for arch in rows["arch"]])
    fitted, judged = {}, {}
    for name in training_cost.FAMILIES:
        part = select(rows, family == name)
        inputs = (
            part["macts_m"] * 1e6,
            part["gmacs"] * 1e9,
            part["params_m"] * 1e6,
            part["train_bs_rtx3090"],
        )
        ms = 1000 / part["train_ips_rtx3090"]
        lineage = np.array(
            [arch.removeprefix("tf_").split("_")[0].rstrip("0123456789") for arch in part["arch"]]
        )
        error = np.empty(len(ms))
        for left_out in np.unique(lineage):
            out = lineage == left_out
            activations, macs, params, batch = (column[~out] for column in inputs)
            step = training_cost.fit(activations, macs, params, batch, ms[~out])
            error[out] = step.ms(*(column[out] for column in inputs)) / ms[out] - 1
        std = float(np.quantile(np.abs(error), 0.9) / 1.6449)
        fitted[name] = asdict(replace(training_cost.fit(*inputs, ms), relative_std=std))
        judged[name] = {
            "networks": len(ms),
            "lineages": len(np.unique(lineage)),
            "mape": float(100 * np.abs(error).mean()),
            "median_ape": float(100 * np.median(np.abs(error))),
            "within_10": float(100 * (np.abs(error) <= 0.1).mean()),
        }
        print(name, {key: round(value, 2) for key, value in judged[name].items()}, fitted[name])
    content = {
        "source": "timm results (github huggingface/pytorch-image-models @ aa4b585, Apache-2.0): RTX 3090, "
        "AMP, NHWC, PyTorch 1.12",
        "command": "python -m scripts.fit_training_cost",
        "protocol": "whole lineages of architectures (resnet, efficientnet, ...) left out in turn",
        "scores": judged,
        "families": fitted,
    }
    artifact.write_json(training_cost.FITTED, content)
