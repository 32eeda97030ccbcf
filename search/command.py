"""What the commands share: Hydra composes the configuration, errors of the user's making are one line, not a
traceback.

`configs/NAME.yaml` lists the groups of a command; its other options, and those of every node, are looked up
in the class or function that gets them. Hydra itself is not restricted: all its words and flags work.
"""

import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field, fields, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar, dataclass_transform

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import (
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic.dataclasses import dataclass
from rich.status import Status
from yaml import YAMLError

from latency.measuring import instruction_sets
from latency.measuring.session import Watcher
from search.cli import config_source, devices, sweep
from supernet import choices, extras, registry
from supernet import options as options_of
from supernet.files import disk
from supernet.files.run_folder import FinishedRun, OtherEnvironmentWarning

Task = Callable[[Any, dict[str, Any]], Mapping[str, float] | None]
EXIT_INTERRUPTED = 130
T = TypeVar("T")
FULL_ERROR = "HYDRA_FULL_ERROR"  # 1 shows tracebacks
# Errors of the user's making, and extras that are not installed.
OURS = (
    ValueError,
    ModuleNotFoundError,
    HydraException,
    OmegaConfBaseException,
    OSError,  # a full disk, one that cannot be written or read
    MemoryError,
    YAMLError,
)


def _built(value: Any, check: ValidatorFunctionWrapHandler, info: ValidationInfo) -> dict[str, Any]:
    """The node with what it describes; ValueError for options of it that are wrong."""
    if isinstance(value, registry.Built):
        return value
    node: dict[str, Any] = check(value)
    if not node:
        return node  # nothing is chosen, where a command does without
    if "_target_" not in node:
        raise ValueError(f"must be one of {', '.join(registry.names(str(info.field_name))) or 'a group'}")
    return registry.Built(node, registry.build(node, str(info.field_name)))


Node = Annotated[dict[str, Any], WrapValidator(_built)]  # a choice of a group, with its options


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field, Field))
def options(cls: type[T]) -> type[T]:
    """The options of a command: frozen and checked; those without default may stand in any place."""
    config = ConfigDict(**options_of.CONFIG, str_min_length=1)
    return dataclass(frozen=True, kw_only=True, config=config)(cls)  # type: ignore[return-value]


def compose(name: str, words: list[str]) -> dict[str, Any]:
    """The configuration that a command gets from the words of its command line.

    >>> from search import command
    >>> command.compose("search", ["searcher=linas"])["searcher"]["batch"]
    10
    """
    words = _named(map(_plain, devices.spelt_out(words)))
    outer = GlobalHydra.instance().hydra  # of the command that asks for this, if one does
    GlobalHydra.instance().clear()
    try:
        with config_source.reading(name), hydra.initialize(None, version_base="1.3"):
            return _checked(hydra.compose(name, words), words)
    except OURS as error:
        said = explain(error)
        if said.startswith("Config group override must be"):  # Hydra names none of them
            said = f"a group of options is chosen by its name, no number: give names in {' '.join(words)}"
        raise ValueError(said) from error
    finally:
        GlobalHydra.instance().hydra = outer


def named(name: str, *, maximize: bool = False) -> Callable[[Task], Callable[[], None]]:
    """Decorator of the task of a command, which becomes the `main` that runs it.

    It composes `configs/<name>.yaml` with the command line and calls `task(options, config)`, once per job of
    a multirun. `options` are the command's own, an instance of the class that the YAML names; `config` holds
    the same as plain values, for the run folder. What it returns are figures of the job: a multirun compares
    its jobs by them, and sweepers (Optuna) minimise, or with `maximize` maximise, the first.
    """
    return lambda task: partial(_run, name, task, maximize)


def _run(name: str, task: Task, maximize: bool) -> None:
    extras.quiet()
    tracebacks = os.environ.get(FULL_ERROR) == "1"
    asked = _flags_first(_named(map(_plain, devices.spelt_out(sys.argv[1:]))))
    launch = None
    try:
        _refuse_cut_lists(asked)
        registry.use_folders(*choices.folders_of(asked))
        launch = sweep.Launch.from_words(name.replace("_", "-"), asked, maximize)
        sys.argv[1:] = asked if launch is None else launch.words
        one = partial(_job, task, tracebacks)
        job = one if launch is None else partial(_job_of_many, task, tracebacks, launch.id)
        os.environ[FULL_ERROR] = "1"  # Hydra then raises its errors, which `explain` says in one line
        with config_source.reading(name):
            hydra.main(version_base="1.3", config_path=None, config_name=name)(job)()
    except sweep.JobError:
        pass  # said where it happened, and counted below
    except OURS as error:
        if launch is not None:
            launch.clear()
        if tracebacks:
            raise
        sys.exit(f"error: {explain(error)}")
    finally:
        os.environ[FULL_ERROR] = str(int(tracebacks))
        sys.argv[1:] = asked
    if launch is not None and (failed := launch.finish()):
        sys.exit(f"error: {failed} job(s) failed, see above")


def _job(task: Task, tracebacks: bool, composed: DictConfig) -> None:
    """Run the only job, and exit with one line for an error of the user's making."""
    os.environ[FULL_ERROR] = str(int(tracebacks))
    try:
        _perform(task, composed)
    except OURS as error:
        if tracebacks:
            raise
        sys.exit(f"error: {explain(error)}")


