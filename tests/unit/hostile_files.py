"""Run folders, tables, weights and predictors as somebody might send them who wants to do harm."""

import io
import json
import os
import pickle
import struct
import zipfile
import zlib
from itertools import pairwise

import numpy as np
import onnx
import yaml
from onnx import helper
from safetensors.numpy import load_file, save_file

from latency.zoo import catalogue
from search import command
from supernet.files import artifact, run_folder
from supernet.weights import subnet as subnets

ARCHITECTURE = "ofa_small r16 d1-1-1 k3-3-3 e2-2-2 ft0"
IMAGES = {"_target_": "supernet.weights.images.ImageSet", "source": "digits", "resolution": [16, 20]}
SCRATCH = ("TMPDIR", "TORCHINDUCTOR_CACHE_DIR", "MPLCONFIGDIR")  # where libraries keep what is not ours
PWNED = "pwned"  # a file that every payload would write into the folder above the one it works in


class Payload:
    """Unpickled, it writes the file PWNED."""

    def __reduce__(self):
        return os.system, (f"touch ../{PWNED}",)


def settings(folder, data):
    """The run folder `net`, whose config.yaml has other images."""
    path = folder / "net" / run_folder.CONFIG
    content = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(content | {"data": data}))


def pickled_data(folder):
    np.save(folder / "evil.npy", np.array([Payload()], object), allow_pickle=True)
    settings(folder, {"_target_": "numpy.load", "file": "evil.npy", "allow_pickle": True})


def config_text(text):
    def prepare(folder):
        (folder / "net" / run_folder.CONFIG).write_text(text)

    return prepare


def data(**node):
    return lambda folder: settings(folder, node)


ON_A_RUN_FOLDER = {  # command: its words, with `net` for the folder
    "accuracy-data": ["supernet=net", "subnets=3"],
    "finetune": ["supernet=net", f"architecture='{ARCHITECTURE}'", "epochs=1", "wandb=disabled", "out=out"],
    "shrink": ["supernet=net", f"architecture='{ARCHITECTURE}'", "wandb=disabled", "out=out"],
    "export": ["weights=net", f"architecture='{ARCHITECTURE}'", "out=out"],
    "evaluate": ["weights=net"],
    "search": ["evaluator=supernet", "evaluator.weights=net", "objectives=[accuracy,macs]", "wandb=disabled"],
}
EXPORT = ["export", *ON_A_RUN_FOLDER["export"]]
COMMAND = {"_target_": "os.system", "command": f"touch ../{PWNED}"}
TABLE = "name,top1,ms\na,70,5\nb,75,9\nc,72,6\n"
AXES = [
    {"name": "top1", "better": "higher", "column": "top1", "unit": "%", "scale": "logit", "images": 50000},
    {"name": "ms", "better": "lower", "column": "ms", "unit": "ms", "spread": 0.02},
]


def ranked(text=TABLE, **changes):
    """A table of models, and the YAML of its columns."""

    def prepare(folder):
        (folder / "my.csv").write_text(text)
        (folder / "my.yaml").write_text(yaml.safe_dump({"model": "name", "axes": AXES, **changes}))

    return prepare


RANK = ["rank", "csv=my.csv", "columns=my.yaml", "draws=200", "out=out"]


def predictor(facts=None, arrays=None, name="v100_b64"):
    """A predictor that ships, with other facts or arrays, as `evil.npz`."""

    def prepare(folder):
        with np.load(catalogue.FOLDER / f"{name}.npz") as file:
            content = {key: file[key] for key in file.files}
        told = json.loads(str(content.pop("facts")))
        for path, value in (facts or {}).items():
            *inner, last = path.split("/")
            place = told
            for key in inner:
                place = place[key]
            place[last] = value
        np.savez(folder / "evil.npz", facts=np.array(json.dumps(told)), **content | (arrays or {}))

    return prepare


SEARCH = ["search", "budget=60", "searcher=random", "searcher.batch=30", "wandb=disabled"]
PREDICTED = [*SEARCH, "predictor=evil.npz", "objectives=[accuracy,latency_ms]"]


def bomb(folder):
    """A predictor whose table unpacks to a gigabyte of zeros."""
    predictor()(folder)
    with (
        zipfile.ZipFile(folder / "evil.npz", "a", zipfile.ZIP_DEFLATED) as file,
        file.open("x.npy", "w") as entry,
    ):
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header, {"descr": "|u1", "fortran_order": False, "shape": (2**30,)}
        )
        entry.write(header.getvalue())
        for _ in range(1024):
            entry.write(bytes(2**20))


def promised(folder):
    """A predictor whose table has a header of a terabyte and no content."""
    predictor()(folder)
    with zipfile.ZipFile(folder / "evil.npz", "a") as file, file.open("x.npy", "w") as entry:
        np.lib.format.write_array_header_1_0(
            entry, {"descr": "<f8", "fortran_order": False, "shape": (2**37,)}
        )


