"""CompOFA (Sahni et al., 2021, arXiv 2104.12642): depth and expansion of a stage go together, a subset of
OFA-MobileNetV3."""

from __future__ import annotations

from typing import Any

import numpy as np

from supernet.arrays import Genomes
from supernet.layers import LayerTable
from supernet.space import Axis, Gate, SearchSpace
from supernet.spaces import mobile, ofa_mbv3

FIXED_KERNELS = (3,) * 4 + (5,) * 4 + (3,) * 8 + (5,) * 4  # MobileNetV3-Large's, per block


def space(name: str, width: float, elastic_kernel: bool, parent: str) -> SearchSpace:
    """Depth 2, 3, 4 of a stage comes with expansion 3, 4, 6 in all its blocks; kernels fixed or elastic.

    `parent` is the name of the OFA-MobileNetV3 space of the same width, whose predictors apply.
    """
    depth = tuple(Axis(f"d{s}", mobile.DEPTHS, "d", s) for s in range(mobile.STAGES))
    places = mobile.block_stages(0) if elastic_kernel else []
    kernel = tuple(Axis(f"ks{i}", mobile.KERNELS, "k", stage) for i, (stage, _) in enumerate(places))
    gates = tuple(Gate(6 + i, 1 + stage, block) for i, (stage, block) in enumerate(places) if block >= 2)
    if elastic_kernel:
        slots: tuple[tuple[int, ...], ...] = tuple((6 + i, 1 + stage) for i, (stage, _) in enumerate(places))
    else:
        slots = tuple((1 + s,) for s in range(mobile.STAGES))
    return SearchSpace(
        name=name,
        axes=(mobile.resolution_axis(), *depth, *kernel, mobile.finetune_axis()),
        gates=gates,
        slots=slots,
        make_layers=_layers,
        make_settings=_settings,
        parent=ofa_mbv3.space(parent, width),
        make_parent_genomes=_parent_genomes,
    )


def _parent_genomes(space: SearchSpace, genomes: Genomes) -> Genomes:
    """Depth level and expansion level are the same number (2, 3, 4 and 3, 4, 6 are levels 1, 2, 3)."""
    assert space.parent is not None
    columns = {axis.name: space.column(genomes, axis.name) for axis in space.axes}
    for i, (stage, _) in enumerate(mobile.block_stages(0)):
        columns[f"e{i}"] = np.array(mobile.EXPANDS)[genomes[:, 1 + stage] - 1]
        if f"ks{i}" not in space.index:
            columns[f"ks{i}"] = np.full(len(genomes), FIXED_KERNELS[i])
    return space.parent.encode(columns)


def _layers(space: SearchSpace, genomes: Genomes) -> LayerTable:
    """Layers of the parent.

    The slot of a layer is its block with elastic kernels, its stage with fixed ones.
    """
    assert space.parent is not None
    table = space.parent.layers(_parent_genomes(space, genomes))
    if len(space.slots) == mobile.STAGES:
        slot = np.where(table.slot >= 0, table.slot // mobile.BLOCKS, -1).astype(np.int32)
        table = table.with_slot(slot)
    return table


def _settings(space: SearchSpace, genomes: Genomes) -> list[dict[str, Any]]:
    assert space.parent is not None
    return space.parent.settings(_parent_genomes(space, genomes))
