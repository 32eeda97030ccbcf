"""A folder with a good file of each kind, and the commands that read them: `fuzzing_files` spoils one.

Everything is timed by the clock of `tests.faults.clock`, so that commands that measure are quick too.
"""

import gzip
import json
import shutil
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import onnx
import torch
import yaml
from onnx import TensorProto, helper

from latency.data import read_csv
from latency.measuring.here import here
from latency.measuring.store import Store
from latency.modules import data as module_data
from latency.modules.data import CONDITIONS, ModuleData
from latency.modules.kinds import module_kind
from latency.target import Target
from latency.zoo import catalogue
from search import run
from supernet import footprint, registry
from supernet.files import disk
from supernet.files.tables import Table
from supernet.space import get_space
from supernet.surrogates import accuracy_fit, training_cost
from supernet.weights import network
from tests.e2e.commands import call
from tests.faults.clock import known_timings
from tests.faults.injection import Fault, Killed, injected

NETWORK = "ofa_small r16 d1-1-1 k3-3-3 e2-2-2 ft0"
SMALL = ("budget=40", "searcher.population=10", "verify=0", "wandb=disabled", "out=out")
FIT = ("fit", "rows=rows.csv", "device=v100", "learner=constant", "wandb=disabled", "out=out.npz")
EXPORT = ("export", f"architecture='{NETWORK}'", "formats=[state_dict]", "out=out")
FINETUNE = (
    *("finetune", "supernet=net", f"architecture='{NETWORK}'", "epochs=1", "batch=32", "distil=none"),
    *("wandb=disabled", "checkpoint_seconds=0"),
)
TRAIN = (
    *("train", "data=digits", "data.train_images=64", "data.val=40", "data.calibration=64"),
    *("data.test=0.05", "epochs=2", "batch=32", "forward_batch=32", "validate_every=1", "wandb=disabled"),
)
SEARCH = ("search", "target=v100_b64", "budget=300", "searcher.population=20", "wandb=disabled")
RANK = ("rank", "csv=models.csv", "columns=columns.yaml", "draws=50", "wandb=disabled", "out=out")
RUN_READERS = (
    ("compare", "runs=[run,run2]", "out=out"),
    ("bound", "run=run", "seconds=.2"),
    ("rank", "table=search_run", "table.folder=run", "draws=50", "wandb=disabled", "out=out"),
    ("search", "target=v100_b64", "warm_start=run", *SMALL),
    ("export", "weights=random", "architecture=run:knee", *EXPORT[2:]),
    ("export", "weights=random", "architecture=run:best@30ms", *EXPORT[2:]),
)
BOARD = ("search", "predictor=run:board", *SMALL)
MINE = ("search", "--config-dir", "mine")
PUBLISH = ("publish", "run=board", "licence=CC0-1.0", "store=board.sqlite", "out=out")
PREDICT = ("predict", "model=net.onnx", "target=modules", "out=out")
JUDGED = ("evaluate", "weights=net", "architecture=names.txt", "images=20")
READERS: dict[str, tuple[tuple[str, ...], ...]] = {  # file: the commands that read it
    "rows.csv": (
        (*FIT, "column=lat_ms"),
        ("score", "predictor=predictor.npz", "rows=rows.csv", "column=lat_ms", "out=out.json"),
        ("adapt", "rows=rows.csv", "target=here", "target.space=ofa_small", "wandb=disabled", "out=out"),
    ),
    "rows.csv.gz": ((FIT[0], "rows=rows.csv.gz", *FIT[2:], "column=lat_ms"),),
    "predictor.npz": (
        ("score", "predictor=predictor.npz", "rows=rows.csv", "column=lat_ms", "out=out.json"),
        ("search", "predictor=predictor.npz", "space=ofa_small", "accuracy_file=accuracy.npz", *SMALL),
    ),
    "accuracy.npz": (
        ("score", "predictor=accuracy.npz", "rows=rows.csv", "column=top1", "out=out.json"),
        ("search", "predictor=predictor.npz", "space=ofa_small", "accuracy_file=accuracy.npz", *SMALL),
    ),
    "names.txt": (
        JUDGED,
        ("measure", "names=names.txt", "target.engine=torch_eager", "store=new.sqlite", "csv=out.csv"),
    ),
    "step.json": (("search", "target=v100_b64", "training.step_file=step.json", *SMALL),),
    "models.csv": (RANK,),
    "columns.yaml": (RANK,),
    "mine/searcher/mine.yaml": ((*MINE, "target=v100_b64", "searcher=mine", *SMALL),),
    "mine/target/board.yaml": ((*MINE, "target=board", "predictor=v100_b64", *SMALL),),
    "mine/device/gpu.yaml": ((*MINE, "target=gpu", "target.device=gpu", *SMALL),),
    "net/supernet.safetensors": (
        ("export", "weights=net", *EXPORT[1:]),
        JUDGED,
        (*FINETUNE, "out=out"),
        ("accuracy-data", "supernet=net", "subnets=2", "images=20"),
        ("shrink", "supernet=net", f"architecture='{NETWORK}'", "plain=0", "wandb=disabled", "out=out"),
    ),
    "net/config.yaml": (("export", "weights=net", *EXPORT[1:]), JUDGED, (*FINETUNE, "out=out")),
    "net/accuracies.sqlite": (JUDGED, ("accuracy-data", "supernet=net", "subnets=2", "images=20")),
    "run/config.yaml": RUN_READERS[:2],
    "run/front.csv": (RUN_READERS[0], *RUN_READERS[2:3], *RUN_READERS[4:]),
    "run/objectives.json": (*RUN_READERS[2:3], RUN_READERS[5]),
    "run/archive.npz": (RUN_READERS[0], RUN_READERS[1], RUN_READERS[3]),
    "run/events.jsonl": (RUN_READERS[4],),
    "weights.pth": (("export", "weights=weights.pth", "data=digits", *EXPORT[1:]),),
    "net.config": (("export", "weights=random", "architecture=net.config", *EXPORT[2:]),),
    "run.config": (("export", "weights=random", "architecture=net.config", *EXPORT[2:]),),
    "board.sqlite": (
        ("measure", "export_csv=out.csv", "store=board.sqlite"),
        PUBLISH,
        (
            "measure",
            "target.engine=torch_eager",
            "resolution=160",
            "subnets=2",
            "store=board.sqlite",
            "csv=o.csv",
        ),
    ),
    "visits.csv": (("measure", "import_csv=visits.csv", "store=new.sqlite"),),
    "board/predictor.npz": (BOARD, PUBLISH),
    "board/samples.csv": (PUBLISH,),
    "board/scores.json": (PUBLISH,),
    "published/card.json": (("search", "predictor=folder:published", *SMALL),),
    "published/predictor.npz": (("search", "predictor=folder:published", *SMALL),),
    "net.onnx": (PREDICT, (*PREDICT[:2], "target=here", "anchors=0", "out=out")),
    "net.py": (("predict", "model=net:build", "input=3x32x32", *PREDICT[2:]),),
    "modules.npz": ((*PREDICT, "predictor=modules.npz"),),
    "module_data.npz": (
        (
            *("modules", "measured=module_data.npz", "networks=0", "fitting.models=[ridge]"),
            *("store=new.sqlite", "wandb=disabled", "out=out"),
        ),
    ),
    "half/checkpoint.npz": ((*SEARCH, "out=half"),),
    "half/config.yaml": ((*SEARCH, "out=half"),),
    "half_trained/checkpoint.safetensors": ((*TRAIN, "out=half_trained"),),
    "half_trained/config.yaml": ((*TRAIN, "out=half_trained"),),
    "half_tuned/checkpoint.safetensors": ((*FINETUNE, "out=half_tuned"),),
}
# What is made anew where it is not there: stores, what a run goes on from, scores of tests.
MAY_BE_MISSING = (
    *("net/accuracies.sqlite", "board.sqlite", "board/scores.json"),
    *("half/checkpoint.npz", "half_trained/checkpoint.safetensors", "half_tuned/checkpoint.safetensors"),
)


