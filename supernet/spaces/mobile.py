"""What the OFA mobile families share: five stages of 2-4 inverted-residual blocks, kernel and expansion per
block."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from supernet.arrays import Genomes, Ints
from supernet.layers import Activation, Kind, LayerBuilder, LayerTable, make_divisible
from supernet.space import Axis, Gate, SearchSpace

STAGES, BLOCKS = 5, 4  # elastic stages, and blocks per stage at full depth
KERNELS = (3, 5, 7)
EXPANDS = (3, 4, 6)
DEPTHS = (2, 3, 4)
RESOLUTIONS = tuple(range(128, 225, 4))
FINETUNE_EPOCHS = (0, 25, 75)  # OFA's published settings: none, #25, #75


def resolution_axis(values: tuple[int, ...] = RESOLUTIONS) -> Axis:
    return Axis("r", values, "r")


def finetune_axis() -> Axis:
    return Axis("finetune_epochs", FINETUNE_EPOCHS, "ft", deploy=True)


def block_stages(tail: int) -> list[tuple[int, int]]:
    """(stage, block in stage) of every block: five stages of four, then `tail` stages of one block that is
    always there."""
    return [divmod(i, BLOCKS) for i in range(STAGES * BLOCKS)] + [(STAGES + i, 0) for i in range(tail)]


def axes(tail: int = 0) -> tuple[Axis, ...]:
    """Resolution, 5 depths, a kernel and an expansion per block, fine-tuning epochs: 47 genes without
    tail."""
    places = block_stages(tail)
    depth = [Axis(f"d{s}", DEPTHS, "d", s) for s in range(STAGES)]
    kernel = [Axis(f"ks{i}", KERNELS, "k", stage) for i, (stage, _) in enumerate(places)]
    expand = [Axis(f"e{i}", EXPANDS, "e", stage) for i, (stage, _) in enumerate(places)]
    return (resolution_axis(), *depth, *kernel, *expand, finetune_axis())


def slots(tail: int = 0) -> tuple[tuple[int, int], ...]:
    """Slot i is block i: the genes of its kernel and of its expansion."""
    count = len(block_stages(tail))
    return tuple((1 + STAGES + i, 1 + STAGES + count + i) for i in range(count))


def gates(tail: int = 0) -> tuple[Gate, ...]:
    """Block b of a stage exists from depth b + 1 on, which is level b (levels 1, 2, 3 are depths 2, 3, 4)."""
    return tuple(
        Gate(gene, 1 + stage, block)
        for (stage, block), genes in zip(block_stages(tail), slots(tail), strict=True)
        for gene in genes
        if block >= 2
    )


def settings(space: SearchSpace, genomes: Genomes) -> list[dict[str, Any]]:
    """One dict per network for `set_active_subnet` of the `ofa` package (ks, e, d) plus the resolution r.

    Entries of absent blocks get the smallest value; the package ignores them.
    """
    kernel_genes, expand_genes = (list(genes) for genes in zip(*space.slots, strict=True))
    values = space.values(genomes)
    kernels = np.maximum(values[:, kernel_genes], KERNELS[0])
    expands = np.maximum(values[:, expand_genes], EXPANDS[0])
    depths = values[:, 1 : 1 + STAGES]
    if len(space.slots) > STAGES * BLOCKS:  # the package wants the depth of the one-block stages too
        ones = np.ones((len(genomes), len(space.slots) - STAGES * BLOCKS), np.int64)
        depths = np.concatenate([depths, ones], axis=1)
    return [
        {"r": [int(r)], "d": d.tolist(), "ks": k.tolist(), "e": e.tolist()}
        for r, d, k, e in zip(values[:, 0], depths, kernels, expands, strict=True)
    ]


def blocks(
    build: LayerBuilder,
    space: SearchSpace,
    genomes: Genomes,
    *,
    cin: int,
    widths: tuple[int, ...],
    strides: tuple[int, ...],
    squeeze: tuple[bool, ...],
    acts: tuple[Activation, ...],
) -> int:
    """Append the elastic blocks of all networks; widths, strides, squeeze and acts are per stage.

    Returns the channels of the last one.
    """
    for i, (stage, block) in enumerate(block_stages(len(widths) - STAGES)):
        kernel, expand = space.column(genomes, f"ks{i}"), space.column(genomes, f"e{i}")
        inverted_residual(
            build,
            cin,
            widths[stage],
            kernel=kernel,
            middle=make_divisible(cin * expand.astype(np.float64)),
            stride=strides[stage] if block == 0 else 1,
            squeeze=squeeze[stage],
            act=acts[stage],
            live=kernel > 0,
            slot=i,
        )
        cin = widths[stage]
    return cin


def inverted_residual(
    build: LayerBuilder,
    cin: int,
    cout: int,
    *,
    kernel: Ints,
    middle: Ints,
    stride: int,
    squeeze: bool,
    act: Activation,
    live: NDArray[np.bool_],
    slot: int,
) -> None:
    """MBConv block: expand, depthwise, squeeze-excite, project; a shortcut where the shapes agree."""
    held = cin * build.size**2 if stride == 1 and cin == cout else np.zeros(build.n, np.int64)
    build.add(Kind.CONV, cin, middle, act=act, live=live, slot=slot)
    build.add(
        Kind.CONV,
        middle,
        middle,
        kernel=kernel,
        stride=stride,
        groups=middle,
        held=held,
        act=act,
        live=live,
        slot=slot,
    )
    if squeeze:
        reduced = make_divisible(middle // 4)
        waiting = middle * build.size**2 + held  # the feature map waits for its scale
        gate: dict[str, Any] = dict(bias=1, norm=0, held=waiting, live=live, slot=slot, size=1)
        build.add(Kind.CONV, middle, reduced, act=Activation.RELU, **gate)
        build.add(Kind.CONV, reduced, middle, act=Activation.HARD_SIGMOID, **gate)
    build.add(Kind.CONV, middle, cout, held=held, live=live, slot=slot)


def build_space(
    name: str, layers: Callable[[SearchSpace, Genomes], LayerTable], *, tail: int = 0
) -> SearchSpace:
    """The OFA mobile space `name`, with `tail` one-block stages after the five elastic ones."""
    return SearchSpace(
        name=name,
        axes=axes(tail),
        gates=gates(tail),
        slots=slots(tail),
        make_layers=layers,
        make_settings=settings,
    )
