"""Small forms of the commands that write, and what of their results must be the same after a fault."""

import hashlib
import json
import sqlite3
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from latency.data import LatencyData, read_csv, write_csv
from latency.measuring.here import here
from supernet.files import artifact, disk
from supernet.space import get_space
from supernet.surrogates import training_cost
from supernet.surrogates.training_cost import StepTime
from tests.e2e.commands import call
from tests.faults.clock import known_timings

NETWORK = "ofa_small r16 d1-1-1 k3-3-3 e2-2-2 ft0"
PUBLISHED = "ofa_mbv3_w1.0"
TINY = ["data.train_images=64", "data.val=40", "data.calibration=64", "data.test=0.05"]
TRAINING = [*TINY, "epochs=2", "batch=32", "forward_batch=32", "validate_every=1"]
HERE = ["target.engine=torch_eager", "resolution=160", "store=s.sqlite"]
QUIET = "wandb=disabled"
MODELS = "network,top1,ms1,ms2\na,70.0,1.0,1.1\nb,75.0,2.0,2.1\nc,80.0,8.0,8.5\n"
COLUMNS = """
model: network
axes:
  - {name: top1, better: higher, column: top1, unit: "%", scale: logit, images: 50000}
  - {name: latency, better: lower, columns: [ms1, ms2], unit: ms}
"""
Result = dict[str, Any]


@dataclass(frozen=True)
class Writing:
    """A command that writes, in a small form.

    `result` gives what must be the same after a fault as without; `stores` are files that only grow.
    """

    name: str
    words: tuple[str, ...]
    result: Callable[[Path], Result]
    stores: tuple[str, ...] = ()
    measures: bool = False  # by the known clock
    slow: bool = False  # takes ten seconds or more

    def left(self, folder: Path) -> Result:
        """The result, and the names of all files in `out=`, where that is a folder."""
        out = folder / next((word[4:] for word in self.words if word.startswith("out=")), "none")
        paths = [path for path in out.rglob("*") if path.name != disk.LOCK] if out.is_dir() else []
        return {**self.result(folder), "files": sorted(str(path.relative_to(out)) for path in paths)}

    def run(self, folder: Path) -> tuple[int, str]:
        """(exit code, standard error) of the command in a folder."""
        with known_timings() if self.measures else ExitStack():
            code, _, error = call(self.name, *self.words, cwd=folder)
        return code, error


def prepare(folder: Path) -> None:
    """What the commands read, made in an empty folder: a trained supernet, tables, two finished searches."""
    folder.mkdir(exist_ok=True)
    rng, space = np.random.default_rng(0), get_space(PUBLISHED)
    genomes = space.restrict("r", 160, 160).sample(30, rng)
    ms = 1e-7 * space.layers(genomes).macs()
    write_csv(folder / "m.csv", LatencyData(here(), genomes, ms, 0.01 * ms))
    (folder / "models.csv").write_text(MODELS)
    (folder / "models.yaml").write_text(COLUMNS)
    training_cost.save_step(folder / "step.json", StepTime(1.0, 9.0, 1.0, 1.0, relative_std=0.1))
    for name, *words in (
        ("train", *TRAINING, "out=net", QUIET),
        *(
            ("search", "target=v100_b64", f"seed={seed}", *SEARCH[:2], f"out={out}", QUIET)
            for seed, out in ((1, "a"), (2, "b"))
        ),
    ):
        code, _, error = call(name, *words, cwd=folder)
        assert code == 0, error
    with known_timings():
        words = (*HERE[:2], "store=board.sqlite", "samples=3", "tests=2", "out=board", QUIET)
        code, _, error = call("adapt", *words, cwd=folder)
        assert code == 0, error