def make(folder: Path, trained: Path) -> None:
    """Fill a folder with the files of READERS; `trained` is the run folder of a supernet."""
    _tables(folder)
    _options(folder)
    _networks(folder)
    _modules(folder)
    shutil.copytree(trained, folder / "net")
    with known_timings():
        _measured(folder)
        for out, seed in (("run", 0), ("run2", 1)):
            _run(folder, *SEARCH, f"seed={seed}", f"out={out}", "latency_limit_ms=30")
        _run(folder, "accuracy-data", "supernet=net", "subnets=2", "images=20")
    _stopped(folder, "half", "checkpoint.npz", *SEARCH)
    _stopped(folder, "half_trained", "checkpoint.safetensors", *TRAIN)
    _stopped(folder, "half_tuned", "checkpoint.safetensors", *FINETUNE)


def _run(folder: Path, *words: str) -> None:
    code, _, error = call(*words, cwd=folder)
    assert code == 0, (words, error)


def _stopped(folder: Path, out: str, kept: str, *words: str) -> None:
    """A run that was killed right after it had saved what it goes on from; searches save after a second."""
    slow = SimpleNamespace(perf_counter=partial(next, count(0, 30)))
    with mock.patch.object(run, "time", slow):
        fault = Fault()
        with injected(fault):
            _run(folder, *words, f"out={out}")
        saved = fault.happened.index(f"rename {kept}{disk.ASIDE}") + 1
        shutil.rmtree(folder / out)
        with suppress(Killed), injected(Fault(at=saved + 1)):
            call(*words, f"out={out}", cwd=folder)
    assert (folder / out / kept).is_file()


