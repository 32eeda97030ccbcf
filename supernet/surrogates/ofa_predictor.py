"""The accuracy predictors that the OFA authors released, for OFA-MobileNetV3 w1.2 and OFA-ResNet50, read from
their files, batched in numpy."""

import pickle
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from supernet.arrays import Genomes
from supernet.files import artifact
from supernet.prediction import Prediction
from supernet.space import SearchSpace

# Input sides with a place in the one-hot, and those of them that a predictor was trained on. That of
# MobileNetV3 has places for 112, 128 and 144 too, but puts 144 px 2 points above 160 px.
PLACES = {
    "ofa_mbv3_w1.2": (112, 128, 144, 160, 176, 192, 208, 224),
    "ofa_resnet50": (128, 144, 160, 176, 192, 224, 240, 256),
}
RESOLUTIONS = (160, 176, 192, 208, 224)
KNOWN = {"ofa_mbv3_w1.2": RESOLUTIONS, "ofa_resnet50": PLACES["ofa_resnet50"]}
STD = 0.0021  # RMSE stated by its authors for MobileNetV3 (Cai et al., 2020)


@dataclass(frozen=True, eq=False)
class OfaAccuracy:
    """MLP 128-400-400-400-1 (MobileNetV3) or 82-400-400-400-1 (ResNet50) on one-hot genes and resolution."""

    layers: tuple[tuple[NDArray[np.float32], NDArray[np.float32]], ...]  # (weights (in, out), bias (out,))
    space: str

    @classmethod
    def read(cls, path: Path) -> "OfaAccuracy":
        """From a released `.pth` (weights only, nothing is executed); ValueError for any other file."""
        import torch

        if not path.is_file():
            raise ValueError(f"no file {path}: get github.com/han-cai/files, ofa/acc_predictor.pth")
        artifact.check_packed(path)
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            state = {name: tensor.detach().numpy() for name, tensor in state.items()}
            if "base_acc" in state:
                layers = [(state[f"layers.{i}.0.weight"].T, state[f"layers.{i}.0.bias"]) for i in range(3)]
                layers.append((state["layers.3.weight"].T, state["base_acc"]))
                space = "ofa_resnet50"
            else:
                layers = [(state[f"{i}.weight"].T, state[f"{i}.bias"]) for i in (0, 2, 4, 6)]
                space = "ofa_mbv3_w1.2"
        except (AttributeError, EOFError, LookupError, RuntimeError, pickle.UnpicklingError) as error:
            raise ValueError(
                f"{path} is no accuracy predictor of OFA: expected the weights of four linear layers, as in "
                "github.com/han-cai/files, ofa/acc_predictor.pth"
            ) from error
        return cls(tuple((weights.copy(), bias) for weights, bias in layers), space)

    def predict(self, genomes: Genomes, space: SearchSpace) -> Prediction:
        """(n,) top-1 (fraction, on OFA's hold-out scale) of subnets at the sides in `KNOWN`.

        Ignores fine-tuning.
        """
        r, places = space.column(genomes, "r"), PLACES[self.space]
        if unknown := sorted(set(r.tolist()) - set(KNOWN[self.space])):
            raise ValueError(f"OFA's predictor knows the resolutions {KNOWN[self.space]}, not {unknown}")
        side = (r[:, None] == places).astype(np.float32)
        inside = genomes.copy()
        inside[:, space.index["r"]] = 1  # of the sides beyond the space there is no one-hot
        genes = space.one_hot(inside, np.float32)
        if self.space == "ofa_resnet50":
            stem = slice(*space.one_hot_offsets[space.index["d0"] :][:2])
            first, past = space.one_hot_offsets[[space.index["w0"], space.index["e17"] + 1]]
            x = np.concatenate([side, genes[:, stem], genes[:, first:past]], axis=1)
        else:
            first, past = space.one_hot_offsets[[space.index["ks0"], space.index["e19"] + 1]]
            x = np.concatenate([genes[:, first:past], side], axis=1)
        *hidden, (weights, bias) = self.layers
        for inner, shift in hidden:
            x = np.maximum(x @ inner + shift, 0)
        mean = (x @ weights + bias)[:, 0].astype(np.float64)
        return Prediction(mean, np.full(len(mean), STD))
