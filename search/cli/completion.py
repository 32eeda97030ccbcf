"""Tab completion in a shell, by Hydra's plugins for it.

`eval "$(ofa-frontier search -sc install=bash)"` installs it for all commands: the shell then asks
`ofa-frontier -sc query=bash` with the line so far in COMP_LINE.
"""

import os
import sys

import hydra

from search.cli import config_source, help
from supernet import choices, registry


def main(words: list[str]) -> None:
    """Answer a shell: names of commands for the first word, then what Hydra knows of the command's words."""
    program, *typed = os.environ.get("COMP_LINE", "").split(" ")
    if words[1:] and not words[1].startswith("query="):  # installs and uninstalls, the same for any command
        typed = ["search", ""]
    name = typed[0].replace("_", "-") if typed else ""
    if len(typed) < 2:
        print(" ".join(command for command in help.commands() if command.startswith(name)))
    elif help.has_configuration(name):
        os.environ["COMP_LINE"] = " ".join([program, *typed[1:]])
        registry.use_folders(*choices.folders_of(typed))
        sys.argv[1:] = words
        stem = name.replace("-", "_")
        with config_source.reading(stem):
            hydra.main(version_base="1.3", config_path=None, config_name=stem)(_nothing)()
    elif name == "list":
        print(" ".join(group for group in choices.groups() if group.startswith(typed[-1])))


def _nothing(config: object) -> None:
    """The task of a command that is only asked for words."""
