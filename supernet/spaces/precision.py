"""A space with one more gene: the precision in which a network is deployed, 32 bits (fp32) or 8 (int8)."""

from supernet.arrays import Genomes
from supernet.axis import Axis
from supernet.layers import LayerTable
from supernet.options import FileName, checked
from supernet.space import SearchSpace, get_space

BITS = (32, 8)


@checked
def space(name: FileName, base: str) -> SearchSpace:
    """The networks of the space `base`, each in both precisions; what was fitted for `base` applies here too.

    In the one-line name precision is the last word, b32 or b8.
    """
    bare = get_space(base)
    if bare.parent is not None:
        raise ValueError(f"base={base} is itself part of {bare.parent.name}: take that as the base")

    def layers(space: SearchSpace, genomes: Genomes) -> LayerTable:
        return bare.layers(genomes[:, : bare.d])

    return SearchSpace(
        name=name,
        axes=(*bare.axes, Axis("precision", BITS, "b", deploy=True)),
        gates=bare.gates,
        slots=bare.slots,
        make_layers=layers,
        parent=bare,
        make_parent_genomes=lambda space, genomes: genomes[:, : bare.d],
    )
