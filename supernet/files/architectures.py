"""Architectures in files: a column of one-line names, a column per gene, or a list with a name per line.

Letters: n architectures, d genes.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from supernet.arrays import Floats, Genomes
from supernet.files import tables
from supernet.files.tables import Columns
from supernet.space import SearchSpace, get_space

COLUMN = "architecture"  # of one-line names


def space_of(names: Sequence[str]) -> SearchSpace:
    """The space that one-line names begin with: the larger one where some are of a part of it.

    >>> space_of(["ofa_small r16 d1-1-1 k3-3-3 e2-2-2 ft0"]).name
    'ofa_small'
    """
    spaces = {word: get_space(word) for word in dict.fromkeys((*name.split(), "")[0] for name in names)}
    largest = {(space if len(spaces) == 1 else space.owner).name for space in spaces.values()}
    if len(largest) != 1:
        raise ValueError(f"architectures of one space belong together, not of {', '.join(sorted(spaces))}")
    return get_space(largest.pop())


def parse(names: Sequence[str], space: SearchSpace) -> Genomes:
    """The (n, d) genomes of one-line names; they may be of a part of `space` (CompOFA of OFA-MobileNetV3).

    ValueError for an architecture of another space.
    """
    genomes = np.empty((len(names), space.d), np.int8)
    words = np.array([(*name.split(), "")[0] for name in names])
    for word in dict.fromkeys(words.tolist()):
        rows = np.flatnonzero(words == word).tolist()
        own = space if word == space.name else get_space(word)
        if space.name not in (own.name, own.owner.name):
            raise ValueError(f"the architecture {names[rows[0]]!r} is of another space than {space.name}")
        genomes[rows] = own.embed(own.parse([names[row] for row in rows]), space.name)
    return genomes


def genomes(columns: Columns, space: SearchSpace) -> Genomes:
    """The (n, d) genomes of the rows of a table: by its columns of genes, else by its column `architecture`.

    >>> genomes(tables.read_columns("runs/mine/front.csv"), get_space("ofa_mbv3_w1.2"))
    """
    has_genes = all(axis.name in columns for axis in space.axes if not axis.deploy)
    return space.encode(columns) if has_genes or COLUMN not in columns else parse(_names(columns), space)


def refuse_contradictions(
    genomes: Genomes,
    values: Floats,
    space: SearchSpace,
    column: str,
    apart: Callable[[Floats, Floats], NDArray[np.bool_]],
) -> None:
    """ValueError where the lowest and the highest of the values of one network are so far `apart` that they
    cannot be of the same thing."""
    networks, rows = np.unique(genomes, axis=0, return_inverse=True)
    low, high = np.full(len(networks), np.inf), np.full(len(networks), -np.inf)
    np.minimum.at(low, rows.ravel(), values)
    np.maximum.at(high, rows.ravel(), values)
    if (wrong := np.flatnonzero(apart(low, high))).size:
        one = wrong[:1]
        raise ValueError(
            f"rows contradict each other: {space.format(networks[one])[0]} has {column} {low[one][0]:g} and "
            f"{high[one][0]:g}; keep rows of one device, batch and setting, and the right one of each network"
        )


def _names(columns: Columns) -> list[str]:
    names = columns[COLUMN]
    if names.dtype.kind != "U":
        raise ValueError(f"the column {COLUMN} holds numbers, not one-line names")
    return [str(name) for name in names]


def space_of_rows(columns: Columns, file: str | Path) -> SearchSpace:
    """The space of the column `architecture` of a table; ValueError where the table has none."""
    if COLUMN not in columns:
        raise ValueError(f"please give space=...: {file} has no column {COLUMN} of one-line names")
    return space_of(_names(columns))


def read(path: Path) -> Columns:
    """A table with a column `architecture`, or a list with a name per line as such a table."""
    try:
        lines = [line.strip() for line in path.read_text().splitlines()]
    except (OSError, UnicodeDecodeError):
        lines = []  # compressed, or no file
    if not lines or "," in lines[0] or lines[0] == COLUMN:
        columns = tables.read_columns(path)
        return {**columns, COLUMN: np.array(_names({COLUMN: tables.column(columns, COLUMN, path)}))}
    if not all(line.isprintable() for line in lines):
        raise ValueError(f"{path} is no list of architectures: give one with a name per line")
    return {COLUMN: np.array([line for line in lines if line])}
