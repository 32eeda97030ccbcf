"""Files of somebody else: none of them runs anything, none makes a command write elsewhere (SECURITY.md)."""

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from supernet.files import run_folder

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
CASES = {
    **{
        f"a pickle as images, {name}": (pickled_data, [name, *words], "_target_=numpy.load is not registered")
        for name, words in ON_A_RUN_FOLDER.items()
    },
    "a name that begins as ours": (
        data(_target_="search.run.subprocess.run", args=["touch", f"../{PWNED}"]),
        EXPORT,
        "_target_=search.run.subprocess.run is not registered",
    ),
    "our own function that writes": (
        data(_target_="supernet.files.artifact.write_text", path=f"../{PWNED}", text="x"),
        EXPORT,
        "_target_=supernet.files.artifact.write_text is not registered",
    ),
    "a node in a list in a node": (
        data(**{**IMAGES, "resolution": [16, [{"side": COMMAND}]]}),
        EXPORT,
        "_target_=os.system is not registered",
    ),
    "words of Hydra": (data(**IMAGES, _partial_=True, _args_=["x"]), EXPORT, "unknown option of .*_args_"),
    "a reference": (
        data(**{**IMAGES, "source": "folder", "root": "${oc.env:HOME}"}),
        EXPORT,
        r"data\.root=\$\{oc\.env:HOME\} is no folder",
    ),
    "what is no images": (
        data(_target_="search.searchers.nsga2.NSGA2"),
        EXPORT,
        "names no images: give data=",
    ),
    "a download": (
        data(**{**IMAGES, "source": "CIFAR10", "root": "../elsewhere", "download": True}),
        EXPORT,
        "CIFAR10 is not in ../elsewhere",
    ),
    "a tag of Python in YAML": (
        config_text(f"data: !!python/object/apply:os.system ['touch ../{PWNED}']\n"),
        EXPORT,
        "config.yaml is no YAML that can be read: could not determine a constructor",
    ),
    "columns that are a command": (ranked(**COMMAND), RANK, "unknown option of .*'command'"),
    "an axis that is a command": (
        ranked(axes=[COMMAND, AXES[1]]),
        RANK,
        "_target_=os.system is not registered",
    ),
}


def test_what_watches_sees_what_it_looks_for(tmp_path):
    """A pickle that runs a command, a file elsewhere, a module of the folder, a connection."""
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "evil.pkl").write_bytes(pickle.dumps(Payload()))
    (tmp_path / "work" / "evil_module.py").write_text("")
    (tmp_path / "work" / "watched.py").write_text(
        f"import os, pickle, socket, sys\nsys.path[:0] = ['.', {str(Path(__file__).parent)!r}]\n"
        "import hostile\n"
        "sys.addaudithook(hostile.watch)\nhostile.inside[:] = [os.getcwd()]\n"
        "pickle.load(open('evil.pkl', 'rb'))\nopen('../elsewhere', 'w').close()\nimport evil_module\n"
        "try:\n    socket.create_connection(('127.0.0.1', 9), timeout=0.1)\nexcept OSError:\n    pass\n"
        "hostile.inside.clear()\nprint(*hostile.notes, sep='\\n')\n"
    )
    done = subprocess.run(
        [sys.executable, "-B", "watched.py"],
        cwd=tmp_path / "work",
        capture_output=True,
        text=True,
        check=True,
    )
    assert (tmp_path / PWNED).exists()
    for event in (
        "pickle.find_class",
        "os.system",
        "writes ../elsewhere",
        "import evil_module",
        "exec /",
        "socket.",
    ):
        assert event in done.stdout


@pytest.fixture(scope="module")
def outcomes(trained_folder, tmp_path_factory):
    """{name of the case: what its command said and did}."""
    root, cases = tmp_path_factory.mktemp("hostile"), []
    for number, (name, (prepare, words, _)) in enumerate(CASES.items()):
        folder = root / f"{number:02}" / "work"
        shutil.copytree(trained_folder, folder / "net")
        prepare(folder)
        cases.append({"name": name, "words": words, "cwd": str(folder)})
    (root / "cases.json").write_text(json.dumps(cases))
    (root / "scratch").mkdir()
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("hostile.py"), root / "cases.json"],
        env={**os.environ, **dict.fromkeys(SCRATCH, str(root / "scratch"))},
        capture_output=True,
        text=True,
    )
    told = {line["name"]: line for line in map(json.loads, done.stdout.splitlines())}
    assert done.returncode == 0, done.stderr
    assert not list(root.rglob(PWNED))
    return told


@pytest.mark.parametrize("name", CASES)
def test_a_file_of_somebody_else_runs_nothing_and_is_refused_in_a_line(name, outcomes):
    outcome, said = outcomes[name], CASES[name][2]
    assert not outcome["notes"]
    if said is None:
        assert outcome["code"] == 0, outcome["err"]
        return
    assert outcome["code"] == 1, outcome
    assert re.match(r"error: [^\n]*\n$", outcome["err"]), outcome["err"]
    assert re.search(said, outcome["err"]), outcome["err"]
