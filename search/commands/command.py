"""What the commands share: Hydra composes the configuration, errors of the user's making are one line, not a
traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError
from rich.status import Status

from latency.measuring import instruction_sets
from latency.measuring.session import Watcher
from supernet import registry

EXIT_INTERRUPTED = 130


def run(config: str, task: Callable[[dict[str, Any]], None]) -> None:
    """Compose `configs/<config>.yaml` with the command line and call `task` with it, once per job of a
    multirun."""

    failed: list[str] = []

    def guarded(composed: DictConfig) -> None:
        try:
            missing = OmegaConf.missing_keys(composed)
            if missing:
                raise ValueError(f"please give {', '.join(f'{key}=...' for key in sorted(missing))}")
            config: dict[str, Any] = OmegaConf.to_container(composed, resolve=True)  # type: ignore[assignment]
            _hold(config)
            task(config)
        except KeyboardInterrupt:
            kept = f"; what was measured is kept in {composed.store}" if "store" in composed else ""
            print(f"\nstopped{kept}. Repeat the command to go on", file=sys.stderr)
            sys.exit(EXIT_INTERRUPTED)
        except (ValueError, HydraException, OmegaConfBaseException) as error:
            if os.environ.get("HYDRA_FULL_ERROR") == "1":
                raise
            reason = explain(error)
            if not is_sweep():
                sys.exit(f"error: {reason}")
            failed.append(f"job {HydraConfig.get().job.num}: {reason}")  # the other jobs of a sweep go on
            print(f"error: {failed[-1]}", file=sys.stderr)

    try:
        registry.check_overrides(sys.argv[1:], config)
    except ValueError as error:
        sys.exit(f"error: {error}")
    hydra.main(version_base="1.3", config_path=str(registry.FOLDER), config_name=config)(guarded)()
    if failed:
        sys.exit(f"error: {len(failed)} job(s) failed, see above")


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


def resolution_range(given: int | list[int] | None) -> tuple[int, int] | None:
    """The option `resolution`: one input side, or the lowest and the highest."""
    if given is None:
        return None
    sides = [given, given] if isinstance(given, int) else list(given)
    if len(sides) != 2 or sides[0] > sides[1]:
        raise ValueError(f"resolution={given} must be one input side or [lowest,highest]")
    return sides[0], sides[1]


def watcher(status: Status) -> Watcher:
    """What a measurement reports to: one line in the terminal that changes."""

    def watch(done: int, of: int, now: str) -> None:
        status.update(f"{done} of {of} subnets timed; {now}")

    return watch


def explain(error: BaseException) -> str:
    """The message of an error.

    Of a pydantic one, a line per option with what was given and what is allowed.
    """
    cause = error if isinstance(error, ValidationError) else error.__cause__
    if not isinstance(cause, ValidationError):
        return str(cause if isinstance(error, HydraException) and isinstance(cause, ValueError) else error)
    lines = []
    for problem in cause.errors():
        path = ".".join(map(str, problem["loc"]))
        message = problem["msg"].removeprefix("Value error, ")
        lines.append(f"{path}={problem['input']}: {message}" if path else message)
    return "; ".join(lines)
