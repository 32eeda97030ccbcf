"""Verification: members of the front are measured on the machine they were searched for.

Letters: f rows of the front, v networks measured.

Predictions choose the front; measuring it says how far they were off, whether limits hold, and which members
still belong to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latency import measure
from latency.measure import Watcher
from latency.store import Store
from search import pareto
from search.archive import Archive
from search.front import FrontTable
from search.problem import Problem
from supernet import spaces
from supernet.prediction import Prediction
from supernet.space import Floats, Ints

NOTABLE_DRIFT = 0.02  # between sittings
CONFIDENCE = 0.90  # of the intervals that are compared with the measurements


@dataclass(frozen=True, eq=False)
class Verification:
    """`table` is the front with the columns `latency_ms_measured`, `latency_ms_iqr` and `on_verified_front`
    (empty where a network was not measured); `front` its rows that are on the verified front; `summary` the
    figures."""

    table: FrontTable
    front: FrontTable
    summary: Mapping[str, Any]

    def describe(self) -> str:
        """Lines for the terminal."""
        s = self.summary
        lines = [
            f"measured {s['networks']} networks of the front in {s['seconds']:.0f} s: predictions were off "
            f"by {s['mape']:.1f}% with the machine's drift removed, {s['mape_raw']:.1f}% with it "
            f"({s['covered']} of {s['networks']} inside their {CONFIDENCE:.0%} interval)"
        ]
        if abs(s["drift"] - 1) > NOTABLE_DRIFT:
            way = "slower" if s["drift"] > 1 else "faster"
            lines.append(
                f"the machine was {abs(s['drift'] - 1):.1%} {way} than when the predictor was adapted (by "
                "the anchor subnets); limits are judged by what was measured now"
            )
        if s["engine"] != s["adapted_with"]:
            lines.append(f"adapted with {s['adapted_with']}, measured with {s['engine']}: adapt again")
        if "limit" in s:
            lines.append(
                f"the limit of {s['limit']:g} ms holds for {s['holds']} of the {s['networks']} when measured"
            )
        lines.append(f"{s['verified_front']} members form the verified front: verified_front.csv")
        lines += [f"failed: {name}: {reason}" for name, reason in s["failed"].items()]
        return "\n".join(lines)


Verifier = Callable[[Problem, Archive, FrontTable], Verification]


def verifier(store: Store, count: int, watch: Watcher | None = None) -> Verifier:
    """Measures `count` networks of a front, spread evenly over its latencies, extremes and knee included."""
    if count < 1:
        raise ValueError(f"verify={count} must be at least 1 network; verify=0 turns it off")

    def verify(problem: Problem, archive: Archive, table: FrontTable) -> Verification:
        predictor = problem.models.latency
        if predictor is None:
            raise ValueError("nothing to verify: no objective or limit is a latency")
        target = predictor.target
        rows = archive.front()
        embedded = problem.space.embed(archive.genomes[rows], target.space)
        networks, owner = np.unique(spaces.get(target.space).network(embedded), axis=0, return_inverse=True)
        owner = owner.ravel()
        expected = predictor.predict(networks, target)
        picked = _spread(expected.mean, count, must=int(owner[table.knee]))
        found = measure.measure(target, networks[picked], store=store, watch=watch)
        # The machine's drift since the sitting that the predictor was made from is no error of prediction;
        # the limit and the verified front go by what was measured.
        scale = measure.relative_scale(found.anchors_ms, predictor.facts.get("anchors_ms", {}))
        ms = np.full(len(networks), np.nan)
        iqr = np.full(len(networks), np.nan)
        place = {genome.tobytes(): i for i, genome in enumerate(networks)}
        at = np.array([place[genome.tobytes()] for genome in found.data.genomes])
        ms[at], iqr[at] = found.data.ms, found.data.spread_ms
        costs = _measured_costs(problem, archive, rows, ms[owner])
        on_front = _still_on_front(costs, ms[owner], _latency_limit(problem))
        columns = {
            **table.columns,
            "latency_ms_measured": _column(ms[owner]),
            "latency_ms_iqr": _column(iqr[owner]),
            "on_verified_front": [
                bool(on) if known else None
                for on, known in zip(on_front, np.isfinite(ms[owner]), strict=True)
            ],
        }
        part = Prediction(expected.mean[at], expected.std[at])
        summary = _summary(part, ms[at] / scale) | {
            "seconds": round(found.seconds, 1),
            "drift": round(scale, 4),
            "mape_raw": float(100 * np.abs(part.mean / ms[at] - 1).mean()),
            "engine": found.facts["engine"],
            "adapted_with": predictor.facts.get("engine", found.facts["engine"]),
            "failed": dict(found.failed),
            "verified_front": int(on_front.sum()),
            "sitting": found.facts["sitting"],
        }
        limit = _latency_limit(problem)
        if limit is not None:
            summary |= {"limit": limit, "holds": int((ms[at] <= limit).sum())}
        kept = np.flatnonzero(on_front)
        verified = FrontTable(
            {name: [values[row] for row in kept] for name, values in columns.items()},
            (*table.objectives, "latency_ms_measured"),
            pareto.knee(costs[kept]) if len(kept) else 0,
            table.limits,
        )
        return Verification(replace(table, columns=columns), verified, summary)

    return verify


def _spread(latency: Floats, count: int, must: int) -> Ints:
    """Rows at even ranks of latency, the fastest, the slowest and `must` among them."""
    order = np.argsort(latency, kind="stable")
    ranks = np.unique(np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int))
    rows = order[ranks]
    if must not in rows:
        inner = rows[1:-1] if len(rows) > 2 else rows
        nearest = inner[np.argmin(np.abs(latency[inner] - latency[must]))]
        rows[rows == nearest] = must
    return rows


def _measured_costs(problem: Problem, archive: Archive, rows: Ints, ms: Floats) -> Floats:
    """(f, m) costs of the front with measured latencies, NaN where there are none."""
    names = [objective.name for objective in problem.evaluator.objectives]
    costs = archive.costs[rows].copy()
    if "latency_ms" in names:
        costs[:, names.index("latency_ms")] = ms
    return costs


def _still_on_front(costs: Floats, ms: Floats, limit: float | None) -> NDArray[np.bool_]:
    """(f,) measured members that meet the latency limit and that no other measured one dominates."""
    keep = np.isfinite(ms) & (ms <= (np.inf if limit is None else limit))
    if keep.any():
        keep[np.flatnonzero(keep)[~pareto.is_front(costs[keep])]] = False
    return keep


def _latency_limit(problem: Problem) -> float | None:
    return next((o.limit for o in problem.evaluator.limited if o.name == "latency_ms"), None)


def _summary(predicted: Prediction, ms: Floats) -> dict[str, Any]:
    low, high = predicted.interval(CONFIDENCE)
    return {
        "networks": len(ms),
        "mape": float(100 * np.abs(predicted.mean / ms - 1).mean()),
        "bias": float(100 * (predicted.mean / ms - 1).mean()),
        "covered": int(((low <= ms) & (ms <= high)).sum()),
    }


def _column(values: Floats) -> list[float | None]:
    return [float(f"{value:.5g}") if np.isfinite(value) else None for value in values]
