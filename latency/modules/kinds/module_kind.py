"""What a module kind is: its inputs, the ranges they are drawn from, its cost on paper, how to recognise it.

arXiv 2312.06440 predicts a network from its modules. Its modules are layers; here a convolution has its batch
norm and its activation with it, as every engine runs them, and inverted residuals and bottlenecks are one
module each, because inside a block engines fuse and keep layouts that they give up at its ends.

Letters: n modules, p inputs of a kind, L layer places.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from functools import cache
from typing import Any, ClassVar

import numpy as np
from pydantic import TypeAdapter

from supernet import registry
from supernet.arrays import Floats
from supernet.layers import Column, LayerKind, LayerTable, make_divisible
from supernet.options import PositiveInt, options

Columns = Mapping[str, Any]  # (n,) values by input
Values = Mapping[str, int]  # the inputs of one module
MAX_MACS = 4e8  # of one run, the batch included: some 20 ms on a core
MAX_ELEMENTS = 6e6  # of the input or output of one run: beyond the caches of every core


@options
class Span:
    """Range of an input, drawn evenly on a logarithmic scale."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high:
            raise ValueError(f"a range needs 0 < low <= high, got {self.low:g} to {self.high:g}")

    def at(self, share: Floats) -> Floats:
        """The whole numbers at (n,) shares in [0, 1) of the range."""
        return np.round(self.low * (self.high / self.low) ** share)


@options
class Choice:
    """An input with few values; those of a `categorical` one have no order."""

    values: tuple[float, ...]
    categorical: bool = False

    def at(self, share: Floats) -> Floats:
        """The values at (n,) shares in [0, 1)."""
        return np.array(self.values)[(share * len(self.values)).astype(int)]


@dataclass(frozen=True)
class Work:
    """What one image costs in a module, on paper: (n,) each, or 0."""

    macs: Floats | float = 0.0
    params: Floats | float = 0.0
    read: Floats | float = 0.0  # elements of the input
    written: Floats | float = 0.0  # elements of the output
    inner: Floats | float = 0.0  # elements written and read again within


@dataclass(frozen=True)
class Module:
    """A module of a network: the name of its kind, and its inputs by name.

    `layer` is where it is in the network, `stands_for` the operation that it only stands in for, because none
    such was ever measured.
    """

    kind: str
    inputs: Mapping[str, float]
    layer: str = field(default="", compare=False)
    stands_for: str = field(default="", compare=False)


@dataclass(frozen=True)
class Operation:
    """A call of a tensor function: its name and arguments, the tensors among them, its result, and the
    multiply-accumulates that PyTorch counts in it."""

    name: str
    args: Any
    kwargs: Mapping[str, Any]
    tensors: list[Any]
    result: Any
    macs: float = 0.0

    def argument(self, place: int, name: str, default: Any = None) -> Any:
        """An argument that may be positional or named."""
        return self.kwargs.get(name, self.args[place] if len(self.args) > place else default)


@dataclass
class Layer:
    """A recorded layer of a network, without batch; `sources` and `result` tell which layer feeds which.

    `name` and `stands_for` are the `layer` and `stands_for` of its Module.
    """

    kind: "type[ModuleKind]"
    inputs: dict[str, float]
    sources: tuple[int, ...]
    result: int
    name: str = ""
    stands_for: str = ""


class TableLayers:
    """The layers of a batch of networks, column by column: what they could be and the inputs they have."""

    def __init__(self, table: LayerTable) -> None:
        self.table = table
        ones, zeros = np.ones(table.cin.shape, np.int32), np.zeros(table.cin.shape, np.int32)
        self._columns: dict[str, Column] = dict(
            cin=table.cin, cout=table.cout, channels=table.cin, kernel=table.kernel, side=table.size
        )
        self._columns |= dict(stride=table.stride, groups=table.groups, act=table.act)
        self._columns |= dict(rows=table.positions().astype(np.int32))
        self._columns |= dict(means=ones, mode=zeros)  # as the `ofa` package builds its networks

    def are(self, at: int, *kinds: "type[ModuleKind]") -> bool:
        """Whether the layers from `at` on are of some kinds, in one slot; absent ones are of any kind."""
        layers = slice(at, at + len(kinds))
        if at + len(kinds) > len(self.table.slot) or len(set(self.table.slot[layers].tolist())) > 1:
            return False
        for place, kind in enumerate(kinds, at):
            same = (self.table.kind[:, place] == kind.layer) & kind.covers(self.inputs(place, self._columns))
            if not (same | ~self.table.live[:, place]).all():
                return False
        return True

    def inputs(self, at: int, names: Iterable[str]) -> dict[str, Column]:
        """(n,) values of the named inputs of the layers at `at`."""
        return {name: self._columns[name][:, at] for name in names}


