"""What the commands share: Hydra composes the configuration, errors of the user's making are one line, not a
traceback.

`configs/NAME.yaml` lists the groups of a command; its other options, and those of every node, are looked up
in the class or function that gets them. Hydra itself is not restricted: all its words and flags work.
"""

import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import field, fields
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar, dataclass_transform

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass
from rich.status import Status

from latency.measuring import instruction_sets
from latency.measuring.session import Watcher
from search.cli import config_source
from supernet import choices, extras, registry
from supernet.files.run_folder import FinishedRun

Task = Callable[[Any, dict[str, Any]], None]
Sides = int | tuple[int, int] | None  # the option resolution: one input side, or [lowest,highest]
EXIT_INTERRUPTED = 130
T = TypeVar("T")
FULL_ERROR = "HYDRA_FULL_ERROR"  # 1 shows tracebacks
# Errors of the user's making, and extras that are not installed.
OURS = (
    ValueError,
    ModuleNotFoundError,
    HydraException,
    OmegaConfBaseException,
)


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field, Field))
def options(cls: type[T]) -> type[T]:
    """The options of a command: frozen and checked; those without default may stand in any place."""
    config = ConfigDict(extra="forbid")
    return dataclass(frozen=True, kw_only=True, config=config)(cls)  # type: ignore[return-value]


def compose(name: str, words: list[str]) -> dict[str, Any]:
    """The configuration that a command gets from the words of its command line.

    >>> from search import command
    >>> command.compose("search", ["searcher=linas"])["searcher"]["batch"]
    10
    """
    words = [_plain(word) for word in words]
    try:
        with config_source.reading(name), hydra.initialize(None, version_base="1.3"):
            return _checked(hydra.compose(name, words), words)
    except OURS as error:
        raise ValueError(explain(error)) from error


def named(name: str) -> Callable[[Task], Callable[[], None]]:
    """Decorator of the task of a command, which becomes the `main` that runs it.

    It composes `configs/<name>.yaml` with the command line and calls `task(options, config)`, once per job of
    a multirun. `options` are the command's own, an instance of the class that the YAML names; `config` holds
    the same as plain values, for the run folder.
    """
    return lambda task: partial(_run, name, task)


def _run(name: str, task: Task) -> None:
    failed: list[str] = []
    tracebacks = os.environ.get(FULL_ERROR) == "1"

    def job(composed: DictConfig) -> None:
        os.environ[FULL_ERROR] = str(int(tracebacks))
        try:
            config = _checked(composed, list(HydraConfig.get().overrides.task))
            _hold(config)
            task(registry.locate(composed["_target_"])(**config), config)
        except KeyboardInterrupt:
            kept = f"; what was measured is kept in {composed.store}" if "store" in composed else ""
            print(f"\nstopped{kept}. Repeat the command to go on", file=sys.stderr)
            sys.exit(EXIT_INTERRUPTED)
        except FinishedRun as finished:
            if not is_sweep():
                sys.exit(f"error: {finished}")
            print(finished)  # a repeated sweep goes on with the jobs that are not finished
        except OURS as error:
            if tracebacks:
                raise
            if not is_sweep():
                sys.exit(f"error: {explain(error)}")
            failed.append(f"job {HydraConfig.get().job.num}: {explain(error)}")  # the other jobs go on
            print(f"error: {failed[-1]}", file=sys.stderr)

    sys.argv[1:] = map(_plain, sys.argv[1:])
    os.environ[FULL_ERROR] = "1"  # Hydra then raises its errors, which `explain` says in one line
    try:
        registry.use_folders(*choices.folders_of(sys.argv[1:]))
        with config_source.reading(name):
            hydra.main(version_base="1.3", config_path=None, config_name=name)(job)()
    except OURS as error:
        if tracebacks:
            raise
        sys.exit(f"error: {explain(error)}")
    finally:
        os.environ[FULL_ERROR] = str(int(tracebacks))
    if failed:
        sys.exit(f"error: {len(failed)} job(s) failed, see above")


def _plain(word: str) -> str:
    """A word whose option names a device, `limits.latency_ms@note10_lut=20`, as Hydra's grammar has it."""
    match = re.fullmatch(r"([\w.]+)\.(\w+@[\w.]+)=([^\[{]*)", word)
    if match is None:
        return word
    mapping, name, values = match.groups()
    return f"{mapping}={','.join(f'{{{name}:{value}}}' for value in values.split(','))}"


def _checked(composed: DictConfig, words: list[str]) -> dict[str, Any]:
    """The configuration, its references resolved; ValueError when an option is missing or states a fact, or
    for a choice that does not exist."""
    for group, _, name in (word.partition("=") for word in words):
        if group in config_source.RegistrySource.optional and name not in registry.names(group):
            raise registry.unknown_name(group, name, registry.names(group))
    if missing := OmegaConf.missing_keys(composed):
        raise ValueError(f"please give {', '.join(f'{key}=...' for key in sorted(missing))}")
    config: dict[str, Any] = OmegaConf.to_container(composed, resolve=True)  # type: ignore[assignment]
    for root, _, option in (word.partition("=")[0].partition(".") for word in words):
        if option and isinstance(config.get(root), dict) and registry.states_facts(root, config[root]):
            raise _fact(root, option)
    if "objective" in config:
        _add_own_objectives(config)
    if "_target_" in config:
        _check_names(config, registry.defaults(registry.locate(config.pop("_target_"))))
    return config


