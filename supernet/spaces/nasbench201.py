"""NAS-Bench-201 (Dong and Yang, 2020, arXiv 2001.00326): 15,625 cells, 32 x 32 images.

A latency benchmark here.
"""

from itertools import combinations

import numpy as np

from supernet.arrays import Genomes
from supernet.axis import Axis
from supernet.layers import LayerBuilder, LayerKind, LayerTable
from supernet.options import FileName, PositiveInt, checked
from supernet.space import SearchSpace

EDGES = ("op01", "op02", "op12", "op03", "op13", "op23")  # edge i -> j of the cell's four nodes
NONE, SKIP, CONV1, CONV3, POOL3 = range(5)
CHANNELS, CELLS, SIZE = (16, 32, 64), 5, 32


@checked
def space(name: FileName, classes: PositiveInt) -> SearchSpace:
    """Six edges, each none / skip / 1x1 / 3x3 convolution / 3x3 average pool; five cells per stage, three
    stages.

    Slots are pairs of edges: which branches run side by side decides the cost of a cell, not single edges.
    """
    return SearchSpace(
        name=name,
        axes=tuple(Axis(edge, tuple(range(5)), "op", i) for i, edge in enumerate(EDGES)),
        gates=(),
        slots=tuple(combinations(range(len(EDGES)), 2)),
        make_layers=lambda space, genomes: _layers(genomes, classes),
    )


def _layers(genomes: Genomes, classes: int) -> LayerTable:
    """Layers of the whole network.

    Edges whose operation is `none` or `skip` have none, as the benchmark counts them.
    """
    build = LayerBuilder(len(genomes), np.full(len(genomes), SIZE))
    operation = genomes.astype(np.int64) - 1
    build.add(LayerKind.CONV, 3, CHANNELS[0], kernel=3)
    for stage, channels in enumerate(CHANNELS):
        if stage:
            before, size = CHANNELS[stage - 1], build.size
            build.add(LayerKind.CONV, before, channels, kernel=3, stride=2)
            build.add(LayerKind.CONV, channels, channels, kernel=3)
            build.add(LayerKind.POOL, before, before, kernel=2, stride=2, norm=0, size=size)
            build.add(LayerKind.CONV, before, channels, norm=0, size=build.size)
        for _ in range(CELLS):
            for edge in range(len(EDGES)):
                chosen = operation[:, edge]
                weighted, pooled = (chosen == CONV1) | (chosen == CONV3), chosen == POOL3
                kernel = np.where(chosen == CONV1, 1, 3)
                held = 3 * channels * build.size**2  # the other nodes of the cell
                build.add(LayerKind.CONV, channels, channels, kernel=kernel, held=held, live=weighted)
                build.add(LayerKind.POOL, channels, channels, kernel=3, norm=0, held=held, live=pooled)
    build.add(LayerKind.GLOBAL_POOL, CHANNELS[-1], CHANNELS[-1], norm=1)
    build.add(LayerKind.LINEAR, CHANNELS[-1], classes, bias=1, norm=0)
    return build.table()
