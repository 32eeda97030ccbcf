"""Tables: reading measurements (`.csv`, `.csv.gz`), where the public ones lie, and showing results."""

import csv
import gzip
import io
import json
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from supernet.registry import unknown_name

Columns = dict[str, NDArray[Any]]
LARGEST = 2**28  # characters of a table, unpacked; the largest public one has a fiftieth of that
COMPUTED = re.compile(
    r"('*)[=+\-@\t\r]"
)  # how a text begins that a spreadsheet takes for a formula, ours after '


def read_columns(path: str | Path) -> Columns:
    """One array per column: floats where every cell is a number or empty (NaN), else strings.

    ValueError for what is no table: without rows, with rows of another length, with a column twice. A mark of
    the byte order in front, as spreadsheets write it, and empty lines at the end are read over.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(
            f"no table {path}; give a .csv or .csv.gz file, or set OFA_FRONTIER_DATA to the folder of tables"
        )
    try:
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rt", newline="", encoding="utf-8-sig") as file:
            text = file.read(LARGEST + 1)
        if len(text) > LARGEST:
            raise ValueError(f"it has more than {LARGEST:,} characters")
        rows = list(csv.reader(io.StringIO(text, newline="")))
    except (OSError, EOFError, ValueError, zlib.error, csv.Error) as error:
        raise ValueError(
            f"{path} cannot be read as a table ({error}); give a .csv or .csv.gz in UTF-8"
        ) from error
    while rows and not rows[-1]:
        rows.pop()
    if len(rows) < 2:
        raise ValueError(f"{path} has no rows of data under its header; give a table with a row per network")
    if ragged := [i for i, row in enumerate(rows) if len(row) != len(rows[0])]:
        raise ValueError(
            f"{path}: line {ragged[0] + 1} has {len(rows[ragged[0]])} cells, the header {len(rows[0])}: "
            "give every row as many"
        )
    heads = [read_cell(cell) for cell in rows[0]]
    if twice := [name for name in heads if heads.count(name) > 1]:
        raise ValueError(f"{path} has the column {twice[0]!r} twice: rename one, or leave it out")
    return {name: _typed(cells) for name, cells in zip(heads, zip(*rows[1:], strict=True), strict=True)}


def _typed(cells: tuple[str, ...]) -> NDArray[Any]:
    try:
        return np.array([_number(cell) if cell else np.nan for cell in cells])
    except ValueError:
        return np.array([read_cell(cell) for cell in cells])


def write_cell(value: Any) -> Any:
    """A value for a CSV file: a text that a spreadsheet would compute gets ' in front, numbers stay numbers.

    >>> write_cell("=HYPERLINK(A1)"), write_cell("-1.5"), read_cell(write_cell("@home"))
    ("'=HYPERLINK(A1)", '-1.5', '@home')
    """
    if not isinstance(value, str) or value == "-" or not COMPUTED.match(value):
        return value
    try:
        float(value)
    except ValueError:
        return "'" + value
    return value


def read_cell(cell: str) -> str:
    """The text that `write_cell` wrote."""
    quoted = COMPUTED.match(cell)
    return cell[1:] if quoted and quoted[1] else cell


def _number(cell: str) -> float:
    """What a cell says; ValueError for text, also for text that only Python takes for a number (1_000)."""
    if "_" in cell:
        raise ValueError(f"{cell} is no number")
    return float(cell)


def select(columns: Columns, keep: NDArray[Any] | slice) -> Columns:
    return {name: values[keep] for name, values in columns.items()}


def column(columns: Columns, name: str, file: str | Path) -> NDArray[Any]:
    """The column of that name; ValueError with the nearest name of the file where there is none."""
    if name not in columns:
        raise unknown_name(f"column of {file}", name, columns)
    return columns[name]


def numbers(columns: Columns, name: str, file: str | Path) -> NDArray[np.float64]:
    """The finite numbers of a column, NaN for empty cells; ValueError with the first cell that is neither."""
    values = column(columns, name, file)
    if values.dtype.kind != "f":
        row, text = next(
            (i, cell) for i, cell in enumerate(values.tolist()) if _typed((cell,)).dtype.kind != "f"
        )
        raise ValueError(f"column {name} of {file} holds text, not numbers: row {row} has {text!r}")
    if np.isinf(values).any():
        row = int(np.argmax(np.isinf(values)))
        raise ValueError(f"column {name} of {file} has {values[row]} in row {row}; leave cells empty instead")
    return np.asarray(values, np.float64)


def data_dir(path: str | None = None) -> Path:
    """The folder of the public tables: `path`, else $OFA_FRONTIER_DATA, else ../shared/data beside the
    checkout."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    wanted = path or os.environ.get("OFA_FRONTIER_DATA") or str(beside)
    if not Path(wanted).is_dir():
        raise ValueError(
            f"no folder {wanted} with the public tables: this command fits or scores on raw measurements; "
            "set OFA_FRONTIER_DATA or data_dir=. Searching with the shipped predictors needs no data"
        )
    return Path(wanted)


