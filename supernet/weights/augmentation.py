"""How training images are changed: cut out, mirrored, recoloured, erased and mixed with each other.

Letters: b images of a batch, c classes, S side of images in memory, r side of a batch (pixels).

Everything random about the images of a batch follows from its uniform numbers (b, 8): column 0 mirrors, 1
and 2 shift, 3 and 4 crop, and the last number of the first image seeds torchvision's transforms.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field
from torch.nn import functional

from supernet.options import (
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveFraction,
    options,
)
from supernet.weights import pixels as cuts
from supernet.weights.pixels import Draws

Cut = Literal["none", "shift", "crop"]


@options
class Augmentation:
    """What is done to training images; without options, what `data.augment` and `data.flip` say.

    `cut`: `shift` moves by up to an eighth (small images), `crop` is a random resized crop (photos). Colours
    change by factors 1 +- value. RandAugment (Cubuk et al., arXiv 1909.13719), random erasing (Zhong et al.,
    arXiv 1708.04896), mixup (Zhang et al., arXiv 1710.09412) and CutMix (Yun et al., arXiv 1905.04899) are
    those of `torchvision.transforms.v2`. Mixed images have shares of two classes as labels.
    """

    cut: Cut | None = None  # None: as data.augment says
    flip: bool | None = None  # mirror every second image; None: as data.flip says
    area: tuple[PositiveFraction, PositiveFraction] = (0.25, 1.0)  # of a crop, as share of the image
    aspect: tuple[PositiveFloat, PositiveFloat] = (3 / 4, 4 / 3)  # of a crop: width / height
    brightness: NonNegativeFloat = 0
    contrast: NonNegativeFloat = 0
    saturation: NonNegativeFloat = 0
    hue: Annotated[NonNegativeFloat, Field(le=0.5)] = 0
    randaugment: NonNegativeInt = 0  # operations on each image
    magnitude: Annotated[NonNegativeInt, Field(le=30)] = 9  # of the operations of RandAugment
    erase: Fraction = 0  # share of the images that lose a rectangle
    mixup: NonNegativeFloat = 0  # alpha of the Beta distribution of the shares; 0: no mixup
    cutmix: NonNegativeFloat = 0  # the same of CutMix; with both, each forward pass gets one of them

    def __post_init__(self) -> None:
        for name, (low, high) in (("area", self.area), ("aspect", self.aspect)):
            if not 0 < low <= high:
                raise ValueError(f"augmentation.{name}=[{low},{high}] must be [lowest,highest], above 0")

    @property
    def by_pass(self) -> bool:
        """Whether the images of a forward pass are changed together, so that its size changes them."""
        colours = (self.brightness, self.contrast, self.saturation, self.hue, self.randaugment)
        return any((*colours, self.erase, self.mixup, self.cutmix))

    def completed(self, cut: Cut, flip: bool) -> "Augmentation":
        """With the cut and the mirroring of the images where there are none of its own."""
        own = self.cut or cut
        mirrors = own != "none" and flip if self.flip is None else self.flip
        return replace(self, cut=own, flip=mirrors)

    def batch(self, pixels: torch.Tensor, side: int, draws: Draws) -> torch.Tensor:
        """(b, 3, r, r) images cut out of (b, 3, S, S) ones."""
        if self.flip:
            mirrored = torch.from_numpy(draws[:, 0] < 0.5)
            pixels = torch.where(mirrored.view(-1, 1, 1, 1), pixels.flip(3), pixels)
        if self.cut == "crop":
            return self._crops(pixels, side, draws)
        return cuts.resized(cuts.shifted(pixels, draws) if self.cut == "shift" else pixels, side)

    def _crops(self, pixels: torch.Tensor, side: int, draws: Draws) -> torch.Tensor:
        crops = []
        for image, drawn in zip(pixels, draws, strict=True):
            left, top, right, bottom = cuts.box(image.shape[2], image.shape[1], drawn, self.area, self.aspect)
            part = image[None, :, top:bottom, left:right]
            crops.append(functional.interpolate(part, (side, side), mode="bilinear", antialias=True))
        return torch.cat(crops)

    def picture(self, image: Any, side: int, draws: Draws) -> NDArray[np.uint8]:
        """(r, r, 3) pixels cut out of one decoded image of any size, from its (8,) draws."""
        if self.cut == "none":
            image = cuts.central(image, side)
        else:
            width, height = image.size
            box = cuts.box(width, height, draws, self.area, self.aspect)
            image = image.resize((side, side), Image.Resampling.BILINEAR, box=box)
        if self.flip and draws[0] < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return np.asarray(image)

    def coloured(self, pixels: torch.Tensor, draws: Draws) -> torch.Tensor:
        """(b, 3, r, r) images in [0, 1], the colours of each changed in its own way."""
        jitter = (self.brightness, self.contrast, self.saturation, self.hue)
        if not any(jitter) and not self.randaugment:
            return pixels
        from torchvision.transforms import v2  # here, because its import takes as long as that of torch

        change = v2.RandAugment(self.randaugment, self.magnitude)
        if any(jitter):
            change = v2.Compose([v2.ColorJitter(*jitter), change])
        with seeded(draws, 6):
            return torch.stack([change(image) for image in pixels])

    def mixed(
        self, pixels: torch.Tensor, labels: torch.Tensor, draws: Draws, classes: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Normalised images of which some lose a rectangle and which are mixed with each other, and their
        labels: (b,) numbers, or (b, c) shares of the classes where images are mixed."""
        if not self.erase and not self.mixup and not self.cutmix:
            return pixels, labels
        from torchvision.transforms import v2

        mixers = [
            make(alpha=alpha, num_classes=classes)
            for make, alpha in ((v2.MixUp, self.mixup), (v2.CutMix, self.cutmix))
            if alpha
        ]
        with seeded(draws, 7):
            if self.erase:
                erase = v2.RandomErasing(self.erase)
                pixels = torch.stack([erase(image) for image in pixels])
            if mixers:
                pixels, labels = v2.RandomChoice(mixers)(pixels, labels)
        return pixels, labels


USUAL = Augmentation()


@contextmanager
def seeded(draws: Draws, column: int) -> Iterator[None]:
    """Inside the block torch's generator follows from the draws of the first image; after it, it goes on as
    if nothing had been drawn."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(draws[0, column] * 2**53))
        yield
