"""The supernets that the OFA authors published, trained on ImageNet."""

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch

from supernet.files import artifact
from supernet.registry import unknown_name
from supernet.space import get_space
from supernet.weights.image_sources import IMAGENET_MEAN, IMAGENET_STD
from supernet.weights.network import Trained, supernet

CACHE = Path.home() / ".cache" / "ofa-frontier"
_GITHUB = "https://raw.githubusercontent.com/han-cai/files/master/ofa/ofa_nets/"
URLS: Mapping[str, str] = {  # of the checkpoint of each space
    "ofa_mbv3_w1.0": f"{_GITHUB}ofa_mbv3_d234_e346_k357_w1.0",
    "ofa_mbv3_w1.2": f"{_GITHUB}ofa_mbv3_d234_e346_k357_w1.2",
    "ofa_proxyless_w1.3": f"{_GITHUB}ofa_proxyless_d234_e346_k357_w1.3",
    "ofa_resnet50": "https://drive.google.com/uc?export=download&id=1xy6VIPEHXqbbqNu3xEZUxhp5FbTVs5cQ",
}


def load(name: str, *, path: Path | None = None, sha256: str | None = None) -> Trained:
    """The ImageNet supernet of the OFA authors for the space `name`, from `path`, or downloaded.

    Their checkpoints are pickles: only tensors are read from them (`weights_only`). No checksum of them is
    published; with `sha256` the file must match.

    >>> load("ofa_mbv3_w1.0", path=Path("ofa_mbv3_d234_e346_k357_w1.0")).resolution
    (128, 260)
    """
    if name not in URLS:
        raise unknown_name("published supernet", name, URLS)
    if path is None:
        path = fetch(URLS[name], CACHE)
    elif not path.is_file():
        raise ValueError(f"no file {path} with the weights of {name}")
    checksum = artifact.checksum(path)
    if sha256 is not None and checksum != sha256:
        raise ValueError(
            f"{path} has the SHA-256 {checksum}, expected {sha256}: not the checkpoint that was meant"
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} is no checkpoint that can be read safely ({error})") from error
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    space = get_space(name)
    module = supernet(space)
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise ValueError(f"{path} holds no weights: expected a dict of tensors, or one under 'state_dict'")
    if len(state) != len(module.state_dict()):
        raise ValueError(
            f"{path} holds {len(state)} tensors, {name} has {len(module.state_dict())}: another network"
        )
    try:
        module.load_state_dict(state)
    except (AssertionError, ValueError, RuntimeError, KeyError) as error:
        raise ValueError(f"the weights in {path} are not those of {name} ({error})") from error
    sides = space.axis("r").known  # trained to 224 px; the authors deploy subnets at larger sides too
    facts = {
        "space": name,
        "classes": space.classes,
        "resolution": [sides[0], sides[-1]],
        "mean": list(IMAGENET_MEAN),
        "std": list(IMAGENET_STD),
        "source": "published by the OFA authors (github mit-han-lab/once-for-all)",
    }
    return Trained(space, module, facts, checksum)


def fetch(url: str, folder: Path) -> Path:
    """The file behind the URL, downloaded once into `folder`; ValueError that says how to go on without."""
    path = folder / url.rpartition("/")[2].replace("?", "_").replace("&", "_")
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(path), progress=False)
        except OSError as error:
            raise ValueError(
                f"{url} was not downloaded ({error}). Without a network: download it elsewhere and copy it "
                f"to {path}, or give its path"
            ) from error
    return path
