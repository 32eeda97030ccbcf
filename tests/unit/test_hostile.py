"""Files of somebody else: none of them runs anything, none makes a command write elsewhere (SECURITY.md)."""

import gzip
import json
import os
import pickle
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from hostile_files import (
    AXES,
    COMMAND,
    DEEP,
    EXPORT,
    HUB,
    IMAGES,
    LAUGHS,
    NOT_A_NAME,
    ON_A_RUN_FOLDER,
    PREDICT,
    PREDICTED,
    PWNED,
    RANK,
    SCRATCH,
    SEARCH,
    TABLE,
    Payload,
    bomb,
    called,
    classes,
    config_text,
    data,
    elsewhere,
    file,
    flipped,
    images,
    linked,
    network,
    not_finite,
    of_somebody,
    packed_weights,
    pickled_data,
    pickled_weights,
    predictor,
    promised,
    promised_weights,
    ranked,
    rewritten,
    searched,
    subnet,
)
from safetensors.numpy import save_file

from latency.measuring.store import COLUMNS
from latency.zoo.shared import KIND

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
    "references that make a billion nodes": (
        config_text(f"{LAUGHS}data: *j\n"),
        EXPORT,
        "it stands for .* values",
    ),
    "a reference to itself": (config_text("data: &a [*a]\n"), EXPORT, "recursion"),
    "brackets without end": (config_text(f"data: {DEEP}"), EXPORT, "is no YAML that can be read"),
    "two megabytes of YAML": (config_text("a: 1\n" * 400_000), EXPORT, "more than 1,048,576 bytes"),
    "columns that are a command": (ranked(**COMMAND), RANK, "unknown option of .*'command'"),
    "an axis that is a command": (
        ranked(axes=[COMMAND, AXES[1]]),
        RANK,
        "_target_=os.system is not registered",
    ),
    "columns with a tag of Python": (
        lambda folder: (ranked()(folder), file("my.yaml", "!!python/name:os.system ''")(folder)),
        RANK,
        "my.yaml is no YAML that can be read",
    ),
    "a model that is a script": (ranked(TABLE.replace("a,", "<!--<script>alert(1)</script>,")), RANK, None),
    "a model that is a formula": (ranked(TABLE.replace("a,", "=cmd|'/C calc'!A0,")), RANK, None),
    "an axis that is a path": (ranked(axes=[AXES[0], {**AXES[1], "name": "../../x"}]), RANK, None),
    "a table that is a bomb": (
        lambda folder: (
            file("my.csv.gz", gzip.compress(b"name,top1,ms\n" + bytes(2**28), 1))(folder)
            or file("my.yaml", yaml.safe_dump({"model": "name", "axes": AXES}))(folder)
        ),
        ["rank", "csv=my.csv.gz", "columns=my.yaml", "out=out"],
        "more than 268,435,456 characters",
    ),
    "a table that is no text": (
        lambda folder: (ranked()(folder), file("my.csv", b"\x80\x02cos\nsystem\n.")(folder)),
        RANK,
        "my.csv cannot be read as a table",
    ),
    "a pickle among the arrays": (
        predictor(arrays={"cells": np.array([Payload()], object)}),
        PREDICTED,
        "evil.npz is damaged or not a file of ofa-frontier",
    ),
    "arrays that are a bomb": (bomb, PREDICTED, "evil.npz unpacks to 1,0.* bytes, at most"),
    "arrays that promise a terabyte": (
        promised,
        PREDICTED,
        "evil.npz is damaged or not a file of ofa-frontier",
    ),
    "coefficients that are no numbers": (
        predictor(arrays={"cells": np.full((25, 20, 16), np.nan)}),
        PREDICTED,
        "evil.npz is not usable: cells holds NaN",
    ),
    "a target that is a path": (predictor({"target/name": "../../../../x"}), PREDICTED, NOT_A_NAME),
    "a target that is a command": (
        predictor({"target/device": COMMAND}),
        PREDICTED,
        "evil.npz is no usable latency predictor",
    ),
    "facts without end": (
        lambda folder: np.savez(folder / "evil.npz", facts=np.array(DEEP)),
        PREDICTED,
        "evil.npz is damaged",
    ),
    "a space that is a path": (predictor({"target/space": "../../x"}), PREDICTED, "unknown space '../../x'"),
    "options of a learner that are a command": (
        predictor({"facts/options": COMMAND}, name="2080ti_b1"),
        ["fit", "rows=evil.npz", "column=ms", "device=t4", "space=fbnet", "out=out.npz"],
        "evil.npz cannot be read as a table",
    ),
    "weights that are a pickle": (
        pickled_weights,
        [*EXPORT[:1], "weights=evil.pth", *EXPORT[2:], "data=digits"],
        "evil.pth",
    ),
    "weights that are a bomb": (
        packed_weights,
        ["evaluate", "weights=evil.pth", "data=digits"],
        "evil.pth unpacks to",
    ),
    "a subnet with a fact that is code": (
        subnet(mean=f'x"""\nimport os; os.system("touch ../{PWNED}")\n"""'),
        ["export", "weights=evil", "formats=[state_dict]", "out=out"],
        None,
    ),
    "a subnet with a byte flipped": (
        subnet(flipped),
        ["export", "weights=evil", "out=out"],
        "its content has changed",
    ),
    "a subnet with weights that are no numbers": (
        subnet(not_finite),
        ["export", "weights=evil", "out=out"],
        "weight holds NaN or infinite numbers",
    ),
    "a subnet that names a function": (
        subnet(rewritten(network={"name": "os.system", "args": ["touch"]})),
        ["export", "weights=evil", "out=out"],
        "unrecognized type of network: os.system",
    ),
    "a subnet that is a path": (
        subnet(rewritten(architecture="../../../x r16")),
        ["export", "weights=evil", "out=out"],
        "unknown space '../../../x'",
    ),
    "a subnet of a billion pixels": (
        subnet(rewritten(resolution=10**9)),
        ["export", "weights=evil", "out=out"],
        "is not of 1000000000 px",
    ),
    "a supernet of a trillion classes": (classes, EXPORT, "no tensor is of 1000000000000 classes"),
    "a store that is a link": (
        lambda folder: (
            (folder.parent / "elsewhere").write_text("mine"),
            (folder / "net" / "accuracies.sqlite").symlink_to("../../elsewhere"),
        ),
        ["accuracy-data", *ON_A_RUN_FOLDER["accuracy-data"]],
        "accuracies.sqlite is a link",
    ),
    "facts of tensors without end": (
        lambda folder: save_file({"a": np.zeros(3)}, folder / "evil.safetensors", {"facts": DEEP}),
        ["evaluate", "weights=evil.safetensors", "data=digits"],
        "evil.safetensors is damaged",
    ),
    "tensors with a header of a petabyte": (
        file("evil/subnet.safetensors", struct.pack("<Q", 2**50) + b"{}"),
        ["export", "weights=evil", "out=out"],
        "is damaged or not a file of ofa-frontier",
    ),
    "a network of another program": (
        lambda folder: (
            file("evil/net.config", json.dumps({"name": "os.system", "blocks": DEEP}))(folder),
            file("evil/run.config", json.dumps({"image_size": 16}))(folder),
        ),
        ["evaluate", "weights=net", "architecture=evil"],
        "is none of the OFA supernets'",
    ),
    "a search of a command": (
        searched(target=COMMAND),
        ["compare", "run", "net"],
        "os.system is not registered",
    ),
    "a bound of a command": (searched(space=COMMAND), ["bound", "run=run"], "os.system is not registered"),
    "a search with weights elsewhere": (
        searched(evaluator={**HUB, "image_set": IMAGES}),
        ["compare", "run", "net"],
        "the weights hf:evil/x are not here",
    ),
    "a bound with weights elsewhere": (searched(evaluator=HUB), ["bound", "run=run"], "only a surrogate's"),
    "an image that is a bomb": (images, EXPORT, r"pictures/b/20\.png cannot be read as an image"),
    "weights of a network in a file above": (
        network(elsewhere(0, "../../../../../../etc/passwd")),
        PREDICT,
        r"evil\.onnx is no usable ONNX network .*etc/passwd, outside of its folder",
    ),
    "a shape of a network in a file of the system": (
        network(elsewhere(1, "/etc/passwd")),
        PREDICT,
        "/etc/passwd, outside of its folder",
    ),
    "an operator of somebody": (network(of_somebody), PREDICT, "evil.onnx is no usable ONNX network"),
    "weights of a network that promise an exabyte": (network(promised_weights), PREDICT, "of the shape"),
    "a layer that is a script": (network(called("<!--<script>alert(1)</script>")), PREDICT, None),
    "a layer that is a formula": (network(called("=cmd|'/C calc'!A0")), PREDICT, None),
    "a network that is a pickle": (
        file("evil.onnx", pickle.dumps(Payload())),
        PREDICT,
        "evil.onnx is no usable ONNX network",
    ),
    "modules that are no predictor of modules": (
        lambda folder: (network()(folder), predictor({"target/device": COMMAND})(folder)),
        [*PREDICT, "predictor=evil.npz"],
        "evil.npz holds latency predictor, expected module latency predictor",
    ),
    "a card that is a path": (
        lambda folder: (
            predictor()(folder),
            file("evil/card.json", json.dumps({"kind": KIND, "files": {"predictor.npz": "../evil.npz"}}))(
                folder
            ),
            (folder / "evil.npz").rename(folder / "evil" / "predictor.npz"),
        ),
        [*SEARCH, "predictor=folder:evil"],
        "is not the file that its card speaks of",
    ),
    "visits without end": (
        file("evil.csv", ",".join(COLUMNS) + "\n" + ",".join([DEEP] * len(COLUMNS)) + "\n"),
        ["measure", "import_csv=evil.csv"],
        "evil.csv is no export of a measurement store",
    ),
    "a run folder of links": (linked, [*SEARCH, "target=v100_b64", "out=out"], "is a link"),
}


def exploits_hold(name, folder):
    """What is looked at when a command takes a file: its page, its tables, its program."""
    if name == "a model that is a script":
        page = (folder / "out" / "report.html").read_text()
        assert "<!--<script" not in page
        assert "&lt;!--&lt;script&gt;" in page
    if name == "a model that is a formula":
        assert "\n1,'=cmd|" in (folder / "out" / "ranking.csv").read_text()
    if name == "a layer that is a script":
        page = (folder / "out" / "report.html").read_text()
        assert "<!--<script" not in page
        assert "<script>alert" not in page
    if name == "a layer that is a formula":
        assert ",'=cmd|" in (folder / "out" / "layers.csv").read_text()
    if name == "a subnet with a fact that is code":
        done = subprocess.run([sys.executable, "load.py"], cwd=folder / "out", capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


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
    for case in cases:
        exploits_hold(case["name"], Path(case["cwd"]))
    assert not list(root.rglob(PWNED))
    assert all(path.read_text() == "mine" for path in root.rglob("elsewhere"))
    return told


@pytest.mark.slow
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
