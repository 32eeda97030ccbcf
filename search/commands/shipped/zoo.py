"""Fit the predictors that ship in latency/zoo on the public tables: `python -m scripts.fit_zoo [name
...]`."""

from __future__ import annotations

import sys

from latency.zoo import catalogue
from supernet.files.tables import data_dir

GPUS = "gpu_spec"  # the model of all GPUs


def main() -> None:
    folder = data_dir()
    asked = sys.argv[1:] or [
        *catalogue.names(),
        GPUS,
        *(catalogue.MODULES + engine for engine in catalogue.module_engines()),
    ]
    for name in asked:
        if name == GPUS:
            model = catalogue.fit_gpus(folder)
            model.save(catalogue.FOLDER / f"{GPUS}.json")
            print(f"{name:18} spreads of a GPU left out {model.spreads}, noise {model.noise:.3f}")
            continue
        if name.startswith(catalogue.MODULES):
            modules = catalogue.fit_modules(name.removeprefix(catalogue.MODULES))
            modules.save(catalogue.FOLDER / f"{name}.npz")
            print(f"{name:18} networks left out {modules.facts['left_out_mape']:.2f}%")
            continue
        fitted = catalogue.fit(name, folder)
        path = catalogue.FOLDER / f"{name}.npz"
        fitted.save(path)
        judged = fitted.facts.get("test")
        left_out = fitted.facts.get("left_out_mape")
        shown = f"test MAPE {judged['mape']:.2f}%" if judged else "sums of a table"
        shown = f"left-out MAPE {left_out:.2f}%" if left_out else shown
        print(
            f"{name:18} {fitted.target.space:14} r {fitted.resolutions} {shown:24} "
            f"{path.stat().st_size / 1024:.0f} KB"
        )
