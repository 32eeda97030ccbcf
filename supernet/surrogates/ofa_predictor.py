"""The accuracy predictor that the OFA authors released for OFA-MobileNetV3 w1.2, read from its file, batched
in numpy."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from supernet.arrays import Genomes
from supernet.prediction import Prediction
from supernet.space import SearchSpace

# Its input has places for 112, 128 and 144 too, but it was not trained there: it puts 144 px 2 points above
# 160 px.
RESOLUTIONS = (160, 176, 192, 208, 224)
STD = 0.0021  # RMSE stated by its authors (Cai et al., 2020)


@dataclass(frozen=True, eq=False)
class OfaAccuracy:
    """MLP 128-400-400-400-1 on one-hot kernels, expansions and resolution."""

    layers: tuple[tuple[NDArray[np.float32], NDArray[np.float32]], ...]  # (weights (in, out), bias (out,))

    @classmethod
    def read(cls, path: Path) -> "OfaAccuracy":
        """From the released `.pth` (weights only, nothing is executed)."""
        import torch

        if not path.is_file():
            raise ValueError(f"no file {path}: get github.com/han-cai/files, ofa/acc_predictor.pth")
        state = torch.load(path, map_location="cpu", weights_only=True)
        state = {name: tensor.numpy() for name, tensor in state.items()}
        return cls(tuple((state[f"{i}.weight"].T.copy(), state[f"{i}.bias"]) for i in (0, 2, 4, 6)))

    def predict(self, genomes: Genomes, space: SearchSpace) -> Prediction:
        """(n,) top-1 (fraction, on OFA's hold-out scale) of subnets at r 160, 176, ..., 224.

        Ignores fine-tuning.
        """
        r = space.column(genomes, "r")
        if unknown := sorted(set(r.tolist()) - set(RESOLUTIONS)):
            raise ValueError(f"OFA's predictor knows the resolutions {RESOLUTIONS}, not {unknown}")
        first, past = space.one_hot_offsets[space.index["ks0"]], space.one_hot_offsets[space.index["e19"] + 1]
        x = np.zeros((len(genomes), 128), np.float32)
        x[:, :120] = space.one_hot(genomes, np.float32)[:, first:past]
        x[np.arange(len(x)), 120 + (r - 112) // 16] = 1
        *hidden, (weights, bias) = self.layers
        for inner, shift in hidden:
            x = np.maximum(x @ inner + shift, 0)
        mean = (x @ weights + bias)[:, 0].astype(np.float64)
        return Prediction(mean, np.full(len(mean), STD))
