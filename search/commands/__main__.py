"""Runs a command by its name: `python -m search.commands NAME words...`, also `make NAME` and `ofa-frontier`.

The files of this folder are the list of commands; without a name it is printed.
"""

import ast
import sys
from importlib import import_module
from pathlib import Path

from search import __version__
from supernet import extras
from supernet.registry import unknown_name

FOLDER = Path(__file__).parent
USAGE = "python -m search.commands NAME key=value ... (NAME --help lists the options of a command)"


def names() -> list[str]:
    """The names of the commands, as they are typed.

    >>> "lookup-table" in names()
    True
    """
    return sorted(path.stem.replace("_", "-") for path in FOLDER.glob("[a-z]*.py"))


def describe() -> str:
    """The list of commands, each with the first line of its docstring."""
    lines = [USAGE, ""]
    for name in names():
        text = ast.get_docstring(ast.parse(_file(name).read_text())) or ""
        lines.append(f"  {name:14} {text.splitlines()[0].partition(':')[0].rstrip('.')}")
    return "\n".join(lines)


def _file(name: str) -> Path:
    return FOLDER / f"{name.replace('-', '_')}.py"


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print(describe())
    elif name == "--version":
        print(__version__)
    elif name.replace("_", "-") not in names():
        sys.exit(f"error: {unknown_name('command', name, names())}")
    else:
        del sys.argv[1]
        try:
            command = import_module(f"search.commands.{_file(name).stem}")
        except ModuleNotFoundError as error:
            sys.exit(f"error: {extras.explain(error)}")
        command.main()


if __name__ == "__main__":
    main()
