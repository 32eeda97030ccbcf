"""Measure top-1, top-5, loss and calibration error of subnets on images.

What is measured is kept, so a killed evaluation goes on with the next subnet. On several processes:
`torchrun --nproc-per-node=8 -m search evaluate ...`, which changes no count.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from search import command, front_table
from search.front_table import FRONT
from supernet import registry
from supernet.files import architectures, artifact, disk, run_folder
from supernet.files.command_line import then
from supernet.files.tables import Table
from supernet.options import CsvFile, PositiveInt
from supernet.training import measured_accuracy
from supernet.training.accuracy_store import AccuracyStore
from supernet.training.evaluation import Evaluation, Judging, Watch, largest_and_smallest
from supernet.training.step import Processes, processes
from supernet.weights.network import Trained
from supernet.weights.origins import origin
from supernet.weights.quality import Quality

CSV = "evaluation-{part}.csv"


@command.options
class Options(Judging):
    """What `make evaluate` takes: the protocol, and what is judged."""

    # run folder of make train, published name, checkpoint of OFA, hf:OWNER/NAME, or folder of one subnet
    weights: str | None = None
    supernet: str | None = None  # the same; the name that finetune and shrink have for it
    # one-line names, RUN:best of finished searches, paths of a net.config, and files of many: a list with a
    # name per line, a front.csv, or the folder of a finished search; None: the largest and the smallest
    architecture: str | list[str] | None = None
    data: command.Node | None = None  # images, where the weights are no run folder
    store: Path | None = None  # None: accuracies.sqlite in the run folder; of other weights in runs/NAME
    csv: CsvFile | None = None  # None: evaluation-<part>.csv there
    threads: PositiveInt = 1  # of PyTorch on a CPU, per process

    def __post_init__(self) -> None:
        if (self.weights is None) == (self.supernet is None):
            raise ValueError("please give weights=... (a run folder of make train, or ofa_mbv3_w1.0)")

    @property
    def named(self) -> str:
        return self.weights or self.supernet or ""


@command.named("evaluate")
def main(options: Options, config: dict[str, Any]) -> None:
    import torch

    torch.set_num_threads(options.threads)
    place = origin.folder(options.named)
    with processes() as group:
        evaluation = _evaluation(options, group)
        names = _names(options, evaluation)
        path = options.store or run_folder.own_file(place / measured_accuracy.STORE)
        with _progress(group) as watch:
            qualities = evaluation.qualities(names, lambda: AccuracyStore(path), watch)
        if group.rank:
            return
    _table(qualities).show()
    images = evaluation.facts["images"]
    print(f"{images} {options.part} images, norms: {_norms(evaluation)}; kept in {path}")
    if isinstance(evaluation.source, Trained):
        _write(evaluation, AccuracyStore(path), options.csv or place / CSV.format(part=options.part))


def _evaluation(options: Options, group: Processes) -> Evaluation:
    judging = command.take(Judging, options)
    data = registry.build(options.data)
    origin.check_images(options.named, data)
    meant = origin.find_any(options.named)
    if isinstance(meant, Trained):
        images = origin.images(options.named, meant, data)
        return Evaluation(meant, meant.sha256, images, judging, group)
    images = origin.images_of_subnet(options.named, meant, data)
    return Evaluation(meant, meant.facts["sha256"], images, judging, group)


def _names(options: Options, evaluation: Evaluation) -> list[str]:
    """One-line names of the bare networks that are asked for, without fine-tuning."""
    source, asked = evaluation.source, options.architecture
    if not isinstance(source, Trained):
        if asked not in (None, source.architecture):
            raise ValueError(f"{options.named} holds {source.architecture!r}; leave architecture= out")
        return [source.architecture]
    if asked is None:
        return largest_and_smallest(source)
    words = [asked] if isinstance(asked, str) else asked
    names = [name for word in words for name in _listed(word)]
    if not names:
        raise ValueError("architecture=[] names no network")
    genomes = architectures.parse(names, source.space)
    source.space.check_resolutions(genomes, source.resolution, f"the supernet {options.named}")
    bare = source.space.network(genomes)
    if (bare != genomes).any() and not evaluation.group.rank:
        print("fine-tuned networks are judged as they come out of the supernet (ft0)")
    return list(source.space.format(bare))


def _listed(word: str) -> list[str]:
    """The names that a word stands for."""
    path = Path(word)
    if (path / FRONT).is_file():
        path = path / FRONT
    if path.is_file() and path.suffix in (".csv", ".gz", ".txt", ".list"):
        return [str(name) for name in architectures.read(path)[architectures.COLUMN]]
    return [front_table.architecture(word)]


@contextmanager
def _progress(group: Processes) -> Iterator[Watch | None]:
    """A bar of the batches in the first process."""
    if group.rank:
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        task = progress.add_task("evaluate", total=None)
        yield lambda done, of, name: progress.update(task, completed=done, total=of, description=name)


def _table(qualities: dict[str, Quality]) -> Table:
    """Percent, so that lines are short; the file has fractions."""
    each = qualities.values()
    return Table(
        {
            "top1 %": [f"{100 * one.top1:.2f}" for one in each],
            "top5 %": [f"{100 * one.top5:.2f}" for one in each],
            "loss": [f"{one.loss:.4f}" for one in each],
            "ece %": [f"{100 * one.ece:.2f}" for one in each],
            "architecture": list(qualities),
        }
    )


def _norms(evaluation: Evaluation) -> str:
    norms = evaluation.facts["calibration"]
    if isinstance(norms, dict):
        return f"{norms['ofa'][0]} augmented training crops, as OFA"
    return norms if isinstance(norms, str) else f"the centres of {norms} training images"


def _write(evaluation: Evaluation, store: AccuracyStore, path: Path) -> None:
    """Rows of all subnets that were judged in this way, as `make fit` reads them."""
    assert isinstance(evaluation.source, Trained)
    with disk.reserved(path, disk.WAIT_SECONDS):  # others add to the store meanwhile: the file has all of it
        qualities = store.qualities(evaluation.facts)
        measured: dict[str, Sequence[Any]] = {
            name: [f"{getattr(one, name):.6f}" for one in qualities.values()]
            for name in ("top1", "top5", "loss", "ece")
        }
        measured |= {"images": [one.images for one in qualities.values()]}
        space = evaluation.source.space
        artifact.write_text(path, measured_accuracy.rows(space, list(qualities), measured).csv())
    print(f"{len(qualities)} subnets judged in this way are in {path}")
    print(then("fit", what="accuracy", space=space.name, rows=path, column="top1"))
