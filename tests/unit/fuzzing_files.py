"""Files made of good ones by one change each: what `test_fuzz` gives to the commands that read them.

`NONSENSE` is the written list of what no file may get away with. Of other changes, as of single bits, it is
open whether they can be noticed; they must not end in a traceback either.
"""

import csv
import gzip
import io
import json
import random
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import good_files
import numpy as np
import yaml
from fuzzing_networks import code_changes, graph_changes
from good_files import MAY_BE_MISSING, READERS
from safetensors import safe_open

from supernet.files import artifact

NONSENSE = {
    "damage": "a file that is empty, of another kind, packed, a folder, a link to itself, or not there",
    "latency": "a latency that is zero, negative, infinite or no number",
    "top1": "a top-1 below 0 or above 100, none, no number, or .7 among percentages",
    "twice": "two columns of one name, or one network with values that cannot be of one thing",
    "shape": "a table without header, rows or the column that is read, or with rows of unequal length",
    "network": "an architecture of another space, or none",
    "text": "a table in another encoding, or with another separator",
    "graph": "a network of operators, shapes or weights that cannot be, or with files elsewhere",
    "code": "a function of the user that is not there, fails, or returns no network",
}
Change = Callable[[Path], Any]
Rows = list[list[str]]


@dataclass(frozen=True)
class FileCase:
    """A folder of good files, one of them changed, and a command that reads it."""

    file: str  # that is changed
    what: str  # in words
    words: tuple[str, ...]  # the command
    change: Change
    nonsense: str = ""  # of NONSENSE, where it must be refused

    def __str__(self) -> str:
        return f"{self.file}: {self.what} [{' '.join(self.words)}]"


def file_cases(folder: Path, *names: str) -> list[FileCase]:
    """Every change of the named good files, or of all, each for one of the commands that read the file; of
    tables for all of them."""
    cases = []
    for name in names or READERS:
        seed, path, readers = zlib.crc32(name.encode()), folder / name, READERS[name]
        changes = [*damage(path, seed), *inside(path, seed)]
        for i, (what, change, nonsense) in enumerate(changes):
            excused = what in ("missing", "empty") and name in MAY_BE_MISSING
            words = readers[i % len(readers)]
            cases.append(FileCase(name, what, words, change, "" if excused else nonsense))
    for name, words, column, (kind, values) in TABLES:
        if names and name not in names:
            continue
        for what, change, nonsense in table_changes(column, kind, values):
            any_name = nonsense == "network" and name == "models.csv"  # whose models are called anything
            cases.append(FileCase(name, what, words, change, "" if any_name else nonsense))
    return cases


Named = Iterator[tuple[str, Change, str]]  # what, the change, and of which nonsense it is


def inside(path: Path, seed: int) -> Named:
    """What the content of a file may be besides damaged, by its suffix."""
    if path.suffix in (".yaml", ".json", ".config"):
        yield from document_changes(path, seed, 40)
    elif path.suffix in (".npz", ".safetensors"):
        yield from array_changes(path, seed, 20)
    elif path.suffix == ".onnx":
        yield from graph_changes()
    elif path.suffix == ".py":
        yield from code_changes()