def percent(columns: Columns, name: str, file: str | Path) -> NDArray[np.float64]:
    """A column of top-1 in percent, whether it was given as percent or as a fraction."""
    values = numbers(columns, name, file)
    if not (good := (values >= 0) & (values <= 100)).all():
        row = int(np.argmin(good))
        raise ValueError(
            f"column {name} of {file} has {values[row]:g} in row {row}: top-1 must be from 0 to 1, or from "
            "0 to 100, in every row"
        )
    if values.max(initial=0) > 1 and (few := (values > 0) & (values <= 1)).any():
        raise ValueError(
            f"column {name} of {file} is in percent and in fractions: row {int(np.argmax(few))} has "
            f"{values[few][0]:g}, the largest is {values.max():g}; write one of them for all rows"
        )
    return np.asarray(values * (100 if values.max(initial=0) <= 1 else 1), np.float64)


@contextmanager
def about(file: str | Path) -> Iterator[None]:
    """Errors in the block say which table they are about, if they do not name it themselves."""
    try:
        yield
    except ValueError as error:
        if str(file) not in str(error):
            error.add_note(f"in {file}")
        raise


def rounded(values: NDArray[np.float64] | Sequence[float], digits: int = 5) -> list[float]:
    """The values with so many significant digits, short to read."""
    return [float(f"{value:.{digits}g}") for value in values]


@dataclass(frozen=True, eq=False)
class Table:
    """Columns of equal length under their heads; one table for the terminal, for CSV and for Markdown.

    >>> print(Table({"model": ["a", "b"], "ms": [1.25, 13]}).markdown())
    | model | ms |
    |---|---:|
    | a | 1.25 |
    | b | 13 |
    """

    columns: Mapping[str, Sequence[Any]]

    @classmethod
    def from_rows(cls, heads: Sequence[str], rows: Iterable[Iterable[Any]]) -> "Table":
        """A table of rows, each as long as `heads`."""
        listed = [list(row) for row in rows]
        return cls({head: [row[i] for row in listed] for i, head in enumerate(heads)})

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def rows(self) -> list[dict[str, Any]]:
        """{head: value} of every row."""
        return [dict(zip(self.columns, row, strict=True)) for row in zip(*self.columns.values(), strict=True)]

    def csv(self) -> str:
        """Header and one line per row, the values as they are; texts are no formulas (`write_cell`)."""
        lines: list[str] = []
        # With this end of a line the writer quotes every text with a line break in it.
        writer = csv.writer(SimpleNamespace(write=lines.append), lineterminator="\r\n")
        for row in (self.columns, *zip(*self.columns.values(), strict=True)):
            writer.writerow(map(write_cell, row))
        return "".join(line.removesuffix("\r\n") + "\n" for line in lines)

    def json(self) -> str:
        """A list with an object per row, the values as they are."""
        return json.dumps(self.rows(), indent=1) + "\n"

    def _cells(self) -> dict[str, list[str]]:
        """As a person reads them: numbers with four significant digits."""
        return {head: [_shown(value) for value in column] for head, column in self.columns.items()}

    def markdown(self) -> str:
        """A Markdown table, numbers to the right."""
        cells = self._cells()
        rule = "".join("---:|" if _is_numeric(column) else "---|" for column in cells.values())
        head, *rows = (f"| {' | '.join(row)} |" for row in (cells, *zip(*cells.values(), strict=True)))
        return "\n".join([head, "|" + rule, *rows])

    def show(self) -> None:
        """Print one line per row, however narrow the terminal."""
        from rich.console import Console
        from rich.table import Table as Grid

        grid = Grid(box=None, pad_edge=False, header_style="bold")
        cells = self._cells()
        for head, column in cells.items():
            grid.add_column(head, justify="right" if _is_numeric(column) else "left", no_wrap=True)
        for row in zip(*cells.values(), strict=True):
            grid.add_row(*row)
        widths = (max(map(len, [head, *column])) + 2 for head, column in cells.items())
        Console(width=sum(widths), highlight=False).print(grid)


def _shown(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _is_numeric(cells: Sequence[str]) -> bool:
    """Whether cells are numbers, ranges, percentages or empty: then they line up at the right."""
    return all(re.fullmatch(r"[-+*\d.,% ]*(e[-+]\d+|nan|inf)?\**", cell) for cell in cells)
