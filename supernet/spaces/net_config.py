"""Networks that were specialised from an OFA supernet, as `net.config` of the OFA authors describes them.

The file lists the layers of one network, as `ofa`'s `MobileNetV3`, `ProxylessNASNets` and `ResNets` write
them. It does not name the input side and the epochs of fine-tuning: `run.config` beside it and the name of
their folder do (github han-cai/files, ofa/ofa_specialized).
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from supernet import registry
from supernet.arrays import Genomes
from supernet.layers import make_divisible
from supernet.space import SearchSpace, get_space
from supernet.spaces import ofa_resnet50
from supernet.spaces.mobile import Design

FILE, RUN = "net.config", "run.config"
MOST_CHANNELS = 10_000  # of a block; the widest of the OFA supernets has 2,048
EPOCHS = re.compile(r"finetune[-@](\d+)")
Block = Mapping[str, Any]
Columns = dict[str, list[int]]


def from_config(
    config: Mapping[str, Any], *, side: int = 224, epochs: int = 0
) -> tuple[SearchSpace, Genomes]:
    """The space and the (1, d) genome of a network of the `ofa` package, from its `config`.

    `side` is its input side in pixels and `epochs` how long it was fine-tuned. ValueError where no space
    holds such a network.

    >>> space, genome = from_config(json.loads(Path("net.config").read_text()), side=236, epochs=75)
    >>> space.format(genome)
    """
    name = config.get("name")
    if not isinstance(name, str) or name not in READERS:
        raise ValueError(
            f"a network named {name!r} is none of the OFA supernets': it must be of {', '.join(READERS)}"
        )
    try:
        space, columns = READERS[name](config)
    except (LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise ValueError(
            f"the config of {name} has not the layout that ofa writes ({error!r}): give another"
        ) from error
    return space, space.encode({**columns, "r": [side], "finetune_epochs": [epochs]})


def read(path: Path, *, side: int | None = None, epochs: int | None = None) -> tuple[SearchSpace, Genomes]:
    """`from_config` of a file, or of a folder that holds `net.config`.

    Without `side` it is what `run.config` beside the file says; without `epochs`, what the folder is called
    (`..._finetune-25`), else 0.
    """
    path = path / FILE if path.is_dir() else path
    config, run = _json(path), path.with_name(RUN)
    if side is None:
        if not run.is_file():
            raise ValueError(f"{path} does not say the input side: put {RUN} of the network beside it")
        side = _json(run).get("image_size")
        if type(side) is not int:
            raise ValueError(
                f'{run} has no image_size that is a number of pixels: write {{"image_size": 224}}'
            )
    if epochs is None:
        named = EPOCHS.search(path.absolute().parent.name)
        epochs = int(named.group(1)) if named else 0
    try:
        return from_config(config, side=side, epochs=epochs)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def one_line_name(architecture: str) -> str:
    """The one-line name of an architecture that is given by it, or by the path of its `net.config`."""
    path = Path(architecture)
    if path.suffix != ".config" and not (path / FILE).is_file():
        return architecture
    space, genome = read(path)
    return space.format(genome)[0]


def _json(path: Path) -> Any:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} cannot be read as JSON ({error}); give a net.config as the OFA authors write it"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} describes no network: expected a JSON object")
    return content


def _mobile(config: Mapping[str, Any]) -> tuple[SearchSpace, Columns]:
    """Of a network of inverted-residual blocks; its widths say which space it is of."""
    blocks = [block.get("conv") or block["mobile_inverted_conv"] for block in config["blocks"]]
    stages = _stages(blocks[1:])
    widths = (config["first_conv"]["out_channels"], blocks[0]["out_channels"])
    widths += tuple(stage[0]["out_channels"] for stage in stages)
    spaces = [space for space in map(get_space, registry.names("space")) if isinstance(space.design, Design)]
    for space in spaces:
        if (space.design.stem, space.design.first, *space.design.widths) == widths:
            return space, _columns(space.design, stages)
    names = ", ".join(space.name for space in spaces)
    raise ValueError(f"no space of {config['name']} has the widths {widths}; there are {names}")


def _columns(design: Design, stages: Sequence[Sequence[Block]]) -> Columns:
    columns: Columns = {f"d{s}": [len(stages[s])] for s in range(design.elastic)}
    for i, (stage, place) in enumerate(design.places):
        block = stages[stage][place] if place < len(stages[stage]) else None
        columns[f"ks{i}"] = [block["kernel_size"] if block else 0]
        columns[f"e{i}"] = [_ratio(block, block["in_channels"], design.expands) if block else 0]
    return columns


def _resnet(config: Mapping[str, Any]) -> tuple[SearchSpace, Columns]:
    space = get_space("ofa_resnet50")
    stem, stages = config["input_stem"], _stages(config["blocks"])
    if len(stages) != len(ofa_resnet50.BASE_DEPTHS):
        raise ValueError(f"a network of {len(stages)} stages is none of {space.name}")
    widths = [stem[0]["out_channels"], stem[-1]["out_channels"]]
    widths += [stage[0]["out_channels"] for stage in stages]
    columns: Columns = {"d0": [2 if len(stem) > 2 else 0]}
    for i, (width, choices) in enumerate(zip(widths, ofa_resnet50.width_choices(), strict=True)):
        columns[f"w{i}"] = [ofa_resnet50.WIDTH_PERCENT[choices.index(width)] if width in choices else width]
    i = 0
    for s, (base, stage) in enumerate(zip(ofa_resnet50.BASE_DEPTHS, stages, strict=True)):
        columns[f"d{s + 1}"] = [len(stage) - base]
        for place in range(base + ofa_resnet50.EXTRA):
            block = stage[place] if place < len(stage) else None
            ratios = tuple(percent / 100 for percent in ofa_resnet50.EXPAND_PERCENT)
            ratio = _ratio(block, block["out_channels"], ratios) if block else 0.0
            columns[f"e{i}"] = [round(100 * ratio)]
            i += 1
    return space, columns


def _stages(blocks: Sequence[Block]) -> list[list[Block]]:
    """Blocks one after another with as many channels: no two stages in a row are equally wide."""
    stages: list[list[Block]] = []
    for block in blocks:
        if not stages or stages[-1][0]["out_channels"] != block["out_channels"]:
            stages.append([])
        stages[-1].append(block)
    return stages


def _ratio(block: Block, channels: int, choices: Sequence[float]) -> Any:
    """The expansion of a block by its channels in the middle, which a config may round; else as it says."""
    if not isinstance(channels, int) or not 0 < channels <= MOST_CHANNELS:
        raise ValueError(f"a block of {channels!r} channels: expected a whole number up to {MOST_CHANNELS}")
    middle = block.get("mid_channels")
    fitting = [ratio for ratio in choices if int(make_divisible(np.round(channels * ratio))) == middle]
    stated = block.get("expand_ratio")
    return stated if stated in fitting or not fitting else fitting[0]


READERS: Mapping[str, Callable[[Mapping[str, Any]], tuple[SearchSpace, Columns]]] = {  # by name in the config
    "MobileNetV3": _mobile,
    "ProxylessNASNets": _mobile,
    "ResNets": _resnet,
}
