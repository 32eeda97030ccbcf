"""Fit the seconds per image of a training step on timm's speeds: `python -m scripts.fit_training_cost`."""

from dataclasses import asdict

from supernet.files import artifact
from supernet.files.tables import data_dir, read_columns
from supernet.surrogates import training_cost


def main() -> None:
    fitted, scores = training_cost.fit_families(read_columns(data_dir() / "imagenet_models.csv.gz"))
    for name, judged in scores.items():
        print(name, {key: round(value, 2) for key, value in judged.items()}, asdict(fitted[name]))
    content = {
        "source": "timm results (github huggingface/pytorch-image-models @ aa4b585, Apache-2.0): RTX 3090, "
        "AMP, NHWC, PyTorch 1.12",
        "command": "python -m scripts.fit_training_cost",
        "protocol": "whole lineages of architectures (resnet, efficientnet, ...) left out in turn",
        "scores": scores,
        "families": {name: asdict(step) for name, step in fitted.items()},
    }
    artifact.write_json(training_cost.FITTED, content)
