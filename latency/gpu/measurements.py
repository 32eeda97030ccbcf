"""The public measurements of GPUs as kernels: those of OFA's networks, of timm's, and of single kernels.

Letters: g groups, k kernels, m measurements, e entries.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from latency.data import LatencyData
from latency.gpu.chip import Chip, chip
from latency.gpu.kernels import Kernels, Kind, concatenate, kernels, of_layers
from supernet.arrays import Floats, Ints
from supernet.device import Device
from supernet.devices.catalogue import tensor_tflops
from supernet.files import tables
from supernet.files.tables import Columns
from supernet.layers import LayerTable
from supernet.space import get_space

HARDWARE = {
    "name": "device_id",
    "title": "name",
    "bandwidth_gbs": "mem_bw_gbs",
}  # of hardware.csv, else alike
KERNELS, RUNS = "gpu_kernels.csv.gz", "imagenet_speed_runs.csv.gz"
NEUSIGHT = "neusight"  # arXiv 2407.13853
FOLDED = ("s1_ofa_latency.csv.gz",)  # tables whose networks were timed without batch norms
SOURCES = (
    "NeuSight (arXiv 2407.13853), kernels on five GPUs",
    "huggingface/pytorch-image-models, results/ (Apache-2.0), networks on four GPUs; traced, not run",
)
MOST = 200  # networks of a column of OFA; further ones hardly change the formula
ROW_KINDS, TWO_INPUTS = ("ln", "softmax"), ("add", "mul")  # operators of NeuSight
NETWORK_NOISE, TIMM_NOISE, KERNEL_NOISE = 0.08, 0.1, 0.15  # log; of a measurement around the formula


@dataclass(frozen=True, eq=False)
class Group:
    """Measurements on one GPU from one source, of networks or (`alone`) of single kernels."""

    chip: Chip
    source: str
    label: str  # operator or batch: measurements that agree with each other count as few
    kernels: Kernels  # (k,)
    network: Ints  # (e,) of entry e: row of a measurement ...
    kernel: Ints  # (e,) ... that runs this kernel ...
    count: Floats  # (e,) ... so many times
    ms: Floats  # (m,)
    alone: bool = False
    noise: float = NETWORK_NOISE  # of the logarithm

    def __len__(self) -> int:
        return len(self.ms)

    @property
    def launches(self) -> Floats:
        """(m, kinds) how many kernels of each kind a network runs; zeros for kernels alone."""
        counts = np.zeros((len(self), len(Kind)))
        if not self.alone:
            np.add.at(counts, (self.network, self.kernels.kind[self.kernel]), self.count)
        return counts

    def take(self, rows: Ints) -> "Group":
        """Some of its measurements."""
        at = np.full(len(self), -1)
        at[rows] = np.arange(len(rows))
        kept = at[self.network] >= 0
        used, kernel = np.unique(self.kernel[kept], return_inverse=True)
        return replace(
            self,
            kernels=self.kernels.take(used),
            network=at[self.network[kept]],
            kernel=kernel,
            count=self.count[kept],
            ms=self.ms[rows],
        )

    def some(self, most: int) -> "Group":
        """At most so many of its measurements, evenly spaced."""
        n = len(self)
        return self if n <= most else self.take(np.unique(np.linspace(0, n - 1, most).astype(int)))


def hardware(data: Path, name: str) -> Device:
    """What `hardware.csv` says of a device, also by the end of its name without underscores.

    A device that it does not list has a name only.
    """
    listed = tables.read_columns(data / "hardware.csv")
    plain = [str(device).replace("_", "") for device in listed["device_id"]]
    near = [i for i, device in enumerate(plain) if device.endswith(name.replace("_", ""))]
    at = np.flatnonzero(listed["device_id"] == name) if name in listed["device_id"] else near
    if not len(at):
        return Device(name, name, "embedded", "not listed")
    row = {column: values[at[0]].item() for column, values in listed.items()}
    generation, *die = row["microarch"].split() or [None]
    row["generation"] = generation
    columns = {fact.name: HARDWARE.get(fact.name, fact.name) for fact in fields(Device)}
    facts = {name: row[column] for name, column in columns.items() if column in row}
    facts = {name: value for name, value in facts.items() if value == value}  # NaN: not known
    if die and facts.get("tensor_cores") is not None:
        facts["tensor_tflops"] = tensor_tflops(die[0], row["name"], facts)
    return TypeAdapter(Device).validate_python(facts)


def of_networks(chip: Chip, source: str, table: LayerTable, batch: int, ms: Floats, norms: bool) -> Group:
    """The latencies of (n,) networks at one batch size; without `norms` they are in the convolutions."""
    places, parts = [], []
    for part in of_layers(table, norms):
        live = part.count > 0
        places.append(np.nonzero(live)[0])
        parts.append(part.at_batch(batch).take(live))
    flat = concatenate(parts)
    distinct, kernel = flat.distinct()
    return Group(chip, source, f"b{batch}", distinct, np.concatenate(places), kernel, flat.count, ms)


def of_latencies(data: LatencyData, source: str) -> Group:
    """At most `MOST` latencies of a target, evenly spaced; the source is the name of their table."""
    if len(data) > MOST:
        data = data.take(np.linspace(0, len(data) - 1, MOST).astype(int))
    spec, table = (
        chip(data.target.spec, data.target.precision),
        get_space(data.target.space).layers(data.genomes),
    )
    return of_networks(spec, source, table, data.target.batch, data.ms, source not in FOLDED)


def of_kernels(columns: Columns, data: Path) -> Iterator[Group]:
    """Single kernels of a table like `gpu_kernels.csv.gz` (NeuSight, arXiv 2407.13853): a group per GPU and
    operator, in fp32, in a fixed random order."""
    for device in dict.fromkeys(columns["device_id"].tolist()):
        spec = chip(hardware(data, device))
        own = tables.select(columns, columns["device_id"] == device)
        for operator in dict.fromkeys(own["op"].tolist()):
            rows = np.flatnonzero(own["op"] == operator)
            rows = np.random.default_rng(0).permutation(rows)
            picked = {name: np.nan_to_num(v) if v.dtype == float else v for name, v in own.items()}
            picked = tables.select(picked, rows)
            made, each = _of_operator(operator, picked), np.arange(len(rows))
            yield Group(
                spec,
                NEUSIGHT,
                operator,
                made,
                each,
                each,
                np.ones(len(rows)),
                picked["ms"],
                True,
                KERNEL_NOISE,
            )


def _of_operator(operator: str, row: Columns) -> Kernels:
    """The kernels of the rows of one operator."""
    batch = row["batch"]
    if operator == "conv":
        cin, cout, window, side, stride = (row[n] for n in ("cin", "cout", "kernel", "size", "stride"))
        out = (side + 2 * row["padding"] - window) // stride + 1
        return kernels(
            np.where(window == 1, Kind.POINTWISE, Kind.CONV),
            rows=batch * out**2,
            cols=cout,
            depth=cin * window**2,
            maps=batch * (cin * side**2 + cout * out**2),
            weights=cin * cout * window**2,
            outputs=batch * cout * out**2,
            side=out,
            window=window,
            stride=stride,
        )
    if operator in ("linear", "bmm"):
        many = operator == "bmm"
        copies, rows = (batch, row["m"]) if many else (np.ones(len(batch)), row["m"] * batch)
        depth, cols = row["k"], row["n"]
        second = copies * depth * cols
        return kernels(
            Kind.BATCHED if many else Kind.LINEAR,
            rows=rows,
            cols=cols,
            depth=depth,
            copies=copies,
            maps=copies * rows * (depth + cols) + (second if many else 0),
            weights=0 if many else second,
            outputs=copies * rows * cols,
        )
    elements = row["rows"] * row["cols"]
    maps = elements * (3 if operator in TWO_INPUTS else 2)
    return kernels(Kind.ROWS if operator in ROW_KINDS else Kind.ELEMENTWISE, maps=maps, outputs=elements)


@dataclass(frozen=True)
class Runs:
    """Speeds of networks of `imagenet_speed_runs.csv.gz` (timm) on one GPU with one PyTorch: inference under
    AMP, eager, the largest batch of each network."""

    device: str
    torch: str
    names: Sequence[tuple[str, int]]  # architecture and side of its inputs
    batches: Ints
    ms: Floats

    def group(self, data: Path, traced: Mapping[tuple[str, int], Kernels]) -> Group:
        """Those networks whose kernels were traced, in a fixed random order."""
        rows = [i for i, name in enumerate(self.names) if name in traced]
        rows = np.random.default_rng(0).permutation(rows).astype(int).tolist()
        parts = [traced[self.names[i]].at_batch(int(self.batches[i])) for i in rows]
        flat = concatenate(parts)
        network = np.repeat(np.arange(len(rows)), [len(part.kind) for part in parts])
        distinct, place = flat.distinct()
        spec, source = chip(hardware(data, self.device), "amp"), f"timm {self.torch}"
        return Group(
            spec, source, "networks", distinct, network, place, flat.count, self.ms[rows], noise=TIMM_NOISE
        )


def runs(columns: Columns) -> Iterator[Runs]:
    """The runs of PyTorch 2 in the usual layout, by GPU and version."""
    usual = {"mode": "infer", "precision": "amp", "layout": "nchw", "compiled": 0.0}
    keep = np.logical_and.reduce([columns[name] == value for name, value in usual.items()])
    own = tables.select(columns, keep)
    for device in dict.fromkeys(own["device"].tolist()):
        for version in dict.fromkeys(own["torch"][own["device"] == device].tolist()):
            if not version.startswith("2."):
                continue
            best: dict[tuple[str, int], int] = {}
            for i in np.flatnonzero((own["device"] == device) & (own["torch"] == version)):
                name = (str(own["arch"][i]), int(own["img_size"][i]))
                if name not in best or own["batch_size"][i] > own["batch_size"][best[name]]:
                    best[name] = int(i)
            at = np.array(list(best.values()))
            batches = own["batch_size"][at]
            ms = 1e3 * batches / own["samples_per_s"][at]
            yield Runs(device, version, list(best), batches.astype(int), ms)


def facts_of(groups: Sequence[Group]) -> dict[str, Any]:
    """What a model was fitted on, for its file."""
    return {
        "gpus": list(dict.fromkeys(group.chip.name for group in groups)),
        "measurements": sum(map(len, groups)),
    }