def damage(path: Path, seed: int) -> Named:
    """What may happen to any file."""
    draw = random.Random(seed)

    def cut(share: float) -> Change:
        return lambda path: path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])

    def flipped(place: float) -> Change:
        def change(path: Path) -> None:
            content = bytearray(path.read_bytes())
            for i in range(3):
                content[(int(place * len(content)) + 7 * i) % len(content)] ^= 1 << (i + 1)
            path.write_bytes(content)

        return change

    def folder(path: Path) -> None:
        path.unlink()
        path.mkdir()

    whole: dict[str, Change] = {
        "empty": lambda path: path.write_bytes(b""),
        "text": lambda path: path.write_text("hello\n"),
        "noise": lambda path: path.write_bytes(random.Random(seed).randbytes(500)),
        "zeros": lambda path: path.write_bytes(bytes(2000)),
        "brackets": lambda path: path.write_text("[" * 5000),
        "missing": lambda path: path.unlink(),
        "a folder": folder,
        "a link to itself": lambda path: (path.unlink(), path.symlink_to(path.name)),
        "packed": lambda path: path.write_bytes(gzip.compress(path.read_bytes())),
    }
    for what, change in whole.items():
        if not (what == "packed" and path.suffix == ".gz"):
            yield what, change, "damage"
    yield "behind other bytes", lambda path: path.write_bytes(b"\x80\x04" + path.read_bytes()), ""
    yield "in front of other bytes", lambda path: path.write_bytes(path.read_bytes() + b"\0\1"), ""
    for share in (0.01, 0.3, 0.6, 0.95):
        yield f"cut off at {share:.0%}", cut(share), ""
    for _ in range(6):
        place = draw.random()
        yield f"three bits at {place:.1%}", flipped(place), ""


# ------------------------------------------------------------------------------------------------ tables

MS = ("latency", ["0", "-1", "-0.001", "inf", "-inf", "x", "1_000", "1e999", "3 ms"])
TOP1 = ("top1", ["-1", "101", "inf", ".7", "x", "", "nan"])
TABLES = [  # a table, a command that reads it, the column that it reads, and what must not be in that
    *(("rows.csv", words, "lat_ms", MS) for words in READERS["rows.csv"]),
    ("rows.csv", (*good_files.FIT, "what=accuracy", "column=top1"), "top1", TOP1),
    ("rows.csv", READERS["accuracy.npz"][0], "top1", TOP1),
    ("models.csv", good_files.RANK, "ms", MS),
    ("models.csv", good_files.RANK, "top1", TOP1),
]
STRANGE = (
    "",
    "x",
    "ofa_mbv3_w1.0 r160",
    "ofa_small",
    good_files.NETWORK.replace("r16", "r15"),
    "=1+1",
    "[1, 2]",
    "\u0660",
)


def table_changes(column: str, kind: str, values: list[str]) -> Named:
    """A table that is read by `column`, which may not have these values."""

    def cell(row: int, name: str, value: str) -> Callable[[Rows], Any]:
        def change(rows: Rows) -> None:
            rows[row][rows[0].index(name)] = value

        return change

    def column_twice(rows: Rows) -> None:
        at = rows[0].index(column)
        for i, row in enumerate(rows):
            row.append(str(float(row[at]) * 3) if i else row[at])

    def row_again(rows: Rows) -> None:
        again, at = list(rows[3]), rows[0].index(column)
        again[at] = str(float(again[at]) / 3)
        rows.append(again)

    def without(name: str) -> Callable[[Rows], Any]:
        return lambda rows: [["x" if one == name else one for one in rows[0]], *rows[1:]]

    def emptied(rows: Rows) -> None:
        for row in rows[1:]:
            row[rows[0].index(column)] = ""

    for value in values:
        for row in (1, 7, -1):
            yield f"{column} is {value!r} in row {row}", _rows(cell(row, column, value)), kind
    yield f"two columns {column}", _rows(column_twice), "twice"
    yield "a network twice, 3 times apart", _rows(row_again), "twice"
    yield f"{column} empty everywhere", _rows(emptied), "shape"
    shapes: dict[str, Callable[[Rows], Any]] = {
        "no rows": lambda rows: rows[:1],
        "no header": lambda rows: rows[1:],
        f"no column {column}": without(column),
        "no column architecture": without("architecture"),
        "a row too short": lambda rows: [*rows[:4], rows[4][:-1], *rows[5:]],
        "a row too long": lambda rows: [*rows[:4], [*rows[4], "1"], *rows[5:]],
        "an empty row inside": lambda rows: [*rows[:4], [], *rows[4:]],
    }
    for what, change in shapes.items():
        yield what, _rows(change), "shape"
    yield "one row", _rows(lambda rows: rows[:2]), ""
    for name in STRANGE:
        yield f"architecture {name!r}", _rows(cell(2, "architecture", name)), "network"
    yield "semicolons", lambda path: path.write_text(path.read_text().replace(",", ";")), "text"
    yield "UTF-16", lambda path: path.write_text(path.read_text(), "utf-16"), "text"
    yield "a byte-order mark", lambda path: path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes()), ""
    yield "lines of Windows", lambda path: path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n")), ""
    yield "no end of line", lambda path: path.write_text(path.read_text().rstrip("\n")), ""
    yield "empty lines at the end", lambda path: path.write_text(path.read_text() + "\n\n"), ""


