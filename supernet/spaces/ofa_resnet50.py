"""OFA-ResNet50 (weights of the `ofa` package, `ofa_resnet50`): elastic depth, bottleneck ratio and stage
widths."""

from typing import Any

import numpy as np

from supernet.arrays import Genomes, Ints
from supernet.axis import Axis, Gate
from supernet.layers import Activation, LayerBuilder, LayerKind, LayerTable, make_divisible
from supernet.options import FileName, checked
from supernet.space import SearchSpace
from supernet.spaces import mobile

BASE_DEPTHS = (2, 2, 4, 2)  # blocks per stage at depth 0
EXTRA = 2  # blocks that elastic depth can add to a stage
STAGE_WIDTHS = (256, 512, 1024, 2048)
STEM_WIDTH = 64
WIDTH_PERCENT = (65, 80, 100)
EXPAND_PERCENT = (20, 25, 35)
RESOLUTIONS = tuple(range(128, 225, 16))
BEYOND = (240, 256)  # OFA's accuracy predictor knows them
RELU = Activation.RELU
CLASSES = 1000
STAGES = len(BASE_DEPTHS)


def _channels(base: int) -> Ints:
    """(4,) channels behind each width level; level 0 is not used."""
    return np.concatenate([[0], make_divisible(base * np.array(WIDTH_PERCENT) / 100)])


def width_choices() -> list[list[int]]:
    """Of each width gene w0, w1, ... the channels that it stands for: stem, its middle, the stages."""
    middle = make_divisible(_channels(STEM_WIDTH)[1:] // 2)
    return [middle.tolist(), *(_channels(base)[1:].tolist() for base in (STEM_WIDTH, *STAGE_WIDTHS))]


@checked
def space(name: FileName) -> SearchSpace:
    """Stem with or without its middle convolution (d0), 0-2 extra blocks per stage, ratio .2/.25/.35, width
    .65/.8/1."""
    places = [(stage, block) for stage, base in enumerate(BASE_DEPTHS) for block in range(base + EXTRA)]
    depth = [Axis("d0", (0, 2), "d", 0), *(Axis(f"d{s + 1}", (0, 1, 2), "d", s + 1) for s in range(STAGES))]
    width = [Axis(f"w{i}", WIDTH_PERCENT, "w", i) for i in range(STAGES + 2)]
    expand = [Axis(f"e{i}", EXPAND_PERCENT, "e", stage) for i, (stage, _) in enumerate(places)]
    axes = (mobile.resolution_axis(RESOLUTIONS, BEYOND), *depth, *width, *expand, mobile.finetune_axis())
    first_depth, first_width = 1, 1 + len(depth)
    first_expand = first_width + len(width)
    gates = tuple(
        Gate(first_expand + i, first_depth + 1 + stage, block - BASE_DEPTHS[stage] + 2)
        for i, (stage, block) in enumerate(places)
        if block >= BASE_DEPTHS[stage]
    )
    # A block's cost depends on its ratio, the width of its stage and, for the first of a stage, the width
    # before it.
    block_slots = [
        (first_expand + i, first_width + 2 + stage, *((first_width + 1 + stage,) if block == 0 else ()))
        for i, (stage, block) in enumerate(places)
    ]
    stem_slots = [(first_depth, first_width, first_width + 1)]
    head_slots = [(first_width + 1 + STAGES,)]
    return SearchSpace(
        name=name,
        axes=axes,
        gates=gates,
        slots=tuple(block_slots + stem_slots + head_slots),
        make_layers=_layers,
        family="supernet.weights.ofa_families:ResNet50",
        make_settings=_settings,
    )


def _layers(space: SearchSpace, genomes: Genomes) -> LayerTable:
    build = LayerBuilder(len(genomes), space.column(genomes, "r"))
    level = {axis.name: genomes[:, j] for j, axis in enumerate(space.axes)}
    middle_stem = make_divisible(_channels(STEM_WIDTH)[level["w0"]] // 2)
    cin = _channels(STEM_WIDTH)[level["w1"]]
    stem, head = len(space.slots) - 2, len(space.slots) - 1
    build.add(LayerKind.CONV, 3, middle_stem, kernel=3, stride=2, act=RELU, slot=stem)
    keep = space.column(genomes, "d0") > 0
    held = middle_stem * build.size**2
    build.add(LayerKind.CONV, middle_stem, middle_stem, kernel=3, held=held, act=RELU, live=keep, slot=stem)
    build.add(LayerKind.CONV, middle_stem, cin, kernel=3, act=RELU, slot=stem)
    build.add(LayerKind.POOL, cin, cin, kernel=3, stride=2, norm=0, slot=stem)
    slot = 0
    for stage, base in enumerate(BASE_DEPTHS):
        cout = _channels(STAGE_WIDTHS[stage])[level[f"w{stage + 2}"]]
        for block in range(base + EXTRA):
            ratio = np.concatenate([[0.0], np.array(EXPAND_PERCENT) / 100])[level[f"e{slot}"]]
            middle = make_divisible(np.round(cout * ratio))
            stride = 2 if block == 0 and stage > 0 else 1
            live = level[f"e{slot}"] > 0
            # The package computes the shortcut first: its result waits beside the three convolutions.
            before, after = build.size, -(-build.size // stride)
            waits = cout * after**2 if block == 0 else cin * before**2
            first = waits if block == 0 else 0  # otherwise the shortcut is the input itself
            build.add(LayerKind.CONV, cin, middle, held=first, act=RELU, live=live, slot=slot)
            deep: dict[str, Any] = dict(kernel=3, stride=stride, held=waits, act=RELU, live=live, slot=slot)
            build.add(LayerKind.CONV, middle, middle, **deep)
            build.add(LayerKind.CONV, middle, cout, held=waits, live=live, slot=slot)
            if block == 0:  # the shortcut: average pool, then a convolution, while the input waits
                pool: dict[str, Any] = dict(kernel=stride, stride=stride, norm=0, size=before)
                build.add(LayerKind.POOL, cin, cin, **pool, live=live, slot=slot)
                build.add(LayerKind.CONV, cin, cout, size=after, held=cin * before**2, live=live, slot=slot)
            cin = cout
            slot += 1
    build.add(LayerKind.GLOBAL_POOL, cin, cin, norm=0, slot=head)
    build.add(LayerKind.LINEAR, cin, CLASSES, bias=1, norm=0, slot=head)
    return build.table()


def _settings(space: SearchSpace, genomes: Genomes) -> list[dict[str, Any]]:
    values = space.values(genomes)
    column = space.index
    depth = [column[f"d{i}"] for i in range(1 + STAGES)]
    expand = [column[f"e{i}"] for i in range(len(space.slots) - 2)]
    width = [column[f"w{i}"] for i in range(STAGES + 2)]
    ratios = np.maximum(values[:, expand], EXPAND_PERCENT[0]) / 100
    levels = genomes[:, width].astype(np.int64) - 1
    return [
        {"r": [int(r)], "d": d.tolist(), "e": e.tolist(), "w": w.tolist()}
        for r, d, e, w in zip(values[:, 0], values[:, depth], ratios, levels, strict=True)
    ]
