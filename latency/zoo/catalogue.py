"""What ships, by name: the predictors here, one `.npz` per target, and the targets of `configs/target`."""

from functools import cache
from pathlib import Path

from latency.modules.predictor import ModulesLatency
from latency.predictors import interface
from latency.predictors.interface import LatencyPredictor
from latency.predictors.sources import FOLDER, names, predictor, target, targets_of
from latency.target import Target
from latency.zoo import data_sheets, shared
from supernet import choices, registry

__all__ = ["FOLDER", "names", "predictor", "target", "targets_of"]  # of predictors.sources

SUFFIXES = (".npz", interface.NETWORK_SUFFIX)  # of files with predictors
MODULES = "modules_"  # and the engine: names of the shipped module predictors


@cache
def module_engines() -> tuple[str, ...]:
    """The engines whose modules we measured."""
    return tuple(sorted(path.stem.removeprefix(MODULES) for path in FOLDER.glob(f"{MODULES}*.npz")))


@cache
def module_predictor(engine: str) -> ModulesLatency:
    """The shipped module predictor of an engine; ValueError with those there are otherwise."""
    if engine not in module_engines():
        raise registry.unknown_name("engine of measured modules", engine, module_engines())
    return interface.load_as(ModulesLatency, FOLDER / f"{MODULES}{engine}.npz")


def module_base(name: str) -> ModulesLatency:
    """The module predictor that ships for an engine, or that of FILE.npz."""
    if name.endswith(SUFFIXES):
        return interface.load_as(ModulesLatency, Path(name))
    return module_predictor(name)


def automatic(wanted: Target) -> tuple[LatencyPredictor, str]:
    """The predictor that `predictor=auto` takes for a target without measuring it, and the reason in words.

    It is the target's own predictor if one ships, the sum of its modules for `target=modules`, and the
    prediction from the data sheet for `target=gpu`. Any other target is a ValueError.

    >>> from latency.zoo import catalogue
    >>> catalogue.automatic(catalogue.target("v100_b64"))[1]
    '4,000 measurements of this very target (additive)'
    """
    if wanted.method == "modules":
        summed = module_predictor(wanted.engine).at(wanted)
        rows, networks = summed.facts["rows"], summed.facts["networks"]
        return summed, f"the sum of its modules, from {rows:,} measured ones and {networks} networks"
    if wanted.name in names() and wanted.key == target(wanted.name).key:
        shipped = predictor(wanted.name)
        rows = shipped.facts.get("rows", shipped.facts.get("samples"))
        what = f"{rows:,} measurements" if rows else "the lookup table"
        return shipped, f"{what} of this very target ({shipped.facts['method']})"
    if (file := _beside(wanted)) is not None:
        fitted = interface.load(file)
        if fitted.target.key != wanted.key:
            raise ValueError(f"{file} is not for target={wanted.name}: {fitted.target.differences(wanted)}")
        return fitted, f"the file {file}"
    if wanted.spec.kind != "gpu" or wanted.method != "data sheet":
        raise ValueError(
            f"target {wanted.name} is not one that ships: no predictor was fitted for {wanted}. Fit one on "
            "measurements of yours (make fit) and give predictor=FILE.npz, or put it beside the YAML of "
            "the target under the same name"
        )
    return data_sheets.predictor(wanted)


def _beside(wanted: Target) -> Path | None:
    """The predictor that lies beside the YAML of a target in a folder of the user, under the same name."""
    same = [choice for choice in choices.choices("target") if choice.name == wanted.name]
    files = [choice.path.with_suffix(suffix) for choice in same if choice.path for suffix in SUFFIXES]
    return next((file for file in files if file.is_file()), None)


def find(name: str) -> LatencyPredictor:
    """The predictor that `predictor=` names.

    A name is `run:FOLDER` (the run folder of a `make adapt`), `folder:PATH` or `hf:OWNER/NAME` (what `make
    publish` wrote), the path of a predictor file (.npz or .safetensors), or the name of a shipped predictor.

    >>> from latency.zoo import catalogue
    >>> catalogue.find("v100_b64").facts["method"]
    'additive'
    """
    if name.startswith("run:"):
        files = [Path(name.removeprefix("run:"), f"predictor{suffix}") for suffix in SUFFIXES]
        path = next(filter(Path.is_file, files), None)
        if path is None:
            runs = [f"run:{run.parent}" for run in sorted(Path("runs").glob("*/predictor.npz"))] or ["none"]
            written = f"folders that make adapt has written: {', '.join(runs)}"
            raise ValueError(f"predictor={name}: no file {files[0]}; {written}")
        return interface.load(path)
    if name.startswith((shared.FOLDER, "hf:")):
        return shared.find(name)
    if name.endswith(SUFFIXES):
        return interface.load(Path(name))
    if name.startswith(MODULES):
        return module_predictor(name.removeprefix(MODULES))
    if name not in names():
        shipped = [*names(), *(MODULES + engine for engine in module_engines())]
        raise registry.unknown_name("predictor", name, [*shipped, "run:FOLDER", "FILE.npz"])
    return predictor(name)
