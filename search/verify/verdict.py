"""What measuring a front showed: one table, one knee, one verdict per limit.

Letters: f rows of the front, v networks measured.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np

from latency.predictors.interface import LatencyModel, energy_of
from search import front_table, pareto
from search.archive import Archive
from search.front_table import FrontTable
from search.objective import Objective
from search.problem import Problem
from search.verify import latency as latencies
from search.verify.latency import KnownLatency
from search.verify.rounds import CONFIDENCE, Part, Round, is_measured, rows_known
from supernet.arrays import Floats, Genomes, Ints
from supernet.files.tables import Table, rounded
from supernet.space import get_space

LATENCY, ENERGY = "latency_ms", "energy_mj"


@dataclass(frozen=True, eq=False)
class Verification:
    """`front` has the members that were measured and are efficient among those measured
    (`on_verified_front`), and those not measured that nothing dominates; `measured` every network that was
    measured on the way, `summary` the figures."""

    front: FrontTable
    measured: Table
    rows: Ints  # (f,) of the archive
    summary: Mapping[str, Any]

    def lines(self) -> list[str]:
        """What measuring showed, for the terminal and the report."""
        s = self.summary
        turns = s["mape_by_round"]
        off = f"{turns[0]:.1f}%" if len(turns) == 1 else ", ".join(f"{m:.1f}" for m in turns) + "% by round"
        turns_word = "1 round" if len(turns) == 1 else f"{len(turns)} rounds"
        lines = [
            f"measured {s['networks']} networks of the front in {turns_word}, "
            f"{s['seconds']:.0f} s: predictions were off by {off} with the machine's drift removed "
            f"(bias {s['bias']:+.1f}%), {s['mape_raw']:.1f}% with it "
            f"({s['covered']} of {s['measurements']} inside their {CONFIDENCE:.0%} interval)",
            f"the machine was up to {abs(s['drift'] - 1):.1%} {'slower' if s['drift'] > 1 else 'faster'} "
            "than when the predictor in use was fitted (by the anchor subnets)",
        ]
        if "energy" in s:
            e = s["energy"]
            lines.append(
                f"energy: predictions of {e['measurements']} were off by {e['mape_raw']:.1f}% "
                f"({e['covered']} inside their {CONFIDENCE:.0%} interval)"
            )
        if s["engine"] != s["adapted_with"]:
            lines.append(f"adapted with {s['adapted_with']}, measured with {s['engine']}: adapt again")
        if "limit" in s:
            lines.append(
                f"{s['holds']} of the {s['networks']} measured networks hold the limit of {s['limit']:g} ms, "
                f"the machine's drift included ({s['within']} were within it when measured)"
            )
            lines.append(s["meaning"])
        for device, one in s.get("devices", {}).items():
            limit = f", {one['holds']} hold its limit of {one['limit']:g} ms" if "limit" in one else ""
            lines.append(
                f"{device}: {one['networks']} measured, predictions off by {one['mape_raw']:.1f}%{limit}"
            )
        lines.append(
            f"{s['verified_front']} rows of the front are measured; the latency of the other "
            f"{s['predicted_rows']} is predicted, by what was measured"
        )
        return lines + [f"failed: {name}: {reason}" for name, reason in s["failed"].items()]


def verification(problem: Problem, archive: Archive, rounds: Sequence[Round], shortlist: int) -> Verification:
    """The front of an archive whose costs are those of `problem`, after these rounds, at least one.

    A prediction displaces no measurement: what was measured stays on the front unless something measured
    dominates it. The knee, the most accurate and the `shortlist` are measured members, if there are any.
    """
    genomes, costs = archive.genomes, archive.costs
    verified = _verified(problem, archive)
    rows = np.union1d(archive.front(), verified)
    rows = rows[np.lexsort(costs[rows].T[::-1])]
    table = front_table.table(archive, problem.evaluator, shortlist, rows)
    on_front = np.isin(rows, verified)
    columns = (
        table.columns | _columns(problem, genomes[rows], rounds) | {"on_verified_front": on_front.tolist()}
    )
    if on_front.any():
        kept = np.flatnonzero(on_front)
        knee, best = front_table.landmarks(costs[verified], archive.objectives)
        must = (knee, best) if table.limits else (knee,)
        marks = np.zeros(len(rows), bool)
        marks[kept] = front_table.marks(costs[verified], archive.reference, shortlist, must)
        columns["shortlist"] = marks.tolist()
        table = replace(table, knee=int(kept[knee]), best=int(kept[best]))
    limits = {o.name: o for o in problem.evaluator.limited if o.name.partition("@")[0] in (LATENCY, ENERGY)}
    devices = len(problem.models.devices) or 1
    parts = [list(turn.parts.values()) for turn in rounds]
    summary = _summary(parts, devices) | {
        "failed": {name: reason for turn in rounds for name, reason in turn.failed.items()},
        "verified_front": int(on_front.sum()),
        "predicted_rows": int((~on_front).sum()),
        "verified_hypervolume": pareto.hypervolume(costs[verified], archive.reference),
    }
    if any(energies := [[part.energy for part in turn if part.energy] for turn in parts]):
        summary["energy"] = _summary([turn for turn in energies if turn], devices)
    measured = _measured(problem, rounds, limits)
    if problem.models.devices:
        summary["devices"] = _by_device(measured, limits)
    elif LATENCY in limits:
        limit = limits[LATENCY]
        wander = max((part.known.wander for part in rounds[-1].parts.values()), key=lambda one: one.drift)
        holds = sum(measured.columns[f"{LATENCY}_limit_holds"])
        within = int((np.array(measured.columns[f"{LATENCY}_measured"]) <= limit.limit).sum())
        summary |= {"limit": limit.limit, "holds": holds, "within": within}
        summary["meaning"] = wander.line(limit.confidence)
    return Verification(replace(table, columns=columns), measured, rows, summary)


def _by_device(measured: Table, limits: Mapping[str, Objective]) -> dict[str, dict[str, Any]]:
    """What measuring showed on each device: how far predictions were off, and how many networks hold its
    limit."""
    figures: dict[str, dict[str, Any]] = {}
    for row in measured.rows():
        one = figures.setdefault(row["device"], {"networks": 0, "holds": 0, "off": []})
        one["networks"] += 1
        one["holds"] += bool(row.get(f"{LATENCY}_limit_holds"))
        one["off"].append(abs(row[f"{LATENCY}_predicted"] / row[f"{LATENCY}_measured"] - 1))
    return {
        device: {
            "networks": one["networks"],
            "mape_raw": float(100 * np.mean(one["off"])),
            **({"limit": limit.limit, "holds": one["holds"]} if limit is not None else {}),
        }
        for device, one in figures.items()
        for limit in (limits.get(f"{LATENCY}@{device}"),)
    }


def _verified(problem: Problem, archive: Archive) -> Ints:
    """The rows that were measured, keep the limits, and are efficient among those; sorted by their costs."""
    rows = np.flatnonzero(archive.violation <= 0)
    rows = rows[is_measured(problem, archive.genomes[rows])]
    rows = rows[pareto.is_front(archive.costs[rows])] if len(rows) else rows
    return rows[np.lexsort(archive.costs[rows].T[::-1])]


def _columns(problem: Problem, genomes: Genomes, rounds: Sequence[Round]) -> dict[str, list[Any]]:
    """Predicted and measured side by side. What was predicted before a network was measured is known for
    those that this run measured; what was measured is on the scale of the last sitting."""
    values: dict[str, Floats] = {}

    def fill(title: str, part: KnownLatency, mine: Ints, own: Sequence[Part | None]) -> None:
        predicted, measured, iqr = (
            values.setdefault(f"{title}_{kind}", np.full(len(genomes), np.nan))
            for kind in ("predicted", "measured", "iqr")
        )
        bare = problem.space.embed(genomes[mine], part.target.space)
        space = get_space(part.target.space)
        known = np.full(len(mine), -1) if part.known is None else part.known.rows(space.network(bare))
        there = known >= 0
        predicted[mine[~there]] = part.predictor.predict(bare[~there], part.target).mean
        if part.known is None or not there.any():
            return
        data = part.known.data
        measured[mine[there]], iqr[mine[there]] = data.ms[known[there]], data.spread_ms[known[there]]
        before = {
            network.tobytes(): ms
            for turn in reversed(own)
            if turn is not None
            for network, ms in zip(turn.networks, turn.mean, strict=True)
        }
        names = (data.genomes[row].tobytes() for row in known[there])
        predicted[mine[there]] = [before.get(name, np.nan) for name in names]

    for name, part, mine, _ in rows_known(problem, genomes):
        own = [turn.parts.get(name) for turn in rounds]
        fill(_title(problem, name), part, mine, own)
        if part.energy is not None:
            fill(_title(problem, name, ENERGY), part.energy, mine, [one and one.energy for one in own])
    return {title: _cells(column) for title, column in values.items()}


def _title(problem: Problem, part: str, quantity: str = LATENCY) -> str:
    """The objective that a part of the latency is: with several devices that on one of them."""
    return f"{quantity}@{part}" if problem.models.devices else quantity


def _cells(values: Floats) -> list[float | None]:
    """Numbers for a table, empty where there is none."""
    return [value if np.isfinite(value) else None for value in rounded(values)]


def _measured(problem: Problem, rounds: Sequence[Round], limits: Mapping[str, Objective]) -> Table:
    """Every network that was measured, as it was predicted and measured then, and the verdict of now."""
    rows: list[dict[str, Any]] = []
    models = latencies.parts_of(problem)
    for number, turn in enumerate(rounds, 1):
        for name, part in turn.parts.items():
            target = part.known.data.target
            about = {"device": name} if problem.models.devices else {}
            titles = get_space(target.space).format(part.networks)
            own = {
                network.tobytes(): {
                    **about, "architecture": title, "precision": target.precision, "round": number,
                }
                for network, title in zip(part.networks, titles, strict=True)
            }  # fmt: skip
            for quantity, of, model in (
                (LATENCY, part, models[name]),
                (ENERGY, part.energy, energy_of(models[name])),
            ):
                if of is not None and model is not None:
                    limit = limits.get(_title(problem, name, quantity))
                    for network, cells in zip(of.networks, _judged(quantity, of, model, limit), strict=True):
                        own[network.tobytes()] |= cells
            rows += own.values()
    return Table({name: [row.get(name) for row in rows] for name in dict.fromkeys(chain(*rows))})


def _judged(
    quantity: str, part: Part, model: LatencyModel, limit: Objective | None
) -> Iterator[dict[str, Any]]:
    """The cells of each network of a part."""
    now = model.predict(part.networks, model.target)
    columns = {
        "_predicted": rounded(part.mean),
        "_half_width": rounded((part.high - part.low) / 2),
        "_measured": rounded(part.ms),
        "_iqr": rounded(part.iqr),
        "": rounded(now.mean),
        "_std": rounded(now.std),
    }
    if limit is not None:
        columns["_limit_holds"] = (limit.violation(now) <= 0).tolist()
    names = [f"{quantity}{name}" for name in columns]
    return (dict(zip(names, cells, strict=True)) for cells in zip(*columns.values(), strict=True))


def _summary(rounds: Sequence[Sequence[Part]], devices: int) -> dict[str, Any]:
    """Figures over the parts of all rounds, of networks measured on each of so many devices. The drift of a
    machine since its predictor was fitted is no error of it."""
    parts = [part for turn in rounds for part in turn]
    ms, mean = (np.concatenate([getattr(part, name) for part in parts]) for name in ("ms", "mean"))
    low, high = (np.concatenate([getattr(part, name) for part in parts]) for name in ("low", "high"))
    undrifted = np.concatenate([part.ms / part.facts["drift"] for part in parts])
    off = [[p.mean / (p.ms / p.facts["drift"]) - 1 for p in turn] for turn in rounds]
    engines = [(str(part.facts["engine"]), str(part.facts["adapted_with"])) for part in parts]
    now, then = next((pair for pair in engines if pair[0] != pair[1]), engines[0])
    drifts = [float(part.facts["drift"]) for part in parts]
    together = max if devices > 1 else sum  # several devices are measured at the same time
    most = max(drifts, key=lambda ratio: abs(float(np.log(ratio))))
    return {
        "networks": len(ms) // devices,
        "measurements": len(ms),
        "rounds": len(rounds),
        "mape": float(100 * np.abs(mean / undrifted - 1).mean()),
        "mape_by_round": [float(100 * np.abs(np.concatenate(turn)).mean()) for turn in off],
        "mape_raw": float(100 * np.abs(mean / ms - 1).mean()),
        "bias": float(100 * (mean / undrifted - 1).mean()),
        "covered": int(((low <= ms) & (ms <= high)).sum()),
        "seconds": round(sum(together(p.facts["seconds"] for p in turn) for turn in rounds), 1),
        "drift": round(most, 4),
        "engine": now,
        "adapted_with": then,
    }
