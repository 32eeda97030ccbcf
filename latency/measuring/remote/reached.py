"""Devices that the command line of this process named. A file never says where to connect to."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from latency.measuring.jobs import USUAL, Rounds
from latency.measuring.remote.board import Board
from latency.measuring.remote.programs import ProgramBoard
from latency.measuring.remote.transports import Reach
from latency.target import Target

_reached: dict[str, tuple[Reach, Mapping[str, Any]]] = {}  # {unit: how to reach it, its facts}


def remember(reach: Reach, facts: Mapping[str, Any]) -> None:
    """A device that was named, by its fingerprint."""
    _reached[str(facts["unit"])] = reach, facts


def is_reached(target: Target) -> bool:
    """Whether a target is of a device that the command line named."""
    return target.unit in _reached


def engine_version(target: Target) -> str:
    """The version of the engine on the device; ValueError where it was not named."""
    return str(facts(target)["engine"])


def facts(target: Target) -> Mapping[str, Any]:
    """What the device said of itself when it was named; ValueError where it was not."""
    return _entry(target)[1]


def place(
    reach: Reach,
    precision: str = "fp32",
    threads: int = 1,
    batch: int = 1,
    rounds: Rounds = USUAL,
    known: bool = False,
) -> Board | ProgramBoard:
    """The device behind an address, timed by our runner or by an engine's own program."""
    kind = ProgramBoard if reach.program else Board
    return kind(reach, precision, threads, batch, rounds, known)


@contextmanager
def board(target: Target, rounds: Rounds = USUAL) -> Iterator[Board | ProgramBoard]:
    """The device of a target as a place of a sitting, connected until the block is left."""
    there = place(_entry(target)[0], target.precision, target.threads or 1, target.batch, rounds, known=True)
    try:
        if there.facts["unit"] != target.unit:
            raise ValueError(f"{there.reach.address} is no longer the device that {target.name} was")
        yield there
    finally:
        there.close()


def _entry(target: Target) -> tuple[Reach, Mapping[str, Any]]:
    if target.unit not in _reached:
        raise ValueError(
            f"{target.name} is a device elsewhere: name it again, target=ssh://..., to measure on it"
        )
    return _reached[target.unit]
