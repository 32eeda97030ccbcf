"""Where runs are watched: Weights & Biases and TensorBoard, the choices of the group `logger`.

The same rounds as in events.jsonl go there. Neither library is imported before a run starts that asks for it.
"""

import os
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, Protocol

from supernet.extras import quiet, require
from supernet.files import artifact
from supernet.files.sinks import Front, Row, Sink
from supernet.files.tables import Table
from supernet.options import FileName, file_name, options

WANDB, TENSORBOARD = "wandb", "tensorboard"  # what is written into a run folder
PROJECT = "ofa-frontier"
ROWS = 1000  # of a front in a table of W&B, besides those that always are in it
SHOWN_COSTS = ("accuracy", "latency_ms")  # drawn as y and x where both are there
Files = Mapping[str, Path]  # by type: archive, front, report, predictor, weights, measurements, ...


@dataclass(frozen=True)
class Job:
    """A run, as loggers are told of it.

    `kind` is the command, `folder` is where it writes, `inputs` are the files that it reads and `outputs`
    those that it leaves if it gets to its end, both by type.
    """

    kind: str
    name: str
    folder: Path
    config: Mapping[str, Any]
    group: str | None = None
    tags: Sequence[str] = ()
    inputs: Files = field(default_factory=dict)
    outputs: Files = field(default_factory=dict)


class Logger(Protocol):
    """A choice of the group `logger`."""

    def sink(self, job: Job) -> Sink | None: ...


@options
class Wandb:
    """Weights & Biases: the rounds, the front as a table, plots of all pairs of objectives, and files with
    what they were made of.

    An option that is not given is what the environment says (WANDB_MODE, WANDB_PROJECT, WANDB_ENTITY,
    WANDB_RUN_GROUP, WANDB_NAME, WANDB_NOTES; WANDB_TAGS are added), else the default. Offline needs no
    network: `wandb sync FOLDER/wandb/offline-run-*` uploads it later.
    """

    mode: Literal["offline", "online", "disabled"] | None = None  # None: offline
    project: str | None = None  # None: ofa-frontier
    entity: str | None = None  # user or team; None: your default one
    group: str | None = None  # None: the folder of a multirun
    name: str | None = None  # None: the run folder that was given, else the target and the options
    tags: tuple[str, ...] = ()  # besides the target and the space
    notes: str | None = None

    def sink(self, job: Job) -> Sink | None:
        mode = self.mode or os.environ.get("WANDB_MODE") or "offline"
        if mode not in ("offline", "online", "disabled"):
            raise ValueError(f"WANDB_MODE={mode} must be offline, online or disabled")
        return None if mode == "disabled" else WandbSink(job, self, offline=mode == "offline")