@options
class ModuleKind:
    """A kind of module with the ranges its inputs are drawn from; subclasses say what the kind is.

    Every input needs a range or a choice. The predictor of a kind is fitted on them, so a network outside of
    them is extrapolated. A new kind is a subclass and its YAML file in `configs/module`, which has its name.
    """

    ranges: Mapping[str, Span]
    choices: Mapping[str, Choice] = field(default_factory=dict)
    points: PositiveInt = 400

    name: ClassVar[str]
    inputs: ClassVar[tuple[str, ...]]
    operations: ClassVar[Mapping[str, float]] = {}  # tensor functions that are such a layer; their last input
    stand_ins: ClassVar[Mapping[str, float]] = {}  # those that are none, but take about as long; the same
    layer: ClassVar[LayerKind | None] = None  # the layer of a LayerTable that may be such a module
    covers: ClassVar[Any] = staticmethod(lambda inputs: True)  # whether it is of this kind and of no sibling

    # What a subclass may say.
    def cost(self, c: Columns) -> Work:
        """The work of (n,) modules."""
        raise NotImplementedError

    def settle(self, c: dict[str, Floats]) -> tuple[dict[str, Floats], Any]:
        """Drawn inputs rounded to what exists, and (n,) whether a network would have such a module."""
        return c, True

    def network(self, v: Values, parts: Any) -> Any:
        """The torch module with some inputs; `parts` is `latency.modules.torch_parts`, with torch inside."""
        raise NotImplementedError

    def shape(self, v: Values) -> tuple[int, ...]:
        """The shape of its input, without batch."""
        return v.get("cin", v.get("channels", 0)), v["side"], v["side"]

    def called(self, op: Operation) -> dict[str, float]:
        """The inputs of the layer that one of its `operations` makes."""
        raise NotImplementedError

    def traced(self, layers: Sequence[Layer]) -> tuple[dict[str, float], int] | None:
        """Inputs and number of layers of the module that the layers of a network begin with, if any."""
        first = layers[0]
        return ({name: first.inputs[name] for name in self.inputs}, 1) if first.kind is type(self) else None

    def listed(self, layers: TableLayers, at: int) -> tuple[dict[str, Column], int] | None:
        """The same for a batch of networks, from the layers at `at` on."""
        alone = self.layer is not None and layers.are(at, type(self))
        return (layers.inputs(at, self.inputs), 1) if alone else None

    # What follows from it.
    def __post_init__(self) -> None:
        declared, needed = {*self.ranges, *self.choices}, set(self.inputs)
        if declared != needed:
            raise ValueError(
                f"module {self.name} has the inputs {', '.join(self.inputs)}; "
                f"missing {sorted(needed - declared)}, unknown {sorted(declared - needed)}"
            )

    def draw(self, n: int, batches: tuple[int, ...], seed: int) -> tuple[Floats, Floats]:
        """(n, p) inputs and (n,) batches, space-filling: scrambled Sobol points, evenly on logarithmic
        scales, without those that are too large to time or that no network would have.

        ValueError when the ranges leave fewer than one point in a hundred.
        """
        from scipy.stats import qmc

        sobol = qmc.Sobol(len(self.inputs) + 1, rng=np.random.default_rng(seed))
        rows, batch = np.empty((0, len(self.inputs))), np.empty(0)
        drawn = 0
        while len(rows) < n:
            if drawn > 100 * n + 8192:
                raise ValueError(f"the ranges of module {self.name} leave {len(rows)} of {drawn} points")
            share = np.minimum(sobol.random(1024), 1 - 1e-9)
            drawn += len(share)
            spans: dict[str, Span | Choice] = {**self.ranges, **self.choices}
            columns, sensible = self.settle(
                {name: spans[name].at(share[:, j]) for j, name in enumerate(self.inputs)}
            )
            batches_drawn = np.array(batches, float)[(share[:, -1] * len(batches)).astype(int)]
            work = self.cost(columns)
            held = np.maximum(np.maximum(work.read, work.written), work.inner)
            keep = sensible & (work.macs * batches_drawn <= MAX_MACS) & (held * batches_drawn <= MAX_ELEMENTS)
            rows = np.concatenate([rows, np.stack([columns[name] for name in self.inputs], axis=1)[keep]])
            batch = np.concatenate([batch, batches_drawn[keep]])
        return rows[:n], batch[:n]

    def columns(self, rows: Floats) -> dict[str, Floats]:
        """(n,) values by input of (n, p) rows."""
        return {name: rows[:, j] for j, name in enumerate(self.inputs)}

    def work(self, rows: Floats) -> Work:
        """What (n, p) modules cost on paper: (n,) each."""
        return Work(*np.broadcast_arrays(*astuple(self.cost(self.columns(rows)))))

    def described(self) -> dict[str, Any]:
        """As JSON, for a file: `from_description` reads it."""
        return {"kind": self.name, **TypeAdapter(ModuleKind).dump_python(self, mode="json")}


def from_description(description: Mapping[str, Any]) -> ModuleKind:
    """The module kind that `described` wrote; ValueError for a kind that is not there."""
    options = dict(description)
    kind: ModuleKind = registry.get("module", options.pop("kind"), **options)
    return kind


@cache
def named(name: str) -> ModuleKind:
    """The module kind `configs/module/<name>.yaml`; ValueError with the nearest spelling otherwise."""
    kind: ModuleKind = registry.get("module", name)
    return kind


@cache
def all_kinds() -> tuple[ModuleKind, ...]:
    """The module kinds of `configs/module`."""
    return tuple(map(named, registry.names("module")))


def outputs(c: Columns) -> Any:
    """Pixels of the output: the whole numbers of an input and a stride rounded up, else their exact ratio.

    A convolution without padding, or of an image that is no square, has the stride that says its pixels.
    """
    ratio = np.asarray(c["side"] / c["stride"])
    whole = (np.asarray(c["side"]) % 1 == 0) & (np.asarray(c["stride"]) % 1 == 0)
    return np.where(whole, np.ceil(ratio), ratio) ** 2


def even(values: Floats, divisor: int = 8) -> Floats:
    """The nearest multiples of a divisor, as networks have them."""
    return make_divisible(values, divisor).astype(float)
