"""What a run of a command is logged to: the loggers of `logger=`, which are told its name, group and tags."""

from collections.abc import Iterable, Mapping
from dataclasses import field
from pathlib import Path
from typing import Any, Literal

from hydra.core.hydra_config import HydraConfig

from search import command
from supernet import registry
from supernet.files.loggers import Files, Job
from supernet.files.run_folder import SUBNET, SUPERNET
from supernet.files.sinks import Sink

# Words that are no part of a run's name.
UNNAMED = ("out=", "store=", "logger", "+logger", "~logger", "wandb=", "target=")
LONGEST_NAME = 128  # that W&B takes


@command.options
class Watched:
    """The options of commands whose runs are logged."""

    # where the run can be watched: wandb, tensorboard, or both, [wandb,tensorboard]; []: nowhere
    logger: dict[str, command.Node] = field(default_factory=dict)
    wandb: Literal["offline", "online", "disabled"] | None = None  # short for logger.wandb.mode=


def job(
    kind: str, subject: str, folder: Path, config: Mapping[str, Any], inputs: Files, outputs: Files
) -> Job:
    """A run of the command `kind` on `subject`, a target or a space, in `folder`.

    Where `out=` names no folder, and in a multirun, it is called after its subject and options; the jobs of a
    multirun are a group. `inputs` and `outputs` are files by type.
    """
    space = config.get("space")
    tags = [subject, *([space["name"]] if isinstance(space, Mapping) and "name" in space else [])]
    name, group = folder.name, None
    if HydraConfig.initialized() and (command.is_sweep() or not config.get("out")):
        words = [word for word in HydraConfig.get().overrides.task if not word.startswith(UNNAMED)]
        name = " ".join([subject, *words])[:LONGEST_NAME]
        group = folder.parent.name if command.is_sweep() else None
    return Job(kind, name, folder, config, group, tuple(dict.fromkeys(tags)), inputs, outputs)


def weights(asked: str) -> Files:
    """The file of the weights that a run starts from, where they lie in a file or a run folder."""
    files = [Path(asked), *(Path(asked, name) for name in (SUBNET, SUPERNET))]
    return {"weights": file} if (file := next(filter(Path.is_file, files), None)) else {}


def sinks(options: Watched, run: Job) -> list[Sink]:
    """What the run reports to, by its options and the environment."""
    nodes = dict(options.logger)
    if options.wandb == "disabled":
        nodes.pop("wandb", None)
    elif options.wandb is not None:
        nodes["wandb"] = {**(nodes.get("wandb") or registry.load("logger", "wandb")), "mode": options.wandb}
    given = [registry.build(node).sink(run) for node in nodes.values()]
    return [sink for sink in given if sink is not None]


def report(options: Watched, run: Job, rows: Iterable[Mapping[str, Any]], summary: Mapping[str, Any]) -> None:
    """Log a run that is over: its rounds and what came of it. So no logger disturbs what it measures."""
    for sink in sinks(options, run):
        try:
            sink.start({}, [])
            for row in rows:
                sink.log(row)
            sink.finish(summary)
        finally:
            sink.close()