def _rows(change: Callable[[Rows], Any]) -> Change:
    """Change the rows of a CSV, the header first."""

    def changed(path: Path) -> None:
        rows = list(csv.reader(io.StringIO(path.read_text())))
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(change(rows) or rows)
        path.write_text(text.getvalue())

    return changed


# ------------------------------------------------------------------------------- documents and arrays

JUNK = [None, -1, 0, float("nan"), float("inf"), 1e300, True, "", "x", "../x", [], [[]], {}, {"a": 1}, 2**70]
SPOILT: dict[str, Callable[[Any], Any]] = {
    "gone": lambda array: None,
    "flat": lambda array: array.ravel(),
    "shorter": lambda array: array[: len(array) // 2] if array.ndim else array,
    "turned": lambda array: array.T.copy(),
    "not a number": lambda array: np.full(array.shape, np.nan, np.float32),
    "of whole numbers": lambda array: array.astype(np.int64),
    "of text": lambda array: np.full(array.shape, "x"),
    "empty": lambda array: array[:0] if array.ndim else array,
}


def document_changes(path: Path, seed: int, most: int) -> Named:
    """Another value in a YAML or JSON file."""
    load, dump = (yaml.safe_load, yaml.safe_dump) if path.suffix == ".yaml" else (json.loads, json.dumps)
    for what, changed in value_changes(load(path.read_text()), seed, most):
        text = dump(changed)
        yield what, lambda path, text=text: path.write_text(text), ""


def value_changes(document: Any, seed: int, most: int) -> Iterator[tuple[str, Any]]:
    """(what, changed document): a value that is another, or gone; so many of all, drawn by `seed`."""
    draw, places = random.Random(seed), list(_places(document))
    for place in draw.sample(places, min(most, len(places))):
        changed = json.loads(json.dumps(document))
        node = changed
        for key in place[:-1]:
            node = node[key]
        value = draw.choice([*JUNK, "gone"])
        if value == "gone":
            del node[place[-1]]
        else:
            node[place[-1]] = value
        yield f"{'.'.join(map(str, place))} {value!r}", changed


def _places(node: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield (*at, key)
        yield from _places(value, (*at, key))


def array_changes(path: Path, seed: int, most: int) -> Named:
    """Another array or another fact in a file of ours, with a checksum that fits."""
    arrays, facts = _opened(path)
    draw = random.Random(seed)

    def write(arrays: dict[str, Any], facts: dict[str, Any]) -> Change:
        told = {name: value for name, value in facts.items() if name not in ("kind", artifact.CONTENT)}
        return lambda path: artifact.save(path, facts["kind"], arrays, told)

    for what, changed in value_changes(facts, seed, most):
        if isinstance(changed.get("kind"), str):
            yield f"fact {what}", write(arrays, changed), ""
    for name in draw.sample(sorted(arrays), min(most, len(arrays))):
        what = draw.choice([one for one in SPOILT if one != "of text" or path.suffix == ".npz"])
        array = SPOILT[what](arrays[name])
        others = {key: value for key, value in arrays.items() if key != name}
        yield f"array {name} {what}", write(others | ({} if array is None else {name: array}), facts), ""


def _opened(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arrays and facts of a file of ours, of whatever kind."""
    if path.suffix == ".safetensors":
        with safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return arrays, json.loads(file.metadata()["facts"])
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files if name != "facts"}
        return arrays, json.loads(str(file["facts"]))