def files(*names: str) -> Callable[[Path], Result]:
    """Their bytes."""
    return lambda folder: {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


def tensors(*names: str) -> Callable[[Path], Result]:
    """Their tensors: the facts beside them say how long it took."""

    def read(folder: Path) -> Result:
        found = {}
        for name in names:
            arrays, _ = artifact.load(folder / name, "supernet", "subnet")
            for key, array in arrays.items():
                found[f"{name}: {key}"] = hashlib.sha256(array.tobytes()).hexdigest()
        return found

    return read


def weights(name: str) -> Callable[[Path], Result]:
    """The tensors of plain weights: safetensors writes its facts in any order."""
    return lambda folder: {
        key: hashlib.sha256(array.tobytes()).hexdigest() for key, array in load_file(folder / name).items()
    }


def latencies(name: str) -> Callable[[Path], Result]:
    """The networks of a table and their latencies."""

    def read(folder: Path) -> Result:
        data = read_csv(folder / name, here(engine="torch_eager"), "lat_ms")
        return {genome.tobytes().hex(): float(ms) for genome, ms in zip(data.genomes, data.ms, strict=True)}

    return read


def modules(name: str) -> Callable[[Path], Result]:
    """Timed modules, in any order: they are listed sitting by sitting, of which a kill begins another."""

    def read(folder: Path) -> Result:
        arrays, _ = artifact.load(folder / name, "module data")
        kinds = {key.partition("/")[0] for key in arrays}
        parts = ("rows", "conditions", "ms")
        return {
            kind: sorted(np.column_stack([arrays[f"{kind}/{part}"] for part in parts]).tolist())
            for kind in kinds
        }

    return read


def keys(name: str) -> Callable[[Path], Result]:
    """What a JSON file says, without times."""

    def read(folder: Path) -> Result:
        content = json.loads((folder / name).read_text())
        return {
            title: [card["architecture"], card["top1"], card["file_bytes"]] for title, card in content.items()
        }

    return read


def both(*parts: Callable[[Path], Result]) -> Callable[[Path], Result]:
    return lambda folder: {key: value for part in parts for key, value in part(folder).items()}


def rows(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """{table: rows} of a store; nothing where there is none."""
    if not path.is_file():
        return {}
    with closing(sqlite3.connect(path)) as database:
        names = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        return {name: database.execute(f"SELECT * FROM {name}").fetchall() for (name,) in names}


SEARCH = ("budget=300", "searcher.population=50", "out=run", QUIET)
WRITING = {
    "search": Writing(
        "search",
        ("target=v100_b64", *SEARCH),
        files("run/archive.npz", "run/front.csv", "run/front.json", "run/objectives.json"),
    ),
    "search here": Writing(
        "search",
        ("target=here", *HERE, *SEARCH, "samples=3", "verify=2", "rounds=1"),
        lambda folder: {},  # visits before a kill count too: the predictor knows more
        ("s.sqlite",),
        measures=True,
    ),
    "adapt": Writing(
        "adapt",
        (*HERE, "samples=3", "tests=2", "out=run", QUIET),
        files("run/device.json"),  # visits before a kill count too: there may be more samples
        ("s.sqlite",),
        measures=True,
    ),
    "measure": Writing(
        "measure",
        (*HERE, "subnets=3", "csv=m.csv", QUIET),
        latencies("m.csv"),
        ("s.sqlite",),
        measures=True,
    ),
    "modules": Writing(
        "modules",
        (
            *("target.engine=torch_eager", "design.kinds=[linear]", "design.points=40", "design.threads=[1]"),
            *("design.utilisations=[0]", "networks=0", "fitting.models=[ridge]", "store=s.sqlite", "out=run"),
            QUIET,
        ),
        modules("run/module_data.npz"),
        ("s.sqlite",),
        measures=True,
    ),
    "lookup-table": Writing(
        "lookup-table",
        ("target.engine=torch_eager", "resolutions=[128]", "tests=0", "store=s.sqlite", "out=run"),
        lambda folder: {},
        ("s.sqlite",),
        measures=True,
        slow=True,
    ),
    "train": Writing("train", (*TRAINING, "out=run", QUIET), tensors("run/supernet.safetensors")),
    "accuracy-data": Writing(
        "accuracy-data",
        ("supernet=net", "subnets=4"),
        files("net/accuracies-val.csv"),
        ("net/accuracies.sqlite",),
    ),
    "evaluate": Writing(
        "evaluate", ("supernet=net",), files("net/evaluation-test.csv"), ("net/accuracies.sqlite",)
    ),
    "finetune": Writing(
        "finetune",
        (
            *("supernet=net", f"architecture='{NETWORK}'", "epochs=2", "batch=32", "distil=none"),
            *("checkpoint_seconds=0", "step_file=step.json", "out=run", QUIET),
        ),
        tensors("run/subnet.safetensors"),
    ),
    "shrink": Writing(
        "shrink",
        (
            *("supernet=net", f"architecture='{NETWORK}'", "shrink=int8", "plain=1", "candidates=2"),
            *("checkpoint_seconds=0", "out=run", QUIET),
        ),
        both(tensors("run/0-plain/subnet.safetensors"), keys("run/table.json")),
    ),
    "export": Writing(
        "export",
        ("weights=random", f"architecture='{NETWORK}'", "formats=[state_dict,net_config]", "out=phone"),
        both(
            files("phone/subnet.json", "phone/load.py", "phone/net.config"),
            weights("phone/weights.safetensors"),
        ),
    ),
    "fit": Writing("fit", ("rows=m.csv", "column=lat_ms", "out=p.npz", QUIET), files("p.npz")),
    "score": Writing(
        "score", ("predictor=v100_b64", "rows=m.csv", "column=lat_ms", "out=s.json"), files("s.json")
    ),
    "rank": Writing(
        "rank",
        ("csv=models.csv", "columns=models.yaml", "draws=200", "out=run", QUIET),
        files("run/ranking.csv"),
    ),
    "compare": Writing("compare", ("runs=[a,b]", "out=run"), files("run/comparison.csv", "run/regret.csv")),
    "publish": Writing(
        "publish",
        ("run=board", "licence=CC0-1.0", "store=board.sqlite", "out=shared"),
        files("shared/predictor.npz", "shared/samples.csv", "shared/card.json", "shared/README.md"),
    ),
    "predict": Writing(
        "predict",
        ("model=torchvision:squeezenet1_1", "target=modules", "out=run"),
        files("run/predictions.csv", "run/layers.csv", "run/predictor.npz"),
    ),
}
