"""Measurements and a predictor of a device as a folder that others can use: tables, a predictor and a card.

The card says what a latency means nothing without: the device, engine and its version, precision, batch and
threads, how it was timed, what the device said of itself, how far the predictor is off, and the licence.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from latency.data import read_csv
from latency.measuring import jobs, summary
from latency.measuring.remote import runner
from latency.measuring.store import Store
from latency.predictors import interface
from latency.predictors.interface import LatencyPredictor
from latency.target import Target
from supernet.files import artifact, disk

FOLDER = "folder:"  # of predictor= and target=
CARD, README, PREDICTOR, SAMPLES, TESTS = (
    "card.json", "README.md", "predictor.npz", "samples.csv", "tests.csv",
)  # fmt: skip
SCORES = ("n", "mape", "spearman")  # of each row of the table of scores
KIND = "ofa-frontier measurements"
PRIVATE = ("host", "load", "jobs", "sitting", "free_memory")  # facts of a sitting that are nobody's business
PROTOCOL = (
    f"Subnets take turns in rounds of a new order each; a visit is {runner.WARM_UPS} warm-ups and "
    f"{runner.BURST} timed runs, of which the least counts: CPU time of the process with one thread, where "
    f"the engine tells it, else wall time. {jobs.ANCHORS} anchor subnets are visited in every round, and the "
    f"drift of rounds is divided out. A subnet is done when the standard error of its visits is below "
    f"{summary.AGREEMENT:.1%}, or after {jobs.USUAL.most} rounds."
)


def publish(run: Path, out: Path, *, store: Store, licence: str) -> dict[str, Any]:
    """Write the folder `out` of the run folder of an `adapt`, and return its card.

    ValueError for a run that was not measured by us, or of which facts that a latency needs are missing, and
    where `out` exists.
    """
    begun = [PREDICTOR, SAMPLES, TESTS, README]  # by a process that was killed before the card
    ours = {*begun, disk.LOCK, *(name + disk.ASIDE for name in (*begun, CARD))}
    if out.is_file() or (out.is_dir() and {file.name for file in out.iterdir()} - ours):
        raise ValueError(f"out={out} exists and is left alone; choose another")
    if not (run / PREDICTOR).is_file() or not (run / SAMPLES).is_file():
        raise ValueError(
            f"run={run} is no finished run of adapt: it lacks {PREDICTOR} or {SAMPLES}; give the out= of one"
        )
    predictor = interface.load(run / PREDICTOR)
    files = [name for name in (PREDICTOR, SAMPLES, TESTS) if (run / name).exists()]
    for name in files[1:]:
        read_csv(run / name, predictor.target, "lat_ms")  # a table of latencies of this target, or an error
    sittings = {sitting.id: sitting for sitting in store.sittings(predictor.target)}
    sitting = sittings.get(str(predictor.facts.get("sitting")))
    facts = {} if sitting is None else {k: v for k, v in sitting.facts.items() if k not in PRIVATE}
    errors = {"on_tests": _scores(run / "scores.json"), "left_out_mape": predictor.facts.get("left_out_mape")}
    card = {
        "kind": KIND,
        "conditions": {**predictor.target.conditions, "title": predictor.target.spec.title},
        "engine": predictor.facts.get("engine"),
        "protocol": PROTOCOL,
        "device": facts,
        "samples": predictor.facts.get("samples"),
        "errors": {**errors, "relative_std": predictor.relative_std},
        "licence": licence.strip(),
        "unix_time": None if sitting is None else sitting.unix_time,
    }
    if lacking := missing(card, predictor.target):
        raise ValueError(
            f"run={run} cannot be published, because a latency means nothing without {', '.join(lacking)}"
        )
    card["files"] = {name: hashlib.sha256((run / name).read_bytes()).hexdigest() for name in files}
    with disk.holding(out, leave=False):
        for name in files:
            artifact.write_bytes(out / name, (run / name).read_bytes())
        artifact.write_text(out / README, describe(card))
        artifact.write_json(out / CARD, card)  # last: without it the folder is none
    return card


def _scores(path: Path) -> dict[str, dict[str, float]]:
    """The scores that an adapt left, by what was scored; none where it had no tests."""
    if not os.path.lexists(path):
        return {}
    content = artifact.read_json(path)
    with artifact.usable(path, "table of scores"):
        rows = {
            str(name): {str(k): float(v) for k, v in row.items()} for name, row in content["table"].items()
        }
        if missing := [key for key in SCORES if not all(key in row for row in rows.values())]:
            raise KeyError(missing[0])
    return rows


def missing(card: Mapping[str, Any], target: Target) -> list[str]:
    """What a card lacks of the facts that make a latency meaningful."""
    errors = card["errors"]
    needed = {
        "the version of the engine": card["engine"],
        "the number of threads": target.threads,
        "the sitting in the store (store=, the one it was measured into)": card["device"],
        "an error (adapt with tests=, or more samples)": errors["on_tests"] or errors["left_out_mape"],
        "a licence: licence=CC-BY-4.0": card["licence"],
    }
    return [name for name, value in needed.items() if not value]


def describe(card: Mapping[str, Any]) -> str:
    """The card for people: a page of Markdown."""
    conditions = card["conditions"]
    about = {name: value for name, value in card["device"].items() if value not in (None, "", [], {})}
    both = {name: value for name, value in {**conditions, **about}.items() if value is not None}
    facts = [f"- {name}: {_line(value)}" for name, value in both.items()]
    rows = [
        f"| {name} | {scores['n']:.0f} | {scores['mape']:.1f} | {scores['spearman']:.3f} |"
        for name, scores in card["errors"]["on_tests"].items()
    ]
    table = ["| | tests | MAPE, % | Spearman |", "|---|---:|---:|---:|", *rows] if rows else []
    left_out = card["errors"]["left_out_mape"]
    said = f"Samples left out of the fit: {left_out:.1f}% off." if left_out is not None else ""
    parts = [
        f"# Latencies of {_line(conditions['space'])} on {_line(conditions['title'])}",
        f"{card['engine']}, {card['samples']} samples. Licence: {_line(card['licence'])}.",
        "\n".join(facts),
        "## How it was timed",
        card["protocol"],
        "## How far the predictor is off",
        "\n".join([*table, "", said]).strip(),
        "## How to use it",
        "`ofa-frontier search predictor=folder:PATH_OF_THIS_FOLDER` (or `predictor=hf:OWNER/NAME`).",
    ]
    return "\n\n".join(parts) + "\n"


def find(name: str) -> LatencyPredictor:
    """The predictor of `folder:PATH`, or of `hf:OWNER/NAME`; ValueError where the card does not fit it."""
    folder = Path(name.removeprefix(FOLDER)) if name.startswith(FOLDER) else _fetched(name)
    try:
        card = json.loads((folder / CARD).read_text())
        expected = card["files"][PREDICTOR] if card["kind"] == KIND else None
        content = (folder / PREDICTOR).read_bytes()
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"predictor={name} is no folder that publish has written ({error}); give its out="
        ) from error
    if hashlib.sha256(content).hexdigest() != expected:
        raise ValueError(
            f"predictor={name}: {PREDICTOR} is not the file that its card speaks of; repeat make publish"
        )
    return interface.load(folder / PREDICTOR)


def _fetched(name: str) -> Path:
    """The folder of a repository's files, from the cache where they are there already."""
    from supernet.weights.origins import hub

    repository, at, revision = name.partition("@")
    hub.fetch(f"{repository}/{CARD}{at}{revision}")
    return hub.fetch(f"{repository}/{PREDICTOR}{at}{revision}").parent


def _line(value: Any) -> str:
    """A value in one line of Markdown, of a file that somebody else may have written."""
    return " ".join(str(value).replace("|", "/").replace("<", "(").replace(">", ")").split())
