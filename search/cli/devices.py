"""Devices on the command line: `target=ssh://pi@board` is short for the options of `target=remote`."""

from collections.abc import Iterable, Mapping
from typing import Any

from latency.measuring.remote.transports import is_address
from supernet.files import command_line

CHOICE, OPTION = "remote", "at"  # of the group target


def short(choice: str, changed: Mapping[str, Any]) -> dict[str, Any]:
    """The options that name a target again, of the choice and of what differs from its usual values.

    >>> short("remote", {"at": "ssh://pi@board", "batch": 8})
    {'target': 'ssh://pi@board', 'target.batch': 8}
    """
    options = {key: value for key, value in changed.items() if choice != CHOICE or key != OPTION}
    named = changed[OPTION] if choice == CHOICE else choice
    return {"target": named, **{f"target.{key}": value for key, value in options.items()}}


def spelt_out(words: Iterable[str]) -> list[str]:
    """The words with the address of a device as an option, which is checked where it is used.

    >>> spelt_out(["target=ssh://pi@board", "samples=5"])
    ['target=remote', 'target.at=ssh://pi@board', 'samples=5']
    """
    spelt = []
    for word in words:
        option, _, value = word.partition("=")
        if option == "target" and is_address(value):
            spelt += command_line.words({option: CHOICE, f"{option}.{OPTION}": value})
        else:
            spelt.append(word)
    return spelt
