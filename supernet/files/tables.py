"""Tidy tables of measurements (`.csv`, `.csv.gz`) and where the public ones lie."""

from __future__ import annotations

import csv
import gzip
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Columns = dict[str, NDArray[Any]]


def read_columns(path: str | Path) -> Columns:
    """One array per column: floats where every cell is a number or empty (NaN), else strings."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(
            f"no table {path}; give a .csv or .csv.gz file, or set OFA_FRONTIER_DATA to the folder of tables"
        )
    try:
        with gzip.open(path, "rt", newline="") if path.suffix == ".gz" else path.open(newline="") as file:
            rows = list(csv.reader(file))
    except (OSError, EOFError, UnicodeDecodeError, zlib.error, csv.Error) as error:
        raise ValueError(f"{path} cannot be read as a table ({error})") from error
    if len(rows) < 2:
        raise ValueError(f"{path} has no rows of data under its header")
    if ragged := [i for i, row in enumerate(rows) if len(row) != len(rows[0])]:
        raise ValueError(
            f"{path}: line {ragged[0] + 1} has {len(rows[ragged[0]])} cells, the header {len(rows[0])}"
        )
    return {name: _typed(cells) for name, cells in zip(rows[0], zip(*rows[1:], strict=True), strict=True)}


def _typed(cells: tuple[str, ...]) -> NDArray[Any]:
    try:
        return np.array([float(cell) if cell else np.nan for cell in cells])
    except ValueError:
        return np.array(cells)


def select(columns: Columns, keep: NDArray[Any] | slice) -> Columns:
    return {name: values[keep] for name, values in columns.items()}


def data_dir(given: str | None = None) -> Path:
    """The folder of the public tables: `given`, else $OFA_FRONTIER_DATA, else ../shared/data beside the
    checkout."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    wanted = given or os.environ.get("OFA_FRONTIER_DATA") or str(beside)
    if not Path(wanted).is_dir():
        raise ValueError(
            f"no folder {wanted} with the public tables: this command fits or scores on raw measurements; "
            "set OFA_FRONTIER_DATA or data_dir=. Searching with the shipped predictors needs no data"
        )
    return Path(wanted)


def percent(values: NDArray[Any]) -> NDArray[np.float64]:
    """Top-1 in percent, whether it was given as percent or as a fraction."""
    if values.dtype.kind != "f" or not np.isfinite(values).all() or values.min() < 0 or values.max() > 100:
        raise ValueError("top-1 must be numbers from 0 to 1 or from 0 to 100, none missing")
    return np.asarray(values * (100 if values.max() <= 1 else 1), np.float64)
