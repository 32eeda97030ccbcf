"""Tables of models with (repeated) measurements, declared column by column in YAML, as `Comparison` to rank.

Letters: n models, r repeats.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from search.noisy_axis import NoisyAxis, Normal, Repeats, Scale, off_scale, on_scale
from search.ranking.efficiency import Comparison
from supernet.arrays import Floats, Ints
from supernet.files import artifact, tables
from supernet.files.tables import Columns, column, numbers
from supernet.options import NonNegativeFloat, PositiveInt, options

PRIOR_REPEATS = 4  # a model's own spread is pulled towards that of all models as if these were its repeats


@options
class Runs:
    """Which rows of the table of runs are the repeats of an axis, and which columns say what a set-up is."""

    column: str
    where: dict[str, str | float] = Field(default_factory=dict)
    setup: tuple[str, ...] = ()


@options
class AxisColumns:
    """One axis: where its values are, which way is better, and what is known of its noise.

    Values: one `column`, several `columns` (repeats), or `runs` (repeats in a table of their own). Noise: the
    repeats, used as `repeats` says - `setups`: a draw shows one of them, the same for all models; `each`: one
    per model; `normal`: spreads estimated from them - or a declared `spread` (relative on the log scale, else
    in the axis's unit), a `spread_column`, or the number of test `images` that an accuracy was counted on
    (binomial). Comparison with equal values in the column `error_of` share the error.
    """

    name: str
    better: str | None = None
    column: str | None = None
    columns: tuple[str, ...] = ()
    runs: Runs | None = None
    unit: str = ""
    scale: Scale = "log"
    repeats: Literal["setups", "each", "normal"] = "setups"
    spread: NonNegativeFloat | None = None
    spread_column: str | None = None
    images: PositiveInt | None = None
    error_of: str | None = None
    source: str = ""

    def __post_init__(self) -> None:
        if self.better not in ("higher", "lower"):
            raise ValueError(f"axis {self.name} has better={self.better}; say better: higher or lower")
        if sum((self.column is not None, bool(self.columns), self.runs is not None)) != 1:
            raise ValueError(f"axis {self.name}: give its values as one of column, columns or runs")
        declared = [self.spread is not None, self.spread_column is not None, self.images is not None]
        if sum(declared) > 1 or not (self.column is None or any(declared)):
            raise ValueError(
                f"axis {self.name}: say how noisy it is with one of spread (0 for exact values), "
                "spread_column, images, or with repeats as columns or runs"
            )
        as_setups = self.repeats == "setups" and not any(declared)
        if as_setups and self.runs is not None and not self.runs.setup:
            raise ValueError(
                f"axis {self.name}: say which columns of the runs make a set-up (setup: [..]), or that runs "
                "of different models have nothing in common (repeats: each, or normal)"
            )
        if self.images is not None and self.scale != "logit":
            raise ValueError(f"axis {self.name}: images= is for an accuracy, with scale: logit")


@options
class Table:
    """A CSV with a row per model. `models()` reads it.

    `views` are sets of axes to rank by (the first is the main one; without, all axes and every subset of at
    least two), `devices` sets of axes that each stand for one device. `public` files lie in the folder of
    public tables. `where` keeps rows with these values, `equal` those where two columns agree. Rows with a
    missing value are an error, or dropped.
    """

    file: str
    model: str
    axes: tuple[AxisColumns, ...]
    views: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    devices: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    runs: str | None = None
    join: tuple[str, ...] = ()
    where: dict[str, str | float] = Field(default_factory=dict)
    equal: tuple[str, str] | None = None
    missing: Literal["error", "drop"] = "error"
    public: bool = False
    data_dir: str | None = None
    title: str = ""
    note: str = ""

    def models(self) -> Comparison:
        """The models of the file; ValueError that names the column or the models for what cannot be used."""
        columns = self._read(self.file)
        columns = tables.select(columns, _matching(columns, self.where, self.file))
        if self.equal:
            first, second = (column(columns, name, self.file) for name in self.equal)
            columns = tables.select(columns, first == second)
        names = [str(name) for name in column(columns, self.model, self.file)]
        if not names:
            raise ValueError(f"{self.file} has no rows with where={self.where}, equal={self.equal}")
        runs = self._read(self.runs) if self.runs else {}
        values = {axis.name: self._values(axis, columns, runs) for axis in self.axes}
        gone = np.zeros(len(names), bool)
        for axis, repeats in values.items():
            absent = ~np.isfinite(repeats).any(axis=1)
            if absent.any() and self.missing == "error":
                raise ValueError(
                    f"{self.file}: {int(absent.sum())} models have no value of {axis}, among them "
                    f"{names[int(np.argmax(absent))]!r}; fill it in, or leave such models out with "
                    "missing: drop"
                )
            gone |= absent
        kept = np.flatnonzero(~gone)
        if len(kept) < 2:
            raise ValueError(f"{self.file}: {len(kept)} of {len(names)} models have all values; 2 are needed")
        columns = tables.select(columns, kept)
        with artifact.usable(Path(self.file), "table of models", "mend it, or leave the model out"):
            axes = tuple(self._axis(axis, values[axis.name][kept], columns) for axis in self.axes)
            return Comparison(tuple(names[row] for row in kept), axes, self.views, self.devices)

    def _read(self, name: str) -> Columns:
        return tables.read_columns(tables.data_dir(self.data_dir) / name if self.public else name)

    def _values(self, axis: AxisColumns, columns: Columns, runs: Columns) -> Floats:
        """(n, r) values, NaN where there is none; one column for an axis without repeats."""
        if axis.runs is None:
            listed = axis.columns or (str(axis.column),)
            return np.stack([numbers(columns, name, self.file) for name in listed], axis=1)
        if not runs or not self.join:
            raise ValueError(f"axis {axis.name} has runs: name their file with runs= and its key with join=")
        return _joined(axis.runs, columns, runs, self.join, str(self.runs))

    def _axis(self, axis: AxisColumns, values: Floats, columns: Columns) -> NoisyAxis:
        in_percent = axis.scale == "logit" and axis.unit == "%"
        if in_percent:
            self._check_percent(axis, values, columns)
        values = values / 100 if in_percent else values
        owner = np.arange(len(values))
        if axis.error_of is not None:
            owner = np.unique(column(columns, axis.error_of, self.file), return_inverse=True)[1].ravel()
        unit = "fraction" if in_percent else axis.unit
        middle = np.nanmedian(values, axis=1)
        about = NoisyAxis(axis.name, axis.better == "higher", axis.scale, middle, (), unit, axis.source)
        if axis.images is not None:
            spread = np.sqrt(middle * (1 - middle) / axis.images)
        elif axis.spread_column is not None:
            spread = _spreads(columns, axis, self.file) / (100 if in_percent else 1)
        elif axis.spread is not None:
            of_one = np.full(len(values), 0.01 if in_percent else 1.0)
            spread = axis.spread * (middle if axis.scale == "log" else of_one)
        else:
            return _with_repeats(about, values, owner, axis.repeats)
        slope = {"log": middle, "logit": middle * (1 - middle), "linear": 1}[axis.scale]
        return replace(about, noise=(Normal(spread / slope, owner),))

    def _check_percent(self, axis: AxisColumns, values: Floats, columns: Columns) -> None:
        """ValueError where some models of an axis in percent look like fractions."""
        few = ((values > 0) & (values <= 1)).any(axis=1)
        if few.any() and np.nanmax(values) > 1:
            row = int(np.argmax(few))
            name = str(column(columns, self.model, self.file)[row])
            raise ValueError(
                f"{self.file}: axis {axis.name} is in %, but {name!r} "
                f"has {np.nanmin(values[row]):g}: write percent for all models, or fractions and unit: "
                "fraction"
            )


def _with_repeats(axis: NoisyAxis, values: Floats, owner: Ints, how: str) -> NoisyAxis:
    """The axis with the noise that its (n, r) repeats show; NaN where one is missing.

    Additive model on the axis's scale: value = model + set-up + rest, by medians. A missing repeat is filled
    with model + set-up. `normal`: the rest gives a model's own spread, pulled towards the pooled one
    (variances weighted by degrees of freedom, PRIOR_REPEATS for the pool); set-ups are errors of all models.
    """
    values = values[:, np.isfinite(values).any(axis=0)]
    if values.shape[1] < 2:
        raise ValueError(f"axis {axis.name}: one repeat tells no spread; declare one with spread=")
    present = np.isfinite(values)
    for repeat in np.where(present, values, axis.values[:, None]).T:
        replace(axis, values=repeat)  # each must be allowed on the scale
    scaled = np.where(present, on_scale(np.where(present, values, 0.5), axis.scale), np.nan)
    model = np.nanmedian(scaled, axis=1, keepdims=True)
    setup = np.nanmedian(scaled - model, axis=0)
    model = np.nanmedian(scaled - setup, axis=1, keepdims=True)
    filled = np.where(present, scaled, model + setup)
    axis = replace(axis, values=off_scale(model[:, 0], axis.scale))
    if how == "setups":
        return replace(axis, noise=(Repeats(filled - model, np.zeros(len(values), np.int64)),))
    if how == "each":  # a model with fewer repeats shows those it has in turn
        turn = np.arange(values.shape[1]) % present.sum(axis=1, keepdims=True)
        order = np.take_along_axis(np.argsort(~present, axis=1, kind="stable"), turn, axis=1)
        return replace(axis, noise=(Repeats(np.take_along_axis(scaled, order, axis=1) - model, owner),))
    rest = np.where(present, scaled - model - setup, 0.0)
    freedom = np.maximum(present.sum(axis=1) - 1, 0)
    total = (rest**2).sum(axis=1)
    if not freedom.any():
        raise ValueError(f"axis {axis.name}: no model has two repeats; declare a spread=")
    usual = np.median(freedom[freedom > 0])
    # The median of a chi-square variable over its mean (Wilson and Hilferty): a few wild models do not count.
    pooled = np.median(total[freedom > 0] / freedom[freedom > 0]) / (1 - 2 / (9 * usual)) ** 3
    own = np.sqrt((total + PRIOR_REPEATS * pooled) / (freedom + PRIOR_REPEATS))
    of_all = Normal(np.full(len(values), np.std(setup)), np.zeros(len(values), np.int64))
    return replace(axis, noise=(Normal(own, owner), of_all))


def _joined(runs: Runs, columns: Columns, table: Columns, join: Sequence[str], file: str) -> Floats:
    """(n, r) the runs of each model, a column per set-up; the median where one was run more than once.

    Without set-ups the columns are a model's first run, its second, and so on.
    """
    keep = _matching(table, runs.where, file)
    table = tables.select(table, keep)
    if not keep.any():
        raise ValueError(f"{file} has no runs with {runs.where}")
    keys = _keys(table, join, file)
    setups = _keys(table, runs.setup, file) if runs.setup else _numbered(keys)
    places = {setup: j for j, setup in enumerate(dict.fromkeys(setups))}
    cells: dict[tuple[object, ...], list[list[float]]] = {}
    for key, setup, value in zip(keys, setups, numbers(table, runs.column, file), strict=True):
        cells.setdefault(key, [[] for _ in places])[places[setup]].append(value)
    empty: list[list[float]] = [[] for _ in places]
    rows = [cells.get(key, empty) for key in _keys(columns, join, file)]
    return np.array([[np.median(cell) if cell else np.nan for cell in row] for row in rows])


def _keys(columns: Columns, names: Sequence[str], file: str) -> list[tuple[object, ...]]:
    return list(zip(*(column(columns, name, file).tolist() for name in names), strict=True))


def _numbered(keys: Sequence[tuple[object, ...]]) -> list[tuple[object, ...]]:
    """How many equal keys come before each."""
    numbers: dict[tuple[object, ...], Iterator[int]] = defaultdict(count)
    return [(next(numbers[key]),) for key in keys]


def _matching(columns: Columns, where: Mapping[str, str | float], file: str) -> NDArray[np.bool_]:
    keep = np.ones(len(next(iter(columns.values()))), bool)
    for name, value in where.items():
        keep &= column(columns, name, file) == value
    return keep


def _spreads(columns: Columns, axis: AxisColumns, file: str) -> Floats:
    spread = numbers(columns, str(axis.spread_column), file)
    if not (spread >= 0).all():
        row = int(np.argmin(spread >= 0))
        raise ValueError(
            f"column {axis.spread_column} of {file}: the spread {spread[row]} of row {row} must be 0 (exact) "
            "or more"
        )
    return spread
