"""Image data sets for supernets: scikit-learn's digits, torchvision's by name, folders of classes.

Letters: n images, b images of a batch, c classes, S side of images in memory, r side of a batch (pixels).

Four parts that a seed fixes: `train` (augmented, the only one that weights are fitted to), `val` (what
searches and surrogates look at), `calibration` (training images without augmentation, for batch norm) and
`test` (the published one where there is one; looked at once). Images of equal size that fit into memory are
decoded once; others are decoded batch by batch, in `workers` processes.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as checked_dataclass

from supernet.arrays import Ints, Rng
from supernet.registry import unknown_name

if TYPE_CHECKING:
    import torch

Part = Literal["train", "val", "calibration", "test"]
PARTS: tuple[Part, ...] = ("train", "val", "calibration", "test")
IN_MEMORY_BYTES = 2 * 10**9
SMALLEST_SIDE = 16  # a stem of stride 2 and three strided stages leave one pixel of it
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
STATISTICS_IMAGES = 2000  # training images that the normalisation is measured on
DIGITS_SIDE = 16
LARGER = 8 / 7  # shorter side of a photo relative to its central crop when it is tested, as OFA does
CROP_AREA, CROP_RATIO = (0.25, 1.0), (3 / 4, 4 / 3)  # of a random resized crop: share of the area, aspect
CROP_TRIES = 10


@checked_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ImageSet:
    """Which images, and how they are split and augmented: what `data=` of the commands builds.

    `source` is `digits`, `folder` (root/train/CLASS/* with root/test/CLASS/* or root/val/CLASS/*, or
    root/CLASS/*) or the name of a data set of torchvision (CIFAR10, SVHN, ...). `resolution` are the lowest
    and the highest input side in training.
    """

    source: str
    resolution: tuple[int, int]
    root: Path | None = None
    download: bool = False  # torchvision's data sets only
    train_images: Annotated[int, Field(ge=2)] | None = None  # at most as many, drawn with the split's seed
    val: Annotated[int, Field(ge=1)] = 1000  # images held out of the training part
    test: Annotated[float, Field(gt=0, lt=1)] = 0.25  # share held out where no test part is published
    calibration: Annotated[int, Field(ge=2)] = 1024
    split_seed: int = 0
    augment: Literal["none", "shift", "crop"] = "shift"  # shift: small images; crop: photos
    flip: bool = True
    workers: Annotated[int, Field(ge=0)] = 0  # processes that decode

    def __post_init__(self) -> None:
        low, high = self.resolution
        if not SMALLEST_SIDE <= low <= high:
            raise ValueError(
                f"data.resolution=[{low},{high}] must be [lowest,highest] with at least {SMALLEST_SIDE} "
                "pixels, the least that the stem allows"
            )

    def load(self) -> Images:
        """Read labels, split, and decode what fits into memory."""
        if self.source == "digits":
            return _arrange(self, *_digits())
        if self.root is None:
            raise ValueError(f"data.source={self.source} needs data.root=FOLDER")
        if self.source == "folder":
            return _arrange(self, *_folder(self.root))
        return _arrange(self, *_torchvision(self.source, self.root, self.download))


Pixels = Sequence[Any] | NDArray[np.uint8]  # one decoder per image, or (n, 3, S, S)


@dataclass(frozen=True)
class Batch:
    """The images of one forward pass, as a loader hands them to its workers. `rows` index all images."""

    rows: Ints
    side: int
    draws: NDArray[np.float64] | None  # (b, 8) uniform numbers of the augmentation; None: none


@dataclass(frozen=True, eq=False)
class Images:
    """Labels, parts and pixels. A data set for torch's DataLoader that answers whole `Batch`es at once."""

    settings: ImageSet
    classes: tuple[str, ...]
    labels: Ints  # (n,)
    parts: dict[Part, Ints]  # rows of each part
    source: Pixels = field(repr=False)
    mean: tuple[float, ...]  # of red, green and blue
    std: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def in_memory(self) -> bool:
        return isinstance(self.source, np.ndarray)

    @cached_property
    def frequencies(self) -> NDArray[np.float64]:
        """(c,) share of each class among the training images."""
        counts = np.bincount(self.labels[self.parts["train"]], minlength=len(self.classes))
        return counts / counts.sum()

    def facts(self) -> dict[str, Any]:
        """What a value measured on these images depends on."""
        settings = self.settings
        sizes = {part: len(rows) for part, rows in self.parts.items()}
        kept = ("source", "train_images", "val", "test", "calibration", "split_seed")
        return {
            **{name: getattr(settings, name) for name in kept},
            "root": str(settings.root) if settings.root else None,
            "classes": list(self.classes),
            "sizes": sizes,
            "mean": list(self.mean),
            "std": list(self.std),
        }

    def __getitems__(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """(b, 3, r, r) normalised images, channels last, and (b,) labels."""
        import torch

        if isinstance(self.source, np.ndarray):
            pixels = torch.from_numpy(self.source[batch.rows]).float().div_(255)
            pixels = _prepared(pixels, batch, self.settings)
        else:
            drawn = batch.draws if batch.draws is not None else [None] * len(batch.rows)
            images = [
                _cropped(self.source[row], batch.side, draws, self.settings)
                for row, draws in zip(batch.rows.tolist(), drawn, strict=True)
            ]
            pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float().div_(255)
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (self.mean, self.std))
        pixels = ((pixels - mean) / std).contiguous(memory_format=torch.channels_last)
        return pixels, torch.from_numpy(self.labels[batch.rows])

    def batches(self, part: Part, side: int, size: int, *, images: int | None = None) -> Loader:
        """All images of a part (or its first `images`) at one side, unaugmented, in batches of `size`."""
        rows = self.parts[part] if images is None else self.parts[part][:images]
        chunks = np.array_split(rows, max(1, -(-len(rows) // size)))
        return Loader(self, [Batch(chunk, side, None) for chunk in chunks])


@dataclass(frozen=True)
class Loader:
    """Iterates over the tensors of given batches, as often as it is asked to."""

    images: Images
    plan: Sequence[Batch]

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        from torch.utils.data import DataLoader

        workers = 0 if self.images.in_memory else self.images.settings.workers
        loader: Any = DataLoader(
            self.images,  # type: ignore[arg-type]
            batch_sampler=self.plan,  # type: ignore[arg-type]
            num_workers=workers,
            collate_fn=_as_it_is,
        )
        return iter(loader)


def _as_it_is(batch: Any) -> Any:
    return batch


def training_batches(
    images: Images,
    *,
    seed: int,
    epoch: int,
    batch: int,
    forward_batch: int,
    sides: Sequence[int],
    rank: int = 0,
    world: int = 1,
) -> Loader:
    """One epoch of `batch`es, each cut into forward passes of `forward_batch` images, of which process `rank`
    of `world` gets every `world`-th.

    A step has one of the input `sides`, the same for all processes. Order, sides and augmentation follow
    from (seed, epoch) alone, so neither a resume nor the number of processes changes what an image looks
    like. The images that do not fill a batch are left out of the epoch.
    """
    rng = np.random.default_rng([seed, epoch, 0])
    rows = rng.permutation(images.parts["train"])
    steps = len(rows) // batch
    drawn_sides = rng.choice(np.array(sides), size=steps)
    draws = rng.random((steps * batch, 8)) if images.settings.augment != "none" else None
    plan = []
    for start in range(0, steps * batch, forward_batch):
        if (start // forward_batch) % world == rank:
            inside = slice(start, start + forward_batch)
            drawn = None if draws is None else draws[inside]
            plan.append(Batch(rows[inside], int(drawn_sides[start // batch]), drawn))
    return Loader(images, plan)


def check_mixed(labels: Ints, frequencies: NDArray[np.float64]) -> None:
    """ValueError when a batch of labels (b,) holds far fewer classes than a random one would.

    Batch norm that is calibrated on images ordered by class learns the statistics of one class at a time: on
    CIFAR-10 that cost 10-14 points of accuracy.
    """
    expected = float((1 - (1 - frequencies) ** len(labels)).sum())
    found = len(np.unique(labels))
    if found < 0.5 * expected:
        raise ValueError(
            f"a calibration batch of {len(labels)} images holds {found} class(es) where a random one would "
            f"hold about {expected:.0f}: shuffle the images (an ordered list costs 10 points of accuracy)"
        )


# ---------------------------------------------------------------------- preparing pixels
def _prepared(pixels: torch.Tensor, batch: Batch, settings: ImageSet) -> torch.Tensor:
    """(b, 3, S, S) images in [0, 1] at the side of the batch, augmented where there are draws."""
    import torch
    from torch.nn import functional

    if batch.draws is not None:
        draws = torch.from_numpy(batch.draws).float()
        if settings.flip:
            flipped = draws[:, 0] < 0.5
            pixels = torch.where(flipped.view(-1, 1, 1, 1), pixels.flip(3), pixels)
        if settings.augment == "crop":
            return _resampled_crops(pixels, batch.side, batch.draws)
        pixels = _shifted(pixels, draws)
    if pixels.shape[-1] != batch.side:
        size = (batch.side, batch.side)
        pixels = functional.interpolate(
            pixels, size, mode="bilinear", align_corners=False, antialias=pixels.shape[-1] > batch.side
        )
    return pixels


def _shifted(pixels: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """Each image moved by up to an eighth of its side both ways; black comes in."""
    import torch
    from torch.nn import functional

    n, _, side, _ = pixels.shape
    most = side // 8
    padded = functional.pad(pixels, (most,) * 4)
    top, left = ((draws[:, k] * (2 * most + 1)).long().clamp(max=2 * most) for k in (1, 2))
    y = (top[:, None] + torch.arange(side))[:, None, :, None]
    x = (left[:, None] + torch.arange(side))[:, None, None, :]
    picture = torch.arange(n)[:, None, None, None]
    return padded[picture, torch.arange(3)[None, :, None, None], y, x]


def _box(width: int, height: int, draws: NDArray[np.float64]) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of a random resized crop, from the draws of one image."""
    rng = np.random.default_rng((draws[3:5] * 2**32).astype(np.uint64).tolist())
    for _ in range(CROP_TRIES):
        area = width * height * rng.uniform(*CROP_AREA)
        ratio = float(np.exp(rng.uniform(*np.log(CROP_RATIO))))
        w, h = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            left, top = (int(rng.integers(0, free + 1)) for free in (width - w, height - h))
            return left, top, left + w, top + h
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def _resampled_crops(pixels: torch.Tensor, side: int, draws: NDArray[np.float64]) -> torch.Tensor:
    import torch
    from torch.nn import functional

    crops = []
    for image, drawn in zip(pixels, draws, strict=True):
        left, top, right, bottom = _box(image.shape[2], image.shape[1], drawn)
        part = image[None, :, top:bottom, left:right]
        crops.append(functional.interpolate(part, (side, side), mode="bilinear", antialias=True))
    return torch.cat(crops)


def _cropped(
    decode: Any, side: int, draws: NDArray[np.float64] | None, settings: ImageSet
) -> NDArray[np.uint8]:
    """(r, r, 3) pixels of an image that is decoded now."""
    from PIL import Image

    image = decode()
    if min(image.size) < SMALLEST_SIDE:
        raise ValueError(
            f"an image has {image.size[0]} x {image.size[1]} pixels, the stem allows {SMALLEST_SIDE} and more"
        )
    if draws is None or settings.augment == "none":
        shorter = round(side * LARGER)
        scale = shorter / min(image.size)
        image = image.resize([max(shorter, round(s * scale)) for s in image.size], Image.Resampling.BILINEAR)
        left, top = ((s - side) // 2 for s in image.size)
        image = image.crop((left, top, left + side, top + side))
    else:
        box = _box(image.size[0], image.size[1], draws)
        image = image.resize((side, side), Image.Resampling.BILINEAR, box=box)
        if settings.flip and draws[0] < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(image)


# ---------------------------------------------------------------------- sources
@dataclass(frozen=True)
class _File:
    """An image file, decoded when called."""

    path: str

    def __call__(self) -> Any:
        from PIL import Image, UnidentifiedImageError

        try:
            with Image.open(self.path) as image:
                return image.convert("RGB")
        except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
            raise ValueError(
                f"{self.path} cannot be decoded as an image ({error}); mend or remove it"
            ) from error

    @property
    def size(self) -> tuple[int, int]:
        from PIL import Image, UnidentifiedImageError

        try:
            with Image.open(self.path) as image:
                return image.size
        except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
            raise ValueError(
                f"{self.path} cannot be read as an image ({error}); mend or remove it"
            ) from error


@dataclass(frozen=True, eq=False)
class _Item:
    """An image of a data set of torchvision, decoded when called."""

    owner: Any
    row: int

    def __call__(self) -> Any:
        return self.owner[self.row][0].convert("RGB")

    @property
    def size(self) -> tuple[int, int]:
        return self.owner[self.row][0].size


Source = tuple[tuple[str, ...], Ints, int, Pixels]  # classes, labels, number of training rows, images


def _digits() -> Source:
    """1,797 digits of 8 x 8 pixels, enlarged to 16 x 16."""
    import torch
    from sklearn.datasets import load_digits

    found = load_digits()
    pixels = torch.from_numpy(found.images).float()[:, None] / 16
    size = (DIGITS_SIDE, DIGITS_SIDE)
    larger = torch.nn.functional.interpolate(pixels, size, mode="bilinear", align_corners=False)
    images = (255 * larger).round().clamp(0, 255).to(torch.uint8).expand(-1, 3, -1, -1).numpy()
    labels = found.target.astype(np.int64)
    return tuple(str(name) for name in found.target_names), labels, len(labels), images


def _folder(root: Path) -> Source:
    """Images in folders that are named after their classes; a published test part keeps its place."""
    if not root.is_dir():
        raise ValueError(f"data.root={root} is no folder")
    train = root / "train" if (root / "train").is_dir() else root
    tests = [root / name for name in ("test", "val") if train != root and (root / name).is_dir()]
    classes, files, labels = _class_folders(train)
    known = len(files)
    if tests:
        more_classes, more, more_labels = _class_folders(tests[0])
        if more_classes != classes:
            raise ValueError(
                f"{tests[0]} has other classes than {train}: {sorted({*more_classes} ^ {*classes})}"
            )
        files, labels = [*files, *more], [*labels, *more_labels]
    return classes, np.array(labels, np.int64), known, [_File(path) for path in files]


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


def _torchvision(name: str, root: Path, download: bool) -> Source:
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
    items = [_Item(part, row) for part in parts for row in range(len(part))]
    return classes, labels, len(parts[0]), items


def _labels(part: Any) -> Ints:
    for name in ("targets", "labels", "_labels"):
        if hasattr(part, name):
            return np.asarray(getattr(part, name), np.int64)
    return np.array([label for _, label in part], np.int64)


# ---------------------------------------------------------------------- splitting
def _arrange(
    settings: ImageSet, classes: tuple[str, ...], labels: Ints, known: int, source: Pixels
) -> Images:
    """Split, decode what fits into memory, and measure the normalisation."""
    if len(classes) < 2:
        raise ValueError(
            f"data.source={settings.source} has {len(classes)} class(es) ({', '.join(classes) or 'none'}): a "
            "classifier needs at least two. A folder of images must hold one folder per class"
        )
    parts = _split(settings, labels, known)
    kept = np.unique(np.concatenate(list(parts.values())))
    _check_sides(settings, source, kept)
    if not isinstance(source, np.ndarray) and _fits(source, kept):
        row_of = np.full(len(labels), -1)
        row_of[kept] = np.arange(len(kept))
        parts = {part: row_of[rows] for part, rows in parts.items()}
        source = np.stack([np.asarray(source[row]()).transpose(2, 0, 1) for row in kept.tolist()])
        labels = labels[kept]
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    if isinstance(source, np.ndarray):
        sample = source[parts["train"][:STATISTICS_IMAGES]] / 255
        mean = tuple(float(v) for v in sample.mean(axis=(0, 2, 3)))
        std = tuple(float(max(v, 1e-3)) for v in sample.std(axis=(0, 2, 3)))
    return Images(settings, classes, labels, parts, source, mean, std)


def _split(settings: ImageSet, labels: Ints, known: int) -> dict[Part, Ints]:
    """Rows of each part, shuffled; every class in its share (to one image) in val and test."""
    rng = np.random.default_rng([settings.split_seed, 1])
    rows = rng.permutation(known)
    if known < len(labels):
        test = rng.permutation(np.arange(known, len(labels)))
    else:
        test, rows = _take(rows, labels, round(settings.test * known), rng)
    if settings.val >= len(rows):
        raise ValueError(f"data.val={settings.val} leaves no training image of {len(rows)}")
    val, train = _take(rows, labels, settings.val, rng)
    if settings.train_images is not None and settings.train_images < len(train):
        train, _ = _take(train, labels, settings.train_images, rng)
    if missing := sorted({*labels.tolist()} - {*labels[train].tolist()}):
        raise ValueError(f"no training image is left of class(es) {missing}: give more data.train_images")
    return {"train": train, "val": val, "calibration": train[: settings.calibration], "test": test}


def _take(rows: Ints, labels: Ints, count: int, rng: Rng) -> tuple[Ints, Ints]:
    """`count` of the shuffled rows with all classes in their share, and the rest; both shuffled."""
    place = np.empty(len(rows))
    for label in np.unique(labels[rows]):
        mine = np.flatnonzero(labels[rows] == label)
        place[mine] = (np.arange(len(mine)) + rng.random()) / len(mine)
    order = np.argsort(place, kind="stable")
    return rng.permutation(rows[order[:count]]), rng.permutation(rows[order[count:]])


def _fits(source: Sequence[Any], rows: Ints) -> bool:
    """Whether the images are square, equally large, and decoded not too many bytes."""
    width, height = source[int(rows[0])].size
    if width != height or 3 * width * height * len(rows) > IN_MEMORY_BYTES:
        return False
    return all(source[row].size == (width, height) for row in rows.tolist())


def _check_sides(settings: ImageSet, source: Pixels, rows: Ints) -> None:
    """ValueError when the first image is smaller than the stem allows."""
    size = source.shape[2:] if isinstance(source, np.ndarray) else source[int(rows[0])].size
    if min(size) < SMALLEST_SIDE:
        raise ValueError(
            f"images of data.source={settings.source} have {size[0]} x {size[1]} pixels, the stem allows "
            f"{SMALLEST_SIDE} and more: enlarge them first"
        )
