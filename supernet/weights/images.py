"""Image data sets for supernets: scikit-learn's digits, torchvision's by name, folders of classes.

Letters: n images, b images of a batch, c classes, S side of images in memory, r side of a batch (pixels).

Four parts that a seed fixes: `train` (augmented, the only one that weights are fitted to), `val` (what
searches and surrogates look at), `calibration` (training images without augmentation, for batch norm) and
`test` (the published one where there is one; looked at once). Images of equal size that fit into memory are
decoded once; others are decoded batch by batch, in `workers` processes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from supernet import registry
from supernet.arrays import Ints, Rng
from supernet.files import artifact, run_folder
from supernet.options import AtLeastTwo, GivenPath, NonNegativeInt, OpenFraction, PositiveInt, options
from supernet.weights import image_sources
from supernet.weights import pixels as cuts
from supernet.weights.augmentation import USUAL, Augmentation, Cut
from supernet.weights.image_sources import IMAGENET_MEAN, IMAGENET_STD, Pixels, Source
from supernet.weights.pixels import SMALLEST_SIDE, Draws

Part = Literal["train", "val", "calibration", "test"]
USUAL_VAL = 1000  # validation images where there are enough
PARTS: tuple[Part, ...] = ("train", "val", "calibration", "test")
IN_MEMORY_BYTES = 2 * 10**9
STATISTICS_IMAGES = 2000  # training images that the normalisation is measured on


@options
class ImageSet:
    """Which images, and how they are split and augmented: what `data=` of the commands builds.

    `source` is `digits`, `folder` (root/train/CLASS/* with root/test/CLASS/* or root/val/CLASS/*, or
    root/CLASS/*) or the name of a data set of torchvision (CIFAR10, SVHN, ...). `resolution` are the lowest
    and the highest input side in training.
    """

    source: str
    resolution: tuple[PositiveInt, PositiveInt]
    root: GivenPath | None = None
    download: bool = False  # torchvision's data sets only
    train_images: AtLeastTwo | None = None  # at most as many, drawn with the split's seed
    # images held out of the training part; None: 1000, a fifth of fewer than 5000
    val: PositiveInt | None = None
    test: OpenFraction = 0.25  # share held out where no test part is published
    calibration: AtLeastTwo = 1024
    split_seed: NonNegativeInt = 0
    augment: Cut = "shift"  # of training images, unless an Augmentation says more; shift: small images
    flip: bool = True
    workers: NonNegativeInt = 0  # processes that decode

    def __post_init__(self) -> None:
        low, high = self.resolution
        if not SMALLEST_SIDE <= low <= high:
            raise ValueError(
                f"data.resolution=[{low},{high}] must be [lowest,highest] with at least {SMALLEST_SIDE} "
                "pixels, the least that the stem allows"
            )

    @classmethod
    def from_run_folder(cls, folder: Path) -> "ImageSet":
        """The images that the run in a folder was started with; its file, maybe foreign, downloads none."""
        path, node = folder / run_folder.CONFIG, run_folder.settings(folder).get("data")
        with artifact.usable(path, "settings of images", "mend it, or give data="):
            images = registry.build(node)
        if not isinstance(images, cls):
            raise ValueError(f"data={node} in {path} names no images: give data=...")
        return replace(images, download=False)

    def load(self, *, photos: bool = False) -> "Images":
        """Read labels, split, and decode what fits into memory.

        With `photos` nothing is decoded ahead: images are resized and cropped as photos are, and normalised
        as those of ImageNet.
        """
        source = self._source()
        return _arrange(self, image_sources.as_photos(source) if photos else source, photos)

    def _source(self) -> Source:
        if self.source == "digits":
            return image_sources.digits()
        if self.root is None:
            raise ValueError(f"data.source={self.source} needs data.root=FOLDER")
        if self.source == "folder":
            return image_sources.folder(self.root)
        return image_sources.torchvision(self.source, self.root, self.download)


@dataclass(frozen=True)
class Batch:
    """The images of one forward pass, as a loader hands them to its workers. `rows` index all images."""

    rows: Ints
    side: int
    change: tuple[Augmentation, Draws] | None = None  # with (b, 8) uniform numbers


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

    @classmethod
    def from_run_folder(cls, folder: Path) -> "Images":
        """The images that the supernet in a run folder of `make train` was trained on, split as they were."""
        return ImageSet.from_run_folder(folder).load()

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def in_memory(self) -> bool:
        return isinstance(self.source, np.ndarray)

    def labelled(self, names: Sequence[str]) -> "Images":
        """The same images, their labels numbered as `names` are.

        ValueError unless these name every class.
        """
        if self.classes == tuple(names):
            return self
        if unknown := sorted({*self.classes} - {*names}):
            raise ValueError(
                f"the classes of data.source={self.settings.source} are not those of the weights: "
                f"{', '.join(map(repr, unknown[:3]))}{' ...' if len(unknown) > 3 else ''} are none of "
                f"{len(names)} from {names[0]!r} to {names[-1]!r}; name the folders so, or train a supernet "
                "on these images (make train)"
            )
        place = {name: label for label, name in enumerate(names)}
        numbers = np.array([place[name] for name in self.classes])
        return replace(self, classes=tuple(names), labels=numbers[self.labels])

    @cached_property
    def frequencies(self) -> NDArray[np.float64]:
        """(c,) share of each class among the training images."""
        counts = np.bincount(self.labels[self.parts["train"]], minlength=len(self.classes))
        return counts / counts.sum()

    def facts(self) -> dict[str, Any]:
        """What a value measured on these images depends on."""
        kept = ("source", "train_images", "test", "calibration", "split_seed")
        return {
            **{name: getattr(self.settings, name) for name in kept},
            "val": len(self.parts["val"]),
            "root": str(self.settings.root) if self.settings.root else None,
            "classes": list(self.classes),
            "sizes": {part: len(rows) for part, rows in self.parts.items()},
            "mean": list(self.mean),
            "std": list(self.std),
        }

    def __getitems__(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """(b, 3, r, r) normalised images, channels last, and (b,) labels; (b, c) shares of the classes where
        images are mixed."""
        pixels, labels = self._cut(batch), torch.from_numpy(self.labels[batch.rows])
        if batch.change is not None:
            augmentation, draws = batch.change
            pixels = augmentation.coloured(pixels, draws)
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (self.mean, self.std))
        pixels = (pixels - mean) / std
        if batch.change is not None:
            pixels, labels = augmentation.mixed(pixels, labels, draws, len(self.classes))
        return pixels.contiguous(memory_format=torch.channels_last), labels

    def _cut(self, batch: Batch) -> torch.Tensor:
        """(b, 3, r, r) images in [0, 1]: whole or their centres; for training, cut out at random."""
        if isinstance(self.source, np.ndarray):
            pixels = torch.from_numpy(self.source[batch.rows]).float().div_(255)
            if batch.change is None:
                return cuts.resized(pixels, batch.side)
            augmentation, draws = batch.change
            return augmentation.batch(pixels, batch.side, draws)
        parts = []
        for i, row in enumerate(batch.rows.tolist()):
            image = self.source[row]()
            cuts.check_side(image)
            if batch.change is None:
                parts.append(np.asarray(cuts.central(image, batch.side)))
            else:
                augmentation, draws = batch.change
                parts.append(augmentation.picture(image, batch.side, draws[i]))
        return torch.from_numpy(np.stack(parts)).permute(0, 3, 1, 2).float().div_(255)

    def batches(self, part: Part, side: int, size: int, *, images: int | None = None) -> "Loader":
        """All images of a part (or its first `images`) at one side, unaugmented, in batches of `size`."""
        rows = self.parts[part] if images is None else self.parts[part][:images]
        chunks = np.array_split(rows, max(1, -(-len(rows) // size)))
        return Loader(self, [Batch(chunk, side) for chunk in chunks])


@dataclass(frozen=True)
class Loader:
    """Iterates over the tensors of given batches, as often as it is asked to."""

    images: Images
    plan: Sequence[Batch]

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        workers = 0 if self.images.in_memory else self.images.settings.workers
        loader: Any = DataLoader(
            self.images,  # type: ignore[arg-type]
            batch_sampler=self.plan,  # type: ignore[arg-type]
            num_workers=workers,
            collate_fn=_unchanged,
            pin_memory=torch.cuda.is_available(),
        )
        return iter(loader)


def _unchanged(batch: Any) -> Any:
    return batch


@dataclass(frozen=True)
class Epoch:
    """What an epoch of training consists of: steps of `batch` images, each cut into forward passes of
    `forward_batch`, at one of the input `sides` each."""

    seed: int
    number: int
    batch: int
    forward_batch: int
    sides: Sequence[int]
    augmentation: Augmentation = USUAL


def training_batches(images: Images, epoch: Epoch, *, rank: int = 0, world: int = 1) -> Loader:
    """The forward passes of an epoch, of which process `rank` of `world` gets every `world`-th.

    All processes use the same side in a step. Order, sides and augmentation follow from the seed and the
    number of the epoch alone, and images are mixed within a forward pass, so neither a resume nor the number
    of processes changes what an image looks like. The images that do not fill a batch are left out of the
    epoch.
    """
    rng = np.random.default_rng([epoch.seed, epoch.number, 0])
    rows = rng.permutation(images.parts["train"])
    steps = len(rows) // epoch.batch
    sides = rng.choice(np.array(epoch.sides), size=steps)
    draws = rng.random((steps * epoch.batch, 8))
    augmentation = epoch.augmentation.completed(images.settings.augment, images.settings.flip)
    plan = []
    for start in range(rank * epoch.forward_batch, steps * epoch.batch, world * epoch.forward_batch):
        inside = slice(start, start + epoch.forward_batch)
        plan.append(Batch(rows[inside], int(sides[start // epoch.batch]), (augmentation, draws[inside])))
    return Loader(images, plan)


def check_mixed(labels: Ints, frequencies: NDArray[np.float64]) -> None:
    """ValueError when a batch of labels (b,) holds far fewer classes than a random one would.

    Batch norm that is calibrated on images ordered by class learns the statistics of one class at a time: on
    CIFAR-10 that cost 10-14 points of accuracy.
    """
    expected = float((1 - (1 - frequencies) ** len(labels)).sum())
    count = len(np.unique(labels))
    if count < 0.5 * expected:
        raise ValueError(
            f"a calibration batch of {len(labels)} images holds {count} class(es) where a random one would "
            f"hold about {expected:.0f}: shuffle the images (an ordered list costs 10 points of accuracy)"
        )


def _arrange(settings: ImageSet, source: Source, photos: bool) -> Images:
    """Split, decode what fits into memory, and measure the normalisation."""
    classes, labels, pixels = source.classes, source.labels, source.pixels
    if len(classes) < 2:
        raise ValueError(
            f"data.source={settings.source} has {len(classes)} class(es) ({', '.join(classes) or 'none'}): a "
            "classifier needs at least two. A folder of images must hold one folder per class"
        )
    parts = _split(settings, labels, source.training_rows)
    kept = np.unique(np.concatenate(list(parts.values())))
    _check_sides(settings, pixels, kept)
    if not photos and not isinstance(pixels, np.ndarray) and _fits(pixels, kept):
        row_of = np.full(len(labels), -1)
        row_of[kept] = np.arange(len(kept))
        parts = {part: row_of[rows] for part, rows in parts.items()}
        pixels = np.stack([np.asarray(pixels[row]()).transpose(2, 0, 1) for row in kept.tolist()])
        labels = labels[kept]
    mean, std = IMAGENET_MEAN, IMAGENET_STD
    if isinstance(pixels, np.ndarray):
        sample = pixels[parts["train"][:STATISTICS_IMAGES]] / 255
        mean = tuple(sample.mean(axis=(0, 2, 3)).tolist())
        std = tuple(np.maximum(sample.std(axis=(0, 2, 3)), 1e-3).tolist())
    return Images(settings, classes, labels, parts, pixels, mean, std)


def _split(settings: ImageSet, labels: Ints, training_rows: int) -> dict[Part, Ints]:
    """Rows of each part, shuffled; every class in its share (to one image) in val and test."""
    rng = np.random.default_rng([settings.split_seed, 1])
    rows = rng.permutation(training_rows)
    if training_rows < len(labels):
        test = rng.permutation(np.arange(training_rows, len(labels)))
    else:
        test, rows = _take(rows, labels, round(settings.test * training_rows), rng)
    held = settings.val or min(USUAL_VAL, max(1, len(rows) // 5))
    if held >= len(rows):
        raise ValueError(f"data.val={held} leaves no training image of {len(rows)}")
    val, train = _take(rows, labels, held, rng)
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


def _fits(pixels: Sequence[Any], rows: Ints) -> bool:
    """Whether the images are square, equally large, and decoded not too many bytes."""
    width, height = pixels[int(rows[0])].size
    if width != height or 3 * width * height * len(rows) > IN_MEMORY_BYTES:
        return False
    return all(pixels[row].size == (width, height) for row in rows.tolist())


def _check_sides(settings: ImageSet, pixels: Pixels, rows: Ints) -> None:
    """ValueError when the first image is smaller than the stem allows."""
    size = pixels.shape[2:] if isinstance(pixels, np.ndarray) else pixels[int(rows[0])].size
    if min(size) < SMALLEST_SIDE:
        raise ValueError(
            f"images of data.source={settings.source} have {size[0]} x {size[1]} pixels, the stem allows "
            f"{SMALLEST_SIDE} and more: enlarge them first"
        )
