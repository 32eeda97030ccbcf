"""The core without any extra: it searches with what ships, and commands that need more name the extra."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from supernet import extras

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Modules of the extras `train`, `rank`, `boost`, as a core installation lacks them.
ABSENT = ("torch", "torchvision", "ofa", "sklearn", "onnx", "onnxruntime", "matplotlib", "lightgbm")


def run(*words, cwd):
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({ABSENT})); sys.argv = ['ofa-frontier', *{words!r}]; "
    )
    code += "from search.cli.entry import main; main()"
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True)


def test_the_core_searches(tmp_path):
    done = run("search", "budget=600", "wandb=disabled", "out=front", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {"front.csv", "report.html"} <= {path.name for path in (tmp_path / "front").iterdir()}


@pytest.mark.parametrize(("words", "extra"), [(("train",), "train"), (("search", "target=here"), "train")])
def test_what_needs_more_names_the_extra(words, extra, tmp_path):
    done = run(*words, "out=out", cwd=tmp_path)
    assert done.returncode == 1
    assert f"pip install 'ofa-frontier[{extra}]'" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(("module", "extra"), [("sklearn", "train"), ("ray", "ray"), ("lightgbm", "boost")])
def test_the_smallest_extra_that_has_a_package(module, extra):
    assert f"ofa-frontier[{extra}]" in extras.install([module])


def test_every_extra_is_part_of_all_or_said_to_be_large():
    parts = PROJECT["optional-dependencies"]
    named = set(parts["all"][0].partition("[")[2].rstrip("]").split(","))
    assert set(parts) - named == {"all", "openvino", "ray", "peers", "docs", "dev", "test"}
