"""The folder of a run: who may write to it, what it says about the run, and when the run goes on.

A run folder holds config.yaml (the settings), env.json (versions and machine), for searches and trainings
events.jsonl, and what the run gives. The file that makes a run finished is written last.
"""

import json
import os
import platform
import shutil
import subprocess
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml
from threadpoolctl import threadpool_info

from supernet import choices
from supernet.files import artifact, disk
from supernet.files.disk import LOCK

CONFIG, ENVIRONMENT, EVENTS = "config.yaml", "env.json", "events.jsonl"
# What a run leaves that has not saved anything yet.
BEGINNING = {CONFIG, ENVIRONMENT, EVENTS, LOCK, "wandb", "tensorboard"}
SUBNET, SUPERNET = "subnet.safetensors", "supernet.safetensors"  # the weights that a run leaves
LOGGING = ("logger", "wandb")  # options that say where a run reports to
PACKAGES = (
    "ofa-frontier",
    "numpy",
    "scipy",
    "torch",
    "onnxruntime",
    "openvino",
    "moocore",
    "hydra-core",
    "pydantic",
    "wandb",
)


# What of env.json may change the last digits of a result; the rest of it is for people.
DECISIVE = ("python", "packages", "git", "machine", "processor", "kernels")
# Variables that choose kernels of numpy and PyTorch, beside OPENBLAS_CORETYPE, which the kernel itself shows.
CHOOSING = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_CBWR", "NPY_DISABLE_CPU_FEATURES")


class FinishedRun(ValueError):
    """The run folder holds a finished run; it is left alone."""


