"""Devices on the command line: `target=ssh://pi@board` is short for the options of `target=remote`."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from hydra.core.hydra_config import HydraConfig

from latency.measuring.remote.transports import is_address
from latency.target import Target
from supernet import registry
from supernet.files import command_line

CHOICE, OPTION = "remote", "at"  # of the group target


def again(target: Target, node: Mapping[str, Any]) -> dict[str, Any]:
    """The options that name this target again, `node` being what the command was given for it."""
    choice = HydraConfig.get().runtime.choices["target"]
    usual = registry.complete(registry.load("target", choice))
    changed = {key: value for key, value in {**node, "space": target.space}.items() if value != usual[key]}
    if choice == CHOICE:
        choice = changed.pop(OPTION)
    return {"target": choice, **{f"target.{key}": value for key, value in changed.items()}}


def spelt_out(words: Iterable[str]) -> list[str]:
    """The words with the address of a device as an option, which is checked where it is used.

    >>> spelt_out(["target=ssh://pi@board", "samples=5"])
    ['target=remote', 'target.at=ssh://pi@board', 'samples=5']
    """
    spelt = []
    for word in words:
        option, _, value = word.partition("=")
        value = re.sub(r"^(['\"])(.*)\1$", r"\2", value)
        if option == "target" and is_address(value):
            spelt += command_line.words({option: CHOICE, f"{option}.{OPTION}": value})
        else:
            spelt.append(word)
    return spelt
