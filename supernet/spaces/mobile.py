"""What the OFA mobile families share: stages of inverted-residual blocks, with a kernel and an expansion per
block and a depth per stage."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from supernet.arrays import Genomes
from supernet.axis import Axis, Gate
from supernet.layers import Activation, LayerBuilder, LayerKind, LayerTable, make_divisible
from supernet.space import SearchSpace

RESOLUTIONS = tuple(range(128, 225, 4))
BEYOND = tuple(range(228, 261, 4))  # sides of specialised networks that the OFA authors published
FINETUNE_EPOCHS = (0, 25, 75)  # OFA's published settings: none, #25, #75


def resolution_axis(values: tuple[int, ...] = RESOLUTIONS, beyond: tuple[int, ...] = BEYOND) -> Axis:
    return Axis("r", values, "r", beyond=beyond)


def finetune_axis() -> Axis:
    return Axis("finetune_epochs", FINETUNE_EPOCHS, "ft", deploy=True)


@dataclass(frozen=True)
class Design:
    """What differs between the families. Widths, strides, squeeze and acts have one entry per stage.

    The first `elastic` stages have up to `depths[-1]` blocks each; stages after them have one block, which
    is always there. `stem` and `first` are the channels of the stem and of the first block, which is not
    elastic; `head` those of the last convolution and, where the family has them, of the features behind the
    pooling.
    """

    stem: int
    first: int
    widths: tuple[int, ...]
    head: tuple[int, ...]
    strides: tuple[int, ...]
    squeeze: tuple[bool, ...]
    acts: tuple[Activation, ...]
    outer: Activation  # of stem and head
    family: str = "supernet.weights.ofa_families:DesignedMobile"  # what builds the networks
    multiplier: float = 1.0  # of the widths, as the `ofa` package counts
    classes: int = 1000
    elastic: int = 5
    kernels: tuple[int, ...] = (3, 5, 7)
    expands: tuple[int, ...] = (3, 4, 6)
    depths: tuple[int, ...] = (2, 3, 4)
    resolutions: tuple[int, ...] = RESOLUTIONS
    beyond: tuple[int, ...] = BEYOND

    @property
    def places(self) -> list[tuple[int, int]]:
        """(stage, block in the stage) of every block that is elastic."""
        blocks = self.depths[-1]
        tail = range(self.elastic, len(self.widths))
        return [(s, b) for s in range(self.elastic) for b in range(blocks)] + [(s, 0) for s in tail]

    def space(self, name: str) -> SearchSpace:
        """The space of this design.

        Genes are the resolution, a depth per elastic stage, a kernel and an expansion per block, and the
        epochs of fine-tuning. Slot i is block i: the genes of its kernel and of its expansion.
        """
        places = self.places
        depth = [Axis(f"d{s}", self.depths, "d", s) for s in range(self.elastic)]
        kernel = [Axis(f"ks{i}", self.kernels, "k", stage) for i, (stage, _) in enumerate(places)]
        expand = [Axis(f"e{i}", self.expands, "e", stage) for i, (stage, _) in enumerate(places)]
        start = 1 + self.elastic
        slots = tuple((start + i, start + len(places) + i) for i in range(len(places)))
        return SearchSpace(
            name=name,
            axes=(resolution_axis(self.resolutions, self.beyond), *depth, *kernel, *expand, finetune_axis()),
            gates=tuple(
                gate for place, genes in zip(places, slots, strict=True) for gate in self.gates(*place, genes)
            ),
            slots=slots,
            make_layers=self._layers,
            make_settings=self._settings,
            family=self.family,
            design=self,
        )

    def gates(self, stage: int, block: int, genes: tuple[int, ...]) -> list[Gate]:
        """The gates of the genes of a block: block b of a stage exists where the depth is at least b + 1."""
        if block < self.depths[0]:
            return []
        return [Gate(gene, 1 + stage, self.depths.index(block + 1) + 1) for gene in genes]

    def _layers(self, space: SearchSpace, genomes: Genomes) -> LayerTable:
        build = LayerBuilder(len(genomes), space.column(genomes, "r"))
        inner = Activation.RELU if self.outer is Activation.HARD_SWISH else self.outer
        build.add(LayerKind.CONV, 3, self.stem, kernel=3, stride=2, act=self.outer)
        # The first block has a shortcut where it is as wide as the stem.
        held = self.stem * build.size**2 if self.stem == self.first else 0
        build.add(LayerKind.CONV, self.stem, self.stem, kernel=3, groups=self.stem, held=held, act=inner)
        build.add(LayerKind.CONV, self.stem, self.first, held=held)
        cin = self.first
        for slot, (stage, block) in enumerate(self.places):
            kernel, expand = space.column(genomes, f"ks{slot}"), space.column(genomes, f"e{slot}")
            middle = make_divisible(cin * expand.astype(np.float64))
            stride, cout, act = self.strides[stage] if block == 0 else 1, self.widths[stage], self.acts[stage]
            live: dict[str, Any] = dict(live=kernel > 0, slot=slot)
            # Expand, depthwise, squeeze-excite, project; a shortcut where the shapes agree.
            held = cin * build.size**2 if stride == 1 and cin == cout else np.zeros(build.n, np.int64)
            build.add(LayerKind.CONV, cin, middle, act=act, **live)
            deep: dict[str, Any] = dict(kernel=kernel, stride=stride, groups=middle, held=held, act=act)
            build.add(LayerKind.CONV, middle, middle, **deep, **live)
            if self.squeeze[stage]:
                reduced = make_divisible(middle // 4)
                waiting = middle * build.size**2 + held  # the feature map waits for its scale
                gate: dict[str, Any] = dict(bias=1, norm=0, held=waiting, size=1, **live)
                build.add(LayerKind.CONV, middle, reduced, act=Activation.RELU, **gate)
                build.add(LayerKind.CONV, reduced, middle, act=Activation.HARD_SIGMOID, **gate)
            build.add(LayerKind.CONV, middle, cout, held=held, **live)
            cin = cout
        build.add(LayerKind.CONV, cin, self.head[0], act=self.outer)
        build.add(LayerKind.GLOBAL_POOL, self.head[0], self.head[0], norm=0)
        for before, features in zip(self.head, self.head[1:], strict=False):
            build.add(LayerKind.CONV, before, features, norm=0, act=self.outer)
        build.add(LayerKind.LINEAR, self.head[-1], self.classes, bias=1, norm=0)
        return build.table()

    def _settings(self, space: SearchSpace, genomes: Genomes) -> list[dict[str, Any]]:
        """ks, e and d of each network, and its resolution r; absent blocks get the smallest value."""
        kernel_genes, expand_genes = (list(genes) for genes in zip(*space.slots, strict=True))
        values = space.values(genomes)
        kernels = np.maximum(values[:, kernel_genes], self.kernels[0])
        expands = np.maximum(values[:, expand_genes], self.expands[0])
        # The package wants the depth of the one-block stages too.
        ones = np.ones((len(genomes), len(self.widths) - self.elastic), np.int64)
        depths = np.concatenate([values[:, 1 : 1 + self.elastic], ones], axis=1)
        return [
            {"r": [int(r)], "d": d.tolist(), "ks": k.tolist(), "e": e.tolist()}
            for r, d, k, e in zip(values[:, 0], depths, kernels, expands, strict=True)
        ]
