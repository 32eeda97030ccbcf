"""How a supernet is trained: phases, each with the part of the space that is open and the subnets of a step.

Two recipes: the sandwich rule, with or without in-place distillation (Yu and Huang, 2019; BigNAS, Yu et al.,
2020) and OFA's progressive shrinking (Cai et al., 2020). A phase opens, per letter of the space's genes (k
kernels, d depths, e expansions, w widths), the upper levels of all these genes; letters that it does not name
stay at the largest.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from supernet.options import FractionBelowOne, NonNegativeInt, options
from supernet.space import SearchSpace

Subnet = Literal["largest", "smallest", "random"]
RANDOM: tuple[Subnet] = ("random",)
WARM_UP = 0.04  # share of a cosine's steps in which the learning rate rises to its value


@dataclass(frozen=True)
class Phase:
    """A stretch of epochs.

    `distil`: none (all learn the labels), in_place (all but the first learn the first's outputs), or teacher
    (all learn labels and the outputs of the network as it was when the first such phase began).
    """

    name: str
    share: float  # of the epochs
    open: Mapping[str, int]  # letter: how many levels from the top
    subnets: tuple[Subnet, ...]
    distil: Literal["none", "in_place", "teacher"] = "none"
    rate: float = 1.0  # times the learning rate of the run
    warm_up: float = WARM_UP  # share of its cosine in which the rate rises
    summed: bool = False  # the gradients of the subnets of a step are added; else averaged
    restart: bool = True  # a new cosine and no momentum; else the cosine of the phase before goes on
    sort_channels: bool = False  # before it: most important channels of each block first

    def restricted(self, space: SearchSpace) -> SearchSpace:
        """The space with the levels that are open; resolutions and fine-tuning as they are."""
        for axis in space.axes:
            if axis.letter != "r" and not axis.deploy:
                count = min(self.open.get(axis.letter, 1), len(axis.values))
                space = space.restrict(axis.name, axis.values[-count], axis.values[-1])
        return space


class Recipe(Protocol):
    def phases(self, space: SearchSpace) -> tuple[Phase, ...]: ...


def letters(space: SearchSpace) -> dict[str, int]:
    """Most levels of any gene, by letter, of the genes that change the network."""
    levels: dict[str, int] = {}
    for axis in space.axes:
        if axis.letter != "r" and not axis.deploy:
            levels[axis.letter] = max(levels.get(axis.letter, 1), len(axis.values))
    return levels


@options
class Sandwich:
    """First the largest subnet alone for `largest_first` of the epochs, then each step the largest, the
    smallest and `random` others; one cosine for all.

    In-place distillation (`distil`), which helps long trainings on ImageNet in the sources, cost 1-2 points
    in 3 CPU-minutes on CIFAR-10 and made no difference in 29 (`python -m benchmarks.supernet recipes`).
    """

    random: NonNegativeInt = 1
    largest_first: FractionBelowOne = 0.35
    distil: bool = False  # True: all but the largest learn its outputs (in-place distillation)

    def phases(self, space: SearchSpace) -> tuple[Phase, ...]:
        sandwich = Phase(
            "sandwich",
            1 - self.largest_first,
            letters(space),
            ("largest", "smallest", *RANDOM * self.random),
            "in_place" if self.distil else "none",
            restart=not self.largest_first,
        )
        if not self.largest_first:
            return (sandwich,)
        return Phase("largest", self.largest_first, {}, ("largest",)), sandwich


LARGEST_RATE = 2.6 / 32  # of 64 images: 2.6 of 2,048 (Cai et al., section 4.1)
WARM_UP_EPOCHS = 5  # before 120 others


@options
class ProgressiveShrinking:
    """As published for MobileNetV3: the largest network for 180 epochs, then elastic kernels for 125, depths
    for 25 + 125 and expansions for 25 + 125, each time with one more level, taught by the largest network.

    A step trains 1 subnet in the kernel phase, 2 in the depth and 4 in the expansion phases and adds their
    gradients up. Learning rates of 64 images: .08125 for the largest network, then .03, and .0025 and .0075
    for the two phases of a letter; the phases of 120 epochs begin with 5 of warm-up (Cai et al., appendix;
    github mit-han-lab/once-for-all, train_ofa_net.py and progressive_shrinking.py). Epochs are shares of the
    run's, and the rate of the largest network is the run's. Letters with one level are left out, and one with
    more than three has more phases of the first kind.
    """

    distil: bool = True

    def phases(self, space: SearchSpace) -> tuple[Phase, ...]:
        levels = letters(space)
        phases = [Phase("largest", 180, {}, ("largest",))]
        opened: dict[str, int] = {}
        kinds = (("k", "kernel", 1), ("d", "depth", 2), ("e", "expand", 4), ("w", "width", 4))
        for letter, name, subnets in kinds:
            most = levels.get(letter, 1)
            steps = range(max(2, most) if letter == "k" else 2, most + 1)
            for count in steps:
                opened = {**opened, letter: count}
                last = count == most
                phases.append(
                    Phase(
                        name if len(steps) == 1 else f"{name} {count - 1}",
                        WARM_UP_EPOCHS + 120 if last else 25,
                        opened,
                        RANDOM * subnets,
                        "teacher" if self.distil else "none",
                        rate=(0.03 if letter == "k" else 0.0075 if last else 0.0025) / LARGEST_RATE,
                        warm_up=WARM_UP_EPOCHS / (WARM_UP_EPOCHS + 120) if last else 0,
                        summed=True,
                        sort_channels=letter == "e",
                    )
                )
        return tuple(phases)


def epochs_of(phases: tuple[Phase, ...], epochs: int) -> tuple[int, ...]:
    """Epochs of each phase: their shares of the total, at least one each; what rounding leaves goes to the
    longest."""
    if epochs < len(phases):
        names = ", ".join(phase.name for phase in phases)
        raise ValueError(f"epochs={epochs} are fewer than the {len(phases)} phases of the recipe ({names})")
    total = sum(phase.share for phase in phases)
    counts = [max(1, int(epochs * phase.share / total)) for phase in phases]
    while sum(counts) != epochs:
        ahead = [count - epochs * phase.share / total for count, phase in zip(counts, phases, strict=True)]
        if sum(counts) < epochs:
            counts[ahead.index(min(ahead))] += 1
        else:
            able = [a if count > 1 else float("-inf") for a, count in zip(ahead, counts, strict=True)]
            counts[able.index(max(able))] -= 1
    return tuple(counts)
