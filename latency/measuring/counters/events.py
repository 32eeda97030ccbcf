"""The hardware events of a descriptor, by MAPLE-Edge's names (arXiv 2204.12950)."""

from collections.abc import Mapping

EVENTS = (
    "cpu-cycles", "instructions", "cache-references", "cache-misses", "L1-dcache-loads",
    "L1-dcache-load-misses", "LLC-loads", "LLC-load-misses", "LLC-stores", "LLC-store-misses",
    "cpu-migrations",
)  # fmt: skip
SOFTWARE = ("cpu-migrations",)  # counted everywhere, and says nothing of the hardware
CLOCK = "task-clock"  # perf's name of the ms that the process ran

Counts = Mapping[str, float]  # by event; an event that was not counted is not in it
Counters = Mapping[str, Mapping[str, float]]  # events per ms, by operator


def per_ms(counts: Counts, ms: float) -> dict[str, float]:
    """Events of a descriptor per ms of the operator, five digits."""
    return {event: float(f"{counts[event] / ms:.5g}") for event in EVENTS if event in counts}
