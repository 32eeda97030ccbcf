"""How long a kernel takes: one formula, for numpy (predictions) and PyTorch (the fit).

Letters: k kernels, T tiles.

    body = ((compute)^R + (memory)^R)^(1/R) x factor,    ms = body + start

`compute` of a matrix product is the soft minimum over tiles, each with its rounded-up work, its efficiency
and how well its tiles fill the multiprocessors; 3 x 3 convolutions with stride 1 may take Winograd's F(4, 3)
or F(2, 3) instead, with the traffic of their transforms (arXiv 1509.09308). `memory` moves the bytes of maps
and weights at a share of the bandwidth, more of it where they fit in the second-level cache. Ours; that a
kernel's time is a soft maximum of roofline terms with learned utilisation is also NeuSight's form (arXiv
2407.13853). All parameters are logarithms.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from latency.gpu.chip import Chip
from latency.gpu.kernels import MATRIX, Kernels, Kind
from supernet.arrays import Floats, Ints

Columns = Mapping[str, Floats]
ON_A_CHIP = (
    "matrix", "scalar", "bandwidth", "cache", "processors", "clock", "power", "ecc", "tensor", "bytes",
    "before_volta",
)  # fmt: skip

TILES = ((256, 128), (128, 128), (128, 64), (64, 64), (32, 32))
SHARP = 6.0  # of the soft minimum over tiles and algorithms
R = 3.0  # of the soft maximum of compute and memory
SEEN = 4.0  # of the soft maximum of GPU and host
WINOGRAD = {"winograd4": (4, 6), "winograd2": (2, 4)}  # side of an output tile, of its transform


@dataclass(frozen=True, eq=False)
class Products:
    """Matrix products as the tiles see them."""

    work: Floats  # (k, T) log of ms at the peak rate, rounded up to whole tiles
    empty: Floats  # (k, T) multiprocessors per tile
    depth: Floats  # (k,) 1 / depth

    @classmethod
    def from_sizes(cls, rows: Floats, cols: Floats, depth: Floats, copies: Floats, on: Columns) -> "Products":
        """(k,) products of (rows, depth) by (depth, cols) matrices, `copies` of each."""
        tall, wide = np.array(TILES, float).T
        tiles = np.ceil(rows[:, None] / tall) * np.ceil(cols[:, None] / wide) * copies[:, None]
        work = np.log(np.maximum(tiles * tall * wide * (depth / on["matrix"])[:, None], 1e-12))
        return cls(work, on["processors"][:, None] / np.maximum(tiles, 1e-9), 1 / np.maximum(depth, 1))


@dataclass(frozen=True, eq=False)
class Features:
    """Everything in the formula that no parameter changes.

    Kernels are sorted: those that only move memory, then depthwise convolutions, then products, last those
    that Winograd's algorithms can do.
    """

    order: Ints  # (k,) places of the sorted kernels among the given ones
    ends: tuple[int, int, int]  # of the first three groups
    kind: Ints  # (k,)
    memory: Floats  # (k,) log of ms at full bandwidth
    cached: Floats  # (k,) log of bytes over those of the cache
    clock: Floats  # (k,) log
    power: Floats  # (k,) log
    ecc: Floats  # (k,) 1 where the memory is checked
    tensor: Floats  # (k,) 1 on tensor cores
    depthwise: Floats  # (d,) log of ms at the peak rate
    window: Floats  # (d,) log of the window's side over 3
    strided: Floats  # (d,)
    old: Floats  # (d,) 1 before Volta
    products: Products
    unaligned: Floats  # (p,) 1 where a tensor core has to fill up channels
    winograd: Mapping[str, tuple[Products, Floats]]  # of the last group; log of ms of its traffic


def features(kernels: Kernels, chips: Sequence[Chip], of: Ints) -> Features:
    """What the formula needs of (k,) kernels, each on the chip of its number in `of`."""
    on = {name: np.array([getattr(chip, name) for chip in chips], float)[of] for name in ON_A_CHIP}
    fast = (kernels.kind == Kind.CONV) & (kernels.window == 3) & (kernels.stride == 1)
    fast &= (kernels.copies == 1) & (on["tensor"] == 0)
    deep = kernels.kind == Kind.DEPTHWISE
    group = np.select([fast, np.isin(kernels.kind, MATRIX), deep], [3, 2, 1], 0)
    order = np.argsort(group, kind="stable")
    first, second, third = (int(end) for end in np.searchsorted(group[order], [1, 2, 3]))
    kernels, on = kernels.take(order), {name: values[order] for name, values in on.items()}
    moved = np.maximum(on["bytes"] * (kernels.maps + kernels.weights), 1)
    some, products, last = slice(first, second), slice(second, None), slice(third, None)
    macs = np.maximum(kernels.macs[some], 1)
    unaligned = (kernels.cols[products] % 8 > 0) | (kernels.depth[products] % 8 > 0)
    return Features(
        order=order,
        ends=(first, second, third),
        kind=kernels.kind,
        memory=np.log(moved / on["bandwidth"]),
        cached=np.log(moved / on["cache"]),
        clock=on["clock"],
        power=on["power"],
        ecc=on["ecc"],
        tensor=on["tensor"],
        depthwise=np.log(macs / on["scalar"][some]),
        window=np.log(kernels.window[some] / 3),
        strided=(kernels.stride[some] > 1).astype(float),
        old=on["before_volta"][some],
        products=_products(kernels.take(products), _part(on, products)),
        unaligned=unaligned * on["tensor"][products],
        winograd={
            name: _winograd(kernels.take(last), _part(on, last), *sides) for name, sides in WINOGRAD.items()
        },
    )


def _part(columns: Columns, rows: slice) -> Columns:
    return {name: values[rows] for name, values in columns.items()}


def _products(kernels: Kernels, on: Columns) -> Products:
    return Products.from_sizes(kernels.rows, kernels.cols, kernels.depth, kernels.copies, on)


def _winograd(kernels: Kernels, on: Columns, tile: int, transform: int) -> tuple[Products, Floats]:
    """The products of one of Winograd's algorithms, and log of ms of its traffic at full bandwidth."""
    channels = kernels.depth / 9
    rows = kernels.rows / kernels.side**2 * np.ceil(kernels.side / tile) ** 2
    many = np.full(len(rows), float(transform**2))
    transformed = rows * transform**2 * (channels + kernels.cols)
    moved = kernels.maps + 2 * transformed + kernels.cols * channels * (9 + 2 * transform**2)
    traffic = np.log(np.maximum(on["bytes"] * moved, 1) / on["bandwidth"])
    return Products.from_sizes(rows, kernels.cols, channels, many, on), traffic


