"""Where weights come from: what `weights=`, `evaluator.weights=` and `supernet=` of every command name.

runs/mine                        run folder of `make train`
FILE                             checkpoint of OFA's own training code, or a file of ours
ofa_mbv3_d234_e346_k357_w1.0     supernet that the OFA authors published; its space's name is enough
hf:OWNER/NAME[/FILE][@REVISION]  Hugging Face repository (extra `hub`)
random:SPACE                     nothing trained
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from supernet.files import artifact, run_folder
from supernet.registry import unknown_name
from supernet.space import get_space
from supernet.weights import network
from supernet.weights import subnet as subnets
from supernet.weights.image_sources import IMAGENET_MEAN, IMAGENET_STD
from supernet.weights.images import Images, ImageSet
from supernet.weights.network import Trained
from supernet.weights.origins import checkpoint, hub, published
from supernet.weights.subnet import Subnet

RANDOM = "random"
SUFFIXES = re.compile(r"(\.(pth|pt|ckpt|tar|safetensors))+$")


def find(weights: str) -> Path:
    """The file or folder that is meant, downloaded where it is a published name or a repository.

    ValueError for what is none of these.
    """
    here = Path(weights)
    if here.exists():
        return here
    if weights in published.names():
        return published.fetch(published.find(weights))
    if hub.is_repository(weights):
        return hub.fetch(weights)
    known = unknown_name("published supernet", weights, published.names())
    raise ValueError(f"weights={weights} is no folder, no file and no hf:OWNER/NAME: {known}")


def check_here(weights: str) -> None:
    """ValueError for weights that would be downloaded: where a file names them, nobody has asked for that."""
    one = published.names().get(weights)
    here = Path(weights).exists() or weights.partition(":")[0] == RANDOM
    if not here and (one is None or not one.path.is_file()):
        raise ValueError(f"the weights {weights} are not here, and no run folder starts a download")


def load(weights: str) -> Trained:
    """The supernet with the weights that are named; one that is `random` follows from its space alone.

    >>> load("ofa_mbv3_w1.0").facts["classes"]
    1000
    """
    if weights.partition(":")[0] == RANDOM:
        return _untrained(weights)
    meant = find(weights)
    if meant.is_dir():
        return network.load(meant)
    one = published.names().get(weights)
    return checkpoint.load(meant, space=None if one is None else one.space)


def find_any(weights: str) -> Trained | Subnet:
    """The supernet that is named, or the subnet when its folder or file is."""
    if weights.partition(":")[0] == RANDOM:
        return _untrained(weights)
    meant = find(weights)
    if not _is_subnet(meant):
        return load(weights)
    file = meant / subnets.FILE if meant.is_dir() else meant
    subnet = subnets.load(file)
    if subnet.facts.get("precision", "fp32") != "fp32":
        raise ValueError(
            f"{weights} is deployed in int8: its weights here are those before rounding, and the accuracy of "
            "its model is in its table.md; for fp32 name the folder of the step before"
        )
    return subnet.with_facts(sha256=artifact.checksum(file))


def _is_subnet(path: Path) -> bool:
    return (path / subnets.FILE).is_file() or (path.is_file() and checkpoint.kind(path) == subnets.KIND)


def _untrained(weights: str) -> Trained:
    _, _, name = weights.partition(":")
    if not name:
        raise ValueError(
            f"weights={weights} names no space: give random:SPACE, for instance random:ofa_small"
        )
    space = get_space(name).owner
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = network.supernet(space)
    sides = space.axis("r").known
    facts = {
        "space": space.name,
        "classes": space.classes,
        "resolution": [sides[0], sides[-1]],
        "mean": list(IMAGENET_MEAN),
        "std": list(IMAGENET_STD),
        "source": "random: nothing was trained",
    }
    return Trained(space, module, facts, f"random:{space.name}")


def images(weights: str, trained: Trained, data: ImageSet | None, *, judged: bool = True) -> Images:
    """The images that subnets are calibrated, judged and trained on, normalised as the weights know them.

    Those of `data`, else those that the supernet of a run folder was trained on. Their classes are numbered
    as the outputs of the network are; where images only calibrate (not `judged`) their labels do not count.
    ValueError where other weights come without `data`, and for images of other classes.
    """
    here = Path(weights)
    if data is None and here.is_dir():
        return Images.from_run_folder(here)
    if data is None:
        raise no_images(weights)
    facts = trained.facts
    if here.is_dir():
        facts = {"labels": list(Images.from_run_folder(here).classes), **facts}
    return _belonging(data, facts, weights, judged=judged)


def images_of_subnet(weights: str, subnet: Subnet, data: ImageSet | None) -> Images:
    """The images that a saved subnet is judged on: those of `data`, else those it was fine-tuned on."""
    here = Path(weights) if Path(weights).is_dir() else Path(weights).parent
    if data is None:
        settings = run_folder.settings(here) if (here / run_folder.CONFIG).is_file() else {}
        if "supernet" not in settings:
            raise no_images(weights)
        own = settings.get("data") is not None
        data = ImageSet.from_run_folder(here if own else Path(settings["supernet"]))
    facts = {**subnet.facts, "photos": subnet.facts.get("resize") == subnets.RESIZE_PHOTO}
    return _belonging(data, facts, weights, judged=True)


def _belonging(data: ImageSet, facts: Mapping[str, Any], weights: str, *, judged: bool) -> Images:
    """The images as weights with these facts see them."""
    loaded = data.load(photos=bool(facts.get("photos")))
    if judged and "labels" in facts:
        loaded = loaded.labelled(facts["labels"])
    elif judged and len(loaded.classes) != facts["classes"]:
        raise ValueError(
            f"the weights {weights} tell {facts['classes']} classes apart, data.source={data.source} has "
            f"{len(loaded.classes)}"
        )
    return replace(loaded, mean=tuple(facts["mean"]), std=tuple(facts["std"]))


def subnet(weights: str, architecture: str | None, data: ImageSet | None = None) -> Subnet:
    """The subnet `architecture` with the weights that `weights` names.

    `weights` is what this module knows, or the folder or file of one subnet, which names its own
    architecture. A subnet of a run folder comes with its accuracy on the test images; the norms of others are
    calibrated on the images of `data`. ValueError for a name with fine-tuning that the weights have not had.

    >>> subnet("runs/mine", "ofa_small r16 d1-1-1 k3-3-3 e2-2-2 ft0").facts["accuracy"]["top1"]
    """
    is_random = weights.partition(":")[0] == RANDOM
    if architecture is None and (is_random or weights in published.names()):
        raise ValueError(f"please give architecture=...: weights={weights} does not name one subnet")
    if architecture is not None and is_random:
        wanted = weights.partition(":")[2]
        if wanted and get_space(wanted).owner.name != subnets.parse(architecture)[0].owner.name:
            raise ValueError(f"{architecture!r} is of another space than weights={weights}")
        return subnets.random(architecture)
    if weights in published.names():
        check_images(weights, data)
    path = find(weights)
    if _is_subnet(path):
        saved = subnets.load(path)
        if architecture not in (None, saved.architecture):
            raise ValueError(f"{path} holds {saved.architecture!r}; leave architecture= out")
        return saved
    if architecture is None:
        raise ValueError(f"please give architecture=...: weights={weights} does not name one subnet")
    space, genome = subnets.parse(architecture)
    if epochs := int(space.column(genome, "finetune_epochs")[0]):
        raise ValueError(
            f"{architecture!r} is fine-tuned for {epochs} epochs, the subnets of {weights} are not: "
            f"make finetune ARGS=\"supernet={weights} architecture='{architecture}'\" first, then weights= "
            "its folder; or export ft0"
        )
    own = path.is_dir()  # a run folder
    if not own and data is None:
        raise no_images(weights)
    trained = load(weights)
    pictures = images(weights, trained, data, judged=own)
    extracted = subnets.from_supernet(trained, pictures, architecture)
    if not own:
        return extracted
    return extracted.with_quality(subnets.judge(extracted, pictures, "test"), "test")


def check_images(weights: str, data: ImageSet | None) -> None:
    """ValueError where weights that are downloaded come without images: before the download."""
    if data is None and (weights in published.names() or weights.startswith(hub.PREFIX)):
        raise no_images(weights)


def no_images(weights: str) -> ValueError:
    """The error where weights that bring no images come without any."""
    return ValueError(
        f"{weights} needs data=...: images like those that its subnets will see, for instance data=folder "
        "data.root=IMAGES (IMAGES/train/CLASS/*.jpg and IMAGES/val/CLASS/*.jpg)"
    )


def folder(weights: str) -> Path:
    """Where what is measured of these weights is kept unless a command says otherwise: the run folder itself,
    else a folder of their name in `runs`.

    >>> folder("ofa_mbv3_w1.0")
    PosixPath('runs/ofa_mbv3_d234_e346_k357_w1.0')
    """
    here = Path(weights)
    if here.is_dir() or here.name == network.FILE:
        return here if here.is_dir() else here.parent
    one = published.names().get(weights)
    name = one.file if one else here.name if here.exists() else re.sub(r"[/:@]+", "-", weights)
    return Path("runs") / SUFFIXES.sub("", name)
