"""An elastic vision transformer beside the convolutional space: `python -m benchmarks.vision_transformer`.

Both supernets (`examples/elastic_vit` and `ofa_small`) see the same 10,000 images of CIFAR-10 at 32 x 32
pixels, as often and in the same order, by the sandwich rule; see `benchmarks.supernet` for the images. 30
subnets of each, the largest and the smallest among them, are judged on the 10,000 test images and timed on
this machine (ONNX Runtime, batch 1, one thread). What is trained stays in `out` and is not trained again.
Without `images=` it is all about scikit-learn's digits at 16 x 16 pixels.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr

from benchmarks import command, supernet
from latency.measuring import session
from latency.measuring.here import here
from latency.measuring.store import Store
from supernet import footprint, registry
from supernet.arrays import Floats
from supernet.space import get_space
from supernet.training.measured_accuracy import SupernetAccuracy
from supernet.training.recipes import Sandwich
from supernet.weights.images import ImageSet

EXAMPLE = Path(__file__).parents[1] / "examples" / "elastic_vit" / "configs"
SPACES = {  # how each is trained
    "elastic_vit": replace(supernet.JUDGE, optimiser="adamw", rate=0.002, weight_decay=0.05),
    supernet.SPACE: supernet.JUDGE,
}


@dataclass(frozen=True)
class Options:
    out: Path = Path("runs/bench-vit")
    images: Path | None = None  # the folder of CIFAR-10
    epochs: int = 24
    subnets: int = supernet.SUBNETS
    train_images: int = 10_000

    @property
    def image_set(self) -> ImageSet:
        """The images of both spaces."""
        if self.images is not None:
            return supernet.cifar(supernet.Options(images=self.images, train_images=self.train_images))
        count = min(self.train_images, 1000)
        return ImageSet(source="digits", resolution=(16, 16), train_images=count, val=200, calibration=count)


def judged(name: str, options: Options) -> tuple[Floats, Floats]:
    """(n,) ms and (n,) top-1 in per cent of the subnets of a space; prints what the training reached."""
    images = options.image_set
    plan, folder = replace(SPACES[name], epochs=options.epochs), options.out / name
    took = supernet.trained(folder, images, Sandwich(), plan, space=name)
    accuracy = SupernetAccuracy(weights=str(folder), part="test")
    genomes = supernet.random_subnets(options.subnets, images.resolution[1], space=name)
    halves = supernet.on_halves(accuracy, genomes)
    share, tested = halves.mean(axis=0), len(accuracy.data.parts["test"])
    top1, macs = 100 * share, footprint.compute(get_space(name), genomes, "macs")
    with Store(options.out / "measurements.sqlite") as store:
        timed = session.measure(here(name), genomes, store=store).data
    rows = [get_space(name).format(timed.genomes).index(line) for line in get_space(name).format(genomes)]
    ms = timed.ms[rows]
    print(f"## {name}: {took['epochs']} epochs, {took['cpu_seconds']:.0f} s of CPU, seed 0")
    print(f"largest {top1[0]:.2f}%, smallest {top1[1]:.2f}%")
    print(
        f"{len(top1)} subnets {top1.min():.2f} to {top1.max():.2f}%, sd {top1.std(ddof=1):.2f} points, of "
        f"sampling {100 * np.sqrt(share * (1 - share) / tested).mean():.2f}"
    )
    print(f"split-half Spearman {_spearman(*halves):.2f}")
    print(f"Spearman with MACs: top-1 {_spearman(macs, top1):.2f}, ms {_spearman(macs, ms):.2f}")
    print(
        f"{macs.min() / 1e6:.2f} to {macs.max() / 1e6:.2f} M MACs, {ms.min():.3f} to {ms.max():.3f} ms",
        flush=True,
    )
    return ms, top1


def _spearman(a: Floats, b: Floats) -> float:
    return float(spearmanr(a, b).statistic)


def main() -> None:
    torch.set_num_threads(1)
    _, options = command.words(Options)
    registry.use_folders(EXAMPLE)
    subnets = {name: judged(name, options) for name in SPACES}
    limits = np.quantile(np.concatenate([ms for ms, _ in subnets.values()]), (0.1, 0.25, 0.5, 0.75, 1.0))
    print(f"| at most, ms | {' | '.join(subnets)} |\n|---:|{'---:|' * len(subnets)}")
    for limit in limits:
        best = [top1[ms <= limit].max() if (ms <= limit).any() else np.nan for ms, top1 in subnets.values()]
        print(f"| {limit:.3f} | {' | '.join(f'{top1:.2f}' for top1 in best)} |")


if __name__ == "__main__":
    main()
