"""Tables of models: declared columns, repeats, spreads, and errors that name what is wrong."""

import csv

import numpy as np
import pytest

from search.noisy_axis import Normal, Repeats
from search.ranking.model_table import AxisColumns, Runs, Table

ROWS = [
    ["model", "family", "top1", "a", "b", "c", "sd"],
    ["small", "x", 70.0, 1.0, 1.1, 1.0, 0.1],
    ["middle", "x", 75.0, 2.0, 2.2, 2.0, 0.2],
    ["large", "y", 80.0, 4.0, 4.4, 8.0, 0.0],
]
TOP1 = {"name": "top1", "better": "higher", "column": "top1", "unit": "%", "scale": "logit", "images": 50_000}
MS = {"name": "ms", "better": "lower", "columns": ("a", "b", "c")}


def write(path, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return str(path)


@pytest.fixture
def file(tmp_path):
    return write(tmp_path / "models.csv", ROWS)


def table(file, *axes, **options):
    return Table(file=file, model="model", axes=axes or (TOP1, MS), **options)


def only(file, **axis):
    return table(file, TOP1, axis).models().axes[1]


def test_accuracy_has_the_binomial_error(file):
    axis = table(file).models().axes[0]
    assert axis.values == pytest.approx([0.70, 0.75, 0.80])
    drawn = axis.in_units(axis.draw(0, 0, 20_000))
    assert drawn.std(axis=0) == pytest.approx([np.sqrt(p * (1 - p) / 50_000) for p in axis.values], rel=0.03)


def test_declared_spreads(file):
    relative = only(file, name="ms", better="lower", column="a", spread=0.05)
    drawn = relative.in_units(relative.draw(0, 0, 20_000))
    assert np.log(drawn).std(axis=0) == pytest.approx(0.05, rel=0.03)
    absolute = only(file, name="ms", better="lower", column="a", spread_column="sd")
    assert absolute.noise[0].spread == pytest.approx([0.1, 0.1, 0.0])
    points = only(file, name="p", better="higher", column="top1", unit="%", scale="logit", spread=0.2)
    assert points.in_units(points.draw(0, 0, 20_000)).std(axis=0) == pytest.approx(0.002, rel=0.03)


def test_setups_are_drawn_together(file):
    axis = table(file).models().axes[1]
    (noise,) = axis.noise
    assert isinstance(noise, Repeats)
    seen = {tuple(row) for row in axis.in_units(axis.draw(0, 0, 200)).round(6).tolist()}
    assert seen == {(1.0, 2.0, 4.0), (1.1, 2.2, 4.4), (1.0, 2.0, 8.0)}
    each = only(file, **{**MS, "repeats": "each"})
    assert len({tuple(row) for row in each.draw(0, 0, 400).round(6).tolist()}) > 3


def test_what_all_models_share_is_no_error_of_their_own(tmp_path, rng):
    """Set-ups 30% apart, models 2% about that: the spread found is the 2%."""
    values = np.exp(rng.normal(0, 1, (200, 1)) + [0.0, 0.3, -0.3, 0.1] + rng.normal(0, 0.02, (200, 4)))
    rows = [["model", "top1", "a", "b", "c", "d"], *([i, 70, *row] for i, row in enumerate(values))]
    axis = only(
        write(tmp_path / "t.csv", rows),
        name="ms",
        better="lower",
        columns=("a", "b", "c", "d"),
        repeats="normal",
    )
    own, everyone = axis.noise
    assert isinstance(own, Normal)
    assert np.median(own.spread) == pytest.approx(0.02, rel=0.2)
    assert everyone.spread[0] == pytest.approx(np.std([0.0, 0.3, -0.3, 0.1]), rel=0.1)
    assert set(everyone.owner) == {0}


def test_models_of_one_family_share_the_error(file):
    axis = only(file, name="ms", better="lower", column="a", spread=0.3, error_of="family")
    ratio = axis.draw(0, 0, 100) - axis.costs
    assert np.allclose(ratio[:, 0], ratio[:, 1])
    assert not np.allclose(ratio[:, 0], ratio[:, 2])


def test_runs_in_a_table_of_their_own(tmp_path, file):
    runs = [["model", "device", "torch", "ips"]]
    runs += [
        ["small", "gpu", 1, 100],
        ["small", "gpu", 2, 120],
        ["small", "gpu", 2, 140],
        ["small", "cpu", 1, 5],
    ]
    runs += [["middle", "gpu", 1, 50], ["middle", "gpu", 2, 65], ["large", "gpu", 1, 20]]
    axis = {
        "name": "gpu",
        "better": "higher",
        "runs": {"column": "ips", "where": {"device": "gpu"}, "setup": ["torch"]},
    }
    found = table(file, TOP1, axis, runs=write(tmp_path / "runs.csv", runs), join=("model",)).models().axes[1]
    seen = np.unique(found.in_units(found.draw(0, 0, 100)).round(4), axis=0)
    assert seen.shape == (2, 3)
    assert seen[0] == pytest.approx([100, 50, 20])
    assert seen[1] == pytest.approx([130, 65, 26])  # large was not run: 1.3 times, as the others


def test_runs_without_setups_are_a_models_own(tmp_path, file):
    """small has two runs, middle three, large one: each shows its own."""
    runs = [
        ["model", "ms"],
        ["small", 1.0],
        ["middle", 2.0],
        ["small", 1.2],
        ["middle", 2.4],
        ["middle", 2.0],
    ]
    path = write(tmp_path / "runs.csv", [*runs, ["large", 9.0], ["other", 1.0]])
    axis = {"name": "t", "better": "lower", "repeats": "each", "runs": {"column": "ms"}}
    found = table(file, TOP1, axis, runs=path, join=("model",)).models().axes[1]
    drawn = found.in_units(found.draw(0, 0, 3000)).round(4)
    assert {tuple(np.unique(column)) for column in drawn.T} == {(1.0, 1.2), (2.0, 2.4), (9.0,)}
    assert (drawn[:, 1] == 2.0).mean() == pytest.approx(2 / 3, abs=0.04)
    with pytest.raises(ValueError, match="which columns of the runs make a set-up"):
        table(file, TOP1, {**axis, "repeats": "setups"}, runs=path, join=("model",))


def test_nothing_left_is_an_error(file):
    with pytest.raises(ValueError, match="has no rows with where="):
        table(file, where={"family": "z"}).models()


def test_rows_can_be_left_out(tmp_path):
    rows = [*ROWS, ["none", "y", "", 1.0, 1.0, 1.0, 0.1]]
    path = write(tmp_path / "t.csv", rows)
    with pytest.raises(ValueError, match=r"1 models have no value of top1, among them 'none'.*missing: drop"):
        table(path).models()
    assert table(path, missing="drop").models().names == ("small", "middle", "large")
    assert table(path, missing="drop", where={"family": "x"}).models().names == ("small", "middle")


@pytest.mark.parametrize(
    ("axis", "message"),
    [
        ({"better": None}, "axis ms has better=None; say better: higher or lower"),
        ({"better": "smaller"}, "better=smaller"),
        ({"column": "a", "columns": ()}, "say how noisy it is"),
        ({"column": "a"}, "one of column, columns or runs"),
        ({"columns": ("a", "z")}, "unknown column of .* 'z'"),
        ({"columns": ("a", "family")}, "column family of .* holds text"),
        ({"columns": ("a",)}, "one repeat tells no spread"),
        ({"spread": -0.1}, "greater than or equal to 0"),
        ({"spred": 0.1}, "spred"),
        ({"columns": (), "column": "a", "spread": 0.1, "images": 5}, "one of spread"),
        ({"images": 50}, "scale: logit"),
        ({"scale": "logit"}, "between 0 and 1"),
    ],
)
def test_bad_declarations_are_named(file, axis, message):
    with pytest.raises(ValueError, match=message):
        only(file, **{**MS, **axis})


@pytest.mark.parametrize(
    ("cell", "value", "message"),
    [
        ((1, 0), "middle", "model 'middle' is there twice"),
        ((1, 3), -1.0, "takes positive numbers"),
        ((1, 3), "inf", "has inf in row 0"),
        ((1, 2), 170.0, "between 0 and 1"),
        ((2, 2), 0.698, r"axis top1 is in %, but 'middle' has 0\.698: write percent for all models"),
    ],
)
def test_bad_cells_are_named(tmp_path, cell, value, message):
    rows = [list(row) for row in ROWS]
    rows[cell[0]][cell[1]] = value
    with pytest.raises(ValueError, match=message):
        table(write(tmp_path / "t.csv", rows)).models()


def test_bad_spread_cells_are_named(tmp_path):
    rows = [list(row) for row in ROWS]
    rows[2][6] = -0.2
    with pytest.raises(ValueError, match=r"the spread -0\.2 of row 1 must be 0 \(exact\) or more"):
        only(write(tmp_path / "t.csv", rows), name="ms", better="lower", column="a", spread_column="sd")


def test_runs_need_a_table(file):
    axis = AxisColumns(name="x", better="lower", repeats="each", runs=Runs(column="ips"))
    with pytest.raises(ValueError, match="name their file with runs="):
        table(file, TOP1, axis).models()