def _tables(folder: Path) -> None:
    space, rng = get_space("ofa_small"), np.random.default_rng(0)
    genomes = np.unique(space.sample(40, rng), axis=0)
    macs = footprint.compute(space, genomes, "macs")
    ms = macs / 1e6 * rng.lognormal(0, 0.02, len(genomes))
    top1 = 60 + 5 * np.log(macs / macs.mean()) + rng.normal(0, 0.2, len(genomes))
    values = zip(space.format(genomes), ms.round(4).tolist(), top1.round(3).tolist(), strict=True)
    text = Table.from_rows(["architecture", "lat_ms", "top1"], values).csv()
    (folder / "rows.csv").write_text(text)
    (folder / "rows.csv.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
    (folder / "names.txt").write_text(space.format(genomes[:1])[0] + "\n")
    data = read_csv(folder / "rows.csv", Target(name="mine", device="v100", space="ofa_small"), "lat_ms")
    registry.get("learner", "operator_table").fit(data).save(folder / "predictor.npz")
    accuracy_fit.fit(space, genomes, top1 / 100).save(folder / "accuracy.npz")
    models = [(f"net{i}", 70 + i, 5 + i * i) for i in range(8)]
    (folder / "models.csv").write_text(Table.from_rows(["architecture", "top1", "ms"], models).csv())


def _options(folder: Path) -> None:
    training_cost.save_step(folder / "step.json", next(iter(training_cost.fitted().values())))
    accuracy = {"name": "top1", "better": "higher", "column": "top1", "unit": "%"}
    accuracy |= {"scale": "logit", "images": 5000}  # type: ignore[dict-item]
    latency = {"name": "ms", "better": "lower", "column": "ms", "unit": "ms", "spread": 0.02}
    columns = {"model": "architecture", "axes": [accuracy, latency]}
    (folder / "columns.yaml").write_text(yaml.safe_dump(columns))
    for group, name, base in (
        ("searcher", "mine", "nsga2"),
        ("target", "board", "v100_b64"),
        ("device", "gpu", "v100"),
    ):
        (folder / "mine" / group).mkdir(parents=True)
        node = registry.load(group, base)
        node |= {"name": name} if "name" in node else {"population": 20}
        (folder / "mine" / group / f"{name}.yaml").write_text(yaml.safe_dump(node))


def _networks(folder: Path) -> None:
    torch.save({"state_dict": {"first_conv.conv.weight": torch.zeros(2, 2)}}, folder / "weights.pth")
    large = get_space("ofa_mbv3_w1.0")
    part = network.extract(network.supernet(large), large, large.sample(1, np.random.default_rng(0)))
    (folder / "net.config").write_text(json.dumps(part.config))
    (folder / "run.config").write_text(json.dumps({"image_size": 160}))
    (folder / "net.py").write_text(
        "import torch\n\n\ndef build():\n    return torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), "
        "torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 5))\n"
    )
    onnx.save(onnx_network(), folder / "net.onnx")


def onnx_network() -> onnx.ModelProto:
    """A convolution, an activation, a pool and a linear layer."""
    weights = np.random.default_rng(0).normal(size=(8, 3, 3, 3)).astype(np.float32)
    head = np.ones((8, 5), np.float32)
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["a"], name="conv", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("GlobalAveragePool", ["b"], ["c"], name="pool"),
        helper.make_node("Flatten", ["c"], ["d"], name="flat"),
        helper.make_node("MatMul", ["d", "h"], ["y"], name="head"),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 32, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 5])],
        [onnx.numpy_helper.from_array(weights, "w"), onnx.numpy_helper.from_array(head, "h")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def _modules(folder: Path) -> None:
    shutil.copy(catalogue.FOLDER / "modules_onnxruntime.npz", folder / "modules.npz")
    measured = {}
    for name in ("linear", "activation"):
        kind = module_kind.named(name)
        rows, batch = kind.draw(60, (1, 2, 8), seed=1)
        conditions = np.stack([batch, np.ones(60), np.zeros(60)], axis=1)
        work = kind.work(rows)
        ms = 0.01 + batch * (work.macs / 2e7 + (work.read + work.written + work.inner) / 5e6)
        measured[name] = ModuleData(name, rows, conditions, CONDITIONS, ms, 0.01 * ms)
    module_data.save(folder / "module_data.npz", here(engine="torch_eager"), measured)


def _measured(folder: Path) -> None:
    """A board that was measured, and what is published of it."""
    words = ("target.engine=torch_eager", "resolution=160", "samples=3", "tests=2", "wandb=disabled")
    _run(folder, "adapt", *words, "store=board.sqlite", "out=board")
    _run(folder, *PUBLISH[:-1], "out=published")
    with Store(folder / "board.sqlite") as store:
        store.export_csv(folder / "visits.csv")