class WandbSink:
    """A run of W&B. A resumed run keeps its id, which is in the run folder."""

    def __init__(self, job: Job, asked: Wandb, *, offline: bool) -> None:
        self._job, self._asked, self._offline = job, asked, offline
        self._run: Any = None
        self._logged = 0

    def start(self, facts: Mapping[str, Any], history: Sequence[Row]) -> None:
        quiet()
        import wandb

        job, asked, told = self._job, self._asked, os.environ.get
        tags = dict.fromkeys((*job.tags, *asked.tags, *filter(None, told("WANDB_TAGS", "").split(","))))
        self._run = wandb.init(
            project=asked.project or told("WANDB_PROJECT") or PROJECT,
            entity=asked.entity or told("WANDB_ENTITY"),
            group=asked.group or told("WANDB_RUN_GROUP") or job.group,
            name=asked.name or told("WANDB_NAME") or job.name,
            notes=asked.notes or told("WANDB_NOTES"),
            job_type=told("WANDB_JOB_TYPE") or job.kind,
            tags=[tag[:64] for tag in tags],  # longer ones are refused
            id=told("WANDB_RUN_ID") or self._id(),
            resume="allow",
            dir=str(job.folder.resolve()),  # its service may have started in another folder
            config={**job.config, **facts},
            mode="offline" if self._offline else "online",
            reinit="finish_previous",
            settings=wandb.Settings(
                console="off", silent=True, x_disable_stats=True, x_save_requirements=False
            ),
        )
        for row in history:
            self.log(row)
        self._log_files(job.inputs, used=True)

    def _id(self) -> str:
        path = self._job.folder / WANDB / "id"
        if not path.is_file():
            artifact.write_text(path, uuid.uuid4().hex[:8])
        return file_name(path.read_text().strip())  # W&B makes it part of a folder's name

    def step(self, done: int, of: int, loss: float) -> None:
        """Rounds are enough."""

    def log(self, row: Row) -> None:
        """A server knows the rounds of a resumed run already; an offline run gets all of them again."""
        if self._logged >= self._run.step:
            self._run.log(dict(row), step=self._logged)
        self._logged += 1

    def finish(self, summary: Mapping[str, Any], front: Front | None = None) -> None:
        if front is not None and len(front.rows()):
            self._log_front(front)
        self._run.summary.update(dict(summary))
        self._log_files(self._job.outputs, used=False)

    def _log_front(self, front: Front) -> None:
        import wandb

        marked = marks(front)
        rows = list(enumerate(front.rows()))
        few = rows[:: max(1, -(-len(rows) // ROWS))]
        rows = sorted(dict((*few, *((i, rows[i][1]) for i in marked))).items())
        table = wandb.Table(
            columns=["mark", *front.columns],
            data=[[marked.get(row, ""), *cells.values()] for row, cells in rows],
        )
        shown: dict[str, Any] = {"front": table}
        order = sorted(front.objectives, key=lambda one: one not in SHOWN_COSTS)
        for y, x in combinations(order, 2) if len(order) > 1 else [(order[0], order[0])]:
            shown[f"front/{y} over {x}"] = wandb.plot.scatter(table, x, y, title=f"{y} over {x}")
        self._run.log(shown, step=self._logged)

    def _log_files(self, files: Files, *, used: bool) -> None:
        """Files as artifacts, named after their folder: what one run leaves is what another one uses.

        Where only a local record is written `use_artifact` refuses; what it does online for a file is done
        here by the same call, so that a later `wandb sync` knows the lineage.
        """
        import wandb

        for kind, path in files.items():
            if not path.is_file():
                continue
            name = re.sub(r"[^\w.-]", "-", f"{path.resolve().parent.name}.{path.name}")
            one = wandb.Artifact(name[-128:], kind)
            one.add_file(str(path), policy="immutable", skip_cache=True)
            if not used:
                self._run.log_artifact(one)
            elif self._offline:
                self._run._log_artifact(one, aliases=[], is_user_created=True, use_after_commit=True)
            else:
                self._run.use_artifact(one)

    def close(self) -> None:
        if self._run is not None:
            self._run.finish()
            self._run = None


def marks(front: Front) -> dict[int, str]:
    """{row: what it is}: the knee, the most accurate, the extremes of each objective and the shortlist."""
    marked: dict[int, list[str]] = {front.knee: ["knee"]}
    marked.setdefault(front.best, []).append("most accurate")
    for name in front.objectives:
        values = list(front.columns[name])
        for word, row in (("least", values.index(min(values))), ("most", values.index(max(values)))):
            marked.setdefault(row, []).append(f"{word} {name}")
    for row in front.shortlist():
        marked.setdefault(row, []).append("shortlist")
    return {row: ", ".join(words) for row, words in sorted(marked.items())}


@options
class TensorBoard:
    """TensorBoard: the numbers of every round, and the shortlist and the summary as text.

    It needs `pip install "ofa-frontier[tensorboard]"`; `tensorboard --logdir runs` shows it.
    """

    folder: FileName = TENSORBOARD  # in the run folder

    def sink(self, job: Job) -> Sink:
        require("logger=tensorboard", ["torch", "tensorboard"])
        return TensorBoardSink(job.folder / self.folder)


class TensorBoardSink:
    """Events for TensorBoard: numbers in double precision, words as text.

    A resumed run begins a new file with the whole curve, which takes the place of the earlier one.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: Any = None
        self._logged = 0

    def start(self, facts: Mapping[str, Any], history: Sequence[Row]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(self._folder), purge_step=0)
        for row in history:
            self.log(row)

    def step(self, done: int, of: int, loss: float) -> None:
        """Rounds are enough."""

    def log(self, row: Row) -> None:
        for name, value in row.items():
            if isinstance(value, str):
                self._writer.add_text(name, value, self._logged)
            elif value is not None:
                self._writer.add_scalar(name, value, self._logged, new_style=True, double_precision=True)
        self._logged += 1

    def finish(self, summary: Mapping[str, Any], front: Front | None = None) -> None:
        for name, value in summary.items():
            self._writer.add_text(f"summary/{name}", str(value), self._logged)
        if front is not None and len(front.rows()):
            marked, rows = marks(front), front.rows()
            listed = ([words, *rows[row].values()] for row, words in marked.items())
            table = Table.from_rows(["mark", *front.columns], listed)
            self._writer.add_text("front", table.markdown(), self._logged)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
