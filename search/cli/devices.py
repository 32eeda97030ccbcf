"""Devices on the command line: `target=ssh://pi@board` is short for the options of `target=remote`."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from hydra.core.hydra_config import HydraConfig
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from latency.measuring.remote.target import remote as build
from latency.measuring.remote.transports import is_address
from latency.measuring.session import Watcher
from latency.target import Target
from supernet import registry
from supernet.files import command_line

CHOICE, OPTION = "remote", "at"  # of the group target
SHARED = ("folder:", "hf:")  # what somebody has published brings its predictor
LIKE_HERE = ("space", "precision", "batch", "threads")  # options of devices that those of this machine give


def again(target: Target, node: Mapping[str, Any]) -> dict[str, Any]:
    """The options that name this target again, `node` being what the command was given for it."""
    choice = HydraConfig.get().runtime.choices["target"]
    usual = registry.complete(registry.load("target", choice))
    changed = {key: value for key, value in {**node, "space": target.space}.items() if value != usual[key]}
    if choice == CHOICE:
        choice = changed.pop(OPTION)
    return {"target": choice, **{f"target.{key}": value for key, value in changed.items()}}


def reach(addresses: Sequence[str], node: Mapping[str, Any]) -> list[Target]:
    """The devices at these addresses as targets, measured as `node`, a choice of the group target, says.

    ValueError when one cannot be reached, or when two are the same device.
    """
    options = {key: value for key, value in node.items() if key in LIKE_HERE}
    found = [build(at, **options) for at in addresses]
    for i, one in enumerate(found):
        if one.key in [other.key for other in found[:i]]:
            raise ValueError(f"targets={addresses[i]} is {one.name}, which another address is too")
    return found


@contextmanager
def bars(targets: Sequence[Target]) -> Iterator[dict[str, Watcher]]:
    """A progress bar per device, and by its name what measuring there reports to."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[now]}"),
    )
    with Progress(*columns, TimeElapsedColumn()) as progress:

        def watcher(name: str) -> Watcher:
            task = progress.add_task(name, total=None, now="connecting")
            return lambda done, of, now: progress.update(task, completed=done, total=of, now=now)

        yield {target.name: watcher(target.name) for target in targets}


def spelt_out(words: Iterable[str]) -> list[str]:
    """The words with the address of a device as an option, which is checked where it is used.

    >>> spelt_out(["target=ssh://pi@board", "samples=5"])
    ['target=remote', 'target.at=ssh://pi@board', 'samples=5']
    """
    spelt = []
    for word in words:
        option, _, value = word.partition("=")
        parts = [_bare(one) for one in value.split(",")]  # several: one job of a multirun for each
        value = _bare(value)
        listed = [_bare(one) for one in value[1:-1].split(",")] if value[:1] == "[" else []
        if option == "targets" and any(map(is_address, listed)):
            spelt += command_line.words({option: listed})  # with quotes that a shell has taken
        elif option == "target" and value.startswith(SHARED):
            spelt += command_line.words({"predictor": value})
        elif option == "target" and (is_address(value) or all(map(is_address, parts))):
            each = parts if all(map(is_address, parts)) else [value]
            at = ",".join(command_line.words({OPTION: one})[0].removeprefix(f"{OPTION}=") for one in each)
            spelt += [f"{option}={CHOICE}", f"{option}.{OPTION}={at}"]
        else:
            spelt.append(word)
    return spelt


def _bare(text: str) -> str:
    """A text without the quotes around it."""
    return re.sub(r"^(['\"])(.*)\1$", r"\2", text)
