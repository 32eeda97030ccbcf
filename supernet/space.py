"""Search spaces: batches of canonical genomes and the operators on them.

Letters: n architectures, d genes, v values of all axes together, S slots.

A genome is a row of int8 *levels*: level 0 means "switched off by its gate", level i >= 1 means the i-th
value of the axis. Genomes are canonical: a gene that is switched off is 0 and no other gene is, so equal
networks are equal rows.
"""

import math
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from supernet import registry
from supernet.arrays import Genomes, Ints, Rng
from supernet.axis import Axis, Gate, OneLineNames
from supernet.registry import unknown_name

if TYPE_CHECKING:
    from supernet.layers import LayerTable

MAX_ENUMERATION = 10_000_000  # genomes; more are sampled, not listed


@dataclass(frozen=True, eq=False)
class SearchSpace:
    """A space of networks. Build one with `supernet.space.get_space(name)`.

    `slots` are the groups of genes that act together on one place of the network (kernel and width of one
    block); an additive cost is a sum over slots at given resolution. `parent` is a larger space that contains
    this one, so that its predictors apply here too (OFA-MobileNetV3 for CompOFA).
    """

    name: str
    axes: tuple[Axis, ...]
    gates: tuple[Gate, ...]
    slots: tuple[tuple[int, ...], ...]
    make_layers: "Callable[[SearchSpace, Genomes], LayerTable]"
    make_settings: "Callable[[SearchSpace, Genomes], list[dict[str, Any]]] | None" = None
    parent: "SearchSpace | None" = None
    make_parent_genomes: "Callable[[SearchSpace, Genomes], Genomes] | None" = None
    restricted: tuple[tuple[int, tuple[int, ...]], ...] = ()  # (gene, its levels) of `keep`, the last counts
    family: str | Callable[[], Any] | None = None  # class or "module:Class" of `supernet.weights.family`
    design: Any = None  # what the family has to know beside the axes

    def __post_init__(self) -> None:
        controllers, gated = {gate.controller for gate in self.gates}, {gate.axis for gate in self.gates}
        if len(gated) != len(self.gates) or controllers & gated:
            raise ValueError(f"{self.name}: a gene has at most one gate, and a gate's controller has none")
        if any(len(axis.known) > 126 for axis in self.axes):
            raise ValueError(f"{self.name}: at most 126 levels per gene fit in int8")

    @property
    def d(self) -> int:
        return len(self.axes)

    @cached_property
    def levels(self) -> Ints:
        """(d,) number of levels per gene that a search may use."""
        return np.array([len(axis.values) for axis in self.axes])

    @cached_property
    def _last(self) -> Ints:
        """(d,) highest level per gene that a genome may have: see `Axis.beyond`."""
        return np.array([len(axis.known) for axis in self.axes])

    @property
    def layout(self) -> Hashable:
        """What the layers of a genome depend on; the same for all restrictions of a space."""
        return (self.make_layers, self.axes)

    @property
    def owner(self) -> "SearchSpace":
        """The space whose supernet these networks are part of: the parent, or the space itself."""
        return self.parent or self

    @cached_property
    def index(self) -> dict[str, int]:
        return {axis.name: j for j, axis in enumerate(self.axes)}

    @cached_property
    def _gate(self) -> tuple[Ints, NDArray[np.int8]]:
        """(d,) controlling gene of each gene and (d,) level that it needs; without gate itself and 0."""
        controller, threshold = np.arange(self.d), np.zeros(self.d, np.int8)
        for gate in self.gates:
            controller[gate.axis], threshold[gate.axis] = gate.controller, gate.level
        return controller, threshold

    def _live(self, genomes: Genomes) -> NDArray[np.bool_]:
        """(n, d) whether the gate of each gene is open."""
        controller, threshold = self._gate
        return genomes[:, controller] >= threshold

    @cached_property
    def _value_table(self) -> Ints:
        """(d, 1 + max levels) the value behind each level; 0 behind level 0."""
        table = np.zeros((self.d, 1 + int(self._last.max())), np.int64)
        for j, axis in enumerate(self.axes):
            table[j, 1 : 1 + len(axis.known)] = axis.known
        return table

    @cached_property
    def choices(self) -> tuple[tuple[int, ...], ...]:
        """Of each gene the levels that sampling and mutation use, in ascending order; see `keep`."""
        kept = dict(self.restricted)
        return tuple(kept.get(j, tuple(range(1, count + 1))) for j, count in enumerate(self.levels.tolist()))

    @cached_property
    def width(self) -> Ints:
        """(d,) number of levels per gene that sampling and mutation use."""
        return np.array([len(levels) for levels in self.choices])

    @cached_property
    def _choice_table(self) -> NDArray[np.int8]:
        """(d, most levels) the levels of `choices`, filled up with the last one."""
        most = int(self.width.max())
        return np.array([(*levels, *levels[-1:] * (most - len(levels))) for levels in self.choices], np.int8)

    def at(self, places: Ints) -> Genomes:
        """(n, d) the genomes whose genes have the levels at these places (n, d) of `choices`."""
        return self.canonical(self._levels_at(places))

    def _levels_at(self, places: Ints) -> NDArray[np.int8]:
        most = self._choice_table.shape[1]
        return self._choice_table.ravel().take(places + most * np.arange(self.d))

    def axis(self, name: str) -> Axis:
        if name not in self.index:
            raise unknown_name(f"axis of {self.name}", name, self.index)
        return self.axes[self.index[name]]

    def allowed(self, name: str) -> tuple[int, ...]:
        """The values of axis `name` that sampling and mutation use."""
        values = self.axis(name).values
        return tuple(values[level - 1] for level in self.choices[self.index[name]])

    def restrict(self, name: str, low: int, high: int) -> "SearchSpace":
        """The same space, but sampling and mutation keep the values of axis `name` within [low, high]."""
        allowed = self.allowed(name)
        inside = [value for value in allowed if low <= value <= high]
        if not inside:
            raise ValueError(
                f"{self.name} has no value of {name} in [{low}, {high}]; it has {min(allowed)} to "
                f"{max(allowed)}"
            )
        return self.keep(name, inside)

    def keep(self, name: str, values: Iterable[int]) -> "SearchSpace":
        """The same space, but sampling and mutation use only these values of axis `name`."""
        allowed, values = self.allowed(name), set(values)
        if not values or values - set(allowed):
            raise ValueError(
                f"{name}={sorted(values)} of {self.name} must be some of {', '.join(map(str, allowed))}"
            )
        levels = tuple(self.axis(name).values.index(value) + 1 for value in allowed if value in values)
        return replace(self, restricted=(*self.restricted, (self.index[name], levels)))

    def keep_genes(self, genes: Mapping[str, Iterable[int]]) -> "SearchSpace":
        """The same space, but sampling and mutation use only these values of these genes.

        A name is that of one axis (`ks3`) or of a group of them (`kernel`), each of whose axes keeps the
        values that it has.

        >>> get_space("ofa_mbv3_w1.0").keep_genes({"kernel": [3, 7], "ks3": [7]}).allowed("ks3")
        (7,)
        """
        space = self
        groups = dict.fromkeys(axis.group for axis in self.axes)
        for name, wanted in genes.items():
            values = set(wanted)
            names = [name] if name in self.index else [a.name for a in self.axes if a.group == name]
            if not names:
                raise unknown_name(f"gene of {self.name}", name, [*groups, *self.index])
            allowed = {axis: space.allowed(axis) for axis in names}
            there = sorted(set().union(*allowed.values()))
            if not values or values - set(there):
                raise ValueError(
                    f"genes.{name}={sorted(values)} of {self.name} must be some of "
                    f"{', '.join(map(str, there))}"
                )
            for axis in names:
                space = space.keep(axis, values & set(allowed[axis]) or values)
        return space

    def count(self) -> int:
        """Number of different networks (and deployment settings) in the space as restricted; exact."""
        width = self.width.tolist()
        controllers = sorted({gate.controller for gate in self.gates})
        gated = {gate.axis for gate in self.gates}
        total = math.prod(width[j] for j in range(self.d) if j not in gated and j not in controllers)
        for c in controllers:
            mine = [gate for gate in self.gates if gate.controller == c]
            total *= sum(
                math.prod(width[gate.axis] for gate in mine if level >= gate.level)
                for level in self.choices[c]
            )
        return total

    def canonical(self, genomes: Genomes) -> Genomes:
        """(n, d) genes that their gate switches off become 0; live ones that are 0 get their lowest level."""
        lowest = self._choice_table[:, 0]
        return np.where(self._live(genomes), np.where(genomes > 0, genomes, lowest), np.int8(0))

    def is_canonical(self, genomes: Genomes) -> bool:
        if genomes.dtype != np.int8 or genomes.ndim != 2 or genomes.shape[1] != self.d:
            return False
        in_range = (genomes >= 0) & (genomes <= self._last)
        return bool((in_range & ((genomes > 0) == self._live(genomes))).all())

    def check(self, genomes: Genomes) -> None:
        """ValueError unless `genomes` is an (n, d) int8 array of canonical genomes of this space."""
        if not self.is_canonical(genomes):
            raise ValueError(
                f"not canonical {self.name} genomes: expected int8 (n, {self.d}) levels, 0 exactly where a "
                f"gene is off; got {genomes.dtype} {genomes.shape}. Build them with space.encode, "
                "space.parse or space.canonical"
            )

    def contains(self, genomes: Genomes) -> NDArray[np.bool_]:
        """(n,) which canonical genomes have only levels that the space is restricted to."""
        kept = [np.isin(genomes[:, j], (0, *levels)) for j, levels in enumerate(self.choices)]
        return np.asarray(np.all(kept, axis=0))

    def _draw(self, n: int, rng: Rng) -> Genomes:
        places = rng.integers(0, self.width, size=(n, self.d), dtype=np.int64)
        return self._levels_at(places)

    def sample(self, n: int, rng: Rng) -> Genomes:
        """(n, d) random genomes; every gene is uniform, as OFA draws them (depths are, networks are not)."""
        return self.canonical(self._draw(n, rng))

    def extremes(self) -> Genomes:
        """(2, d) every gene at its lowest and at its highest level: the ends of an OFA space."""
        return self.at(np.stack([np.zeros(self.d, np.int64), self.width - 1]))

    def mutate(self, genomes: Genomes, rng: Rng, rate: float) -> Genomes:
        """(n, d) each gene is redrawn with probability `rate`, and so is what a deeper stage switches on."""
        redraw = (rng.random(genomes.shape) < rate) | (genomes == 0)
        return self.canonical(np.where(redraw, self._draw(len(genomes), rng), genomes))

    def crossover(self, a: Genomes, b: Genomes, rng: Rng) -> Genomes:
        """(n, d) uniform crossover.

        A gene live in the child but off in the chosen parent comes from the other one.
        """
        child = np.where(rng.random(a.shape) < 0.5, a, b)
        return self.canonical(np.where(child == 0, np.maximum(a, b), child))

    def network(self, genomes: Genomes) -> Genomes:
        """(n, d) the same networks with deployment genes at their first value: what a latency depends on."""
        deploy = np.array([axis.deploy for axis in self.axes])
        return np.where(deploy, np.int8(1), genomes)

    def neighbours(self, genome: Genomes) -> Genomes:
        """(m, d) all networks one gene away; genes that a deeper stage switches on get their lowest."""
        steps = []
        for j in np.flatnonzero(genome[0]):
            levels = np.array(self.choices[j], np.int8)
            moved = np.repeat(genome, len(levels), axis=0)
            moved[:, j] = levels
            steps.append(moved[levels != genome[0, j]])
        return np.unique(self.canonical(np.concatenate(steps)), axis=0)

    def enumerate(self) -> Genomes:
        """(count, d) every network once, in lexicographic order of levels.

        ValueError for spaces with gates and for more than 10 million networks: sample those.
        """
        if self.gates or math.prod(self.width.tolist()) > MAX_ENUMERATION:
            raise ValueError(
                f"{self.name} has {self.count():.3g} networks: sample them instead of listing them"
            )
        places = np.indices(self.width.tolist(), np.int8).reshape(self.d, -1).T
        return np.ascontiguousarray(self.at(places))

    def column(self, genomes: Genomes, name: str) -> Ints:
        """(n,) values (not levels) of the axis `name`; 0 where it is off."""
        self.axis(name)
        j = self.index[name]
        return self._value_table[j][genomes[:, j]]

    def values(self, genomes: Genomes) -> Ints:
        """(n, d) values (not levels) of all axes; 0 where a gene is off."""
        return self._value_table[np.arange(self.d), genomes]

    @cached_property
    def one_hot_offsets(self) -> Ints:
        return np.concatenate([[0], np.cumsum(self.levels)])

    @property
    def one_hot_width(self) -> int:
        return int(self.one_hot_offsets[-1])

    def one_hot(self, genomes: Genomes, dtype: type[np.floating[Any]] = np.float64) -> NDArray[Any]:
        """(n, v) indicator of each value of each axis; rows of zeros for genes that are off."""
        self.check_inside(genomes)
        n = len(genomes)
        # One spare column in front takes the level 0 of every gene, so that no mask is needed.
        flat = np.zeros((n, 1 + self.one_hot_width), dtype)
        target = np.where(genomes > 0, self.one_hot_offsets[:-1] + genomes, 0)
        flat[np.arange(n)[:, None], target] = 1
        return flat[:, 1:]

    @cached_property
    def slot_radix(self) -> tuple[Ints, int]:
        """Mixed-radix weights (S, d) that turn a genome into slot codes, and the largest number of codes of a
        slot."""
        weights = np.zeros((len(self.slots), self.d), np.int64)
        codes = np.ones(len(self.slots), np.int64)  # of each slot
        for s, genes in enumerate(self.slots):
            for j in genes:
                weights[s, j] = codes[s]
                codes[s] *= self.levels[j] + 1
        return weights, int(codes.max())

    def slot_codes(self, genomes: Genomes) -> NDArray[np.int32]:
        """(n, S) which of its variants each slot is in; 0 where it is absent."""
        weights, _ = self.slot_radix
        # float32 matmul: exact for these small integers, and BLAS is 10x faster than numpy's integer matmul
        return np.asarray(genomes.astype(np.float32) @ weights.T.astype(np.float32), np.int32)

    def reaches_beyond(self, genomes: Genomes) -> NDArray[np.bool_]:
        """(n,) which genomes have a value that no search uses (`Axis.beyond`)."""
        wide = np.flatnonzero(self._last > self.levels)
        return np.asarray((genomes[:, wide] > self.levels[wide]).any(axis=1))

    def check_inside(self, genomes: Genomes) -> None:
        """ValueError where a genome has a value that no table and no one-hot of the space reaches."""
        if (outside := self.reaches_beyond(genomes)).any():
            name = self.format(genomes[outside][:1])[0]
            raise ValueError(
                f"{name!r} lies beyond what is searched and fitted in {self.name}: its accuracy and its size "
                "can be told, its latency only by measuring"
            )

    def check_resolutions(self, genomes: Genomes, known: tuple[int, int], whose: str) -> None:
        """ValueError unless all input sides lie in `known`; nothing to check without resolution gene."""
        if "r" not in self.index or not len(genomes):
            return
        (first, last), (low, high) = self.resolution_range(genomes), known
        if first < low or last > high:
            raise ValueError(
                f"{whose} is known for resolutions {low} to {high}, not for {first} to {last}; "
                f"restrict the space: space.restrict('r', {low}, {high}), or resolution=[{low},{high}]"
            )

    def resolution_range(self, genomes: Genomes) -> tuple[int, int]:
        """Lowest and highest input side among genomes; zeros in a space without resolution gene."""
        if "r" not in self.index:
            return 0, 0
        r = self.column(genomes, "r")
        return int(r.min()), int(r.max())

    def embed(self, genomes: Genomes, target: str) -> Genomes:
        """The same networks as genomes of the space named `target`: this space or its parent."""
        if target == self.name:
            return genomes
        if self.parent is None or self.make_parent_genomes is None or target != self.parent.name:
            fits = self.name if self.parent is None else f"{self.name} or {self.parent.name}"
            raise ValueError(f"{self.name} is not part of {target}: use something fitted for {fits}")
        return self.make_parent_genomes(self, genomes)

    def layers(self, genomes: Genomes) -> "LayerTable":
        """(n, L) table of the layers of these networks."""
        return self.make_layers(self, genomes)

    @property
    def classes(self) -> int:
        """Outputs of the last layer in the layer table."""
        return int(self.layers(self.extremes()[:1]).cout[0, -1])

    def settings(self, genomes: Genomes) -> list[dict[str, Any]]:
        """One dict per network for `set_active_subnet` of the `ofa` package."""
        owner = self.owner
        if owner.make_settings is None:
            raise ValueError(f"{self.name} is no space of the ofa package: it has no network to set")
        return owner.make_settings(owner, self.embed(genomes, owner.name))

    def encode(self, columns: Mapping[str, ArrayLike]) -> Genomes:
        """Canonical genomes from tidy columns of values (`data/README.md`); extra columns are ignored.

        Deployment genes may be missing (lowest value). Entries of absent blocks may hold anything.
        """
        needed = [axis.name for axis in self.axes if not axis.deploy]
        if missing := [name for name in needed if name not in columns]:
            raise ValueError(
                f"{self.name} needs architecture, or {', '.join(needed)}; missing: {', '.join(missing)}"
            )
        n = len(np.asarray(columns[needed[0]]))
        genomes = np.ones((n, self.d), np.int8)
        unknown = np.zeros(genomes.shape, bool)
        for j, axis in enumerate(self.axes):
            if axis.name in columns:
                column = np.asarray(columns[axis.name])
                if column.dtype.kind not in "iuf":
                    text = column[:3].tolist()
                    raise ValueError(f"{self.name}: the column {axis.name} holds text: {text} ...")
                equal = column[:, None] == np.array(axis.known)
                genomes[:, j] = equal.argmax(axis=1) + 1
                unknown[:, j] = ~equal.any(axis=1)
        genomes = self.canonical(genomes)
        if (wrong := unknown & (genomes > 0)).any():
            row, j = np.argwhere(wrong)[0].tolist()
            axis = self.axes[j]
            raise ValueError(
                f"{self.name}: {axis.name}={np.asarray(columns[axis.name])[row]} in row {row}; allowed "
                f"are {', '.join(map(str, axis.known))}"
            )
        return genomes

    @cached_property
    def _names(self) -> OneLineNames:
        return OneLineNames(self.name, self.axes)

    def format(self, genomes: Genomes) -> list[str]:
        """The one-line names, e.g. `ofa_mbv3_w1.0 r192 d2-3-3-4-4 k35-357-... e46-346-... ft25`."""
        return list(self._names.format(genomes, self.values(genomes)))

    def parse(self, names: Iterable[str]) -> Genomes:
        """The (n, d) genomes of one-line names: the exact inverse of `format`."""
        names = list(names)
        try:
            genomes = self._names.parse(names)
            for name, row in zip(names, genomes, strict=True):
                if not self.is_canonical(row[None]):
                    raise self._names.error(
                        name, "the number of values per stage does not agree with the depths"
                    )
        except ValueError as error:
            raise ValueError(f"{error}; an example: {self.format(self.extremes()[:1])[0]!r}") from None
        return genomes


@cache
def get_space(name: str) -> SearchSpace:
    """The space `name` of the registry; ValueError with the nearest spelling for an unknown name.

    >>> space = get_space("ofa_small")
    >>> space.format(space.extremes()[:1])
    ['ofa_small r16 d1-1-1 k3-3-3 e2-2-2 ft0']
    >>> space.neighbours(space.parse(["ofa_small r16 d1-1-1 k3-3-3 e2-2-2 ft0"])).shape
    (29, 23)
    """
    space: SearchSpace = registry.get("space", name)
    return space
