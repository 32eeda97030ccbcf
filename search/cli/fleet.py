"""What `targets=` of a search names: predictors of several devices, and devices at addresses."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from latency.measuring.here import is_here
from latency.measuring.remote.fleet import together
from latency.measuring.remote.transports import is_address
from latency.measuring.session import Watcher
from latency.measuring.store import Store
from latency.predictors.interface import LatencyPredictor
from latency.target import Target
from latency.zoo import adaptation, catalogue
from latency.zoo.adaptation import Adaptation
from search import run
from search.cli import devices
from search.models import Models

Device = LatencyPredictor | Target  # a target is to be measured


def find(names: Sequence[str], node: Mapping[str, Any]) -> list[Device]:
    """The devices of these names; those at addresses are measured as `node` says, as far as it does."""
    addresses = [name for name in names if is_address(name)]
    reached = dict(zip(addresses, devices.reach(addresses, node), strict=True))
    return [reached[name] if name in reached else catalogue.find(name) for name in names]


def targets(fleet: Sequence[Device]) -> list[Target]:
    return [one if isinstance(one, Target) else one.target for one in fleet]


def measures(fleet: Sequence[Device], verify: bool) -> bool:
    """Whether networks are timed: to adapt to a device, or to verify a front, where all can be measured."""
    return any(isinstance(one, Target) for one in fleet) or (verify and all(map(is_here, targets(fleet))))


def can_verify(models: Models) -> bool:
    """Whether networks can be measured wherever their latency counts."""
    on = models.devices.values()
    return models.latency is not None or (bool(on) and all(is_here(one.target) for one in on))


def predictors(fleet: Sequence[Device], out: Path, how: Adaptation, store: Path) -> list[LatencyPredictor]:
    """The predictors of all. Devices that are measured are adapted to at the same time; what that gives is
    kept in the run folder `out` for the rest of the run."""

    def adapted(target: Target, kept: Path, watch: Watcher) -> LatencyPredictor:
        with Store(store) as own:  # of this thread
            return adaptation.for_run(target, kept, how, store=own, watch=watch)

    measured = {place: one for place, one in enumerate(fleet) if isinstance(one, Target)}
    if not measured:
        return [one for one in fleet if not isinstance(one, Target)]
    with devices.bars(list(measured.values())) as watchers:
        fitted = iter(
            together(
                [
                    partial(adapted, one, out / run.ON_DEVICES[place], watchers[one.name])
                    for place, one in measured.items()
                ]
            )
        )
    return [next(fitted) if isinstance(one, Target) else one for one in fleet]


def kept(names: Sequence[str], out: Path) -> list[str]:
    """The names again, of devices at addresses the files that `predictors` kept in `out`."""
    files = zip(names, run.ON_DEVICES, strict=False)
    return [str(out / file) if is_address(name) else name for name, file in files]