def softest(xp: Any, values: Any, sharp: float) -> Any:
    """Log of the soft minimum over the last axis, of logarithms."""
    lowest = xp.min(values, -1)
    lowest = lowest if xp is np else lowest.values
    return lowest - xp.log(xp.exp(-sharp * (values - lowest[..., None])).sum(-1)) / sharp


def body(xp: Any, p: Mapping[str, Any], f: Features) -> Any:
    """(k,) log of ms of the sorted kernels, before their factors and without their start.

    `p` holds single parameters, and some with one per kind of kernel; `xp` is numpy or torch.
    """
    first, second, third = f.ends
    share = p["share"][f.kind]
    hit = 1 / (1 + xp.exp(2 * (f.cached - p["cache.size"])))
    memory = f.memory - share - p["cache.gain"] * hit + p["ecc"] * f.ecc
    slow = p["clock"] * f.clock - xp.log1p(xp.exp(4 * (f.power - p["power"]))) / 4
    deep = f.depthwise - p["depthwise"] + p["depthwise.old"] * f.old
    deep = deep + p["depthwise.window"] * f.window + p["depthwise.stride"] * f.strided
    rate = p["rate"][f.kind[second:]] + p["tensor"][f.kind[second:]] * f.tensor[second:]
    compute = _tiles(xp, p, f.products, f.kind[second:]) - rate - p["aligned"] * f.unaligned
    compute = xp.concatenate([deep, compute]) - slow[first:]
    mixed = xp.logaddexp(R * compute, R * memory[first:]) / R
    rest, last = mixed[: third - first], mixed[third - first :]
    if third < len(f.kind):
        ways = [last]
        for name, (products, traffic) in f.winograd.items():
            quick = _tiles(xp, p, products, f.kind[third:]) - p["rate"][int(Kind.CONV)] - p[name]
            quick = quick - p["winograd.slow"] * slow[third:]
            moving = traffic - share[third:] - p[f"{name}.traffic"]
            ways.append(xp.logaddexp(R * quick, R * moving) / R)
        last = softest(xp, xp.stack(ways, -1), SHARP)
    return xp.concatenate([memory[:first], rest, last])


def _tiles(xp: Any, p: Mapping[str, Any], products: Products, kind: Any) -> Any:
    """(k,) log of ms of the best tile."""
    fill = xp.log1p(xp.exp(p["fill"][kind])[:, None] * products.empty)
    best = softest(xp, products.work + fill - p["tile"], SHARP)
    return best + xp.log1p(xp.exp(p["depth"][kind]) * products.depth)


def seen(device: Floats, host: Floats) -> Floats:
    """(n,) ms when the GPU takes so long and its host: the longer of the two, softly."""
    return np.asarray((device**SEEN + host**SEEN) ** (1 / SEEN))
