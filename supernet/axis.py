"""The genes of a search space, and the one-line names of its networks.

Letters: n architectures, d genes.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import numpy as np

from supernet.arrays import Genomes, Ints

GROUPS = {  # what the letters of the one-line names stand for
    "r": "resolution",
    "d": "depth",
    "k": "kernel",
    "e": "expand",
    "w": "width",
    "op": "operation",
    "ft": "finetune_epochs",
    "b": "precision",
}


@dataclass(frozen=True)
class Axis:
    """One gene: what it is called, what its levels 1, 2, ... mean, and where it stands in the one-line name.

    `name` is the column name of `data/README.md` (ks0, e3, d1, r); `letter` and `stage` place it in the
    one-line name. `deploy` marks genes that do not change the network but what is done with it (fine-tuning
    epochs). `beyond` are values of published networks that no search goes to and no table or one-hot reaches:
    genomes may name them, by the levels after those of `values`.
    """

    name: str
    values: tuple[int, ...]
    letter: str
    stage: int = 0
    deploy: bool = False
    beyond: tuple[int, ...] = ()

    @property
    def known(self) -> tuple[int, ...]:
        """The values of all levels: those that a search uses, then those beyond."""
        return self.values + self.beyond

    @property
    def group(self) -> str:
        """The name that this gene shares with others of its sort: kernel, depth, resolution, ..."""
        return GROUPS.get(self.letter, self.letter)


@dataclass(frozen=True)
class Gate:
    """Gene `axis` exists only where gene `controller` is at `level` or above. Data, not code."""

    axis: int
    controller: int
    level: int


@dataclass(frozen=True)
class OneLineNames:
    """Genomes as one line of text and back: the name of the space, then a word per letter, `d2-3-3-4-4`,
    whose stages are joined by hyphens. Numbers of one digit stand side by side, others by points."""

    space: str
    axes: tuple[Axis, ...]

    @cached_property
    def _words(self) -> list[tuple[str, list[list[int]]]]:
        """[(letter, [genes of each stage])], in the order of the axes."""
        return [
            (letter, [list(stage) for _, stage in groupby(genes, key=lambda j: self.axes[j].stage)])
            for letter, genes in groupby(range(len(self.axes)), key=lambda j: self.axes[j].letter)
        ]

    def format(self, genomes: Genomes, values: Ints) -> Iterator[str]:
        """The names of genomes (n, d), whose values (n, d) are given too."""
        for row, numbers in zip(genomes.tolist(), values.tolist(), strict=True):
            words = [self.space]
            for letter, stages in self._words:
                glue = "" if self._single_digits(stages) else "."
                words.append(
                    letter + "-".join(glue.join(str(numbers[j]) for j in s if row[j]) for s in stages)
                )
            yield " ".join(words)

    def _single_digits(self, stages: list[list[int]]) -> bool:
        return all(0 <= v <= 9 for stage in stages for j in stage for v in self.axes[j].values)

    def parse(self, names: Iterable[str]) -> Genomes:
        """The (n, d) levels that names list, 0 where they list none; ValueError that says what is wrong."""
        return np.array([self._parse_one(name) for name in names], np.int8).reshape(-1, len(self.axes))

    def _parse_one(self, name: str) -> list[int]:
        words = name.split()
        if len(words) != 1 + len(self._words) or words[0] != self.space:
            raise self.error(name, f"expected {self.space} and {len(self._words)} more words")
        row = [0] * len(self.axes)
        for word, (letter, stages) in zip(words[1:], self._words, strict=True):
            chunks = word.removeprefix(letter).split("-")
            if not word.startswith(letter) or len(chunks) != len(stages):
                raise self.error(name, f"{word!r} should be {letter} and {len(stages)} stage(s)")
            single = self._single_digits(stages)
            for chunk, genes in zip(chunks, stages, strict=True):
                tokens = list(chunk) if single else chunk.split(".") if chunk else []
                if len(tokens) > len(genes):
                    raise self.error(name, f"{chunk!r} in {word!r} has more than {len(genes)} values")
                for token, j in zip(tokens, genes, strict=False):
                    axis = self.axes[j]
                    if not token.isdecimal() or int(token) not in axis.known:
                        allowed = ", ".join(map(str, axis.known))
                        raise self.error(name, f"{token!r} in {word!r}: {axis.name} is one of {allowed}")
                    row[j] = axis.known.index(int(token)) + 1
        return row

    def error(self, name: str, reason: str) -> ValueError:
        return ValueError(f"cannot read the architecture {name!r}: {reason}")
