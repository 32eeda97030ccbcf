"""Multiruns: where their jobs write, what they are called, how they compare, and which of them failed.

Jobs may run in other processes and on other machines. So each leaves a file in the folder `jobs` of the
multirun, from which the table at the end is made, and the exit code.
"""

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from supernet.files import artifact, disk
from supernet.files.tables import Table

JOBS = "jobs"
SHOWN_ERROR = 60  # characters in the table; all of them are said where the job failed
LONGEST_NAME = 160  # characters of a folder; longer ones are numbers
DIRNAME = "hydra.job.config.override_dirname"
ADDED = ("hydra.sweep.", DIRNAME)  # what a launch says to Hydra
FLAGS = ("-m", "--multirun", "hydra.mode=MULTIRUN")


class JobError(ValueError):
    """A job of a multirun failed; the others go on."""


@dataclass(frozen=True)
class Job:
    """What became of a job: `figures`, the first of which sweepers go by, or an error."""

    name: str
    options: tuple[str, ...]
    launch: str  # of the multirun that ran it last
    figures: dict[str, float] = field(default_factory=dict)
    error: str = ""

    def write(self, folder: Path) -> None:
        """Into the folder of the multirun."""
        artifact.write_json(_file(folder, self.name), asdict(self))


@dataclass(frozen=True)
class Launch:
    """A multirun that is being started, and the words that Hydra gets."""

    words: list[str]
    folder: Path
    maximize: bool
    id: str = field(default_factory=lambda: str(time.time_ns()))

    @classmethod
    def from_words(cls, command: str, words: Sequence[str], maximize: bool) -> "Launch | None":
        """None where the words ask for one run.

        Each job writes into a folder that is named by what is varied, in characters that need no quotes.
        `out=` names the folder of them all.
        Optuna's direction is that of the command's figure unless it is given.
        """
        if not any(flag in words for flag in FLAGS):
            return None
        kept = [word for word in words if not word.startswith(("out=", "hydra.sweep.dir="))]
        asked = [word.partition("=")[2] for word in words if word not in kept]
        folder = asked[-1] if asked else f"runs/{command}-{time.strftime('%Y%m%d-%H%M%S')}"
        typed = [word for word in kept if "=" in word and not word.startswith("-")]
        options = OverridesParser.create().parse_overrides(typed)
        tasks = [option for option in options if not str(option.key_or_group).startswith("hydra")]
        varied = [option for option in tasks if option.is_sweep_override()]
        same = ",".join(str(option.key_or_group) for option in tasks if option not in varied)
        named = varied or any("hydra.sweeper.params" in word for word in kept)
        short = sum(map(_longest, varied)) <= LONGEST_NAME
        name = "${hydra.job.override_dirname}" if named and short else "${hydra.job.num}"
        added = [f"hydra.sweep.dir={folder}", f"hydra.sweep.subdir={name}"]
        added.append(f"{DIRNAME}={{exclude_keys:[{same}],kv_sep:'-',item_sep:'+'}}")
        if "hydra/sweeper=optuna" in kept and not any("sweeper.direction" in word for word in kept):
            added.append(f"hydra.sweeper.direction={'maximize' if maximize else 'minimize'}")
        return cls([*kept, *added], Path(folder), maximize)

    def clear(self) -> None:
        """Remove the folder of a multirun that did not begin."""
        files = list(self.folder.iterdir()) if self.folder.is_dir() else []
        if [file.name for file in files] == ["multirun.yaml"]:
            disk.remove_folder(self.folder, "multirun.yaml")

    def finish(self) -> int:
        """Print how the jobs compare, the best first, and say how many of this multirun failed."""
        jobs = [_read(path) for path in sorted((self.folder / JOBS).glob("*.json"))]
        heads = list(dict.fromkeys(head for job in jobs for head in job.figures))
        sign = -1 if self.maximize else 1
        jobs.sort(key=lambda job: sign * next(iter(job.figures.values()), sign * math.inf))
        failed = sum(job.launch == self.id and bool(job.error) for job in jobs)
        table = {head: [job.figures.get(head) for job in jobs] for head in heads}
        errors = (
            {"error": [job.error[:SHOWN_ERROR] for job in jobs]} if any(job.error for job in jobs) else {}
        )
        if jobs:
            Table({"job": [job.name for job in jobs], **table, **errors}).show()
            print(f"{len(jobs)} job(s) in {self.folder}")
        return failed


def is_job() -> bool:
    """Whether this is a job of a multirun."""
    mode = HydraConfig.get().mode
    return mode is not None and mode.name == "MULTIRUN"


def folder() -> Path:
    """The folder of the multirun that this job is of."""
    return Path(HydraConfig.get().sweep.dir)


def job_name() -> str:
    """What this job is called: what it has different from the other jobs of the multirun, else its number.

    `target-v100_b64+seed-1`
    """
    varied = Path(HydraConfig.get().runtime.output_dir).resolve().relative_to(folder().resolve())
    return str(HydraConfig.get().job.num) if str(varied) == "." else str(varied)


def clear() -> None:
    """Remove the folder of this job where it is empty."""
    path = Path(HydraConfig.get().runtime.output_dir)
    if path.is_dir() and not any(path.iterdir()):
        path.rmdir()


def earlier() -> dict[str, float]:
    """The figures of this job when it was finished before; nan where they are not known."""
    path = _file(folder(), job_name())
    return _read(path).figures if path.is_file() else {"value": math.nan}


def _file(folder: Path, name: str) -> Path:
    return folder / JOBS / f"{name.replace('/', '_')}.json"


def _read(path: Path) -> Job:
    content: Mapping[str, Any] = json.loads(path.read_text())
    return Job(**{**content, "options": tuple(content["options"])})


def _longest(option: Override) -> int:
    """Most characters that an option with several values adds to the name of a job."""
    if not option.is_discrete_sweep():
        return len(option.key_or_group) + 24  # the digits of a number
    return max(len(option.key_or_group) + len(value) + 2 for value in option.sweep_string_iterator())
