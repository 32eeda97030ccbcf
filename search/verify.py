"""Verification: members of the front are measured on the machine they were searched for.

Letters: f rows of the front, v networks measured. In a space with a precision gene each precision is measured
in its own sitting.

Predictions choose the front; measuring it says how far they were off, whether limits hold, and which members
still belong to it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from latency.measuring import session, summary
from latency.measuring.store import Store
from latency.predictors.by_precision import ByPrecision
from latency.predictors.interface import LatencyModel
from search import front_table, pareto
from search.archive import Archive
from search.front_table import FrontTable
from search.problem import Problem
from supernet.arrays import Floats, Genomes, Ints
from supernet.files.tables import rounded
from supernet.prediction import Prediction
from supernet.space import get_space

CONFIDENCE = 0.90  # of the intervals that are compared with the measurements


@dataclass(frozen=True, eq=False)
class Verification:
    """`table` is the front with the columns `latency_ms_measured`, `latency_ms_iqr` and `on_verified_front`
    (empty where a network was not measured); `front` its rows that are on the verified front; `summary` the
    figures."""

    table: FrontTable
    front: FrontTable
    summary: Mapping[str, Any]

    def lines(self) -> list[str]:
        """What measuring showed, for the terminal and the report."""
        s = self.summary
        lines = [
            f"measured {s['networks']} networks of the front in {s['seconds']:.0f} s: predictions were off "
            f"by {s['mape']:.1f}% with the machine's drift removed (bias {s['bias']:+.1f}%), "
            f"{s['mape_raw']:.1f}% with it ({s['covered']} of {s['networks']} inside their {CONFIDENCE:.0%} "
            "interval)",
            f"the machine was {abs(s['drift'] - 1):.1%} {'slower' if s['drift'] > 1 else 'faster'} than when "
            "the predictor was adapted (by the anchor subnets); limits are judged by what was measured now",
        ]
        if s["engine"] != s["adapted_with"]:
            lines.append(f"adapted with {s['adapted_with']}, measured with {s['engine']}: adapt again")
        if "limit" in s:
            holds = f"{s['holds']} of the {s['networks']}"
            lines.append(f"the limit of {s['limit']:g} ms holds for {holds} when measured")
        lines.append(f"{s['verified_front']} members form the verified front: verified_front.csv")
        return lines + [f"failed: {name}: {reason}" for name, reason in s["failed"].items()]


Verifier = Callable[[Problem, Archive, FrontTable], Verification]


def verifier(store: Store, count: int) -> Verifier:
    """Measures about `count` networks of a front, at even ranks of latency, extremes and knee included."""
    if count < 1:
        raise ValueError(f"verify={count} must be at least 1 network; verify=0 turns it off")

    def verify(problem: Problem, archive: Archive, table: FrontTable) -> Verification:
        rows = archive.front()
        parts, failed = _parts(problem, archive.genomes[rows], table.knee, count, store)
        ms, iqr = np.full((2, len(rows)), np.nan)
        for part in parts:
            ms[part.rows], iqr[part.rows] = part.ms, part.iqr
        measured = np.isfinite(ms)
        limit = next((o.limit for o in problem.evaluator.limited if o.name == "latency_ms"), None)
        costs = archive.costs[rows]
        if "latency_ms" in archive.objectives:
            costs[:, archive.objectives.index("latency_ms")] = ms
        on_front = measured & (ms <= (np.inf if limit is None else limit))
        if on_front.any():
            on_front[np.flatnonzero(on_front)[~pareto.is_front(costs[on_front])]] = False
        new = {
            "latency_ms_measured": rounded(ms),
            "latency_ms_iqr": rounded(iqr),
            "on_verified_front": on_front.tolist(),
        }
        # Cells of networks that were not measured stay empty.
        columns = table.columns | {
            name: [value if seen else None for value, seen in zip(values, measured, strict=True)]
            for name, values in new.items()
        }
        figures = _summary(parts, failed) | {"verified_front": int(on_front.sum())}
        if limit is not None:
            holds = sum(int((part.measured_ms <= limit).sum()) for part in parts)
            figures |= {"limit": limit, "holds": holds}
        kept = np.flatnonzero(on_front)
        knee, best = front_table.landmarks(costs[kept], archive.objectives)
        must = (knee, best) if table.limits else (knee,)
        size = sum(table.columns["shortlist"])
        verified = FrontTable(
            {name: [values[row] for row in kept] for name, values in columns.items()}
            | {"shortlist": front_table.marks(costs[kept], archive.reference, size, must)},
            (*table.objectives, "latency_ms_measured"),
            knee,
            table.limits,
            best,
        )
        return Verification(replace(table, columns=columns), verified, figures)

    return verify


@dataclass(frozen=True, eq=False)
class _Part:
    """The rows of a front that share a precision, and v of their networks as they were predicted and
    measured."""

    rows: Ints
    ms: Floats  # of the rows, NaN where not measured
    iqr: Floats
    predicted: Prediction  # (v,)
    measured_ms: Floats  # (v,)
    predictor: LatencyModel
    timed: session.Timed

    @property
    def drift(self) -> float:
        """How much slower the machine is than when the predictor was made."""
        return summary.relative_scale(self.timed.anchors_ms, self.predictor.facts.get("anchors_ms", {}))

    @property
    def engines(self) -> tuple[str, str]:
        """The engine that measured now, and the one that the predictor was made from."""
        now = str(self.timed.facts["engine"])
        return now, self.predictor.facts.get("engine", now)


def _parts(
    problem: Problem, genomes: Genomes, knee: int, count: int, store: Store
) -> tuple[list[_Part], dict[str, str]]:
    """Measure about `count` networks of the front, at least one of each precision on it, which has its own
    sitting. Returns what was measured and, by sitting or network, why the others failed.

    ValueError when nothing could be measured.
    """
    parts, failed = [], {}
    latency = problem.models.latency
    if latency is None:
        raise ValueError("nothing to verify: no objective or limit is a latency")
    whole = [(latency, np.ones(len(genomes), bool))]
    for predictor, mine in latency.parts(genomes) if isinstance(latency, ByPrecision) else whole:
        if not mine.any():
            continue
        rows, target = np.flatnonzero(mine), predictor.target
        space = get_space(target.space)
        bare = space.network(problem.space.embed(genomes[rows], space.name))
        networks, owner = np.unique(bare, axis=0, return_inverse=True)
        owner = owner.ravel()
        expected = predictor.predict(networks, target)
        share = max(1, round(count * len(rows) / len(genomes)))
        must = int(owner[rows.searchsorted(knee)]) if mine[knee] else None
        picked = _spread(expected.mean, share, must=must)
        try:
            timed = session.measure(target, networks[picked], store=store)
        except ValueError as error:
            failed[f"all of {target.precision}"] = str(error)
            continue
        failed |= {f"{name}, {target.precision}": why for name, why in timed.failed.items()}
        place = {genome.tobytes(): i for i, genome in enumerate(networks)}
        at = np.array([place[genome.tobytes()] for genome in timed.data.genomes])
        ms, iqr = np.full((2, len(networks)), np.nan)
        ms[at], iqr[at] = timed.data.ms, timed.data.spread_ms
        predicted = expected.take(at)
        parts.append(_Part(rows, ms[owner], iqr[owner], predicted, ms[at], predictor, timed))
    if not parts:
        raise ValueError("; ".join(f"{name}: {why}" for name, why in failed.items()))
    return parts, failed


def _spread(latency: Floats, count: int, must: int | None) -> Ints:
    """Rows at even ranks of latency, from three on the fastest, the slowest and `must` among them."""
    order = np.argsort(latency, kind="stable")
    ranks = np.unique(np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int))
    rows = order[ranks]
    if must is not None and must not in rows:
        inner = rows[1:-1] if len(rows) > 2 else rows
        nearest = inner[np.argmin(np.abs(latency[inner] - latency[must]))]
        rows[rows == nearest] = must
    return rows


def _summary(parts: Sequence[_Part], failed: Mapping[str, str]) -> dict[str, Any]:
    """Figures over all parts. The machine's drift since the sittings that the predictors were made from is no
    error of prediction; the limit and the verified front go by what was measured."""
    ms = np.concatenate([part.measured_ms for part in parts])
    undrifted = np.concatenate([part.measured_ms / part.drift for part in parts])
    mean = np.concatenate([part.predicted.mean for part in parts])
    low, high = np.concatenate([part.predicted.interval(CONFIDENCE) for part in parts], axis=1)
    now, then = next((p.engines for p in parts if p.engines[0] != p.engines[1]), parts[0].engines)
    return {
        "networks": len(ms),
        "mape": float(100 * np.abs(mean / undrifted - 1).mean()),
        "mape_raw": float(100 * np.abs(mean / ms - 1).mean()),
        "bias": float(100 * (mean / undrifted - 1).mean()),
        "covered": int(((low <= undrifted) & (undrifted <= high)).sum()),
        "seconds": round(sum(part.timed.seconds for part in parts), 1),
        "drift": round(max(parts, key=lambda part: abs(np.log(part.drift))).drift, 4),
        "engine": now,
        "adapted_with": then,
        "failed": dict(failed),
        "sittings": [part.timed.facts["sitting"] for part in parts],
    }
