"""What a user gets: the wheel, the list of commands, make on a bare machine."""

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from search import __version__
from search.cli import entry, help

ROOT = Path(__file__).parents[2]
FAKE = """#!/bin/sh
exec {python} -c "import sys; sys.version_info = (3, 10, 12)
$2"
"""


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """The names of the files in the wheel."""
    pytest.importorskip("hatchling", reason="the extra dev brings hatchling")
    out = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    return zipfile.ZipFile(next(out.glob("*.whl"))).namelist()


def test_the_wheel_has_three_packages_and_nothing_beside_them(wheel):
    """Users have folders called configs, scripts and tests of their own."""
    top = {name.split("/")[0] for name in wheel}
    assert {name for name in top if not name.endswith(".dist-info")} == {"latency", "search", "supernet"}
    assert {f"{package}/py.typed" for package in ("latency", "search", "supernet")} <= set(wheel)


def test_the_wheel_has_every_file_that_is_read(wheel):
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    files = {name.replace("configs/", "supernet/configs/") for name in tracked.stdout.splitlines()}
    wanted = {name for name in files if name.split("/")[0] in ("latency", "search", "supernet")}
    assert wanted - set(wheel) == set()
    for suffix in (".yaml", ".npz", ".html", ".csv.gz", ".json"):
        assert any(name.endswith(suffix) for name in wheel)


def run(*words, cwd, **options):
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True, **options)


def test_folders_of_the_user_are_in_nobodys_way(tmp_path):
    """A project with packages called configs and scripts, first on its path, imports ours and searches."""
    for package in ("configs", "scripts"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("MINE = True\n")
    (tmp_path / "mine.py").write_text(
        "import configs, scripts, search.run, sys\n"
        "from search.cli import entry, help\n"
        "assert configs.MINE and scripts.MINE\n"
        "sys.argv = ['', 'search', 'budget=300', 'wandb=disabled', 'out=run']\n"
        "entry.main()\n"
    )
    path = {"PYTHONPATH": f"{tmp_path}:{ROOT}", "PATH": "/usr/bin:/bin"}
    done = run(sys.executable, "mine.py", cwd=tmp_path, env=path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "archive.npz").exists()


def test_one_command_has_the_files_of_the_folder():
    """`ofa-frontier` is the only console script; starters lead to commands, each at most once."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"ofa-frontier": "search.cli.entry:main"}
    with_yaml = {path.stem for path in (ROOT / "configs").glob("[a-z]*.yaml")}
    assert {name.replace("-", "_") for name in help.modules()} == {*with_yaml, "list"}
    starters = [path.read_text() for path in (ROOT / "scripts").glob("[a-z]*.py")]
    assert len(set(starters)) == len(starters)
    for name in help.commands():
        assert name in help.overview()


@pytest.mark.parametrize(
    ("word", "said"),
    [("serch", "Did you mean 'search'"), ("lookup_tabel", "Did you mean 'lookup-table'")],
)
def test_a_misspelt_command_gets_the_nearest(word, said, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["", word])
    with pytest.raises(SystemExit, match=said):
        entry.main()


def test_the_version_is_that_of_the_project(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["", "--version"])
    entry.main()
    assert capsys.readouterr().out.strip() == __version__


@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
def test_make_helps_and_refuses_an_old_python_before_it_installs(tmp_path):
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "search" / "commands", tmp_path / "search" / "commands")
    done = run("make", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in help.commands())
    python = tmp_path / "python3.10"
    python.write_text(FAKE.format(python=sys.executable))
    python.chmod(0o755)
    done = run("make", "search", f"PYTHON={python}", cwd=tmp_path)
    assert done.returncode != 0
    assert "needs Python >= 3.11, found 3.10" in done.stderr
    assert not (tmp_path / ".venv").exists()
