"""Supernets in files: those that `make train` writes, and checkpoints of OFA's own training code.

A checkpoint of OFA is a pickle, of which only tensors are read (`weights_only`), or the same tensors as
`.safetensors`. It does not say its space: that follows from the shapes of its tensors.
"""

import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from supernet import registry
from supernet.files import artifact
from supernet.space import SearchSpace, get_space
from supernet.weights import family, network
from supernet.weights.image_sources import IMAGENET_CLASSES, IMAGENET_MEAN, IMAGENET_STD, imagenet_wnids
from supernet.weights.network import Trained
from supernet.weights.ofa_families import OfaFamily

Tensors = dict[str, torch.Tensor]
FOREIGN = (  # what reading something else as a checkpoint raises
    OSError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    SafetensorError,
    RuntimeError,
    EOFError,
    ValueError,
    KeyError,
    AttributeError,
    TypeError,
    MemoryError,
    RecursionError,
)


def load(path: Path, *, space: str | None = None) -> Trained:
    """The supernet in a file; `space` is the space it must be of, otherwise the file tells.

    ValueError that names the file when it is damaged, holds something else, or is of another space.

    >>> load(Path("ofa_mbv3_d234_e346_k357_w1.0")).resolution
    (128, 260)
    """
    if not path.is_file():
        raise ValueError(f"there is no file {path} with the weights of a supernet")
    trained = _of_ofa(path) if kind(path) is None else network.load(path)
    if space is not None and trained.space.name != space:
        raise ValueError(f"the weights in {path} are of {trained.space.name}, not of {space}")
    return trained


def kind(path: Path) -> str | None:
    """What a file of ours holds (supernet, subnet, ...); None for files of others."""
    if path.suffix != ".safetensors":
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            facts = json.loads((file.metadata() or {}).get("facts", "{}"))
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged or not a .safetensors file ({error}); left as it is") from error
    return str(facts["kind"]) if isinstance(facts, dict) and "kind" in facts else None


def _of_ofa(path: Path) -> Trained:
    tensors = _read(path)
    space, classes = _space_of(tensors, path)
    module = network.supernet(space, classes)
    renamed = _renamed(tensors, module.state_dict())
    network.fill(module, renamed, path)
    sides = space.axis("r").known  # trained to 224 px; the authors deploy subnets at larger sides too
    facts = {
        "space": space.name,
        "classes": classes,
        "resolution": [sides[0], sides[-1]],
        "mean": list(IMAGENET_MEAN),
        "std": list(IMAGENET_STD),
        "photos": True,
        "source": f"a checkpoint of OFA (github mit-han-lab/once-for-all): {path.name}",
    }
    if classes == IMAGENET_CLASSES:
        facts["labels"] = list(imagenet_wnids())
    return Trained(space, module, facts, artifact.checksum(path))


def _read(path: Path) -> Tensors:
    """The tensors of a checkpoint, by name, all of finite numbers."""
    artifact.check_packed(path)
    try:
        packed = path.suffix != ".safetensors"
        with warnings.catch_warnings(action="ignore"):  # of pickles that are refused anyway
            content = torch.load(path, map_location="cpu", weights_only=True) if packed else load_file(path)
    except FOREIGN as error:
        first = str(error).strip().partition("\n")[0]
        if isinstance(error, pickle.UnpicklingError):  # its own text says how to run what is in the file
            first = "it holds more than tensors, or is damaged"
        raise ValueError(
            f"{path} is truncated or no checkpoint that can be read safely ({type(error).__name__}: "
            f"{first}); give another"
        ) from error
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(one, torch.Tensor) for one in state.values()):
        raise ValueError(f"{path} holds no weights: expected a dict of tensors, or one under 'state_dict'")
    if not state:
        raise ValueError(f"{path} holds no weights: its dict of tensors is empty")
    if broken := [name for name, one in state.items() if not one.isfinite().all()]:
        raise ValueError(
            f"{path} is not usable: {broken[0]} holds NaN or infinite numbers; left as it is, give another"
        )
    return {str(name): tensor for name, tensor in state.items()}


def _space_of(tensors: Tensors, path: Path) -> tuple[SearchSpace, int]:
    """The space whose weight-sharing network has tensors of these shapes, and the number of classes."""
    classifiers = [one for name, one in tensors.items() if "classifier" in name and one.ndim == 2]
    shapes = _shapes(tensors)
    spaces = {space.name: space for name in registry.names("space") if (space := get_space(name).owner)}
    counts = {}
    for space in spaces.values():
        if space.family is None or not classifiers or not isinstance(family.of(space), OfaFamily):
            continue
        classes = len(classifiers[0])
        with torch.device("meta"):
            own = network.supernet(space, classes).state_dict()
        if _shapes(own) == shapes:
            return space, classes
        counts[space.name] = len(own)
    raise ValueError(
        f"{path} holds {len(tensors)} tensors that are the weights of none of the supernets known here "
        f"({', '.join(f'{name}: {count}' for name, count in counts.items()) or 'no classifier among them'})"
    )


def _shapes(tensors: Mapping[str, torch.Tensor]) -> list[tuple[int, ...]]:
    return sorted(tuple(tensor.shape) for tensor in tensors.values())


def _renamed(tensors: Tensors, own: Mapping[str, Any]) -> Tensors:
    """The tensors under the names of the network: OFA's code wrapped layers differently over the years."""
    names = {_plain(name): name for name in own}
    return {names.get(_plain(name), name): tensor for name, tensor in tensors.items()}


def _plain(name: str) -> str:
    """A name without wrappers: `blocks.1.mobile_inverted_conv.depth_conv.bn.bn.weight` as
    `blocks.1.conv.depth_conv.bn.weight`."""
    name = name.removeprefix("module.").replace(".mobile_inverted_conv.", ".conv.")
    return re.sub(r"\b(bn|conv|linear)\.\1\.", r"\1.", name)
