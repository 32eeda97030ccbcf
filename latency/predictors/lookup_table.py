"""Lookup table: latency as the sum of measured blocks (OFA, ProxylessNAS). The baseline that predictors
replace.

Reads the YAML files of OFA (one per resolution) and of ProxylessNAS, and tidy CSV files of the same entries.
Entries are looked up by shape, so a table serves every OFA mobile space whose blocks it holds; a missing
block is an error that names it, and resolutions that are not covered at all are left out.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from latency.predictors.slots import SlotLatency
from latency.target import Target
from supernet import choices, slot_table
from supernet.arrays import Floats, Ints
from supernet.files import tables
from supernet.layers import LayerKind, LayerTable, make_divisible
from supernet.slot_table import SlotTable
from supernet.space import SearchSpace, get_space

# The role, and the input side and channels, output side and channels, and of a block also the expanded
# channels, kernel, stride, whether it has a shortcut, and squeeze-and-excitation.
Entry = tuple[str, tuple[int, ...]]

ROLES = {
    "Conv": "stem",
    "first_conv": "stem",
    "expanded_conv": "block",
    "MBConv": "block",
    "Conv_1": "expand",
    "final_expand_layer": "expand",
    "AvgPool2D": "pool",
    "Conv_2": "mix",
    "feature_mix_layer": "mix",
    "Logits": "classifier",
    "classifier": "classifier",
}
KEY = re.compile(r"^(?P<layer>\w+)-input:(?P<input>[\dx]+)-output:(?P<output>[\dx]+)(?P<rest>.*)$")


def _entry(role: str, *sizes: int) -> Entry:
    if role in ("mix", "classifier", "pool"):  # sources disagree on whether the pooled side is written down
        return role, (0, sizes[1], 0, sizes[3])
    return role, sizes if role == "block" else sizes[:4]


@dataclass(frozen=True, eq=False)
class LookupTable:
    """Milliseconds per entry.

    `by_resolution` holds entries that were measured for one input resolution only.
    """

    entries: Mapping[Entry, float]
    by_resolution: Mapping[int, Mapping[Entry, float]]

    def predictor(self, target: Target, space: SearchSpace | None = None) -> SlotLatency:
        """The sums for all networks of `target.space` (or of `space`, a variant of it with other values).

        Resolutions between covered ones are interpolated. A table knows no uncertainty: 5% is assumed.

        ValueError where the table covers no resolution of the space; it names the first missing block.
        """
        space = space or get_space(target.space)
        check_space(space)
        resolutions = space.axis("r").values
        cells = np.zeros(slot_table.shape_of(space))
        base = np.zeros(len(resolutions))
        covered, missing = [], ""
        for level, r in enumerate(resolutions):
            try:
                ms = {**self.entries, **self.by_resolution.get(r, {})}
                cells[level], base[level] = _sums(space, level, ms)
                covered.append(r)
            except KeyError as error:
                missing = missing or f"r={r}: no {error.args[0]}"
        if not covered:
            raise ValueError(f"this table covers no network of {space.name}; {missing}")
        at = np.array(resolutions)
        listed = np.isin(at, covered)
        # OFA's tables exist for every fourth of our resolutions. A block's cost goes with the area of its
        # feature map, which rounds up in steps, so lines are drawn over that area (over the side: 9% off).
        area = slot_table.sides(space) ** 2
        for s in range(len(space.slots)):
            seen, first = np.unique(area[listed, s], return_index=True)
            for code in range(cells.shape[2]):
                cells[~listed, s, code] = np.interp(area[~listed, s], seen, cells[listed, s, code][first])
        base[~listed] = np.interp(at[~listed] ** 2, at[listed] ** 2, base[listed])
        entries = len(self.entries) + sum(map(len, self.by_resolution.values()))
        facts = {"method": "lookup_table", "covered": covered, "entries": entries}
        return SlotLatency(target, SlotTable(cells, base), 0.05, (covered[0], covered[-1]), facts)


def _sums(space: SearchSpace, level: int, ms: Mapping[Entry, float]) -> tuple[Floats, float]:
    """(S, C) ms of the blocks, and ms of all else, at one resolution; KeyError for a missing entry."""
    genomes, slots, codes = slot_table.slot_variants(space)
    genomes[:, space.index["r"]] = level + 1
    table = space.layers(genomes)
    cells = np.zeros((len(space.slots), space.slot_radix[1]))
    for i, (s, code) in enumerate(zip(slots, codes, strict=True)):
        cells[s, code] = ms[block_entry(table, i, np.flatnonzero((table.slot == s) & table.live[i]))]
    return cells, sum(ms.get(e, 0.0) if e[0] == "pool" else ms[e] for e, _ in fixed_entries(table))


def serves(space: SearchSpace) -> bool:
    """Whether the networks of a space are the chains of blocks that lookup tables are made for."""
    return space.name.split("_w")[0] in ("ofa_mbv3", "ofa_proxyless")


def check_space(space: SearchSpace) -> None:
    """ValueError for a space that lookup tables do not serve."""
    if not serves(space):
        raise ValueError(f"lookup tables of blocks serve the OFA mobile spaces, not {space.name}")


def block_entry(table: LayerTable, row: int, layers: Any) -> Entry:
    """The entry of one inverted-residual block: its layers in one row of a table."""
    first, last = layers[0], layers[-1]
    deep = next(layer for layer in layers if table.groups[row, layer] > 1)
    return _entry(
        "block",
        int(table.size[row, first]),
        int(table.cin[row, first]),
        int(table.out_size[row, last]),
        int(table.cout[row, last]),
        int(table.cout[row, deep]),
        int(table.kernel[row, deep]),
        int(table.stride[row, deep]),
        int(table.held[row, last] > 0),
        int(table.bias[row, layers].any()),
    )


def fixed_entries(table: LayerTable) -> Iterator[tuple[Entry, Ints]]:
    """Entries of the layers outside the elastic blocks (stem, first block, head), each with its layers."""
    stem, first, second, *head = np.flatnonzero(table.slot < 0)

    def plain(role: str, layer: Any) -> tuple[Entry, Ints]:
        columns = (table.size, table.cin, table.out_size, table.cout)
        return _entry(role, *(int(column[0, layer]) for column in columns)), np.array([layer])

    yield plain("stem", stem)
    yield block_entry(table, 0, [first, second]), np.array([first, second])
    for layer in head:
        kind, pooled = LayerKind(int(table.kind[0, layer])), table.size[0, layer] == 1
        role = {LayerKind.GLOBAL_POOL: "pool", LayerKind.LINEAR: "classifier"}
        yield plain(role.get(kind, "mix" if pooled else "expand"), layer)


def read(paths: Iterable[str | Path]) -> LookupTable:
    """A table from `.csv[.gz]` files, ProxylessNAS `.yaml`, or OFA `.yaml` files with the resolution in their
    name."""
    entries: dict[Entry, float] = {}
    by_resolution: dict[int, dict[Entry, float]] = {}
    for path in map(Path, paths):
        if not path.name.endswith((".csv", ".csv.gz", ".yaml", ".yml")):
            raise ValueError(f"{path} is no lookup table: expected .csv, .csv.gz or .yaml")
        reader = _read_yaml if path.suffix in (".yaml", ".yml") else _read_csv
        for resolution, entry, ms in reader(path):
            (entries if resolution is None else by_resolution.setdefault(resolution, {}))[entry] = ms
    return LookupTable(entries, by_resolution)


Read = Iterator[tuple[int | None, Entry, float]]  # the resolution, None for all; the entry; its milliseconds


def _read_yaml(path: Path) -> Read:
    content = choices.read_yaml(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} is no lookup table: expected a mapping of layers to mean latencies")
    named = re.search(r"_(\d{2,3})_lookup_table", path.name)
    for key, node in content.items():
        match = KEY.match(str(key))
        if match is None or match["layer"] not in ROLES or "mean" not in node:
            raise ValueError(
                f"{path}: cannot read the entry {key!r}; expected layer-input:HxWxC-output:HxWxC[-...], mean"
            )
        shape_in = [int(x) for x in match["input"].split("x")]
        shape_out = [int(x) for x in match["output"].split("x")]
        more = {k: int(v) for k, v in re.findall(r"-(\w+):(\d+)", match["rest"])}
        # ProxylessNAS writes the expansion factor, OFA the expanded channels; no width is as small as 8.
        expand, channels = more.get("expand", 0), (shape_in[-1], shape_out[-1])
        mid = int(make_divisible(channels[0] * expand)) if expand < 8 else expand
        inner = (more.get(name, 0) for name in ("kernel", "stride", "idskip", "se"))
        sizes = (shape_in[0], channels[0], shape_out[0], channels[1], mid, *inner)
        yield int(named[1]) if named else None, _entry(ROLES[match["layer"]], *sizes), float(node["mean"])


def _read_csv(path: Path) -> Read:
    columns = tables.read_columns(path)
    need = ("layer", "in_h", "in_c", "out_h", "out_c", "kernel", "stride", "idskip", "se", "mean_ms")
    if missing := [name for name in need if name not in columns]:
        raise ValueError(f"{path} is no lookup table: missing the columns {', '.join(missing)}")
    if "mid_c" not in columns:
        columns["mid_c"] = make_divisible(columns["in_c"] * np.nan_to_num(columns["expand"]))
    names = ("in_h", "in_c", "out_h", "out_c", "mid_c", "kernel", "stride", "idskip", "se")
    sizes = np.nan_to_num([columns[name] for name in names]).astype(int).T.tolist()
    resolutions = columns["resolution"].astype(int) if "resolution" in columns else repeat(None, len(sizes))
    rows = zip(resolutions, columns["layer"], sizes, columns["mean_ms"], strict=True)
    for resolution, layer, shape, ms in rows:
        if str(layer) not in ROLES:
            raise ValueError(f"{path}: unknown layer {layer!r}; known are {', '.join(ROLES)}")
        yield resolution, _entry(ROLES[str(layer)], *shape), float(ms)