def subnet(change=None, **facts):
    """A subnet in `evil/subnet.safetensors`, with other facts or weights."""

    def prepare(folder):
        made = subnets.random(ARCHITECTURE)
        made.with_facts(**facts).save(folder / "evil" / subnets.FILE)
        if change is not None:
            change(folder / "evil" / subnets.FILE)

    return prepare


def rewritten(**changes):
    """Other facts at the top of a file of tensors, and no checksum, as release 0.2 wrote it."""

    def change(path):
        tensors, told = load_file(path), artifact.load(path, "subnet")[1]
        save_file(tensors, path, {"facts": json.dumps(told | changes)})

    return change


def not_finite(path):
    tensors, told = load_file(path), artifact.load(path, "subnet")[1]
    tensors[next(name for name in tensors if name.endswith("weight"))][0] = np.nan
    save_file(tensors, path, {"facts": json.dumps(told)})


def flipped(path):
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1
    path.write_bytes(content)


def network(change=None):
    """An ONNX network of two layers, changed, as `evil.onnx`."""

    def prepare(folder):
        tensors = [onnx.numpy_helper.from_array(np.ones((5, 12), np.float32), "w")]
        tensors.append(onnx.numpy_helper.from_array(np.array([1, 12]), "shape"))
        flat = helper.make_node("Reshape", ["x", "shape"], ["flat"], name="reshape")
        head = helper.make_node("Gemm", ["flat", "w"], ["y"], name="head", transB=1)
        ends = [
            [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)]
            for name, shape in (("x", [1, 3, 2, 2]), ("y", [1, 5]))
        ]
        graph = helper.make_graph([flat, head], "net", *ends, tensors)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        if change is not None:
            change(model)
        (folder / "evil.onnx").write_bytes(model.SerializeToString())

    return prepare


def elsewhere(tensor, location):
    """The numbers of a tensor are in another file."""

    def change(model):
        numbers = model.graph.initializer[tensor]
        numbers.ClearField("raw_data")
        numbers.data_location = onnx.TensorProto.EXTERNAL
        numbers.external_data.add(key="location", value=location)
        numbers.external_data.add(key="length", value="16")

    return change


def of_somebody(model):
    """An operator that a library of somebody would bring."""
    model.opset_import.append(helper.make_opsetid("evil", 1))
    model.graph.node[1].op_type, model.graph.node[1].domain = "System", "evil"


def promised_weights(model):
    model.graph.initializer[0].dims[:] = [2**20, 2**20, 2**20]


def called(name):
    return lambda model: setattr(model.graph.node[1], "name", name)


PREDICT = ["predict", "model=evil.onnx", "target=modules", "out=out"]


def file(name, content):
    def prepare(folder):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return prepare


def pickled_weights(folder):
    """As torch writes a checkpoint: a zip with a pickle in it."""
    with zipfile.ZipFile(folder / "evil.pth", "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps({"state_dict": Payload()}))
        file.writestr("archive/version", "3\n")


def packed_weights(folder):
    with zipfile.ZipFile(folder / "evil.pth", "w", zipfile.ZIP_DEFLATED) as file:
        with file.open("archive/data/0", "w") as entry:
            for _ in range(1024):
                entry.write(bytes(2**20))
        file.writestr("archive/data.pkl", pickle.dumps({}))


def images(folder):
    """A PNG of a billion pixels in a kilobyte, among small ones."""
    settings(folder, {**IMAGES, "source": "folder", "root": "pictures", "val": 2})

    def png(side):
        def chunk(kind, content):
            return (
                struct.pack(">I", len(content))
                + kind
                + content
                + struct.pack(">I", zlib.crc32(kind + content))
            )

        rows = zlib.compress(bytes(side * (side + 1))) if side < 99 else zlib.compress(bytes(1000))
        head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
        return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")

    for kind in "ab":
        for i in range(20):
            file(f"pictures/{kind}/{i}.png", png(20))(folder)
    file("pictures/b/20.png", png(32000))(folder)


def classes(folder):
    path = folder / "net" / run_folder.SUPERNET
    told = artifact.load(path, "supernet")[1]
    save_file(load_file(path), path, {"facts": json.dumps(told | {"classes": 10**12})})


def linked(folder):
    """An unfinished run whose files are links to one elsewhere."""
    (folder.parent / "elsewhere").write_text("mine")
    (folder / "out").mkdir()
    for name in (".lock", "config.yaml.part", "events.jsonl", "env.json"):
        (folder / "out" / name).symlink_to("../../elsewhere")


def searched(**changes):
    """A finished search in the folder `run`, with other settings."""

    def prepare(folder):
        config = command.compose("search", ["target=v100_b64"]) | changes
        file("run/config.yaml", yaml.safe_dump(config))(folder)
        file("run/archive.npz", b"")(folder)
        file("run/front.csv", "architecture\n")(folder)

    return prepare


HUB = {"_target_": "supernet.training.measured_accuracy.SupernetAccuracy", "weights": "hf:evil/x"}
DEEP = "[" * 20_000
LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in pairwise("abcdefghij")
)
NOT_A_NAME = "must be a name for files"
