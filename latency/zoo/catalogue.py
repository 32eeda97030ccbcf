"""The zoo: fitted predictors that ship, one `.npz` per target here and one YAML in `configs/target`."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

from latency.data import read_csv
from latency.modules import predictor as by_modules
from latency.modules.predictor import ModulesLatency
from latency.predictors import gpu_spec, interface, lookup_table
from latency.predictors.additive import Additive
from latency.predictors.gpu_spec import GpuModel
from latency.predictors.interface import LatencyPredictor, with_facts
from latency.predictors.slots import SlotLatency
from latency.scores import scores
from latency.target import Target
from supernet import registry
from supernet.space import get_space

FOLDER = Path(__file__).parent


@cache
def target(name: str) -> Target:
    """The shipped target `name`; ValueError with the known names and the nearest spelling otherwise."""
    found = registry.build(registry.load("target", name))
    assert isinstance(found, Target)
    return found


@cache
def names() -> tuple[str, ...]:
    """Names of the targets that ship a predictor: all of `configs/target` but `here`."""
    shipped = f"{Target.__module__}.{Target.__qualname__}"
    return tuple(n for n in registry.names("target") if registry.load("target", n)["_target_"] == shipped)


def targets_of(space: str) -> list[str]:
    """Names of the shipped targets whose networks are of this space."""
    return [name for name in names() if registry.load("target", name)["space"] == space]


@cache
def predictor(name: str) -> SlotLatency:
    """The shipped predictor of a target."""
    return interface.load_as(SlotLatency, FOLDER / f"{target(name).name}.npz")


@cache
def gpu_model() -> GpuModel:
    """What the known GPUs say of one that was never measured."""
    return gpu_spec.load_model(FOLDER / "gpu_spec.json")


MODULES = "modules_"  # and the engine: names of the shipped module predictors
SHIPPED = ("gp", "medn", "svr", "polynomial")  # models that compete for it: small and quick


@cache
def module_engines() -> tuple[str, ...]:
    """The engines whose modules we measured."""
    return tuple(sorted(path.stem.removeprefix(MODULES) for path in FOLDER.glob(f"{MODULES}*.npz")))


@cache
def module_predictor(engine: str) -> ModulesLatency:
    """The shipped module predictor of an engine; ValueError with those there are otherwise."""
    if engine not in module_engines():
        raise registry.unknown_name("engine of measured modules", engine, module_engines())
    return by_modules.load(FOLDER / f"{MODULES}{engine}.npz")


def automatic(wanted: Target) -> tuple[LatencyPredictor, str]:
    """What `predictor=auto` takes for a target that is not to be measured now, and why.

    Its own predictor if one ships; its modules for `target=modules`, the data sheet for `target=gpu`.
    ValueError for what is none of them.
    """
    if wanted.method == "modules":
        summed = module_predictor(wanted.engine).at(wanted)
        count = summed.facts["rows"]
        return (
            summed,
            f"the sum of its modules, from {count:,} measured ones and {summed.facts['networks']} networks",
        )
    if wanted.name in names() and wanted.key == target(wanted.name).key:
        found = predictor(wanted.name)
        rows = found.facts.get("rows", found.facts.get("samples"))
        what = (
            f"{rows:,} measurements of this very target" if rows else "the lookup table of this very target"
        )
        return found, f"{what} ({found.facts['method']})"
    if wanted.spec.kind != "gpu" or wanted.method != "data sheet":
        raise ValueError(
            f"target {wanted.name} is not one that ships: no predictor was fitted for {wanted}. Fit one on "
            "measurements of yours (make fit) and pass it as predictor=FILE.npz"
        )
    model = gpu_model()
    known = ", ".join(model.facts["gpus"])
    return model.predictor(wanted), f"nothing was measured on it: its data sheet, by what is known of {known}"


def find(name: str) -> LatencyPredictor:
    """The predictor that `predictor=` names.

    `run:FOLDER` of `make adapt`, a file (.npz, .safetensors), or a shipped target.
    """
    if name.startswith("run:"):
        if not (Path(name.removeprefix("run:")) / "predictor.npz").is_file():
            found = sorted(Path("runs").glob("*/predictor.npz"))
            there = ", ".join(f"run:{path.parent}" for path in found)
            raise ValueError(
                f"predictor={name}: no file {name.removeprefix('run:')}/predictor.npz; name a folder that "
                f"make adapt has written (here: {there or 'none'})"
            )
        return interface.load(Path(name.removeprefix("run:")) / "predictor.npz")
    if name.endswith((".npz", interface.NETWORK_SUFFIX)):
        return interface.load(Path(name))
    if name.startswith(MODULES):
        return module_predictor(name.removeprefix(MODULES))
    if name not in names():
        shipped = [*names(), *(MODULES + engine for engine in module_engines())]
        raise registry.unknown_name("predictor", name, [*shipped, "run:FOLDER", "FILE.npz"])
    return predictor(name)


def fit(name: str, data_dir: Path) -> SlotLatency:
    """Fit the predictor of a target on its public table, as shipped.

    The ridge is chosen on the validation rows of the target, its scores are those of the rows of its test
    part after a fit on all rows before them. What ships is then fitted on every row with the same ridge.
    """
    this, command = target(name), f"python -m scripts.fit_zoo {name}"
    if this.method == "lookup_table":
        fitted = lookup_table.read([data_dir / this.rows]).predictor(this)
        return with_facts(fitted, {"command": command, "protocol": "sums of the table's entries; 5% assumed"})
    if this.method == "measured":
        return _fit_measured(this, command)
    if this.test is None:
        raise ValueError(f"configs/target/{name}.yaml names no test rows to score its predictor on")
    data = read_csv(data_dir / this.rows, this, this.column)
    first, past = this.test
    trial = Additive(validation=this.validation).fit(data.take(slice(0, first)))
    held_out = data.take(slice(first, past))
    judged = {
        "command": command,
        "protocol": f"fitted on rows 0-{first - 1}, tested on {first}-{past - 1}; shipped: all {len(data)}",
        "test": scores(trial.predict(held_out.genomes, this), held_out.ms),
    }
    return with_facts(Additive(ridge=trial.facts["ridge"]).fit(data), judged)


def fit_modules(engine: str) -> ModulesLatency:
    """The module predictor of an engine as shipped, from the measurements that ship beside it."""
    from latency.modules import data as module_data
    from latency.modules import fit as module_fit
    from latency.modules import networks

    folder = FOLDER / "measured" / "modules"
    here, data = module_data.load(folder / f"{engine}.npz")
    fits = module_fit.Fitting(models=SHIPPED).fit(data, say=print)
    known = networks.read_csv(folder / f"networks_{engine}.csv")
    found = module_fit.predictor(replace(here, device=here.spec.name), fits).corrected(known)
    command = f"python -m scripts.fit_zoo {MODULES}{engine}"
    about = {"method": "modules", "rows": sum(fits.rows.values()), "command": command}
    return with_facts(found, about)


def fit_gpus(data_dir: Path) -> GpuModel:
    """The model of all GPUs whose measurements are public, as shipped; a table is a study of its own."""
    gpus = [target(name) for name in names() if target(name).rows and target(name).spec.kind == "gpu"]
    known = [read_csv(data_dir / gpu.rows, replace(gpu, source=gpu.rows), gpu.column) for gpu in gpus]
    command = "python -m scripts.fit_zoo gpu_spec"
    sources = list(dict.fromkeys(f"{gpu.source} ({gpu.licence})" for gpu in gpus))
    model = gpu_spec.GpuSpec().fit(known)
    return replace(model, facts={**model.facts, "command": command, "sources": sources})


def _fit_measured(this: Target, command: str) -> SlotLatency:
    """The predictor of our own measurements, which lie beside the predictors in `measured/`.

    A correction of what the other targets say (`Transfer`), those of the same device left out: with 500
    subnets a better fit than ridge regression from nothing.
    """
    from latency.predictors.transfer import Transfer

    data = read_csv(FOLDER / "measured" / f"{this.name}.csv.gz", this, "lat_ms")
    siblings = [name for name in targets_of(this.space) if target(name).spec.name == this.spec.name]
    sides = get_space(this.space).axis("r").values
    fitted = Transfer(resolutions=(sides[0], sides[-1]), without=tuple(siblings)).fit(data)
    return with_facts(
        fitted,
        {
            "command": command,
            "protocol": f"{len(data)} random subnets timed by us; left-out error of ten folds",
        },
    )
