"""Several devices in one search: the front of each, and what one device's choice loses on another.

Letters: n architectures, t devices, c architectures of a front.
"""

import html
from dataclasses import dataclass
from typing import Any

import numpy as np

from search import pareto
from search.objective import Objective
from search.report import page, words
from search.result import Result
from supernet.arrays import Floats, Ints
from supernet.files.tables import Table, rounded

REGRET = "regret.csv"


@dataclass(frozen=True, eq=False)
class DeviceFronts:
    """What a search found for each of t devices, of which it evaluated n architectures.

    `fronts` are the rows that nothing else dominates in quality and in the latency on one device alone.
    `choices` (t,) are the rows to deploy: the most accurate one within the device's limit, or the knee of its
    front where there is none. `latency` (t, t) is that of the choice of device i on device j, `holds` (t, t)
    whether the bound holds j's limit, `regret` (t, t) how much better, in the unit of the quality, the best
    architecture is that is no slower there.
    """

    names: tuple[str, ...]
    quality: Objective
    values: Floats  # (n,)
    ms: Floats  # (n, t)
    fronts: tuple[Ints, ...]
    choices: Ints
    latency: Floats
    holds: np.ndarray[Any, np.dtype[np.bool_]]
    regret: Floats

    def table(self, result: Result) -> Table:
        """A row per pair of devices."""
        archive, pairs = result.archive, list(np.ndindex(self.regret.shape))
        names = archive.space.format(archive.genomes[self.choices])
        return Table(
            {
                "chosen_for": [self.names[i] for i, _ in pairs],
                "deployed_on": [self.names[j] for _, j in pairs],
                "latency_ms": rounded(self.latency.ravel()),
                "limit_holds": self.holds.ravel().tolist(),
                self.quality.name: rounded(self.values[self.choices].repeat(len(self.names)), 6),
                f"regret_{self.quality.name}": rounded(self.regret.ravel(), 4),
                "architecture": [names[i] for i, _ in pairs],
            }
        )


def regrets(costs: Floats, latency: Floats, choices: Ints) -> tuple[Floats, Floats]:
    """(t, t) latencies of each device's choice on each device, and how much lower the least of the costs (n,)
    is among the architectures that are no slower there by `latency` (n, t)."""
    there = latency[choices]
    least = [[costs[latency[:, j] <= limit].min() for j, limit in enumerate(row)] for row in there]
    return there, costs[choices][:, None] - np.array(least)


def compare(result: Result) -> DeviceFronts | None:
    """The fronts of the devices of a search; None where it has one device, or no objective beside them."""
    archive, models = result.archive, result.problem.models
    objectives = result.problem.evaluator.objectives
    others = [one for one in objectives if "@" not in one.name and one.name != "worst_latency"]
    if not models.devices or not others:
        return None
    quality = next((one for one in others if one.name == "accuracy"), others[0])
    costs = archive.costs[:, [one.name for one in objectives].index(quality.name)]
    limits = {one.name: one for one in result.problem.evaluator.limited}
    on = [limits.get(f"latency_ms@{name}", models.objective(f"latency_ms@{name}")) for name in models.devices]
    ms = np.stack([one.of(archive.genomes).mean for one in on], axis=1)
    fronts, choices = [], []
    for j, one in enumerate(on):
        rows = np.flatnonzero(pareto.is_front(np.stack([costs, ms[:, j]], axis=1)))
        rows = rows[np.argsort(ms[rows, j], kind="stable")]
        holds = one.violation(one.of(archive.genomes[rows])) <= 0
        fronts.append(rows)
        if one.limit is None or not holds.any():
            choices.append(rows[pareto.knee(np.stack([costs[rows], ms[rows, j]], axis=1))])
        else:
            choices.append(rows[np.argmin(np.where(holds, costs[rows], np.inf))])
    chosen = np.array(choices, np.int64)
    latency, regret = regrets(costs, ms, chosen)
    holds = np.stack([one.violation(one.of(archive.genomes[chosen])) <= 0 for one in on], axis=1)
    values = quality.cost(costs)
    return DeviceFronts(
        tuple(models.devices), quality, values, ms, tuple(fronts), chosen, latency, holds, regret
    )


def section(devices: DeviceFronts | None) -> str:
    """What a report says about several devices, with its heading; the plots are drawn by the page."""
    if devices is None:
        return ""
    quality = devices.quality
    unit = "points" if quality.name == "accuracy" else quality.unit
    scale = 100 if quality.name == "accuracy" else 1
    rows = []
    for i, name in enumerate(devices.names):
        cells = [
            f"{devices.latency[i, j]:.4g} ms{'' if devices.holds[i, j] else ', over its limit'}<br>"
            f"{scale * devices.regret[i, j]:.3g} {html.escape(unit)}"
            for j in range(len(devices.names))
        ]
        rows.append((f"<b>{html.escape(name)}</b>", *cells))
    heads = ("chosen for", *(f"on {html.escape(name)}" for name in devices.names))
    note = (
        f"Regret: how much better in {html.escape(quality.name)} the best architecture is that is no slower "
        "on that device. Chosen: the most accurate within the device's limit, or the knee of its front."
    )
    body = f"{page.table(heads, rows)}<p class='note'>{note}</p>"
    return f"<h2>Devices</h2>{body}<div class='plots' id='devices'></div>"


def plots(devices: DeviceFronts | None, result: Result) -> list[dict[str, Any]]:
    """The front of each device, and where the choices of all devices lie."""
    if devices is None:
        return []
    models = result.problem.models
    limits = {one.name: one.limit for one in result.problem.evaluator.limited}
    return [
        {
            "xlabel": words.axis(models.objective(f"latency_ms@{name}"), models),
            "ylabel": words.axis(devices.quality, models),
            "share": devices.quality.name in words.SHARES,
            "front": _points(devices, devices.fronts[j], j, result),
            "choices": _points(devices, devices.choices, j, result) | {"of": list(devices.names)},
            "limit": limits.get(f"latency_ms@{name}"),
        }
        for j, name in enumerate(devices.names)
    ]


def _points(devices: DeviceFronts, rows: Ints, device: int, result: Result) -> dict[str, list[Any]]:
    archive = result.archive
    return {
        "x": rounded(devices.ms[rows, device]),
        "y": rounded(devices.values[rows], 6),
        "text": archive.space.format(archive.genomes[rows]),
    }
