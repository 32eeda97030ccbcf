"""From stored images to the pixels of a batch: cut, resized and, for training, augmented.

Letters: b images of a batch, S side of images in memory, r side of a batch (pixels).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional

SMALLEST_SIDE = 16  # a stem of stride 2 and three strided stages leave one pixel of it
LARGER = 8 / 7  # shorter side of a photo relative to its central crop when it is tested, as OFA does
CROP_AREA, CROP_RATIO = (0.25, 1.0), (3 / 4, 4 / 3)  # of a random resized crop: share of the area, aspect
CROP_TRIES = 10
Draws = NDArray[np.float64]  # (b, 8) uniform numbers, or (8,) of one image


@dataclass(frozen=True)
class Augmentation:
    """How training images are changed: `none`, `shift` (small images) or `crop` (photos); mirrored or not."""

    kind: str
    flip: bool

    def batch(self, pixels: torch.Tensor, side: int, draws: Draws | None) -> torch.Tensor:
        """(b, 3, r, r) images of (b, 3, S, S) ones in [0, 1], augmented where there are draws."""
        if draws is not None:
            uniform = torch.from_numpy(draws).float()
            if self.flip:
                flipped = uniform[:, 0] < 0.5
                pixels = torch.where(flipped.view(-1, 1, 1, 1), pixels.flip(3), pixels)
            if self.kind == "crop":
                return _resampled_crops(pixels, side, draws)
            pixels = _shifted(pixels, uniform)
        if pixels.shape[-1] != side:
            shrinks = pixels.shape[-1] > side
            pixels = functional.interpolate(
                pixels, (side, side), mode="bilinear", align_corners=False, antialias=shrinks
            )
        return pixels

    def picture(self, image: Any, side: int, draws: Draws | None) -> NDArray[np.uint8]:
        """(r, r, 3) pixels of one decoded image: its centre, or a random crop where there are draws."""
        if min(image.size) < SMALLEST_SIDE:
            raise ValueError(
                f"an image has {image.size[0]} x {image.size[1]} pixels, the stem allows {SMALLEST_SIDE} "
                "and more"
            )
        if draws is None or self.kind == "none":
            shorter = round(side * LARGER)
            scale = shorter / min(image.size)
            size = [max(shorter, round(s * scale)) for s in image.size]
            image = image.resize(size, Image.Resampling.BILINEAR)
            left, top = ((s - side) // 2 for s in image.size)
            image = image.crop((left, top, left + side, top + side))
        else:
            box = _box(image.size[0], image.size[1], draws)
            image = image.resize((side, side), Image.Resampling.BILINEAR, box=box)
            if self.flip and draws[0] < 0.5:
                image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return np.asarray(image)


def _shifted(pixels: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """Each image moved by up to an eighth of its side both ways; black comes in."""
    n, _, side, _ = pixels.shape
    most = side // 8
    padded = functional.pad(pixels, (most,) * 4)
    top, left = ((draws[:, k] * (2 * most + 1)).long().clamp(max=2 * most) for k in (1, 2))
    y = (top[:, None] + torch.arange(side))[:, None, :, None]
    x = (left[:, None] + torch.arange(side))[:, None, None, :]
    picture = torch.arange(n)[:, None, None, None]
    return padded[picture, torch.arange(3)[None, :, None, None], y, x]


def _box(width: int, height: int, draws: Draws) -> tuple[int, int, int, int]:
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


def _resampled_crops(pixels: torch.Tensor, side: int, draws: Draws) -> torch.Tensor:
    crops = []
    for image, drawn in zip(pixels, draws, strict=True):
        left, top, right, bottom = _box(image.shape[2], image.shape[1], drawn)
        part = image[None, :, top:bottom, left:right]
        crops.append(functional.interpolate(part, (side, side), mode="bilinear", antialias=True))
    return torch.cat(crops)
