"""CompOFA (Sahni et al., 2021, arXiv 2104.12642): depth and expansion of a stage go together, a subset of
OFA-MobileNetV3."""

from dataclasses import replace

import numpy as np

from supernet.arrays import Genomes
from supernet.axis import Axis
from supernet.layers import LayerTable
from supernet.options import FileName, PositiveFloat, checked
from supernet.space import SearchSpace
from supernet.spaces import mobile, ofa_mbv3

DESIGN = ofa_mbv3.design(1.0)
PLACES = DESIGN.places
FIXED_KERNELS = (3,) * 4 + (5,) * 4 + (3,) * 8 + (5,) * 4  # MobileNetV3-Large's, per block


@checked
def space(name: FileName, width: PositiveFloat, elastic_kernel: bool, parent: str) -> SearchSpace:
    """Depth 2, 3, 4 of a stage comes with expansion 3, 4, 6 in all its blocks; kernels fixed or elastic.

    `parent` is the name of the OFA-MobileNetV3 space of the same width, whose predictors apply.
    """
    stages = range(DESIGN.elastic)
    places = PLACES if elastic_kernel else []
    kernels = range(1 + DESIGN.elastic, 1 + DESIGN.elastic + len(places))  # their genes
    return SearchSpace(
        name=name,
        axes=(
            mobile.resolution_axis(),
            *(Axis(f"d{s}", DESIGN.depths, "d", s) for s in stages),
            *(Axis(f"ks{i}", DESIGN.kernels, "k", stage) for i, (stage, _) in enumerate(places)),
            mobile.finetune_axis(),
        ),
        gates=tuple(
            gate
            for gene, place in zip(kernels, places, strict=True)
            for gate in DESIGN.gates(*place, (gene,))
        ),
        slots=tuple((gene, 1 + stage) for gene, (stage, _) in zip(kernels, places, strict=True))
        if elastic_kernel
        else tuple((1 + s,) for s in stages),
        make_layers=_layers,
        parent=ofa_mbv3.space(parent, width),
        make_parent_genomes=_parent_genomes,
    )


def _parent_genomes(space: SearchSpace, genomes: Genomes) -> Genomes:
    """Depth level and expansion level are the same number (2, 3, 4 and 3, 4, 6 are levels 1, 2, 3)."""
    columns = {axis.name: space.column(genomes, axis.name) for axis in space.axes}
    for i, (stage, _) in enumerate(PLACES):
        columns[f"e{i}"] = np.array(DESIGN.expands)[genomes[:, 1 + stage] - 1]
        columns.setdefault(f"ks{i}", np.full(len(genomes), FIXED_KERNELS[i]))
    return space.owner.encode(columns)


def _layers(space: SearchSpace, genomes: Genomes) -> LayerTable:
    """Layers of the parent, whose slot is their block with elastic kernels, their stage with fixed ones."""
    table = space.owner.layers(_parent_genomes(space, genomes))
    if len(space.slots) == DESIGN.elastic:
        slot = np.where(table.slot >= 0, table.slot // DESIGN.depths[-1], -1).astype(np.int32)
        table = replace(table, slot=slot)
    return table
