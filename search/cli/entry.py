"""The one command: `ofa-frontier COMMAND words...`, the same as `python -m search COMMAND words...`.

The files of `search/commands` and of its room `judging` are the list of commands. Only what a request needs
is imported, when it is needed: help comes at once, and an old Python is refused before anything that it could
not read.
"""

import sys
from importlib import import_module

OLDEST_PYTHON = (3, 11)
HELP = ("-h", "--help")


def main() -> None:
    """Run the command that the first word of the command line names."""
    if sys.version_info < OLDEST_PYTHON:
        needed, there = (".".join(map(str, version[:2])) for version in (OLDEST_PYTHON, sys.version_info))
        sys.exit(f"error: ofa-frontier needs Python >= {needed}, this is {there} ({sys.executable})")
    from search import __version__
    from search.cli import help
    from supernet import extras
    from supernet.registry import unknown_name

    words = sys.argv[1:] or ["--help"]
    name = words[0].replace("_", "-")
    if words[0] in HELP:
        print(help.overview())
    elif words[0] == "--version":
        print(__version__)
    elif words[0] in ("-sc", "--shell-completion"):
        import_module("search.cli.completion").main(words)
    elif name not in help.commands():
        sys.exit(f"error: {unknown_name('command', words[0], help.commands())}")
    elif any(word in HELP for word in words[1:]) and help.has_configuration(name):
        help.show(name, words[1:])
    else:
        del sys.argv[1]
        try:
            command = import_module(help.modules()[name])
        except ModuleNotFoundError as error:
            sys.exit(f"error: {extras.explain(error)}")
        command.main()