def _check_names(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """ValueError for an unknown name in a mapping that has names by default; `@DEVICE` may follow them."""
    for option, names in defaults.items():
        if isinstance(names, dict) and names:
            own = {*config.get("objective", ()), *config.get("objectives", ()), *registry.names("objective")}
            for name in config[option]:
                if name.partition("@")[0] not in names and name not in own:
                    raise registry.unknown_name(f"option of {option}", name, names)


def _add_own_objectives(config: dict[str, Any]) -> None:
    """Add the nodes of objectives of the user and of plugins that are searched or limited.

    Options that the command line gives them go before.
    """
    limits = [name for name, limit in config["limits"].items() if limit is not None]
    for name in (*config["objectives"], *limits):
        if name in registry.names("objective"):
            node = registry.complete(registry.load("objective", name)) | config["objective"].get(name, {})
            node.pop("space", None)  # is that of the search
            if missing := [key for key, value in node.items() if value == registry.REQUIRED]:
                raise ValueError(f"please give {', '.join(f'objective.{name}.{key}=...' for key in missing)}")
            config["objective"][name] = node


def _fact(group: str, option: str) -> ValueError:
    return ValueError(
        f"{group}.{option} states a fact and is no option; write a configs/{group}/NAME.yaml for another "
        f"{group}"
    )


def _hold(config: dict[str, Any]) -> None:
    """Start the command again under the instruction-set limit of its target, unless that holds already."""
    limit = (config.get("target") or {}).get("isa")
    if limit is None or limit == instruction_sets.current():
        return
    if is_sweep():
        raise ValueError(f"target.isa={limit} holds for a whole process: give it to one run, not to a sweep")
    instruction_sets.restart_under(limit)


def is_sweep() -> bool:
    """Whether this is a job of a multirun."""
    mode = HydraConfig.get().mode
    return mode is not None and mode.name == "MULTIRUN"


def run_folder(out: str | Path | None, name: str) -> Path:
    """The folder of a run: `out=`, in a multirun one in it for each job, else a new one by name and time."""
    if is_sweep():
        job = str(HydraConfig.get().job.num)
        return Path(out) / job if out else Path(HydraConfig.get().runtime.output_dir)
    return Path(out or f"runs/{name}-{time.strftime('%Y%m%d-%H%M%S')}")


def stop(command: str, out: Path) -> NoReturn:
    """Say how an interrupted run goes on, and exit."""
    words = [word for word in sys.argv[1:] if not word.startswith("out=")]
    again = " ".join([*words, f"out={out.parent if is_sweep() else out}"])
    print(f'\nstopped; go on with: make {command} ARGS="{again}"', file=sys.stderr)
    sys.exit(EXIT_INTERRUPTED)


def resolution_range(given: Sides) -> tuple[int, int] | None:
    """The option `resolution`: one input side, or the lowest and the highest."""
    if given is None:
        return None
    low, high = (given, given) if isinstance(given, int) else given
    if low > high:
        raise ValueError(f"resolution=[{low},{high}] must be one input side or [lowest,highest]")
    return low, high


def take(cls: type[T], options: Any, **others: Any) -> T:
    """A `cls` of the `options` that are named as its fields, and of the others, which go before."""
    wanted: Any = cls
    names = {one.name for one in fields(wanted)} & {one.name for one in fields(options)} - set(others)
    return cls(**{name: getattr(options, name) for name in names}, **others)


def watcher(status: Status) -> Watcher:
    """What a measurement reports to: one line in the terminal that changes."""

    def watch(done: int, of: int, now: str) -> None:
        status.update(f"{done} of {of} subnets timed; {now}")

    return watch


def explain(error: BaseException) -> str:
    """The message of an error.

    For a name that does not exist the nearest one; for a pydantic error a line per option with its value and
    what is allowed.
    """
    if isinstance(error, ModuleNotFoundError):
        return extras.explain(error)
    if isinstance(error, ValidationError):
        return "; ".join(map(_explain_option, error.errors()))
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        return str(registry.unknown_name(group, name, error.options))
    cause: Any = error.__cause__
    if not isinstance(error, HydraException) or getattr(cause, "parent_node", None) is None:
        return str(error)
    group, _, option = str(cause.full_key).rpartition(".")
    node = cause.parent_node
    options = registry.defaults(registry.locate(node["_target_"])) if "_target_" in node else node
    if registry.states_facts(group, node):
        return str(_fact(group, option))
    if option in options:
        return (
            f"nothing is chosen for {option}: give {option}=... first ({', '.join(registry.names(option))})"
        )
    names = [name for name in options if name != "hydra"]
    return str(registry.unknown_name(f"option of {group}" if group else "option", option, names))


def _explain_option(problem: Any) -> str:
    path = ".".join(map(str, problem["loc"]))
    message = problem["msg"].removeprefix("Value error, ")
    return f"{path}={problem['input']}: {message}" if path else message