def _job_of_many(task: Task, tracebacks: bool, launch: str, composed: DictConfig) -> float | None:
    """Run a job of a multirun, perhaps in a process of its own; gives the figure that sweepers go by."""
    name, options = sweep.job_name(), tuple(HydraConfig.get().overrides.task)
    job = sweep.Job(name, options, launch)
    try:
        job = replace(job, figures=dict(_perform(task, composed) or {}))
    except FinishedRun as finished:
        print(finished)  # a repeated multirun goes on with the jobs that are not finished
        job = replace(job, figures=sweep.earlier())
    except OURS as error:
        job = replace(job, error=explain(error))
        print(f"error: job {name}: {job.error}", file=sys.stderr)
        if tracebacks:
            raise
        raise sweep.JobError(job.error) from None
    finally:
        job.write(sweep.folder())
        sweep.clear()
    return next(iter(job.figures.values()), None)


def _perform(task: Task, composed: DictConfig) -> Mapping[str, float] | None:
    try:
        config = _checked(composed, list(HydraConfig.get().overrides.task))
        _hold(config)
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            return task(registry.locate(composed["_target_"])(**config), config)
    except RuntimeError as error:  # of PyTorch, which has its own words for it
        if type(error).__name__ == "OutOfMemoryError" or "not enough memory" in str(error):
            raise MemoryError(str(error).partition("\n")[0]) from error
        raise
    except KeyboardInterrupt as stopped:
        kept = f"; what was measured is kept in {composed.store}" if "store" in composed else ""
        notes = "".join(f"\n{note}" for note in getattr(stopped, "__notes__", ()))
        print(f"\nstopped{kept}. Repeat the command to go on{notes}", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)


def _show_warning(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
    """Ours in one line, others as Python shows them."""
    ours = issubclass(category, OtherEnvironmentWarning)
    text = f"warning: {message}\n" if ours else warnings.formatwarning(message, category, *place[:2])
    sys.stderr.write(text)


def _plain(word: str) -> str:
    """A word whose option names a device, `limits.latency_ms@note10_lut=20`, as Hydra's grammar has it."""
    match = re.fullmatch(r"([\w.]+)\.(\w+@[\w.]+)=([^\[{]*)", word)
    if match is None:
        return word
    mapping, name, values = match.groups()
    return f"{mapping}={','.join(f'{{{name}:{value}}}' for value in values.split(','))}"


def _named(words: Iterable[str]) -> list[str]:
    """The words, where `target.device=NAME` stands beside `target.device.ram_gb=48` as `target.device.name=`:
    an option that is set in parts is set to a value by its name."""
    words = list(words)
    parts = {word.partition("=")[0].rpartition(".")[0] for word in words}
    split = [word.partition("=") for word in words]
    return [
        f"{key}.name={rest}" if "." in key and key in parts else key + eq + rest for key, eq, rest in split
    ]


def _refuse_cut_lists(words: list[str]) -> None:
    """ValueError for a list that the shell has cut at a space."""
    for word, rest in pairwise([*words, ""]):
        if re.match(r"[\w.]+=\[", word) and word.count("[") > word.count("]"):
            raise ValueError(
                f"{word} {rest} is cut at the space: write {word}{rest} without it, or put the word in quotes"
            )


def _flags_first(words: list[str]) -> list[str]:
    """The words of a command line with Hydra's flags before the options, as its parser wants them."""
    flags, options = [], list(words)
    for flag in ("-m", "--multirun", "-cd", "--config-dir", "-c", "--cfg"):
        while flag in options:
            at = options.index(flag)
            size = 1 if flag in ("-m", "--multirun") else 2
            flags += options[at : at + size]
            del options[at : at + size]
    return flags + options


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
    return sweep.is_job()


def job_name() -> str | None:
    """What this job of a multirun is called, by what it has different: `target-v100_b64`; None in one run."""
    return sweep.job_name() if is_sweep() else None


def run_folder(out: str | Path | None, name: str) -> Path:
    """The folder of a run: `out=`, in a multirun one in it for each job, else a new one by name and time."""
    if is_sweep():
        path = Path(HydraConfig.get().runtime.output_dir)
        return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    return Path(out or f"runs/{options_of.file_name(name)}-{time.strftime('%Y%m%d-%H%M%S')}")


def stop(command: str, out: Path) -> NoReturn:
    """Say how an interrupted run goes on, and exit."""
    words = [word for word in sys.argv[1:] if not word.startswith(("out=", *sweep.ADDED))]
    again = " ".join([*words, f"out={sweep.folder() if is_sweep() else out}"])
    print(f'\nstopped; go on with: make {command} ARGS="{again}"', file=sys.stderr)
    sys.exit(EXIT_INTERRUPTED)


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
    """The message of an error, with what was noted on its way."""
    return "; ".join([_message(error), *getattr(error, "__notes__", ())])


def _message(error: BaseException) -> str:
    """The message of an error.

    For a name that does not exist the nearest one; for a pydantic error a line per option with its value and
    what is allowed.
    """
    if isinstance(error, ModuleNotFoundError):
        return extras.explain(error)
    if isinstance(error, OSError | MemoryError | YAMLError) and not isinstance(error, HydraException):
        return _explain_machine(error)
    if isinstance(error, ValidationError):
        return options_of.explain(error)
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        try:
            registry.find(group, name)
        except ValueError as unknown:
            return str(unknown)
        return str(registry.unknown_name(group, name, error.options))  # of Hydra's own groups
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


def _explain_machine(error: OSError | MemoryError | YAMLError) -> str:
    """In one line what the machine could not do, or where a YAML file is wrong."""
    if isinstance(error, MemoryError):
        return (
            f"not enough memory ({str(error) or 'none is free'}): give smaller sizes; what is saved is kept"
        )
    if isinstance(error, YAMLError):
        return f"a YAML file is damaged: {' '.join(str(error).split())}"
    file = "" if error.filename is None else f"{error.filename}: "
    reason = error.strerror or str(error) or type(error).__name__
    mend = "free some space" if error.errno in disk.FULL else "mend that"
    return f"{file}{reason}; what is saved is kept: {mend} and repeat the command"
