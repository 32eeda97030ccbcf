"""From stored images to the pixels of a batch: cut out, moved and resized.

Letters: b images of a batch, S side of images in memory, r side of a batch (pixels).
"""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional

SMALLEST_SIDE = 16  # a stem of stride 2 and three strided stages leave one pixel of it
CENTRAL = 0.875  # side of the central crop of a photo relative to its shorter side, as OFA tests
CROP_TRIES = 10
Draws = NDArray[np.float64]  # (b, 8) uniform numbers, or (8,) of one image
Span = tuple[float, float]  # lowest and highest


def check_side(image: Any) -> None:
    """ValueError for a decoded image that is smaller than the stem allows."""
    if min(image.size) < SMALLEST_SIDE:
        raise ValueError(
            f"an image has {image.size[0]} x {image.size[1]} pixels, the stem allows {SMALLEST_SIDE} and more"
        )


def central(image: Any, side: int) -> Any:
    """The central side x side of a decoded image, as torchvision's Resize and CenterCrop cut it."""
    shorter = math.ceil(side / CENTRAL)
    size = [int(shorter * length / min(image.size)) for length in image.size]
    left, top = (round((length - side) / 2) for length in size)
    image = image.resize(size, Image.Resampling.BILINEAR)
    return image.crop((left, top, left + side, top + side))


def resized(pixels: torch.Tensor, side: int) -> torch.Tensor:
    """(b, 3, r, r) images of (b, 3, S, S) ones."""
    if pixels.shape[-1] == side:
        return pixels
    shrinks = pixels.shape[-1] > side
    return functional.interpolate(
        pixels, (side, side), mode="bilinear", align_corners=False, antialias=shrinks
    )


def shifted(pixels: torch.Tensor, draws: Draws) -> torch.Tensor:
    """Each image moved by up to an eighth of its side both ways; black comes in."""
    n, _, side, _ = pixels.shape
    most = side // 8
    padded = functional.pad(pixels, (most,) * 4)
    uniform = torch.from_numpy(draws).float()
    top, left = ((uniform[:, k] * (2 * most + 1)).long().clamp(max=2 * most) for k in (1, 2))
    y = (top[:, None] + torch.arange(side))[:, None, :, None]
    x = (left[:, None] + torch.arange(side))[:, None, None, :]
    picture = torch.arange(n)[:, None, None, None]
    return padded[picture, torch.arange(3)[None, :, None, None], y, x]


def box(width: int, height: int, draws: Draws, area: Span, aspect: Span) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of a random crop, from the (8,) draws of one image.

    The share of the picture is uniform in `area`, the logarithm of width / height in that of `aspect`; the
    central crop that `aspect` allows where ten tries do not fit (as torchvision's RandomResizedCrop).
    """
    rng = np.random.default_rng((draws[3:5] * 2**32).astype(np.uint64).tolist())
    for _ in range(CROP_TRIES):
        pixels = width * height * rng.uniform(*area)
        ratio = float(np.exp(rng.uniform(*np.log(aspect))))
        w, h = round((pixels * ratio) ** 0.5), round((pixels / ratio) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            left, top = (int(rng.integers(0, free + 1)) for free in (width - w, height - h))
            return left, top, left + w, top + h
    w, h = min(width, round(height * aspect[1])), min(height, round(width / aspect[0]))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h