class OtherEnvironmentWarning(UserWarning):
    """A run goes on with other versions, or on another machine, than it began with."""


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run, not yet touched.

    `finished` is the file whose presence means that the run is finished; None for runs that may be repeated.
    `reporting` are settings that do not change the result: a run goes on whatever they are. `scratch` are
    files that an unfinished run needs and a finished one does not.
    """

    path: Path
    finished: str | None
    reporting: frozenset[str] = frozenset({"out", *LOGGING})
    scratch: frozenset[str] = frozenset()

    def check(self, config: Mapping[str, Any]) -> None:
        """ValueError unless the folder is new, empty, or holds the unfinished run of the same settings.

        FinishedRun when it holds a finished run. A run that saved nothing beyond its beginning blocks nobody.
        """
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"out={self.path} is a file; name a folder")
        entries = list(self.path.iterdir()) if self.path.exists() else []
        files = {own_file(entry).name for entry in entries}
        if self.finished in files:
            raise FinishedRun(f"{self.path} holds a finished run, which is left alone: choose another out=")
        files = {name for name in files if not name.endswith(disk.ASIDE)}
        if not files - {LOCK}:
            return
        if CONFIG not in files:
            raise ValueError(f"out={self.path} holds other files and no run; name a new or empty folder")
        if LOCK in files and not files - BEGINNING:
            return
        if changed := self._changes(settings(self.path), config):
            raise ValueError(
                f"{self.path} holds an unfinished run with other settings ({'; '.join(changed)}): repeat its "
                "command to go on, or choose another out="
            )

    @contextmanager
    def hold(self, config: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The folder, checked and ours alone until the block is left; gives what env.json says."""
        try:
            self.check(config)
        except FinishedRun:
            with suppress(disk.BusyError), disk.holding(self.path):
                self._tidy()  # the process that finished it may have been killed before it could
            raise
        made = [parent for parent in self.path.parents if not parent.exists()]
        with disk.holding(self.path):
            self.check(config)  # again: another process may have finished meanwhile
            here = environment()
            self._compare(here)
            try:
                artifact.write_text(self.path / CONFIG, yaml.safe_dump(_plain(config), sort_keys=False))
                artifact.write_json(self.path / ENVIRONMENT, here)
                yield here
            except BaseException:
                self._clear(made)
                raise
            self._tidy()

    def hold_by_first(self, config: Mapping[str, Any], rank: int) -> AbstractContextManager[dict[str, Any]]:
        """`hold` in the first of the processes that run together; the others rely on it."""
        return self.hold(config) if rank == 0 else nullcontext({})

    def _tidy(self) -> None:
        """Remove what killed processes left half written and, of a finished run, what nobody needs now."""
        for half in self.path.glob(f"*{disk.ASIDE}"):
            disk.remove(half)
        if self.finished is not None and (self.path / self.finished).exists():
            for name in self.scratch:
                disk.remove(self.path / name)

    def _clear(self, made: Sequence[Path]) -> None:
        """Remove the folder, and those made above it, when the run was refused before it did anything."""
        files = [file for file in self.path.iterdir() if not file.name.endswith(disk.ASIDE)]
        if {file.name for file in files} <= {CONFIG, ENVIRONMENT, LOCK}:
            with suppress(PermissionError):  # Windows keeps the open lock
                disk.remove_folder(self.path, LOCK)
            with suppress(OSError):  # another run is there by now
                for parent in made:
                    disk.remove_empty(parent)

    def _compare(self, here: Mapping[str, Any]) -> None:
        """Warn where the run began in another environment: the result may differ in its last digits."""
        path = self.path / ENVIRONMENT
        if not path.is_file():
            return
        try:
            before = _flat({name: dict(json.loads(path.read_text())).get(name) for name in DECISIVE})
        except (ValueError, TypeError) as error:
            before = {ENVIRONMENT: f"damaged ({error})"}
        now = _flat({name: here[name] for name in DECISIVE})
        names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
        if names:
            changed = (f"{name} {before.get(name)}, now {now.get(name)}" for name in names)
            warnings.warn(
                f"{self.path} goes on in another environment than it began in, so its last digits may be "
                f"others than those of an unbroken run ({'; '.join(changed)})",
                OtherEnvironmentWarning,
                stacklevel=3,
            )

    def _changes(self, before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
        old, new = _flat(_plain(before)), _flat(_plain(now))
        names = [name for name in {**old, **new} if name.partition(".")[0] not in self.reporting]
        changed = [name for name in names if json.dumps(old.get(name)) != json.dumps(new.get(name))]
        return [f"{name}={old.get(name, 'not known then')}, now {new.get(name)}" for name in changed]


def own_file(path: Path) -> Path:
    """The path of a file in a run folder; ValueError for a link, which may lead anywhere."""
    if path.is_symlink():
        raise ValueError(f"{path} is a link, but a run writes into its own folder only: choose another one")
    return path


def settings(folder: Path) -> dict[str, Any]:
    """The settings of the run in a folder."""
    path = folder / CONFIG
    if not path.is_file():
        raise ValueError(f"{folder} is no run folder: it has no {CONFIG}")
    content = choices.read_yaml(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} is no configuration of a run; left as it is, choose another out=")
    return content


def _plain(config: Mapping[str, Any]) -> Any:
    """What YAML and JSON both hold without loss: paths become text, tuples lists."""
    return json.loads(json.dumps(dict(config), default=str))


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{dotted name: value}, as options are given on the command line."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def environment() -> dict[str, Any]:
    """Versions and machine, the same for every kind of run."""
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "git": _commit(),
        "machine": platform.machine(),
        "system": platform.platform(),
        "processor": _processor(),
        "kernels": _kernels(),
    }


def _kernels() -> dict[str, str]:
    """The linear algebra of numpy with its kernel, and what chooses others: kernels round differently."""
    libraries = [one for one in threadpool_info() if one["user_api"] == "blas"]
    own = [one for one in libraries if "numpy" in one["filepath"]] or libraries  # scipy brings another
    words = [(one["internal_api"], one["version"], one.get("architecture")) for one in own]
    blas = {"numpy": " ".join(filter(None, words[0]))} if words else {}
    return blas | {name: os.environ[name] for name in CHOOSING if name in os.environ}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of this checkout, with + when it was changed; None when this is no checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists() or shutil.which("git") is None:
        return None

    def git(*words: str) -> str:
        run = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=False)
        return run.stdout.strip()

    return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain") else "") or None


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, None) or platform.processor()
