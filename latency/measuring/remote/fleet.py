"""Several devices at once: each is measured in a thread of its own, which mostly waits for the device."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def together(tasks: Sequence[Callable[[], T]], *, at_once: bool = True) -> list[T]:
    """What each task gives, all at the same time, or one after the other.

    The first error is raised when all have ended: what the others measured is in the store.
    """
    if not at_once:
        return [task() for task in tasks]
    with ThreadPoolExecutor(max(1, len(tasks))) as threads:
        futures = [threads.submit(task) for task in tasks]
    return [future.result() for future in futures]
