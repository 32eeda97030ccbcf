"""How tests run commands: in a process of their own, as a user does, or inside this one, which is quicker."""

import contextlib
import io
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from unittest import mock

from hydra.core.global_hydra import GlobalHydra

from search.cli import help

ROOT = Path(__file__).parents[2]


def start(name, *words, cwd, **options):
    """A process that runs the command `name`."""
    return subprocess.Popen(
        [sys.executable, "-m", "search.commands", name, *words],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


def run(name, *words, cwd):
    """(exit code, standard output, standard error) of the command `name` in a process of its own."""
    process = start(name, *words, cwd=cwd)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def call(name, *words, cwd):
    """The same inside this process: without the seconds that a new one takes to import everything."""
    GlobalHydra.instance().clear()
    before, code = Path.cwd(), 0
    with (
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as err,
        mock.patch.object(sys, "argv", [name, *words]),
        mock.patch.dict(os.environ),
    ):
        os.chdir(cwd)
        try:
            import_module(help.modules()[name]).main()
        except SystemExit as stopped:
            code = stopped.code if isinstance(stopped.code, int) else 1
            if isinstance(stopped.code, str):
                print(stopped.code, file=err)
        finally:
            os.chdir(before)
    return code, out.getvalue(), err.getvalue()
