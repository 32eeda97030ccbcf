"""Fit the predictors that ship in latency/zoo on the public tables: `python -m scripts.fit_zoo [name
...]`."""

from __future__ import annotations

import sys

from latency import zoo
from supernet.tidy import data_dir

GPUS = "gpu_spec"  # the model of all GPUs


def main() -> None:
    folder = data_dir()
    asked = sys.argv[1:] or [*zoo.names(), GPUS, *(zoo.MODULES + engine for engine in zoo.module_engines())]
    for name in asked:
        if name == GPUS:
            model = zoo.fit_gpus(folder)
            model.save(zoo.FOLDER / f"{GPUS}.json")
            print(f"{name:18} spreads of a GPU left out {model.spreads}, noise {model.noise:.3f}")
            continue
        if name.startswith(zoo.MODULES):
            modules = zoo.fit_modules(name.removeprefix(zoo.MODULES))
            modules.save(zoo.FOLDER / f"{name}.npz")
            print(f"{name:18} networks left out {modules.facts['left_out_mape']:.2f}%")
            continue
        fitted = zoo.fit(name, folder)
        path = zoo.FOLDER / f"{name}.npz"
        fitted.save(path)
        judged = fitted.facts.get("test")
        left_out = fitted.facts.get("left_out_mape")
        shown = f"test MAPE {judged['mape']:.2f}%" if judged else "sums of a table"
        shown = f"left-out MAPE {left_out:.2f}%" if left_out else shown
        print(
            f"{name:18} {fitted.target.space:14} r {fitted.resolutions} {shown:24} "
            f"{path.stat().st_size / 1024:.0f} KB"
        )


if __name__ == "__main__":
    main()
