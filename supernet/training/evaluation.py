"""Quality of many subnets, on one process or several, kept in the store of measured accuracies.

Every process calibrates each subnet, then they share its batches of images. What a subnet gets is added up
in the order of the batches, so that the number of processes changes nothing. Letters: b images of a batch.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch

from supernet import registry
from supernet.options import NonNegativeInt, PositiveInt, options
from supernet.training import step
from supernet.training.accuracy_store import AccuracyStore
from supernet.training.measured_accuracy import setting
from supernet.training.step import Amp, Processes
from supernet.weights import network, quality
from supernet.weights import subnet as subnets
from supernet.weights.images import Batch, Images, Loader, Part
from supernet.weights.network import Trained
from supernet.weights.quality import Quality
from supernet.weights.subnet import BATCH, Subnet

OFA_IMAGES, OFA_BATCH = 2000, 100  # training crops, and of a forward pass (ofa/tutorial, eval_ofa_net.py)
Watch = Callable[[int, int, str], None]  # batches judged so far, of how many, and the subnet


@options
class Judging:
    """How subnets are judged.

    `calibration` says what their norms are measured on: `centre` is the central part of `data.calibration`
    training images, `ofa` is OFA's own protocol, 2,000 augmented training crops in batches of 100 through
    the `ofa` package's `set_running_statistics`.
    """

    part: Literal["test", "val", "all"] = "test"  # test: the published one, of ImageNet its val folder
    images: PositiveInt | None = None  # the first so many of the part; None: all
    # of the norms: centres of data.calibration training images, or as OFA 2,000 augmented training crops
    calibration: Literal["centre", "ofa"] = "centre"
    batch: PositiveInt = BATCH  # images of a forward pass
    amp: Amp = "off"  # auto: bf16 (else fp16) on a GPU
    seed: NonNegativeInt = 0  # of the augmented crops


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Judges subnets of a supernet, or one subnet that was saved, whose norms stay as they are."""

    source: Trained | Subnet
    sha256: str  # of the weights
    data: Images
    judging: Judging
    group: Processes

    @cached_property
    def judged(self) -> tuple[Images, Part]:
        """The images and the part of them that count."""
        if self.judging.part != "all":
            return self.data, self.judging.part
        whole = np.unique(np.concatenate(list(self.data.parts.values())))
        whole = np.random.default_rng(0).permutation(whole)
        return replace(self.data, parts={**self.data.parts, "test": whole}), "test"

    @cached_property
    def facts(self) -> dict[str, Any]:
        """Everything that a quality depends on beside the network: the setting in the store."""
        images, part = self.judged
        how = self.judging
        norms: Any = len(images.parts["calibration"])
        if isinstance(self.source, Subnet):
            norms = "as saved"
        elif how.calibration == "ofa":
            norms = {"ofa": [min(OFA_IMAGES, len(images.parts["train"])), OFA_BATCH, how.seed]}
        count = len(images.parts[part][: how.images])
        facts = setting(self.sha256, self.data, how.part, count, norms, how.batch)
        precision = step.precision(how.amp, self.group.device)
        return facts if precision is None else {**facts, "amp": str(precision)}

    def qualities(
        self, names: Sequence[str], store: Callable[[], AccuracyStore], watch: Watch | None = None
    ) -> dict[str, Quality]:
        """{name: quality} of the named subnets, in their order; what the store has is not judged again.

        Each subnet is stored when it is judged, so an interrupted evaluation goes on with the next. Only the
        first process opens the store.
        """
        names = list(dict.fromkeys(names))
        kept = store() if self.group.rank == 0 else None
        done: dict[str, Quality] = self.group.gather({} if kept is None else kept.qualities(self.facts))[0]
        missing = [name for name in names if name not in done]
        for place, name in enumerate(missing):
            started = time.perf_counter()

            def tell(batch: int, of: int, place: int = place, name: str = name) -> None:
                if watch is not None:
                    watch(place * of + batch, len(missing) * of, name)

            done[name] = self.judge(name, tell)
            if kept is not None:
                kept.add_quality(self.facts, name, done[name], time.perf_counter() - started)
        return {name: done[name] for name in names}

    def judge(self, name: str, tell: Callable[[int, int], None] = lambda batch, of: None) -> Quality:
        """The quality of one subnet now, by all processes together."""
        subnet, (images, part) = self.subnet(name), self.judged
        whole = images.batches(part, subnet.side, self.judging.batch, images=self.judging.images)
        mine = range(self.group.rank, len(whole), self.group.world)
        loader = Loader(images, [whole.plan[i] for i in mine])
        sums = {}
        with subnets.placed(subnet.module, self.group.device) as device:
            run = quality.runner(subnet.module, device, step.precision(self.judging.amp, device))
            for i, (pictures, labels) in zip(mine, loader, strict=True):
                sums[i] = quality.sums(run(pictures.contiguous().numpy()), labels.numpy())
                tell(i + 1, len(whole))
        shared = {i: one for part_of in self.group.gather(sums) for i, one in part_of.items()}
        return quality.from_sums([shared[i] for i in range(len(whole))])

    def subnet(self, name: str) -> Subnet:
        """The subnet of that name, its norms calibrated as the protocol says."""
        if isinstance(self.source, Subnet):
            return self.source
        ours = self.judging.calibration == "centre"
        subnet = subnets.from_supernet(self.source, self.data, name, calibrate=ours)
        return subnet if ours else ofa_calibrated(subnet, self.data, self.judging.seed, self.group.device)


def ofa_calibrated(subnet: Subnet, images: Images, seed: int, device: torch.device) -> Subnet:
    """The subnet, its norms set (in place) as OFA's authors do it.

    Random training images (2,000, or all where there are fewer), in random crops of 8-100% of their area,
    mirrored, brightness and saturation changed; the statistics are those of the `ofa` package's
    `set_running_statistics`. The draws follow from the seed.
    """
    from ofa.imagenet_classification.elastic_nn.utils import set_running_statistics

    rng = np.random.default_rng([seed, 2])
    rows = rng.permutation(images.parts["train"])[:OFA_IMAGES]
    augmentation, draws = registry.get("augmentation", "ofa"), rng.random((len(rows), 8))
    chunks = np.array_split(np.arange(len(rows)), max(1, -(-len(rows) // OFA_BATCH)))
    plan = [Batch(rows[chunk], subnet.side, (augmentation, draws[chunk])) for chunk in chunks]
    with subnets.placed(subnet.module, device):
        set_running_statistics(subnet.module, Loader(images, plan))
    return subnet


def largest_and_smallest(trained: Trained) -> list[str]:
    """Names of the largest and the smallest network, at the largest side that is searched."""
    space = trained.space
    side = min(trained.resolution[1], max(space.axis("r").values))
    space = space.restrict("r", side, side)
    return [space.format(genome)[0] for genome in (network.largest(space), network.smallest(space))]
