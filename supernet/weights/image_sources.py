"""Where images come from: scikit-learn's digits, a data set of torchvision, or a folder per class."""

import inspect
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from supernet.arrays import Ints
from supernet.registry import unknown_name

DIGITS_SIDE = 16
IMAGENET_MEAN: tuple[float, ...] = (0.485, 0.456, 0.406)
IMAGENET_STD: tuple[float, ...] = (0.229, 0.224, 0.225)
IMAGENET_CLASSES = 1000
WNIDS = Path(__file__).with_name("imagenet_wnids.txt")  # in the order of the outputs of published networks
UNREADABLE = (UnidentifiedImageError, Image.DecompressionBombError, Image.DecompressionBombWarning)
Pixels = Sequence[Any] | NDArray[np.uint8]  # one decoder per image, or (n, 3, S, S)


@dataclass(frozen=True)
class Source:
    """Labelled images; the first `training_rows` are those of the training part."""

    classes: tuple[str, ...]
    labels: Ints  # (n,)
    training_rows: int
    pixels: Pixels


@cache
def imagenet_wnids() -> tuple[str, ...]:
    """The 1,000 WordNet ids of ImageNet's classes (its folders' names), sorted, as networks number them."""
    return tuple(WNIDS.read_text().split())


def as_photos(source: Source) -> Source:
    """The same images, each decoded or made into a picture when it is asked for."""
    if not isinstance(source.pixels, np.ndarray):
        return source
    pictures = [_Picture(row) for row in source.pixels.transpose(0, 2, 3, 1)]
    return replace(source, pixels=pictures)


def digits() -> Source:
    """1,797 digits of 8 x 8 pixels, enlarged to 16 x 16."""
    from sklearn.datasets import load_digits

    data = load_digits()
    pixels = torch.from_numpy(data.images).float()[:, None] / 16
    size = (DIGITS_SIDE, DIGITS_SIDE)
    larger = torch.nn.functional.interpolate(pixels, size, mode="bilinear", align_corners=False)
    images = (255 * larger).round().clamp(0, 255).to(torch.uint8).expand(-1, 3, -1, -1).numpy()
    labels = data.target.astype(np.int64)
    return Source(tuple(str(name) for name in data.target_names), labels, len(labels), images)


def folder(root: Path) -> Source:
    """Images in folders that are named after their classes; a published test part keeps its place."""
    if not root.is_dir():
        raise ValueError(f"data.root={root} is no folder")
    train = root / "train" if (root / "train").is_dir() else root
    tests = [root / name for name in ("test", "val") if train != root and (root / name).is_dir()]
    classes, files, labels = _class_folders(train)
    training_rows = len(files)
    if tests:
        test_classes, test_files, test_labels = _class_folders(tests[0])
        if test_classes != classes:
            raise ValueError(
                f"{tests[0]} has other classes than {train}: {sorted({*test_classes} ^ {*classes})}"
            )
        files, labels = files + test_files, labels + test_labels
    return Source(classes, np.array(labels, np.int64), training_rows, [_File(path) for path in files])


def _class_folders(root: Path) -> tuple[tuple[str, ...], list[str], list[int]]:
    from torchvision.datasets.folder import IMG_EXTENSIONS

    classes = tuple(sorted(entry.name for entry in os.scandir(root) if entry.is_dir()))
    files: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        mine = sorted(str(path) for path in (root / name).rglob("*") if path.suffix.lower() in IMG_EXTENSIONS)
        if not mine:
            raise ValueError(f"{root / name} has no images ({', '.join(IMG_EXTENSIONS)})")
        files += mine
        labels += [label] * len(mine)
    return classes, files, labels


@dataclass(frozen=True, eq=False)
class _Picture:
    """An image in memory, (S, S, 3) pixels, as a picture when called."""

    pixels: NDArray[np.uint8]

    def __call__(self) -> Any:
        return Image.fromarray(np.ascontiguousarray(self.pixels))

    @property
    def size(self) -> tuple[int, int]:
        height, width, _ = self.pixels.shape
        return width, height


@dataclass(frozen=True)
class _File:
    """An image file, decoded when called."""

    path: str

    def __call__(self) -> Any:
        return self._opened("decoded", lambda image: image.convert("RGB"))

    @property
    def size(self) -> tuple[int, int]:
        return self._opened("read", lambda image: image.size)

    def _opened(self, verb: str, use: Any) -> Any:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)  # for 89 million pixels
                with Image.open(self.path) as image:
                    return use(image)
        except (*UNREADABLE, OSError, SyntaxError, ValueError) as error:
            raise ValueError(
                f"{self.path} cannot be {verb} as an image ({error}); mend or remove it"
            ) from error


def torchvision(name: str, root: Path, download: bool) -> Source:
    """The data set `name` of torchvision, with its training and its test part."""
    from torchvision import datasets

    if name not in datasets.__all__:
        raise unknown_name("data set", name, ["digits", "folder", *datasets.__all__])
    make = getattr(datasets, name)
    takes = inspect.signature(make).parameters
    if "train" in takes:
        options: list[dict[str, Any]] = [{"train": True}, {"train": False}]
    elif "split" in takes:
        options = [{"split": "train"}, {"split": "test"}]
    else:
        raise ValueError(f"torchvision's {name} has no training and test part: unpack it and use data=folder")
    if "download" in takes:
        options = [{**option, "download": download} for option in options]
    try:
        parts = [make(root, **option) for option in options]
    except (RuntimeError, OSError) as error:
        raise ValueError(
            f"torchvision's {name} is not in {root} ({error}); data.download=true fetches it"
        ) from error
    labels = np.concatenate([_labels(part) for part in parts])
    classes = tuple(str(c) for c in getattr(parts[0], "classes", range(int(labels.max()) + 1)))
    return Source(classes, labels, len(parts[0]), [_Item(p, row) for p in parts for row in range(len(p))])


def _labels(part: Any) -> Ints:
    for name in ("targets", "labels", "_labels"):
        if hasattr(part, name):
            return np.asarray(getattr(part, name), np.int64)
    return np.array([label for _, label in part], np.int64)


@dataclass(frozen=True, eq=False)
class _Item:
    """An image of a data set of torchvision, decoded when called."""

    dataset: Any
    row: int

    def __call__(self) -> Any:
        return self.dataset[self.row][0].convert("RGB")

    @property
    def size(self) -> tuple[int, int]:
        return self.dataset[self.row][0].size
