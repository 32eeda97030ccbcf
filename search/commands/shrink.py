"""Prune, train and quantise a subnet: `make shrink ARGS="supernet=runs/mine architecture='...'"`.

Distributed: `torchrun --nproc-per-node=2 -m search.commands shrink supernet=runs/mine architecture=NAME`.
"""

from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from rich.console import Console

from latency.measuring.machine import pairs_overflow
from latency.measuring.store import Store
from latency.target import Target
from latency.zoo.deployed import add_latencies
from search import command, front_table
from search.cli import watch
from search.cli.watch import Watched
from search.ranking.shrink_baseline import COMPARED, dominated, plain_front
from supernet import registry
from supernet.deploy import model, shrink
from supernet.files import architectures, artifact
from supernet.files.command_line import then
from supernet.files.run_folder import RunFolder
from supernet.files.tables import Table
from supernet.options import NonNegativeFloat, NonNegativeInt, PositiveInt
from supernet.training.measured_accuracy import SupernetAccuracy
from supernet.training.step import processes

SHOWN = ("file_bytes", "latency_ms", "top1", "ece", "training_hours", "macs")


@command.options
class Options(Watched):
    """What `make shrink` takes."""

    shrink: command.Node  # the recipe
    target: command.Node | None = None  # here: every step and plain subnet is timed now
    supernet: str  # run folder of make train, published name, checkpoint of OFA, or hf:OWNER/NAME
    data: command.Node | None = None  # images, where the supernet is no run folder
    # one-line name, RUN:best@20ms, RUN:best or RUN:knee of a finished search, or path of a net.config
    architecture: str
    plain: NonNegativeInt = (
        6  # plain subnets of the supernet's front that the result is compared with; 0: none
    )
    candidates: PositiveInt = 24  # subnets that front is chosen from, by accuracy on the validation images
    int8_engine: str | None = None  # openvino, onnxruntime; None: the target's, else this
    seed: NonNegativeInt = 0
    threads: PositiveInt = 1  # of PyTorch on a CPU, per process
    checkpoint_seconds: NonNegativeFloat = 30  # between two checkpoints of a step that trains
    watts: NonNegativeFloat = 65  # power of the device that trains: nothing measures it
    store: Path = Path("runs/measurements.sqlite")
    # run folder, goes on where it stopped; None: shrink-<recipe>/ in the supernet's, or in runs/NAME
    out: Path | None = None


@command.named("shrink")
def main(options: Options, config: dict[str, Any]) -> None:
    import torch

    torch.set_num_threads(options.threads)
    accuracy = SupernetAccuracy(weights=options.supernet, image_set=registry.build(options.data))
    name = f"shrink-{HydraConfig.get().runtime.choices['shrink']}"
    out = command.run_folder(options.out or accuracy.place / name, name)
    target = None if options.target is None else registry.build(options.target)
    recipe = registry.build(options.shrink)
    engine = _engine(options.int8_engine, target, recipe)
    asked = {key: config[key] for key in ("supernet", "architecture", "shrink", "seed", "watts")}
    asked |= {"threads": options.threads} if options.threads != 1 else {}  # release 0.2.0.dev0 kept it out
    asked |= {"int8_engine": engine} | ({} if options.data is None else {"data": config["data"]})
    architecture = front_table.architecture(options.architecture)
    with processes() as group, RunFolder(out, finished=None).hold_by_first(asked, group.rank):
        group.wait()  # the folder is ours
        with Console(quiet=group.rank > 0).status("loading") as status:
            bench = shrink.Bench(
                accuracy.trained,
                accuracy.data,
                group,
                narrow=pairs_overflow(),
                engine=engine,
                seed=options.seed,
                watts=options.watts,
                watch=status.update,
                checkpoint_seconds=options.checkpoint_seconds,
            )
            architectures.parse([architecture], bench.trained.space)
            shrink.check(recipe, bench)
            stages = shrink.apply(recipe, architecture, bench, out)
            if group.rank:
                return
            names = plain_front(accuracy, options.candidates, options.plain, options.seed)
            others = [shrink.run_plain(name, bench, out / f"plain-{i}") for i, name in enumerate(names)]
            rows = {f"{i} {stage.name if i else 'start'}": stage for i, stage in enumerate(stages)}
            rows |= {f"rival {i}": stage for i, stage in enumerate(others, 1)}
            cards = {title: dict(stage.card) for title, stage in rows.items()}
            if target is not None:
                with Store(options.store) as store:
                    named = {title: stage.subnet for title, stage in rows.items()}
                    add_latencies(cards, named, target, store, command.watcher(status))
        text = _verdict(cards, list(cards)[len(stages) - 1], list(cards)[len(stages) :])
        artifact.write_text(out / "table.md", f"{shrink.table(cards).markdown()}\n\n{text}\n")
        artifact.write_json(out / "table.json", cards)
    left = {"model": model.path(stages[-1].folder), "table": out / "table.json"}
    run = watch.job("shrink", name, out, config, watch.weights(options.supernet), left)
    watch.report(options, run, [stage.card for stage in stages], {"verdict": text})
    networks = [
        ("" if card["pruned"] == 1 else f"{card['pruned']:g} of ") + card["architecture"]
        for card in cards.values()
    ]
    Table({**shrink.table(cards, SHOWN).columns, "network": networks}).show()
    print(f"{text}\nall measures: {out / 'table.md'}; the model: {model.path(stages[-1].folder)}")
    if target is None:
        print(f"no latencies: target=here target.space={bench.trained.space.name} times them")
    fp32 = [stage for stage in stages if stage.subnet.facts.get("precision", "fp32") == "fp32"]
    print(then("export", weights=fp32[-1].folder, out=out / "export"))


def _verdict(cards: dict[str, dict[str, Any]], last: str, rivals: list[str]) -> str:
    """Which of the plain subnets the result dominates."""
    if not rivals:
        return f"{last} was compared with no other subnet (plain=0)"
    shared = [name for name in COMPARED if name in cards[last]]
    return (
        f"{last} dominates in {', '.join(shared)} (none worse, one better): "
        f"{', '.join(dominated(cards, last, rivals)) or 'none'} of {len(rivals)} plain subnets"
    )


def _engine(asked: str | None, target: Target | None, recipe: shrink.Recipe) -> str:
    """The engine that int8 models are made for: the target's, or what is asked for where there is none."""
    if target is None or not recipe.quantises:
        return asked or "onnxruntime"
    if target.engine not in model.ENGINES or asked not in (None, target.engine):
        raise ValueError(
            f"int8 models run on {' or '.join(model.ENGINES)}, and are timed where they run: give "
            f"target.engine= one of them (it is {target.engine}), or leave target= out and give int8_engine="
        )
    return target.engine
